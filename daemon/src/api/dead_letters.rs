//! Dead letters: finding them, looking at one with all its attempts, sending one again, removing one.

use std::fmt::Display;

use axum::{Extension, Json};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use tracing::info;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{Body, Try, headers};
use super::extract::{Path, Query};
use super::paging::{dead_key, dead_place, limit};
use super::principal::Asker;
use super::problem::Code;
use super::subscriptions::{Access, bad_cursor, blocking, find};
use super::{Problem, State};
use crate::domain::{DeliveryId, SubscriptionId};
use crate::store::{DeadFilter, DeadKey, DeadLetter, DeadPage, Resent};
use crate::telemetry::clock;

/// The routes, to be served below `/api/v1`; [`Access`] is laid over them by the caller.
pub(super) fn routes() -> OpenApiRouter<State> {
    OpenApiRouter::default()
        .routes(routes!(list_all))
        .routes(routes!(list))
        .routes(routes!(one, remove))
        .routes(routes!(resend))
}

/// Of which subscription.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct SearchAll {
    /// Only those of this subscription.
    subscription: Option<String>,
    /// The most letters of the page.
    #[param(minimum = 1, maximum = 100, default = 50)]
    limit: Option<usize>,
    /// Go on where a page ended: its `next`.
    #[param(pattern = "^[0-9]{1,15}-msg_[0-9a-f]{32}$")]
    before: Option<String>,
    /// Only those of this class of failure.
    class: Option<String>,
    /// Only those whose last attempt was answered so.
    #[param(minimum = 100, maximum = 599)]
    status: Option<u16>,
    /// Only those that failed at this time or later (RFC 3339).
    #[param(format = DateTime)]
    since: Option<String>,
    /// Only those that failed before this time (RFC 3339).
    #[param(format = DateTime)]
    until: Option<String>,
}

impl SearchAll {
    fn split(self) -> (Option<String>, Search) {
        let Self { subscription, limit, before, class, status, since, until } = self;
        (subscription, Search { limit, before, class, status, since, until })
    }
}

/// Which dead letters are asked for.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct Search {
    /// The most letters of the page.
    #[param(minimum = 1, maximum = 100, default = 50)]
    limit: Option<usize>,
    /// Go on where a page ended: its `next`.
    #[param(pattern = "^[0-9]{1,15}-msg_[0-9a-f]{32}$")]
    before: Option<String>,
    /// Only those of this class of failure.
    class: Option<String>,
    /// Only those whose last attempt was answered so.
    #[param(minimum = 100, maximum = 599)]
    status: Option<u16>,
    /// Only those that failed at this time or later (RFC 3339).
    #[param(format = DateTime)]
    since: Option<String>,
    /// Only those that failed before this time (RFC 3339).
    #[param(format = DateTime)]
    until: Option<String>,
}

impl Search {
    fn filter(&self) -> Result<DeadFilter, Problem> {
        let time = |name: &str, text: &Option<String>| {
            let parse = |text: &String| {
                let bad =
                    || Problem::invalid(name, "a time is written as RFC 3339 has it, such as 2026-01-31T12:00:00Z");
                clock::parse_rfc3339(text).ok_or_else(bad)
            };
            text.as_ref().map(parse).transpose()
        };
        if self.status.is_some_and(|status| !(100..600).contains(&status)) {
            return Err(Problem::invalid("status", "`status` must be from 100 to 599"));
        }
        let class = self.class.as_deref().map(Into::into);
        Ok(DeadFilter {
            class,
            status: self.status,
            since_ms: time("since", &self.since)?,
            until_ms: time("until", &self.until)?,
        })
    }

    fn before(&self) -> Result<Option<(u64, DeliveryId)>, Problem> {
        self.before.as_ref().map(|text| dead_key(text).ok_or_else(bad_cursor)).transpose()
    }
}

/// A dead letter as listings show it.
#[derive(Serialize, ToSchema)]
#[schema(as = DeadLetter)]
struct Letter {
    id: String,
    subscription: String,
    event_id: String,
    r#type: String,
    stream: String,
    sequence: u64,
    part: u32,
    parts: u32,
    created_at: String,
    failed_at: String,
    attempts: u32,
    class: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    body_bytes: usize,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    body: Option<Body>,
}

