//! Publishing several events with one request.

use axum::Json as Answer;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Accepted, NewEvent, accepted, event, not_published};
use crate::api::extract::Json;
use crate::api::principal::Asker;
use crate::api::problem::FieldError;
use crate::api::{Problem, State as Shared};

/// The most events of one request.
const BATCH_EVENTS_MAX: usize = 100;

/// Events to publish.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = EventBatch)]
pub(super) struct Batch {
    /// They are published in this order.
    #[schema(min_items = 1, max_items = 100)]
    events: Vec<NewEvent>,
}

/// What became of each event.
#[derive(Serialize, ToSchema)]
#[schema(as = EventBatchResult)]
pub(super) struct Results {
    /// How many a stream has.
    accepted: usize,
    /// How many were refused, or may or may not be stored.
    refused: usize,
    /// In the order of the request.
    results: Vec<One>,
}

/// What became of one event.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = EventResult)]
enum One {
    Accepted(Accepted),
    Refused(Refused),
}

/// Why an event was refused.
#[derive(Serialize, ToSchema)]
#[schema(as = EventRefused)]
struct Refused {
    /// The status that the event by itself would have been answered with.
    status: u16,
    /// The stable word that programs go by.
    code: &'static str,
    detail: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldError>,
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Self {
        Self {
            status: problem.status().as_u16(),
            code: problem.code().as_str(),
            errors: problem.errors().to_vec(),
            detail: problem.detail().to_owned(),
        }
    }
}

/// Publish several events
///
/// Each has an answer of its own: 202 when a stream has all of them, 207 when it has not. They are answered when their streams
/// have stored them.
#[utoipa::path(
    post,
    path = "/events/batch",
    tag = "events",
    request_body = Batch,
    responses(
        (status = 202, description = "A stream has each of them", body = Results),
        (status = 207, description = "Some were refused", body = Results),
    ),
    extensions(("x-problems" = json!(["invalid_request"])))
)]
pub(super) async fn publish_batch(
    State(state): State<Shared>,
    asker: Asker,
    Json(batch): Json<Batch>,
) -> Result<Response, Problem> {
    if !(1..=BATCH_EVENTS_MAX).contains(&batch.events.len()) {
        return Err(Problem::invalid("events", format!("a batch has from 1 to {BATCH_EVENTS_MAX} events")));
    }
    let checked: Vec<_> = batch.events.into_iter().map(|new| event(&state, asker.principal(), new)).collect();
    let (mut ids, mut sending, mut results) = (Vec::new(), Vec::new(), Vec::new());
    for one in checked {
        results.push(match one {
            Ok(event) => {
                ids.push(event.id.clone());
                sending.push(event);
                None
            }
            Err(problem) => Some(One::Refused(problem.into())),
        });
    }
    let published = state.publisher.publish_all(sending).await;
    let answers = ids.into_iter().zip(published).map(|(id, published)| match published {
        Ok(published) => One::Accepted(accepted(id, published)),
        Err(error) => One::Refused(not_published(&error).into()),
    });
    let mut answers = answers.collect::<std::collections::VecDeque<_>>();
    let results: Vec<One> = results.into_iter().filter_map(|result| result.or_else(|| answers.pop_front())).collect();
    let refused = results.iter().filter(|one| matches!(one, One::Refused(_))).count();
    let status = if refused == 0 { StatusCode::ACCEPTED } else { StatusCode::MULTI_STATUS };
    let accepted = results.len() - refused;
    Ok((status, Answer(Results { accepted, refused, results })).into_response())
}
