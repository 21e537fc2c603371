//! Deliveries: what became of events, over all webhooks or of one.
//!
//! There is no table of deliveries. What waits for its next attempt is parked, what was given up is a dead letter, and what
//! came to its end is in the log: each listing goes by the index that its status has, and reads no more than a page.

mod retry;
mod shown;
mod stats;

use std::fmt::Display;
use std::sync::Arc;

use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::shown::{Shown, Whole, log_rows};
use super::cursor::{self, Question};
use super::extract::{Path, Query};
use super::jobs::Jobs;
use super::paging::{dead_key, limit, log_key, log_place, times};
use super::principal::Asker;
use super::subscriptions::{Lanes, blocking};
use super::{Problem, State, trace};
use crate::domain::{DeliveryId, Position, SubscriptionId};
use crate::ingest::Nats;
use crate::store::{DeadFilter, Disposition, Error, LogFilter, LogKey, Parked, ParkedKey, Store};

/// How many pages of dead letters are gone through for one page of a type.
const LETTER_PAGES_MAX: usize = 10;
/// How many subscriptions are looked at for deliveries of one event that the log does not have.
const SUBSCRIPTIONS_MAX: usize = 1_000;

/// What the routes work on.
#[derive(Clone)]
pub struct Access {
    /// The lanes.
    pub lanes: Arc<dyn Lanes>,
    /// Their records.
    pub store: Store,
    /// The streams.
    pub nats: Nats,
    /// Who sends again what was delivered.
    pub jobs: Arc<dyn Jobs>,
}

/// The routes, to be served below `/api/v1`.
pub fn routes(access: Access) -> OpenApiRouter<State> {
    operations().layer(Extension(access))
}

/// The routes, with nothing to work on yet.
pub(super) fn operations() -> OpenApiRouter<State> {
    OpenApiRouter::default()
        .routes(routes!(list))
        .routes(routes!(stats::stats))
        .routes(routes!(one))
        .routes(routes!(retry::retry))
        .routes(routes!(of_webhook))
}

/// How a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = DeliveryStatus)]
enum Status {
    /// It waits for its next attempt.
    Pending,
    /// The receiver took it.
    Delivered,
    /// It was given up.
    Failed,
    /// It was dropped because the subscription's policy says so.
    Dropped,
}

impl Status {
    fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Dropped => "dropped",
        }
    }
}

/// Which deliveries of a webhook are wanted.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct OfWebhook {
    /// Only those that stand so. Pending ones come in the order in which they are due, all others newest first.
    #[param(inline)]
    status: Option<Status>,
    /// Only those of this event: its id, or `STREAM:SEQUENCE`.
    event: Option<String>,
    /// Only those of events of exactly this type; known of pending and failed deliveries only.
    r#type: Option<String>,
    /// Only those that changed last at this time or later.
    #[param(format = DateTime)]
    from: Option<String>,
    /// Only those that changed last before this time.
    #[param(format = DateTime)]
    to: Option<String>,
    /// How many deliveries the page is to have.
    #[param(minimum = 1, maximum = 100, default = 50)]
    limit: Option<usize>,
    /// Where to go on: the `next` of the page before.
    cursor: Option<String>,
}

/// Which deliveries are wanted.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct Listing {
    /// Only those of this webhook: its id, or the name of a subscription of the file.
    webhook: Option<String>,
    /// Only those that stand so. Pending ones come by webhook and in the order in which they are due, all others newest
    /// first.
    #[param(inline)]
    status: Option<Status>,
    /// Only those of this event: its id, or `STREAM:SEQUENCE`.
    event: Option<String>,
    /// Only those of events of exactly this type; known of pending and failed deliveries only.
    r#type: Option<String>,
    /// Only those that changed last at this time or later.
    #[param(format = DateTime)]
    from: Option<String>,
    /// Only those that changed last before this time.
    #[param(format = DateTime)]
    to: Option<String>,
    /// How many deliveries the page is to have.
    #[param(minimum = 1, maximum = 100, default = 50)]
    limit: Option<usize>,
    /// Where to go on: the `next` of the page before.
    cursor: Option<String>,
}

/// A page of deliveries.
#[derive(Serialize, ToSchema)]
#[schema(as = DeliveryPage)]
struct Page {
    deliveries: Vec<Shown>,
    /// The `cursor` of the next page; `null` when there is none. A page may be short, even empty, and still have a next one:
    /// the search behind it is bounded.
    next: Option<String>,
}