impl Letter {
    fn new(letter: &DeadLetter, with_body: bool) -> Self {
        let content = &letter.content;
        Self {
            id: letter.delivery.to_string(),
            subscription: letter.subscription.to_string(),
            event_id: content.event_id.to_string(),
            r#type: content.event_type.to_string(),
            stream: letter.position.stream.to_string(),
            sequence: letter.position.sequence,
            part: letter.part,
            parts: letter.parts,
            created_at: clock::rfc3339(letter.created_ms),
            failed_at: clock::rfc3339(letter.failed_ms),
            attempts: letter.attempts,
            class: letter.failure.class.to_string(),
            status: letter.failure.status,
            reason: letter.failure.message.to_string(),
            content_type: content.content_type.as_deref().map(ToOwned::to_owned),
            body_bytes: content.body.len(),
            body: with_body.then(|| Body::from(&content.body[..])),
        }
    }
}

/// A dead letter with its headers and every attempt.
#[derive(Serialize, ToSchema)]
#[schema(as = WholeDeadLetter)]
struct Whole {
    #[serde(flatten)]
    letter: Letter,
    headers: Vec<[String; 2]>,
    /// After how many attempts it was last sent again; 0 when it never was.
    resent_after: u32,
    history: Vec<Try>,
}

/// A page of dead letters.
#[derive(Serialize, ToSchema)]
#[schema(as = DeadLetterPage)]
struct Page {
    /// Newest first.
    dead_letters: Vec<Letter>,
    /// Where the next page begins, as `before`; `null` at the end.
    next: Option<String>,
}

/// What became of a letter that is to be sent again.
#[derive(Serialize, ToSchema)]
#[schema(as = ResentDelivery)]
struct Again {
    /// The delivery's id.
    id: String,
    /// `parked`: it waits for its next attempt, which is due at once.
    state: &'static str,
}

fn answer(page: &DeadPage, with_body: bool) -> Json<Page> {
    let dead_letters = page.letters.iter().map(|letter| Letter::new(letter, with_body)).collect();
    let next = page.next.as_ref().map(dead_place);
    Json(Page { dead_letters, next })
}

/// List dead letters
///
/// What was given up, of all subscriptions or one, newest first, without bodies.
#[utoipa::path(
    get,
    path = "/dead-letters",
    tag = "dead letters",
    params(SearchAll),
    responses((status = 200, description = "A page", body = Page)),
    extensions(("x-problems" = json!(["not_found", "store_unavailable"])))
)]
async fn list_all(
    Extension(access): Extension<Access>,
    asker: Asker,
    Query(all): Query<SearchAll>,
) -> Result<Json<Page>, Problem> {
    let (subscription, search) = all.split();
    let (filter, before, limit) = (search.filter()?, search.before()?, limit(search.limit)?);
    let store = access.store.clone();
    let page = match &subscription {
        Some(name) => {
            let id = known(&access, &asker, name)?;
            let before = before.map(|(failed_ms, delivery)| key(&id, failed_ms, delivery));
            blocking(move || store.dead_letters(&id, &filter, before.as_ref(), limit)).await?
        }
        None => match asker.own() {
            None => blocking(move || store.dead_letters_of_all(&filter, before, limit)).await?,
            Some(own) => blocking(move || store.dead_letters_among(&own, &filter, before, limit)).await?,
        },
    };
    Ok(answer(&page, false))
}

/// List a subscription's dead letters
///
/// What was given up of it, newest first, with bodies.
#[utoipa::path(
    get,
    path = "/subscriptions/{name}/dead-letters",
    tag = "dead letters",
    params(("name" = String, Path, description = "The subscription's name"), Search),
    responses((status = 200, description = "A page", body = Page)),
    extensions(("x-problems" = json!(["not_found", "store_unavailable"])))
)]
async fn list(
    Extension(access): Extension<Access>,
    asker: Asker,
    Path(name): Path<String>,
    Query(search): Query<Search>,
) -> Result<Json<Page>, Problem> {
    let id = known(&access, &asker, &name)?;
    let (filter, limit, store) = (search.filter()?, limit(search.limit)?, access.store.clone());
    let before = search.before()?.map(|(failed_ms, delivery)| key(&id, failed_ms, delivery));
    let page = blocking(move || store.dead_letters(&id, &filter, before.as_ref(), limit)).await?;
    Ok(answer(&page, true))
}

