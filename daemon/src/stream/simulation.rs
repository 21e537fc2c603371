//! Clients of every kind under random speeds, pauses, disconnects, restarts, purges, failures of the log and streams that
//! are made anew: each gets exactly the matching events from its place on, in order and once, or is told of the gap that they
//! are in; and of another stream of the same name it is told before it gets anything of it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use proptest::prelude::*;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::testing::{Doubles, Listener, MemoryLog, config, name, named, parse, wants};
use super::{Cursor, Hub, Request, Wanted};
use crate::domain::SubscriptionId;

const STREAMS: [&str; 2] = ["EVENTS", "ORDERS"];
const PARTIES: usize = 5;

#[derive(Debug, Clone)]
enum Step {
    Append {
        events: u8,
        stream: usize,
    },
    Read {
        party: usize,
        pieces: usize,
    },
    Reconnect(usize),
    Restart,
    Pause(u64),
    /// Discards so many of a stream's oldest events.
    Purge {
        events: u64,
        stream: usize,
    },
    /// The log fails to be read, or can be again.
    Break(bool),
    /// Deletes a stream and makes one of its name, which live tails hear of some seconds later.
    Recreate {
        stream: usize,
        late_s: u64,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        5 => (1..40_u8, 0..4_usize).prop_map(|(events, stream)| Step::Append { events, stream: stream / 3 }),
        9 => (0..PARTIES, 1..30_usize).prop_map(|(party, pieces)| Step::Read { party, pieces }),
        3 => (0..PARTIES).prop_map(Step::Reconnect),
        1 => Just(Step::Restart),
        2 => (0..60_u64).prop_map(Step::Pause),
        1 => (1..60_u64, 0..STREAMS.len()).prop_map(|(events, stream)| Step::Purge { events, stream }),
        1 => any::<bool>().prop_map(Step::Break),
        1 => (0..STREAMS.len(), 0..3_u64).prop_map(|(stream, late_s)| Step::Recreate { stream, late_s }),
    ];
    proptest::collection::vec(step, 1..70)
}

/// What came of the streams of one name, one after the other.
type Got = Vec<GotOfOne>;

/// What came of one stream.
#[derive(Debug, Default)]
struct GotOfOne {
    /// The id of its first place, without which it is the first one of all.
    begun: Option<String>,
    /// The first sequence that it was to come from.
    from: u64,
    /// The sequence that was next when it was told that there is another stream.
    ended: Option<u64>,
    events: Vec<(u64, String)>,
    /// First and last sequence of what was announced as gone.
    gaps: Vec<(u64, u64)>,
}

/// What there was of one stream.
struct Had {
    /// A place in it, as a cursor has it.
    place: String,
    last: u64,
    purged_below: u64,
}

/// A client over all its connections.
struct Party {
    /// The place that it began with.
    first: Cursor,
    request: Request,
    listener: Listener,
    got: BTreeMap<String, Got>,
    /// What one event becomes for it.
    becomes: fn(&str, u64) -> Vec<String>,
}

fn kind(stream: &str, sequence: u64) -> &'static str {
    match (stream, sequence % 4 == 2) {
        ("ORDERS", _) => "o",
        (_, true) => "b",
        (_, false) => "a",
    }
}

impl Party {
    async fn new(hub: &Hub, types: &[&str], cursor: &str, becomes: fn(&str, u64) -> Vec<String>) -> Self {
        let wanted = match types {
            [] => Wanted::Named(SubscriptionId::parse("board").expect("an id")),
            types => wants(types, None).wanted,
        };
        let request = Request { wanted, ..wants(&[], Some(cursor)) };
        let listener = Listener::new(hub.subscribe(request.clone()).await.expect("it is admitted"));
        let first = request.cursor.clone().expect("it has one");
        Self { first, request, listener, got: BTreeMap::new(), becomes }
    }

    /// Comes back with the place that a browser would send.
    async fn reconnect(&mut self, hub: &Hub) {
        self.keep();
        self.request.cursor = Some(self.place());
        // While the log is broken no place can be looked up, and the client tries again.
        loop {
            if let Ok(client) = hub.subscribe(self.request.clone()).await {
                self.listener = Listener::new(client);
                return;
            }
            sleep(Duration::from_secs(1)).await;
        }
    }

    fn place(&self) -> Cursor {
        let place = self.listener.last_id().map(|text| Cursor::parse(&text).expect("a cursor"));
        place.or_else(|| self.request.cursor.clone()).expect("it began with one")
    }

