//! The audit log: who changed what, or tried to.

use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::cursor::{self, Question};
use super::paging::limit;
use super::subscriptions::blocking;
use super::{Problem, State, extract};
use crate::store::{AuditChange, AuditRecord, Store};
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
    /// Where to go on: the `next` of the page before.
    cursor: Option<String>,
}

/// One change, made or refused.
#[derive(Serialize, ToSchema)]
struct Change {
    /// When it was made.
    #[schema(format = "date-time")]
    at: String,
    /// Who made it: `admin`, `anybody`, `owner:…` or `key:…`; `nobody` when the key was missing or wrong, and `file` when the
    /// configuration was read again.
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
    /// The code that it was refused with.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "precondition_failed")]
    code: Option<String>,
    /// The address that it came from; `file` when the configuration was read again.
    from: String,
    /// The fields that it changed, as far as they are known.
    changes: Vec<Field>,
}

/// A field that was changed. Its values are told when they are plain, short and no secret.
#[derive(Serialize, ToSchema)]
#[schema(as = ChangedField)]
struct Field {
    /// Its name.
    #[schema(example = "max_in_flight")]
    field: String,
    /// What it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<Value>,
    /// What it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<Value>,
}

impl From<&AuditChange> for Field {
    fn from(change: &AuditChange) -> Self {
        let value = |text: &Option<Box<str>>| serde_json::from_str(text.as_deref()?).ok();
        Self { field: change.field.to_string(), before: value(&change.before), after: value(&change.after) }
    }
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
            code: record.code.as_deref().map(ToOwned::to_owned),
            from: record.from.to_string(),
            changes: record.changes.iter().map(Field::from).collect(),
        }
    }
}

/// A page of the audit log.
#[derive(Serialize, ToSchema)]
struct Changes {
    /// The changes, newest first.
    audit: Vec<Change>,
    /// The `cursor` of the next page; `null` when there is none.
    next: Option<String>,
}

/// List what was changed, and by whom
///
/// Every change over the API that was carried out, or refused because of who asked or of what was there (401, 403, 409,
/// 412), and each time that the configuration was read again; newest first. A page stays where it is while changes are added; the
/// last 100,000 are kept, and of what is refused at most 30 a minute.
#[utoipa::path(
    get,
    path = "/audit",
    tag = "access",
    params(PageQuery),
    responses((status = 200, description = "A page of changes", body = Changes)),
    extensions(("x-problems" = json!(["invalid_request", "store_unavailable"])))
)]
async fn list_changes(
    Extension(store): Extension<Store>,
    extract::Query(query): extract::Query<PageQuery>,
) -> Result<Json<Changes>, Problem> {
    let question = Question::of(&["audit"]);
    let place = |cursor| question.place(cursor)?.parse().map_err(|_| cursor::wrong());
    let before = query.cursor.as_deref().map(place).transpose()?;
    let limit = limit(query.limit)?;
    let page = blocking(move || store.audit(before, limit)).await?;
    let audit = page.records.iter().map(|(_, record)| Change::from(record)).collect();
    Ok(Json(Changes { audit, next: page.next.map(|number| question.cursor(&number.to_string())) }))
}
