//! Trying a delivery again, whatever became of it.

use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use http::StatusCode;
use serde::Serialize;
use tracing::info;
use utoipa::ToSchema;

use super::{Access, Status, missing, parse};
use crate::api::Problem;
use crate::api::extract::Path;
use crate::api::principal::Asker;
use crate::api::problem::Code;
use crate::api::subscriptions::blocking;
use crate::domain::job::RATE_DEFAULT;
use crate::domain::{Begin, DeliveryId, NewJob, NewTask, SubscriptionId};
use crate::store::{Hastened, LogEntry, Resent};
use crate::telemetry::clock;

/// A delivery that is tried again.
#[derive(Serialize, ToSchema)]
#[schema(as = DeliveryRetried)]
pub(super) struct Retried {
    id: String,
    /// How it stood before.
    was: Status,
    /// The job that sends the event again, when the delivery had come to its end: only then there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    job: Option<String>,
}

/// What is on record of the delivery.
enum Kept {
    Parked(SubscriptionId),
    Dead(SubscriptionId),
    Ended(LogEntry),
}

impl Kept {
    fn subscription(&self) -> &SubscriptionId {
        match self {
            Self::Parked(id) | Self::Dead(id) => id,
            Self::Ended(entry) => &entry.subscription,
        }
    }
}

/// Try a delivery again
///
/// At any time: a pending one at once, a failed one with its attempts counted anew, and the event of one that was delivered is
/// sent again, as long as its stream has it. It keeps its id, so that the receiver can tell.
#[utoipa::path(
    post,
    path = "/deliveries/{id}/retry",
    tag = "deliveries",
    params(("id" = String, Path, description = "The delivery's id")),
    responses((status = 202, description = "It is tried again", body = Retried)),
    extensions(("x-problems" = json!([
        "not_found", "delivery_under_way", "job_running", "jobs_max", "range", "nats_unavailable", "store_unavailable"
    ])))
)]
pub(super) async fn retry(
    Extension(access): Extension<Access>,
    asker: Asker,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let delivery = parse(&id)?;
    let kept = find(&access, delivery).await?.filter(|kept| asker.sees(kept.subscription()));
    let kept = kept.ok_or_else(|| missing(&delivery))?;
    let subscription = kept.subscription().clone();
    let lanes = access.lanes.lanes();
    let lane = lanes.iter().find(|lane| *lane.id() == subscription);
    let lane = lane.ok_or_else(|| Problem::not_found(format!("the webhook {subscription} does not run")))?;
    if lane.state().is_claimed(&delivery) {
        return Err(under_way(&delivery));
    }
    let now_ms = clock::now_ms();
    let store = access.store.clone();
    let (was, job) = match kept {
        Kept::Parked(of) => match blocking(move || store.hasten(&of, &delivery, now_ms)).await? {
            Hastened::Due => {
                lane.hastened(now_ms);
                (Status::Pending, None)
            }
            // It has come to its end in the meantime.
            Hastened::Unknown => return Err(under_way(&delivery)),
        },
        Kept::Dead(of) => match blocking(move || store.resend(&of, &[delivery])).await?.first() {
            Some(Resent::Parked) => {
                lane.resent(1, now_ms);
                lane.read_parked(&access.store);
                (Status::Failed, None)
            }
            Some(Resent::UnderWay) => return Err(under_way(&delivery)),
            Some(Resent::Unknown) | None => return Err(missing(&delivery)),
        },
        Kept::Ended(entry) => {
            let place = Begin::Sequence(entry.position.sequence);
            let task = NewTask::Replay { stream: Some(entry.position.stream), from: place, to: place };
            let new = NewJob { subscription: entry.subscription, task, rate: RATE_DEFAULT, dry_run: false };
            (Status::Delivered, Some(access.jobs.begin(new).await?.id.to_string()))
        }
    };
    info!(subscription = %lane.id(), %delivery, was = was.word(), "a delivery is tried again");
    Ok((StatusCode::ACCEPTED, Json(Retried { id: delivery.to_string(), was, job })).into_response())
}

async fn find(access: &Access, delivery: DeliveryId) -> Result<Option<Kept>, Problem> {
    let store = access.store.clone();
    let find = move || {
        if let Some(parked) = store.parked(&delivery)? {
            return Ok(Some(Kept::Parked(parked.subscription)));
        }
        if let Some(letter) = store.dead_letter(&delivery)? {
            return Ok(Some(Kept::Dead(letter.subscription)));
        }
        Ok(store.logged(&delivery)?.map(Kept::Ended))
    };
    blocking(find).await
}

fn under_way(delivery: &DeliveryId) -> Problem {
    Problem::new(
        Code::DeliveryUnderWay,
        format!("an attempt of {delivery} is under way, or has just ended: look at it again"),
    )
}