/// List deliveries
#[utoipa::path(
    get,
    path = "/deliveries",
    tag = "deliveries",
    params(Listing),
    responses((status = 200, description = "A page of deliveries", body = Page)),
    extensions(("x-problems" = json!(["invalid_request", "not_found", "nats_unavailable", "store_unavailable"])))
)]
async fn list(
    Extension(access): Extension<Access>,
    asker: Asker,
    Query(asked): Query<Listing>,
) -> Result<Json<Page>, Problem> {
    let Listing { webhook, status, event, r#type, from, to, limit, cursor } = asked;
    let wanted = match &webhook {
        Some(name) => Some(vec![known(&access, &asker, name)?]),
        None => asker.own(),
    };
    page(&access, wanted, webhook, OfWebhook { status, event, r#type, from, to, limit, cursor }).await
}

/// List the deliveries of a webhook
#[utoipa::path(
    get,
    path = "/webhooks/{id}/deliveries",
    tag = "deliveries",
    params(("id" = String, Path, description = "The webhook's id, or the name of a subscription of the file"), OfWebhook),
    responses((status = 200, description = "A page of deliveries", body = Page)),
    extensions(("x-problems" = json!(["invalid_request", "not_found", "nats_unavailable", "store_unavailable"])))
)]
async fn of_webhook(
    Extension(access): Extension<Access>,
    asker: Asker,
    Path(name): Path<String>,
    Query(asked): Query<OfWebhook>,
) -> Result<Json<Page>, Problem> {
    let wanted = known(&access, &asker, &name)?;
    page(&access, Some(vec![wanted]), Some(name), asked).await
}

/// A subscription that the asker may see, running or not.
///
/// # Errors
/// When there is none of that name.
fn known(access: &Access, asker: &Asker, name: &str) -> Result<SubscriptionId, Problem> {
    let missing = || Problem::not_found(format!("there is no webhook {name}"));
    let id = SubscriptionId::parse(name).map_err(|_| missing())?;
    let there = || access.lanes.lanes().iter().any(|lane| *lane.id() == id);
    let kept = || access.store.registration(&id).is_ok_and(|kept| kept.is_some());
    (asker.sees(&id) && (there() || kept())).then_some(id).ok_or_else(missing)
}

/// A page of the deliveries of these subscriptions, or of all.
async fn page(
    access: &Access,
    wanted: Option<Vec<SubscriptionId>>,
    webhook: Option<String>,
    asked: OfWebhook,
) -> Result<Json<Page>, Problem> {
    let limit = limit(asked.limit)?;
    let (since_ms, until_ms) = times(asked.from.as_deref(), asked.to.as_deref())?;
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let question = Question::of(&[
        "deliveries",
        asked.status.map_or("", Status::word),
        &text(&webhook),
        &text(&asked.event),
        &text(&asked.r#type),
        &text(&asked.from),
        &text(&asked.to),
    ]);
    let place = asked.cursor.as_deref().map(|cursor| question.place(cursor)).transpose()?;
    if asked.r#type.is_some()
        && asked.event.is_none()
        && !matches!(asked.status, Some(Status::Pending | Status::Failed))
    {
        let detail =
            "the type of an event is known of pending and failed deliveries: ask with one of these as `status`";
        return Err(Problem::invalid("type", detail));
    }
    let search = Search { wanted, status: asked.status, kind: asked.r#type, since_ms, until_ms, limit };
    let store = access.store.clone();
    let (deliveries, next) = match (&asked.event, search.status) {
        (Some(event), _) => {
            let position = trace::position(&access.nats, event).await?;
            let begin = place.map_or(Ok(0), |place| place.parse().map_err(|_| cursor::wrong()))?;
            let running = access.lanes.lanes().iter().take(SUBSCRIPTIONS_MAX).map(|lane| lane.id().clone()).collect();
            blocking(move || search.of_event(&store, &position, running, begin)).await?
        }
        (None, Some(Status::Pending)) => {
            let after = place.map(|place| parked_key(&place).ok_or_else(cursor::wrong)).transpose()?;
            blocking(move || search.pending(&store, after.as_ref())).await?
        }
        (None, Some(Status::Failed)) => {
            let before = place.map(|place| dead_key(&place).ok_or_else(cursor::wrong)).transpose()?;
            blocking(move || search.failed(&store, before)).await?
        }
        (None, _) => {
            let before = place.map(|place| log_key(&place).ok_or_else(cursor::wrong)).transpose()?;
            blocking(move || search.logged(&store, before)).await?
        }
    };
    Ok(Json(Page { deliveries, next: next.map(|place| question.cursor(&place)) }))
}

fn parked_key(text: &str) -> Option<ParkedKey> {
    // A subscription's id may have hyphens: it comes last.
    let (due_ms, rest) = text.split_once('-')?;
    let (delivery, subscription) = rest.split_once('-')?;
    Some(ParkedKey {
        subscription: SubscriptionId::parse(subscription).ok()?,
        due_ms: due_ms.parse().ok()?,
        delivery: DeliveryId::parse(delivery).ok()?,
    })
}

/// What is looked for in the store.
struct Search {
    wanted: Option<Vec<SubscriptionId>>,
    status: Option<Status>,
    kind: Option<String>,
    since_ms: Option<u64>,
    until_ms: Option<u64>,
    limit: usize,
}

/// Deliveries, and the place after them.
type Found = (Vec<Shown>, Option<String>);

impl Search {
    fn is_of_kind(&self, kind: &str) -> bool {
        self.kind.as_deref().is_none_or(|wanted| wanted == kind)
    }

    fn is_within(&self, at_ms: u64) -> bool {
        self.since_ms.is_none_or(|since| at_ms >= since) && self.until_ms.is_none_or(|until| at_ms < until)
    }

    fn pending(&self, store: &Store, after: Option<&ParkedKey>) -> Result<Found, Error> {
        let takes =
            |parked: &Parked| self.is_of_kind(&parked.content.event_type) && self.is_within(shown::updated_ms(parked));
        let page = store.parked_list(self.wanted.as_deref(), takes, after, self.limit)?;
        let next = page.next.map(|key| format!("{}-{}-{}", key.due_ms, key.delivery, key.subscription));
        Ok((page.deliveries.iter().map(Shown::from).collect(), next))
    }

    fn failed(&self, store: &Store, mut before: Option<(u64, DeliveryId)>) -> Result<Found, Error> {
        let filter = DeadFilter { since_ms: self.since_ms, until_ms: self.until_ms, ..DeadFilter::default() };
        let mut found = Vec::new();
        for _ in 0..LETTER_PAGES_MAX {
            let left = self.limit - found.len();
            let page = match &self.wanted {
                None => store.dead_letters_of_all(&filter, before, left)?,
                Some(wanted) => store.dead_letters_among(wanted, &filter, before, left)?,
            };
            let own = page.letters.iter().filter(|letter| self.is_of_kind(&letter.content.event_type));
            found.extend(own.map(Shown::from));
            before = page.next.map(|key| (key.failed_ms, key.delivery));
            if before.is_none() || found.len() >= self.limit {
                break;
            }
        }
        Ok((found, before.map(|(failed_ms, delivery)| format!("{failed_ms}-{delivery}"))))
    }

    fn logged(&self, store: &Store, before: Option<LogKey>) -> Result<Found, Error> {
        let disposition = match self.status {
            Some(Status::Delivered) => Some(Disposition::Delivered),
            Some(Status::Dropped) => Some(Disposition::Dropped),
            _ => None,
        };
        let filter = LogFilter {
            subscriptions: self.wanted.clone(),
            disposition,
            since_ms: self.since_ms,
            until_ms: self.until_ms,
        };
        let (found, next) = log_rows(store, &filter, before, self.limit)?;
        Ok((found, next.as_ref().map(log_place)))
    }

    /// The deliveries of one event.
    fn of_event(
        &self,
        store: &Store,
        position: &Position,
        running: Vec<SubscriptionId>,
        begin: usize,
    ) -> Result<Found, Error> {
        let rows = shown::of_event(store, position, self.wanted.clone().unwrap_or(running), self.wanted.as_deref())?;
        let mut own = rows.into_iter().filter(|row| {
            self.status.is_none_or(|status| row.status() == status)
                && self.kind.as_deref().is_none_or(|kind| row.is_of_kind(kind))
        });
        let found: Vec<Shown> = own.by_ref().skip(begin).take(self.limit).collect();
        let next = own.next().map(|_| (begin + found.len()).to_string());
        Ok((found, next))
    }
}

/// Get a delivery
///
/// With all its attempts, as far as they are kept, and what was sent, as long as it is kept.
#[utoipa::path(
    get,
    path = "/deliveries/{id}",
    tag = "deliveries",
    params(("id" = String, Path, description = "The delivery's id: what its requests have as `webhook-id`")),
    responses((status = 200, description = "The delivery", body = Whole)),
    extensions(("x-problems" = json!(["not_found", "store_unavailable"])))
)]
async fn one(
    Extension(access): Extension<Access>,
    asker: Asker,
    Path(id): Path<String>,
) -> Result<Json<Whole>, Problem> {
    let delivery = parse(&id)?;
    let store = access.store.clone();
    let found = blocking(move || Whole::find(&store, &delivery)).await?;
    let found = found.filter(|found| asker.sees(found.subscription()));
    found.map(Json).ok_or_else(|| missing(&delivery))
}

/// The id in a path. What is no id is the id of nothing.
fn parse(id: &str) -> Result<DeliveryId, Problem> {
    DeliveryId::parse(id).map_err(|_| missing(&id))
}

fn missing(delivery: &impl Display) -> Problem {
    Problem::not_found(format!("there is no delivery {delivery}, or no record of it any more"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn places_are_read_as_they_are_written(flush in any::<u64>(), index in any::<u32>(), id in any::<[u8; 16]>(), name in "[a-z][a-z0-9-]{0,20}") {
            let delivery = DeliveryId::from_bytes(id);
            prop_assert_eq!(log_key(&format!("{flush}-{index}")), Some(LogKey { flush, index }));
            prop_assert_eq!(dead_key(&format!("{flush}-{delivery}")), Some((flush, delivery)));
            if let Ok(subscription) = SubscriptionId::parse(&name) {
                let key = ParkedKey { subscription: subscription.clone(), due_ms: flush, delivery };
                prop_assert_eq!(parked_key(&format!("{flush}-{delivery}-{subscription}")), Some(key));
            }
        }

        #[test]
        fn other_texts_are_no_places_and_never_a_panic(text in ".{0,40}") {
            let _ = (log_key(&text), dead_key(&text), parked_key(&text));
        }
    }
}