    /// Takes over what was read, as far as the client's place vouches for it: parts of an event that is not whole come again.
    fn keep(&mut self) {
        let place = self.place();
        let mut unvouched: BTreeMap<&str, Vec<(u64, String)>> = BTreeMap::new();
        for (_, kind, data) in parse(&self.listener.text) {
            if kind != "gap" {
                let stream = if kind == "o" { STREAMS[1] } else { STREAMS[0] };
                let sequence = data.split('/').next().and_then(|text| text.parse().ok()).expect("a sequence");
                unvouched.entry(stream).or_default().push((sequence, data));
                continue;
            }
            let gap: serde_json::Value = serde_json::from_str(&data).expect("JSON");
            let number = |key: &str| gap[key].as_u64().expect("a number");
            let stream = STREAMS.into_iter().find(|stream| gap["stream"] == *stream).expect("a stream");
            let all = self.got.entry(stream.to_owned()).or_insert_with(first_of_all);
            // A gap that comes before another one has no place: whoever goes away between them is told both again.
            let of = tag(gap["asked_id"].as_str().expect("an id"));
            all.pop_if(|last| last.events.is_empty() && last.begun.as_deref().is_some_and(|begun| tag(begun) != of));
            let got = all.last_mut().expect("there is always one");
            if gap["reason"] == "discarded" {
                got.gaps.push((number("asked"), number("available")));
                continue;
            }
            // The place has gone on to another stream: what came of this one was whole.
            got.events.extend(unvouched.remove(stream).unwrap_or_default());
            got.ended = Some(number("asked"));
            let begun = gap["available_id"].as_str().map(ToOwned::to_owned);
            all.push(GotOfOne { begun, from: number("available"), ..GotOfOne::default() });
        }
        for (stream, events) in unvouched {
            let last = place.get(&name(stream)).map_or(0, |seen| seen.sequence);
            let got = self.got.entry(stream.to_owned()).or_insert_with(first_of_all);
            let vouched = events.into_iter().filter(|(sequence, _)| *sequence <= last);
            got.last_mut().expect("there is always one").events.extend(vouched);
        }
    }

    /// Of every stream of that name that the client was in, everything that matches came, in order and once, or lies in a gap.
    fn check(&self, stream: &str, had: &[Had]) -> Result<(), TestCaseError> {
        let nothing = vec![first_of_all().remove(0)];
        let all = self.got.get(stream).unwrap_or(&nothing);
        let mut before = None;
        for got in all {
            let number = match &got.begun {
                None => 0,
                Some(begun) => had.iter().position(|had| tag(&had.place) == tag(begun)).expect("it is one of them"),
            };
            prop_assert!(before.is_none_or(|before| before < number), "the streams came in their order");
            before = Some(number);
            let had = &had[number];
            prop_assert!(got.from == 1 || got.from <= had.purged_below, "{} was not gone", got.from - 1);
            let end = got.ended.map_or(had.last, |next| next - 1);
            prop_assert!(end <= had.last, "{stream} was left at {end}, and never had more than {}", had.last);
            self.check_one(got, end, stream, had.purged_below)?;
        }
        // A client that saw nothing of the last one may still be in it by its place alone, and is then of no other.
        prop_assert!(before == Some(had.len() - 1), "{stream}: the client is in the {before:?}th of {}", had.len());
        Ok(())
    }

    /// Everything that matches came, in order and once, or lies in a gap; and a gap holds nothing that was there.
    fn check_one(&self, got: &GotOfOne, end: u64, stream: &str, purged_below: u64) -> Result<(), TestCaseError> {
        prop_assert!(got.events.is_sorted_by_key(|(sequence, _)| *sequence), "out of order: {:?}", got.events);
        for (asked, available) in &got.gaps {
            prop_assert!(asked < available && *available <= purged_below, "{asked}..{available} was not gone");
        }
        prop_assert!(got.events.last().is_none_or(|(last, _)| *last <= end), "beyond {end}: {:?}", got.events);
        for sequence in got.from..=end {
            let came: Vec<&str> =
                got.events.iter().filter(|(at, _)| *at == sequence).map(|(_, data)| data.as_str()).collect();
            let gone = got.gaps.iter().any(|(asked, available)| (*asked..*available).contains(&sequence));
            let expected = (self.becomes)(stream, sequence);
            prop_assert!(
                came == expected || (came.is_empty() && gone),
                "{stream}:{sequence}: {came:?}, not {expected:?}"
            );
            prop_assert!(came.is_empty() || !gone, "{stream}:{sequence} came and was announced as gone");
        }
        Ok(())
    }
}

/// What a place says beside the sequence.
fn tag(place: &str) -> &str {
    place.rsplit_once(':').map_or("", |(_, tag)| tag)
}

