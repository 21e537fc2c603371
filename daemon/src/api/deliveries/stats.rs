//! How many deliveries ended how, by time.

use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Access, known};
use crate::api::Problem;
use crate::api::extract::Query;
use crate::api::paging::times;
use crate::api::principal::Asker;
use crate::api::subscriptions::blocking;
use crate::domain::SubscriptionId;
use crate::store::{DELIVERIES_PAGE_MAX, Disposition, Error, LogFilter, Store};
use crate::telemetry::clock;

/// How many entries of the log are counted for one answer.
const STATS_ENTRIES_MAX: usize = 100_000;
/// Into how many parts the time is cut.
const BUCKETS: u64 = 24;
/// What is counted when no time is said.
const DAY_MS: u64 = 24 * 3_600_000;

/// What to count.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Counting {
    /// Only deliveries of this webhook: its id, or the name of a subscription of the file.
    webhook: Option<String>,
    /// The beginning: a day before the end, when it is not said.
    #[param(format = DateTime)]
    from: Option<String>,
    /// The end: now, when it is not said.
    #[param(format = DateTime)]
    to: Option<String>,
}

/// How deliveries ended, and how many wait.
#[derive(Serialize, ToSchema)]
#[schema(as = DeliveryStats)]
pub(super) struct Stats {
    /// How many wait for their next attempt now.
    pending: u64,
    /// How many were given up and are kept.
    dead_letters: u64,
    #[schema(format = DateTime)]
    from: String,
    #[schema(format = DateTime)]
    to: String,
    total: Ends,
    /// The time cut into 24 parts.
    buckets: Vec<Bucket>,
    /// Whether all of the time was counted; else only the newest 100,000 attempts were.
    complete: bool,
    /// From when on everything was counted.
    #[schema(format = DateTime)]
    counted_from: String,
}

/// How attempts ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = DeliveryEnds)]
struct Ends {
    /// The receiver took it.
    delivered: u64,
    /// It failed, and is to be tried again.
    retried: u64,
    /// It was given up.
    failed: u64,
    /// It was dropped because the subscription's policy says so.
    dropped: u64,
}

impl Ends {
    fn count(&mut self, disposition: Disposition) {
        *match disposition {
            Disposition::Delivered => &mut self.delivered,
            Disposition::Dropped => &mut self.dropped,
            Disposition::Parked => &mut self.retried,
            Disposition::Dead => &mut self.failed,
        } += 1;
    }
}

/// A part of the time.
#[derive(Serialize, ToSchema)]
#[schema(as = DeliveryBucket)]
struct Bucket {
    #[schema(format = DateTime)]
    from: String,
    #[serde(flatten)]
    ends: Ends,
}

/// Count deliveries
#[utoipa::path(
    get,
    path = "/deliveries/stats",
    tag = "deliveries",
    params(Counting),
    responses((status = 200, description = "How many there are", body = Stats)),
    extensions(("x-problems" = json!(["invalid_request", "not_found", "store_unavailable"])))
)]
pub(super) async fn stats(
    Extension(access): Extension<Access>,
    asker: Asker,
    Query(asked): Query<Counting>,
) -> Result<Json<Stats>, Problem> {
    let (from, to) = times(asked.from.as_deref(), asked.to.as_deref())?;
    let to = to.unwrap_or_else(|| clock::now_ms().max(from.unwrap_or(0)));
    let from = from.unwrap_or(to.saturating_sub(DAY_MS));
    let wanted = match &asked.webhook {
        Some(name) => Some(vec![known(&access, &asker, name)?]),
        None => asker.own(),
    };
    let store = access.store.clone();
    let (pending, dead_letters) = waiting(&store, wanted.as_deref());
    let tally = blocking(move || count(&store, wanted, from, to)).await?;
    let bucket_ms = bucket_ms(from, to);
    let buckets = (0..).zip(&tally.buckets);
    Ok(Json(Stats {
        pending,
        dead_letters,
        from: clock::rfc3339(from),
        to: clock::rfc3339(to),
        total: tally.total,
        buckets: buckets.map(|(n, ends)| Bucket { from: clock::rfc3339(from + n * bucket_ms), ends: *ends }).collect(),
        complete: tally.complete,
        counted_from: clock::rfc3339(tally.counted_from),
    }))
}

/// How many deliveries are parked, and how many dead letters there are.
fn waiting(store: &Store, wanted: Option<&[SubscriptionId]>) -> (u64, u64) {
    match wanted {
        None => {
            let all = store.totals();
            (all.parked, all.dead)
        }
        Some(wanted) => wanted.iter().fold((0, 0), |(parked, dead), id| {
            let own = store.counts(id);
            (parked + own.parked, dead + own.dead)
        }),
    }
}

fn bucket_ms(from: u64, to: u64) -> u64 {
    (to - from).div_ceil(BUCKETS).max(1)
}

struct Tally {
    total: Ends,
    buckets: Vec<Ends>,
    complete: bool,
    counted_from: u64,
}

/// Counts the log's entries of that time, the newest first, as far as the bound goes.
fn count(store: &Store, subscriptions: Option<Vec<SubscriptionId>>, from: u64, to: u64) -> Result<Tally, Error> {
    let bucket_ms = bucket_ms(from, to);
    let buckets = (to - from).div_ceil(bucket_ms) as usize;
    let mut tally =
        Tally { total: Ends::default(), buckets: vec![Ends::default(); buckets], complete: true, counted_from: from };
    let filter = LogFilter { subscriptions, disposition: None, since_ms: Some(from), until_ms: Some(to) };
    let (mut before, mut counted) = (None, 0);
    loop {
        let page = store.log_page(&filter, before, DELIVERIES_PAGE_MAX)?;
        for (_, entry) in &page.entries {
            tally.total.count(entry.disposition);
            if let Some(bucket) = tally.buckets.get_mut(((entry.at_ms - from) / bucket_ms) as usize) {
                bucket.count(entry.disposition);
            }
            counted += 1;
        }
        before = page.next;
        if before.is_none() {
            return Ok(tally);
        }
        if counted >= STATS_ENTRIES_MAX || page.entries.is_empty() {
            let last = page.entries.last().map(|(_, entry)| entry.at_ms);
            (tally.complete, tally.counted_from) = (false, last.unwrap_or(to));
            return Ok(tally);
        }
    }
}