/// Get a dead letter, with its body and every attempt
#[utoipa::path(
    get,
    path = "/subscriptions/{name}/dead-letters/{id}",
    tag = "dead letters",
    params(("name" = String, Path, description = "The subscription's name"), ("id" = String, Path, description = "The delivery's id")),
    responses((status = 200, description = "The letter", body = Whole)),
    extensions(("x-problems" = json!(["not_found", "store_unavailable"])))
)]
async fn one(
    Extension(access): Extension<Access>,
    asker: Asker,
    Path((name, delivery)): Path<(String, String)>,
) -> Result<Json<Whole>, Problem> {
    let (id, delivery) = (known(&access, &asker, &name)?, parse(&name, &delivery)?);
    let store = access.store.clone();
    let found = blocking(move || store.dead_letter(&delivery)).await?;
    let letter = found.filter(|letter| letter.subscription == id).ok_or_else(|| missing(&name, &delivery))?;
    let whole = Whole {
        headers: headers(&letter.content.headers),
        resent_after: letter.resent_after,
        history: letter.history.iter().map(Try::from).collect(),
        letter: Letter::new(&letter, true),
    };
    Ok(Json(whole))
}

/// Send a dead letter again
///
/// It is parked again, and due at once.
#[utoipa::path(
    post,
    path = "/subscriptions/{name}/dead-letters/{id}/resend",
    tag = "dead letters",
    params(("name" = String, Path, description = "The subscription's name"), ("id" = String, Path, description = "The delivery's id")),
    responses((status = 202, description = "It is parked", body = Again)),
    extensions(("x-problems" = json!(["not_found", "delivery_under_way", "store_unavailable"])))
)]
async fn resend(
    Extension(access): Extension<Access>,
    asker: Asker,
    Path((name, delivery)): Path<(String, String)>,
) -> Result<(StatusCode, Json<Again>), Problem> {
    let (lane, delivery) = (find(&access, &asker, &name)?, parse(&name, &delivery)?);
    if lane.state().is_claimed(&delivery) {
        // A replay has it under way.
        return Err(under_way(&delivery));
    }
    let (store, id) = (access.store.clone(), lane.id().clone());
    let answers = blocking(move || store.resend(&id, &[delivery])).await?;
    match answers.first() {
        Some(Resent::Parked) => {
            lane.resent(1, clock::now_ms());
            lane.read_parked(&access.store);
            info!(subscription = %name, %delivery, "a dead letter is sent again");
            Ok((StatusCode::ACCEPTED, Json(Again { id: delivery.to_string(), state: "parked" })))
        }
        Some(Resent::UnderWay) => Err(under_way(&delivery)),
        Some(Resent::Unknown) | None => Err(missing(&name, &delivery)),
    }
}

/// Forget a dead letter, with its body
#[utoipa::path(
    delete,
    path = "/subscriptions/{name}/dead-letters/{id}",
    tag = "dead letters",
    params(("name" = String, Path, description = "The subscription's name"), ("id" = String, Path, description = "The delivery's id")),
    responses((status = 204, description = "It is forgotten")),
    extensions(("x-problems" = json!(["not_found", "delivery_under_way", "store_unavailable"])))
)]
async fn remove(
    Extension(access): Extension<Access>,
    asker: Asker,
    Path((name, delivery)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    let (id, delivery) = (known(&access, &asker, &name)?, parse(&name, &delivery)?);
    let store = access.store.clone();
    let (removed, parked) = blocking(move || {
        let removed = store.remove_dead_letters(&id, &[delivery])?;
        Ok((removed, removed == 0 && store.parked(&delivery)?.is_some_and(|parked| parked.subscription == id)))
    })
    .await?;
    match (removed, parked) {
        (0, true) => Err(under_way(&delivery)),
        (0, false) => Err(missing(&name, &delivery)),
        _ => {
            info!(subscription = %name, %delivery, "a dead letter was removed");
            Ok(StatusCode::NO_CONTENT)
        }
    }
}

/// A subscription that runs, or has dead letters from when it did.
fn known(access: &Access, asker: &Asker, name: &str) -> Result<SubscriptionId, Problem> {
    match SubscriptionId::parse(name) {
        Ok(id) if access.store.counts(&id).dead > 0 && asker.sees(&id) => Ok(id),
        _ => Ok(find(access, asker, name)?.id().clone()),
    }
}

fn key(subscription: &SubscriptionId, failed_ms: u64, delivery: DeliveryId) -> DeadKey {
    DeadKey { subscription: subscription.clone(), failed_ms, delivery }
}

/// The id in the path of one of the subscription's letters. What is no id is the id of nothing.
fn parse(name: &str, id: &str) -> Result<DeliveryId, Problem> {
    DeliveryId::parse(id).map_err(|_| missing(name, &id))
}

fn missing(name: &str, delivery: &impl Display) -> Problem {
    Problem::not_found(format!("subscription {name} has no dead letter {delivery}"))
}

fn under_way(delivery: &DeliveryId) -> Problem {
    let detail = format!("{delivery} is parked and waits for its next attempt: look at the subscription's deliveries");
    Problem::new(Code::DeliveryUnderWay, detail)
}
