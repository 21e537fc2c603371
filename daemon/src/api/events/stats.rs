//! How many events there are, by type and by time. JetStream counts them: nothing is read.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::{Extension, Json};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use utoipa::{IntoParams, ToSchema};

use super::read::{Access, patterns, streams, unavailable};
use crate::api::Problem;
use crate::api::extract::Query;
use crate::api::paging::times;
use crate::api::principal::Asker;
use crate::domain::Pattern;
use crate::ingest::{self, Nats, StreamConfig};
use crate::telemetry::clock;

/// The most stretches of time that an answer tells apart.
const BUCKETS_MAX: u64 = 100;
/// How many counts JetStream is asked for in one answer.
const COUNTS_MAX: usize = 1_000;
/// How long counting goes on before the rest is left out.
const TIME_MAX: Duration = Duration::from_secs(5);
/// How many counts are asked for at a time.
const COUNTS_AT_A_TIME: usize = 8;
/// What is counted when no time is said, and into how many parts it is cut.
const DAY_MS: u64 = 24 * 3_600_000;
const BUCKETS: u64 = 24;

/// What to count.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(super) struct Counting {
    /// Patterns of event types, with commas between them. Every type, when it is not said.
    r#type: Option<String>,
    /// Only events of this stream.
    stream: Option<String>,
    /// The beginning: a day before the end, when it is not said.
    #[param(format = DateTime)]
    from: Option<String>,
    /// The end: now, when it is not said.
    #[param(format = DateTime)]
    to: Option<String>,
    /// How long a stretch of time is that is counted by itself, such as `15m` or `1h`: a part in 24 of the whole, when it is
    /// not said. There are at most 100.
    bucket: Option<String>,
}

/// How many events there are.
#[derive(Serialize, ToSchema)]
#[schema(as = EventStats)]
pub(super) struct Stats {
    #[schema(format = DateTime)]
    from: String,
    #[schema(format = DateTime)]
    to: String,
    bucket_ms: u64,
    /// When each bucket begins.
    buckets: Vec<String>,
    total: Row,
    /// The types, the most frequent first.
    types: Vec<TypeRow>,
    /// How many types are not told of, because counting them would take too long: ask with `type` for fewer, or for fewer
    /// buckets.
    types_left_out: usize,
    /// Whether nothing was left out.
    complete: bool,
}

/// Events of all types.
#[derive(Serialize, ToSchema)]
#[schema(as = EventCounts)]
struct Row {
    events: u64,
    /// In each bucket.
    buckets: Vec<u64>,
}

/// Events of one type.
#[derive(Serialize, ToSchema)]
#[schema(as = EventTypeCounts)]
struct TypeRow {
    r#type: String,
    #[serde(flatten)]
    row: Row,
}

