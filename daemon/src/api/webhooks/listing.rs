//! The list of webhooks, page by page.

use axum::extract::Extension;
use axum::response::{IntoResponse as _, Response};
use serde::Deserialize;
use serde_json::json;
use utoipa::IntoParams;

use super::schema::{self, ManagedBy};
use super::{Registry, Webhook, problem, shown};
use crate::api::Problem;
use crate::api::cursor::{self, Question};
use crate::api::extract::Query;
use crate::api::paging::limit;
use crate::api::principal::Asker;
use crate::domain::{Owner, Subject, SubscriptionId};

/// What a place among the webhooks of the file begins with, as a text,
const OF_FILE: &str = "file-";
/// and one among those that were made over the API.
const OF_API: &str = "api-";

/// Which webhooks are wanted.
#[derive(Debug)]
pub struct Wanted {
    /// Of these alone; without it of all.
    pub among: Option<Vec<SubscriptionId>>,
    /// Only those that are not disabled, or only those that are.
    pub is_active: Option<bool>,
    /// Only those of the file, or only those that were made over the API.
    pub is_of_file: Option<bool>,
    /// Only those that get events of this type.
    pub kind: Option<Subject>,
    /// Only those that come after that place.
    pub after: Option<Place>,
    /// How many, at most.
    pub limit: usize,
}

/// A page of webhooks.
#[derive(Default)]
pub struct Page {
    /// Those of the file first, by name, then the others by id. There may be fewer than were asked for, or none, and more to
    /// come: the search is bounded.
    pub webhooks: Vec<Webhook>,
    /// Where the next page begins; nothing at the end.
    pub next: Option<Place>,
}

/// A place in the order of all webhooks: that of one of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Of one of the file.
    OfFile(SubscriptionId),
    /// Of one that was made over the API.
    OfApi(SubscriptionId),
}

impl Place {
    fn text(&self) -> String {
        match self {
            Self::OfFile(id) => format!("{OF_FILE}{id}"),
            Self::OfApi(id) => format!("{OF_API}{id}"),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        match (text.strip_prefix(OF_FILE), text.strip_prefix(OF_API)) {
            (Some(id), _) => SubscriptionId::parse(id).ok().map(Self::OfFile),
            (None, Some(id)) => SubscriptionId::parse(id).ok().map(Self::OfApi),
            (None, None) => None,
        }
    }
}

/// Which webhooks are asked for.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Listing {
    /// Only those that are active, or only those that are disabled.
    active: Option<bool>,
    /// Only those of this owner.
    #[param(min_length = 1, max_length = 128)]
    owner: Option<String>,
    /// Only those that were made over the API, or only those of the file.
    #[param(inline)]
    managed_by: Option<ManagedBy>,
    /// Only those that get events of this type.
    #[param(max_length = 512, pattern = r"^[^\u0000-\u0020\u007f-\u00a0.*>]+(\.[^\u0000-\u0020\u007f-\u00a0.*>]+)*$")]
    r#type: Option<String>,
    /// How many webhooks the page is to have.
    #[param(minimum = 1, maximum = 100, default = 50)]
    limit: Option<usize>,
    /// Where to go on: the `next` of the page before.
    cursor: Option<String>,
}

/// List the webhooks
///
/// Those of the file first, by name, then those that were made over the API, by id: a page stays where it is while webhooks come
/// and go.
#[utoipa::path(
    get,
    path = "/webhooks",
    tag = "webhooks",
    params(Listing),
    responses((status = 200, description = "A page of webhooks", body = schema::List)),
    extensions(("x-problems" = json!(["invalid_request", "unavailable"])))
)]
pub(super) async fn list(
    Extension(webhooks): Registry,
    asker: Asker,
    Query(asked): Query<Listing>,
) -> Result<Response, Problem> {
    let Listing { active, owner, managed_by, r#type, limit: many, cursor } = asked;
    let among = match &owner {
        None => asker.own(),
        Some(owner) => {
            let owner = Owner::parse(owner).map_err(|error| Problem::invalid("owner", format!("`owner`: {error}")))?;
            Some(asker.own_of(&owner))
        }
    };
    let question = Question::of(&[
        "webhooks",
        &format!("{active:?} {managed_by:?}"),
        owner.as_deref().unwrap_or_default(),
        r#type.as_deref().unwrap_or_default(),
    ]);
    let place = cursor.as_deref().map(|cursor| question.place(cursor)).transpose()?;
    let kind = r#type.as_deref().map(Subject::parse).transpose();
    let wanted = Wanted {
        among,
        is_active: active,
        is_of_file: managed_by.map(|managed_by| managed_by == ManagedBy::File),
        kind: kind.map_err(|error| Problem::invalid("type", format!("`type`: {error}")))?,
        after: place.map(|place| Place::parse(&place).ok_or_else(cursor::wrong)).transpose()?,
        limit: limit(many)?,
    };
    let page = webhooks.page(wanted).await.map_err(problem)?;
    let all: Vec<_> = page.webhooks.iter().map(shown).collect();
    let next = page.next.map(|place| question.cursor(&place.text()));
    Ok(axum::Json(json!({ "webhooks": all, "next": next })).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_as_they_are_written_and_nothing_else_is_one() {
        for id in ["crm", "wh_1f0c8f4d7a3b4c5d6e7f8091", "api-crm"] {
            let id = SubscriptionId::parse(id).expect("an id");
            for place in [Place::OfFile(id.clone()), Place::OfApi(id)] {
                assert_eq!(Place::parse(&place.text()), Some(place));
            }
        }
        for wrong in ["", "crm", "file-", "api-a b", "File-crm"] {
            assert_eq!(Place::parse(wrong), None, "{wrong}");
        }
    }
}
