//! Clients of every kind under random speeds, pauses, disconnects, restarts, purges and failures of the log: each gets
//! exactly the matching events from its place on, in order and once, or is told of the gap that they are in.

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
    ];
    proptest::collection::vec(step, 1..70)
}

/// What came of one stream.
#[derive(Default)]
struct Got {
    events: Vec<(u64, String)>,
    /// First and last sequence of what was announced as gone.
    gaps: Vec<(u64, u64)>,
}

/// A client over all its connections.
struct Party {
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
        Self { request, listener, got: BTreeMap::new(), becomes }
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
        for (_, kind, data) in parse(&self.listener.text) {
            if kind == "gap" {
                let gap: serde_json::Value = serde_json::from_str(&data).expect("JSON");
                let number = |key: &str| gap[key].as_u64().expect("a number");
                let got = self.got.entry(gap["stream"].as_str().expect("a name").to_owned()).or_default();
                got.gaps.push((number("asked"), number("available")));
                continue;
            }
            let stream = if kind == "o" { STREAMS[1] } else { STREAMS[0] };
            let sequence = data.split('/').next().and_then(|text| text.parse().ok()).expect("a sequence");
            if place.get(&name(stream)).is_some_and(|last| sequence <= last) {
                self.got.entry(stream.to_owned()).or_default().events.push((sequence, data));
            }
        }
    }

    /// Everything that matches came, in order and once, or lies in a gap; and a gap holds nothing that was there.
    fn check(&self, last: u64, stream: &str, purged_below: u64) -> Result<(), TestCaseError> {
        let nothing = Got::default();
        let got = self.got.get(stream).unwrap_or(&nothing);
        prop_assert!(got.events.is_sorted_by_key(|(sequence, _)| *sequence), "out of order: {:?}", got.events);
        for (asked, available) in &got.gaps {
            prop_assert!(asked < available && *available <= purged_below, "{asked}..{available} was not gone");
        }
        for sequence in 1..=last {
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

fn plain(stream: &str, sequence: u64, kinds: &[&str]) -> Vec<String> {
    kinds.contains(&kind(stream, sequence)).then(|| sequence.to_string()).into_iter().collect()
}

async fn parties(hub: &Hub) -> Vec<Party> {
    let (one, both) = ("EVENTS:0", "EVENTS:0,ORDERS:0");
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
    let mut parties = parties(&hub).await;
    let (mut last, mut first) = ([0_u64; 2], [1_u64; 2]);
    for step in steps {
        match step {
            Step::Append { events, stream } => (0..events).for_each(|_| {
                last[stream] = log.append(STREAMS[stream], kind(STREAMS[stream], last[stream] + 1));
            }),
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
                first[stream] = (first[stream] + events).min(last[stream] + 1);
                log.purge_below(STREAMS[stream], first[stream]);
            }
            Step::Break(broken) => log.broken.store(broken, Ordering::Relaxed),
        }
    }
    log.broken.store(false, Ordering::Relaxed);
    for party in &mut parties {
        let there = |listener: &Listener| {
            let place = listener.last_id().and_then(|text| Cursor::parse(&text).ok());
            let has = |place: &Cursor, stream, last| place.get(&name(stream)).is_none_or(|at| at >= last);
            place.is_some_and(|place| STREAMS.iter().zip(last).all(|(stream, last)| has(&place, stream, last)))
        };
        party.listener.until(there).await;
        party.keep();
        for (at, stream) in STREAMS.iter().enumerate() {
            party.check(last[at], stream, first[at])?;
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
