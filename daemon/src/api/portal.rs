//! Links that open the console as an owner: for an operator's own pages, to send a customer to its things.

use std::time::Duration;

use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::StatusCode;
use http::header::{CACHE_CONTROL, HeaderValue};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::auth::Gate;
use super::session::Sessions;
use super::{Principal, Problem, State, extract, session};
use crate::domain::{AllowList, Owner, Scopes};
use crate::telemetry::clock;

/// What the text of every link begins with.
pub(super) const TEXT_PREFIX: &str = "slp_";
/// How long a link waits to be opened when nothing is said.
const LINK_TIME: Duration = Duration::from_secs(15 * 60);
/// How long a link may wait to be opened.
const LINK_TIME_MAX: Duration = Duration::from_secs(24 * 3_600);

/// What the routes work on.
#[derive(Clone)]
pub struct Access {
    sessions: Sessions,
    /// The allow-list of an owner for whom nothing is said; `{sub}` stands for the owner.
    default_types: Vec<String>,
    /// What owners may do.
    scopes: Scopes,
}

impl Access {
    /// The sessions of that gate, the allow-list of an owner for whom nothing is said, and what owners may do.
    pub fn new(gate: &Gate, default_types: Vec<String>, scopes: Scopes) -> Self {
        Self { sessions: gate.sessions(), default_types, scopes }
    }
}

/// The routes of sessions and links, to be served below `/api/v1`.
pub fn routes(access: Access) -> OpenApiRouter<State> {
    session::routes(access.sessions.clone()).merge(links().layer(Extension(access)))
}

/// The routes, described.
pub(super) fn operations() -> OpenApiRouter<State> {
    session::operations().merge(links())
}

fn links() -> OpenApiRouter<State> {
    OpenApiRouter::default().routes(routes!(make_link))
}

/// A link to make.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewPortalLink {
    /// Whose things the console is to show.
    #[schema(min_length = 1, max_length = 128)]
    owner: String,
    /// The event types that the owner may see, publish and subscribe to: at most 64 patterns, in which `{sub}` stands for the
    /// owner. Without it those of `auth.default_types`.
    #[schema(max_items = 64)]
    types: Option<Vec<String>>,
    /// How long it can be opened: 24 hours at most, 15 minutes when nothing is said.
    #[schema(example = "15m")]
    valid_for: Option<String>,
}

/// A link that was made.
#[derive(Serialize, ToSchema)]
struct PortalLink {
    /// Whose things the console will show.
    owner: String,
    /// What follows the console's address, for the only time. What comes after `#` is sent to no server.
    path: String,
    /// Until when it can be opened, once.
    #[schema(format = "date-time")]
    expires_at: String,
}

/// Make a portal link
///
/// Whoever opens it first is in the console as that owner, with the scopes of `auth.owner_scopes`, for as long as a session lasts.
#[utoipa::path(
    post,
    path = "/portal-links",
    tag = "access",
    request_body = NewPortalLink,
    responses((status = 201, description = "It can be opened once", body = PortalLink)),
    extensions(("x-problems" = json!([])))
)]
async fn make_link(
    Extension(access): Extension<Access>,
    extract::Json(new): extract::Json<NewPortalLink>,
) -> Result<Response, Problem> {
    let owner = Owner::parse(&new.owner).map_err(|error| Problem::invalid("owner", error.to_string()))?;
    let types = new.types.as_deref().unwrap_or(&access.default_types);
    let types = AllowList::of(types.iter().map(String::as_str), Some(&owner))
        .map_err(|error| Problem::invalid("types", error.to_string()))?;
    let valid_for = new.valid_for.as_deref().map_or(Ok(LINK_TIME), valid_for)?;
    let now_ms = clock::now_ms();
    let expires_ms = now_ms + u64::try_from(valid_for.as_millis()).unwrap_or(0);
    let text = access.sessions.link(Principal::link(owner.clone(), types, access.scopes), expires_ms, now_ms);
    let link = PortalLink {
        owner: owner.to_string(),
        path: format!("/portal#{text}"),
        expires_at: clock::rfc3339(expires_ms),
    };
    let mut response = (StatusCode::CREATED, Json(link)).into_response();
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

fn valid_for(text: &str) -> Result<Duration, Problem> {
    let parsed = humantime::parse_duration(text).ok();
    parsed
        .filter(|time| (Duration::from_secs(1)..=LINK_TIME_MAX).contains(time))
        .ok_or_else(|| Problem::invalid("valid_for", "`valid_for` must be a time from 1s to 24h, such as 15m"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_waits_for_a_bounded_time() {
        assert_eq!(valid_for("2h").ok(), Some(Duration::from_secs(7_200)));
        for wrong in ["0s", "25h", "", "soon", "-1m"] {
            assert!(valid_for(wrong).is_err(), "{wrong}");
        }
    }
}
