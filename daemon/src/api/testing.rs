//! Trying a webhook out: one request, made as a delivery would be made, of which nothing is recorded.

use std::sync::Arc;

use axum::{Extension, Json as Answer};
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::Answer as Captured;
use super::extract::{JsonOrNone, Path};
use super::principal::Asker;
use super::{Problem, State};
use crate::domain::{Outcome, Subject, SubscriptionId};
use crate::telemetry::clock;

/// The type of a trial's event, unless another is asked for.
pub const TEST_TYPE: &str = "sluiced.test";
/// The longest payload of a trial, in bytes as JSON.
const DATA_BYTES_MAX: usize = 65_536;

/// A request that is made once, to see what the receiver says of it.
#[derive(Debug, Clone)]
pub struct Trial {
    /// The event's type.
    pub kind: Subject,
    /// The payload.
    pub data: Value,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Tried {
    /// The request's `webhook-id`.
    pub id: String,
    /// When it was made, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// How it ended.
    pub outcome: Outcome,
}

/// Who makes trials.
pub trait Tester: Send + Sync + 'static {
    /// Makes one, as a delivery of that webhook would be made. `None` when the webhook does not run.
    fn test<'a>(&'a self, id: &'a SubscriptionId, trial: Trial) -> BoxFuture<'a, Option<Tried>>;
}

/// What the route works on.
#[derive(Clone)]
pub struct Access {
    /// Who makes trials.
    pub tester: Arc<dyn Tester>,
}

/// The routes, to be served below `/api/v1`.
pub fn routes(access: Access) -> OpenApiRouter<State> {
    operations().layer(Extension(access))
}

/// The operations, not yet bound to what they work on.
pub(super) fn operations() -> OpenApiRouter<State> {
    OpenApiRouter::default().routes(routes!(test))
}

/// What to send.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = WebhookTest)]
struct Asked {
    /// The event's type; `sluiced.test`, when it is not said.
    #[schema(max_length = 512, pattern = r"^[^\u0000-\u0020\u007f-\u00a0.*>]+(\.[^\u0000-\u0020\u007f-\u00a0.*>]+)*$")]
    r#type: Option<String>,
    /// The payload; a few words, when it is not said.
    #[schema(value_type = Option<serde_json::Value>)]
    data: Option<Value>,
}

/// What the receiver said.
#[derive(Serialize, ToSchema)]
#[schema(as = WebhookTested)]
struct Told {
    /// The request's `webhook-id`.
    id: String,
    /// Whether the receiver took it.
    delivered: bool,
    #[schema(format = DateTime)]
    at: String,
    took_ms: u64,
    /// The status that the receiver answered with.
    #[serde(skip_serializing_if = "Option::is_none")]
    response_status: Option<u16>,
    /// Whose fault it was, when it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    class: Option<&'static str>,
    /// What happened, when it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// What the receiver answered, as far as its webhook captures answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<Captured>,
}

/// Try a webhook out
///
/// One signed request to its URL, as a delivery would be made, with `sluiced-test: true`. It is answered with what the receiver
/// said. Plugins do not see it, it is not tried again, and no record is left of it.
#[utoipa::path(
    post,
    path = "/webhooks/{id}/test",
    tag = "webhooks",
    params(("id" = String, Path, description = "The webhook's id, or the name of a subscription of the file")),
    request_body = Option<Asked>,
    responses((status = 200, description = "What the receiver said", body = Told)),
    extensions(("x-problems" = json!(["invalid_request", "not_found"])))
)]
async fn test(
    Extension(access): Extension<Access>,
    asker: Asker,
    Path(name): Path<String>,
    JsonOrNone(asked): JsonOrNone<Asked>,
) -> Result<Answer<Told>, Problem> {
    let missing = || Problem::not_found(format!("there is no webhook {name} that runs"));
    let id = SubscriptionId::parse(&name).ok().filter(|id| asker.sees(id)).ok_or_else(missing)?;
    let kind = Subject::parse(asked.r#type.as_deref().unwrap_or(TEST_TYPE))
        .map_err(|error| Problem::invalid("type", format!("`type`: {error}")))?;
    let data = asked.data.unwrap_or_else(|| json!({ "test": true, "webhook": id.as_str() }));
    if data.to_string().len() > DATA_BYTES_MAX {
        return Err(Problem::invalid("data", format!("`data` must have at most {DATA_BYTES_MAX} bytes")));
    }
    let Tried { id, at_ms, took_ms, outcome } =
        access.tester.test(&id, Trial { kind, data }).await.ok_or_else(missing)?;
    let (delivered, status, failure, response) = match outcome {
        Outcome::Delivered { status, response } => (true, Some(status), None, response),
        Outcome::Retry(mut failure) | Outcome::Final(mut failure) => {
            let response = failure.response.take();
            (false, failure.status, Some(failure), response)
        }
    };
    Ok(Answer(Told {
        id,
        delivered,
        at: clock::rfc3339(at_ms),
        took_ms,
        response_status: status,
        class: failure.as_ref().map(|failure| failure.class.as_str()),
        error: failure.map(|failure| failure.message.into_string()),
        response: response.as_deref().map(Captured::from),
    }))
}