fn first_of_all() -> Got {
    vec![GotOfOne { from: 1, ..GotOfOne::default() }]
}

fn plain(stream: &str, sequence: u64, kinds: &[&str]) -> Vec<String> {
    kinds.contains(&kind(stream, sequence)).then(|| sequence.to_string()).into_iter().collect()
}

async fn parties(log: &MemoryLog, hub: &Hub) -> Vec<Party> {
    let one = &log.place("EVENTS", 0);
    let both = &format!("{one},{}", log.place("ORDERS", 0));
    vec![
        Party::new(hub, &["a", "b"], both, |stream, sequence| plain(stream, sequence, &["a", "b"])).await,
        Party::new(hub, &["b"], both, |stream, sequence| plain(stream, sequence, &["b"])).await,
        Party::new(hub, &["a", "b", "o"], both, |stream, sequence| plain(stream, sequence, &["a", "b", "o"])).await,
        // The same as the first, at its own pace: they share a group.
        Party::new(hub, &["b", "a"], one, |stream, sequence| plain(stream, sequence, &["a", "b"])).await,
        Party::new(hub, &[], both, |stream, sequence| match kind(stream, sequence) {
            "a" => Doubles::expected(sequence),
            _ => Vec::new(),
        })
        .await,
    ]
}

async fn play(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let log = MemoryLog::new(&STREAMS);
    let streams = || vec![named("board", &["a"], Arc::new(Doubles::default()) as _)];
    let mut hub = log.hub(config(), streams());
    let mut parties = parties(&log, &hub).await;
    let had = |stream: &str| Had { place: log.place(stream, 0), last: 0, purged_below: 1 };
    let mut all: [Vec<Had>; 2] = STREAMS.map(|stream| vec![had(stream)]);
    for step in steps {
        match step {
            Step::Append { events, stream } => {
                let now = all[stream].last_mut().expect("there is always one");
                (0..events).for_each(|_| now.last = log.append(STREAMS[stream], kind(STREAMS[stream], now.last + 1)));
            }
            Step::Read { party, pieces } => {
                for _ in 0..pieces {
                    let _quiet = tokio::time::timeout(Duration::from_millis(2), parties[party].listener.piece()).await;
                }
            }
            Step::Reconnect(party) => {
                log.broken.store(false, Ordering::Relaxed);
                parties[party].reconnect(&hub).await;
            }
            Step::Restart => {
                log.broken.store(false, Ordering::Relaxed);
                let stop = CancellationToken::new();
                stop.cancel();
                hub.run(stop).await;
                hub = log.hub(config(), streams());
                for party in &mut parties {
                    party.reconnect(&hub).await;
                }
            }
            Step::Pause(ms) => sleep(Duration::from_millis(ms)).await,
            Step::Purge { events, stream } => {
                let now = all[stream].last_mut().expect("there is always one");
                now.purged_below = (now.purged_below + events).min(now.last + 1);
                log.purge_below(STREAMS[stream], now.purged_below);
            }
            Step::Recreate { stream, late_s } => {
                log.late_s.store(late_s, Ordering::Relaxed);
                log.recreate(STREAMS[stream], 0);
                all[stream].push(had(STREAMS[stream]));
            }
            Step::Break(broken) => log.broken.store(broken, Ordering::Relaxed),
        }
    }
    log.broken.store(false, Ordering::Relaxed);
    for party in &mut parties {
        let there = |listener: &Listener| {
            let place = listener.last_id().and_then(|text| Cursor::parse(&text).ok());
            let has = |place: &Cursor, stream: &str, now: &Had| {
                let end = Cursor::parse(&now.place).ok().and_then(|end| end.get(&name(stream))).expect("a place");
                place.get(&name(stream)).is_none_or(|seen| seen.tag == end.tag && seen.sequence >= now.last)
            };
            let now = |all: &'_ Vec<Had>| all.len() - 1;
            place.is_some_and(|place| STREAMS.iter().zip(&all).all(|(stream, all)| has(&place, stream, &all[now(all)])))
        };
        party.listener.until(there).await;
        party.keep();
        for (at, stream) in STREAMS.iter().enumerate() {
            // Where its first place said nothing of a stream, it was to hear what came from some time on.
            if party.first.get(&name(stream)).is_some() {
                party.check(stream, &all[at])?;
            }
        }
    }
    prop_assert!(log.readers_most.load(Ordering::Relaxed) <= config().readers_max);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]
    #[test]
    fn every_client_gets_every_event_once_and_in_order_or_is_told(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(play(steps))?;
    }
}
