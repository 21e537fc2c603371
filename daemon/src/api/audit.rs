//! The audit log: who changed what.

use axum::{Extension, Json};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::paging::limit;
use super::subscriptions::{bad_cursor, blocking};
use super::{Problem, State, extract};
use crate::store::{AuditRecord, Store};
use crate::telemetry::clock;

/// The route, to be served below `/api/v1`.
pub fn routes(store: Store) -> OpenApiRouter<State> {
    operations().layer(Extension(store))
}

/// The routes, described.
pub(super) fn operations() -> OpenApiRouter<State> {
    OpenApiRouter::default().routes(routes!(list_changes))
}

/// Which page is asked for.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct PageQuery {
    /// How many records, at most.
    #[param(minimum = 1, maximum = 100, default = 50)]
    limit: Option<usize>,
    /// Where the page begins: `next` of the page before.
    before: Option<String>,
}

/// One change.
#[derive(Serialize, ToSchema)]
struct Change {
    /// When it was made.
    #[schema(format = "date-time")]
    at: String,
    /// Who made it: `admin`, `anybody`, `owner:…` or `key:…`.
    principal: String,
    /// The owner that this is, or that the key is of.
    owner: Option<String>,
    /// What was done.
    #[schema(example = "webhook.create")]
    action: String,
    /// To what.
    #[schema(example = "/api/v1/webhooks/wh_1f0c8f4d7a3b4c5d6e7f8091")]
    target: String,
    /// How it was answered.
    status: u16,
    /// The address that it came from.
    from: String,
}

impl From<&AuditRecord> for Change {
    fn from(record: &AuditRecord) -> Self {
        Self {
            at: clock::rfc3339(record.at_ms),
            principal: record.principal.to_string(),
            owner: record.owner.as_deref().map(ToOwned::to_owned),
            action: record.action.to_string(),
            target: record.target.to_string(),
            status: record.status,
            from: record.from.to_string(),
        }
    }
}

/// A page of the audit log.
#[derive(Serialize, ToSchema)]
struct Changes {
    /// The changes, newest first.
    audit: Vec<Change>,
    /// Where the next page begins; nothing at the end.
    next: Option<String>,
}

/// List what was changed, and by whom
///
/// Every change over the interface that was carried out, newest first. A page stays where it is while changes are added; the
/// last 100,000 are kept.
#[utoipa::path(
    get,
    path = "/audit",
    tag = "access",
    params(PageQuery),
    responses((status = 200, description = "A page of changes", body = Changes)),
    extensions(("x-problems" = json!(["store_unavailable"])))
)]
async fn list_changes(
    Extension(store): Extension<Store>,
    extract::Query(query): extract::Query<PageQuery>,
) -> Result<Json<Changes>, Problem> {
    let before = query.before.as_deref().map(|text| number(text).ok_or_else(bad_cursor)).transpose()?;
    let limit = limit(query.limit)?;
    let page = blocking(move || store.audit(before, limit)).await?;
    let audit = page.records.iter().map(|(_, record)| Change::from(record)).collect();
    Ok(Json(Changes { audit, next: page.next.map(cursor) }))
}

fn cursor(number: u64) -> String {
    URL_SAFE_NO_PAD.encode(number.to_be_bytes())
}

fn number(text: &str) -> Option<u64> {
    Some(u64::from_be_bytes(URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_leads_back_and_nothing_else_is_one() {
        assert_eq!(number(&cursor(7)), Some(7));
        for wrong in ["", "7", "AAAA", "not a cursor", "AAAAAAAAAAcAAA"] {
            assert_eq!(number(wrong), None, "{wrong}");
        }
    }
}