/// Count events
///
/// By type and by time. The work is bounded: `complete` says whether all that matches was counted.
#[utoipa::path(
    get,
    path = "/events/stats",
    tag = "events",
    params(Counting),
    responses((status = 200, description = "How many there are", body = Stats)),
    extensions(("x-problems" = json!(["invalid_request", "types_not_allowed", "nats_unavailable"])))
)]
pub(super) async fn stats(
    Extension(access): Extension<Access>,
    asker: Asker,
    Query(asked): Query<Counting>,
) -> Result<Json<Stats>, Problem> {
    let types = patterns(asked.r#type.as_deref(), asker.principal())?;
    let streams = streams(&access.nats, asked.stream.as_deref())?;
    let (from, to) = times(asked.from.as_deref(), asked.to.as_deref())?;
    let now_ms = clock::now_ms();
    let to = to.unwrap_or(now_ms.max(from.unwrap_or(0)));
    let from = from.unwrap_or(to.saturating_sub(DAY_MS));
    let bucket_ms = bucket(asked.bucket.as_deref(), to - from)?;
    let edges: Vec<u64> = (0..).map(|n| from + n * bucket_ms).take_while(|edge| *edge < to).chain([to]).collect();
    let mut counting = Counts { nats: &access.nats, edges: &edges, now_ms, asked: 0 };
    let total = counting.row(&streams, &types).await.map_err(|error| unavailable(&error))?;
    let (known, all) = known(&access.nats, &streams, &types).await.map_err(|error| unavailable(&error))?;
    let (mut rows, mut left_out) = (Vec::new(), 0);
    let deadline = Instant::now() + TIME_MAX;
    for kind in known {
        if total.events == 0 {
            break;
        }
        let costs = streams.len() * edges.len();
        if counting.asked + costs > COUNTS_MAX || Instant::now() >= deadline {
            left_out += 1;
            continue;
        }
        let Ok(only) = Pattern::parse(&kind) else { continue };
        let row = counting.row(&streams, &[only]).await.map_err(|error| unavailable(&error))?;
        if row.events > 0 {
            rows.push(TypeRow { r#type: kind, row });
        }
    }
    rows.sort_by(|a, b| b.row.events.cmp(&a.row.events).then_with(|| a.r#type.cmp(&b.r#type)));
    Ok(Json(Stats {
        from: clock::rfc3339(from),
        to: clock::rfc3339(to),
        bucket_ms,
        buckets: edges[..edges.len() - 1].iter().map(|edge| clock::rfc3339(*edge)).collect(),
        total,
        types: rows,
        types_left_out: left_out,
        complete: all && left_out == 0,
    }))
}

/// How long a bucket is, in milliseconds.
fn bucket(text: Option<&str>, span_ms: u64) -> Result<u64, Problem> {
    let Some(text) = text else { return Ok(span_ms.div_ceil(BUCKETS).max(1)) };
    let parsed = humantime::parse_duration(text).ok().and_then(|bucket| u64::try_from(bucket.as_millis()).ok());
    match parsed.filter(|bucket| *bucket > 0) {
        None => Err(Problem::invalid("bucket", "`bucket` must be a duration such as \"15m\" or \"1h\"")),
        Some(bucket) if span_ms.div_ceil(bucket) > BUCKETS_MAX => {
            let detail = format!("there would be more than {BUCKETS_MAX} buckets: take longer ones, or a shorter time");
            Err(Problem::invalid("bucket", detail))
        }
        Some(bucket) => Ok(bucket),
    }
}

/// The types that the streams have events of, the most frequent first, and whether these are all.
async fn known(
    nats: &Nats,
    streams: &[&StreamConfig],
    types: &[Pattern],
) -> Result<(Vec<String>, bool), ingest::Error> {
    let (mut counts, mut complete) = (BTreeMap::<String, u64>::new(), true);
    for stream in streams {
        let (own, all) = nats.types_of(stream, types).await?;
        complete &= all;
        for of in own {
            *counts.entry(of.kind.into()).or_default() += of.events;
        }
    }
    let mut known: Vec<(String, u64)> = counts.into_iter().collect();
    known.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    Ok((known.into_iter().map(|(kind, _)| kind).collect(), complete))
}

/// Counting between the edges of buckets.
struct Counts<'a> {
    nats: &'a Nats,
    edges: &'a [u64],
    now_ms: u64,
    /// How many counts JetStream was asked for.
    asked: usize,
}

impl Counts<'_> {
    async fn row(&mut self, streams: &[&StreamConfig], types: &[Pattern]) -> Result<Row, ingest::Error> {
        let mut buckets = vec![0; self.edges.len() - 1];
        for stream in streams {
            let (nats, now_ms) = (self.nats, self.now_ms);
            let count = |at_ms: &u64| {
                let at_ms = *at_ms;
                // What was not stored yet when the question came is not counted.
                async move { if at_ms <= now_ms { nats.count_since(stream, types, at_ms).await } else { Ok(0) } }
            };
            let counts = stream::iter(self.edges.iter().map(count)).buffered(COUNTS_AT_A_TIME);
            let counts: Vec<u64> = counts.try_collect().await?;
            self.asked += counts.len();
            for (bucket, pair) in buckets.iter_mut().zip(counts.windows(2)) {
                *bucket += pair[0].saturating_sub(pair[1]);
            }
        }
        Ok(Row { events: buckets.iter().sum(), buckets })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_as_long_as_it_is_said_to_be_and_there_are_not_too_many() {
        assert_eq!(bucket(None, DAY_MS).expect("a length"), 3_600_000);
        assert_eq!(bucket(None, 0).expect("a length"), 1);
        assert_eq!(bucket(Some("15m"), 3_600_000).expect("a length"), 900_000);
        for wrong in ["", "soon", "0s", "1m"] {
            assert!(bucket(Some(wrong), DAY_MS).is_err(), "{wrong}");
        }
    }
}
