//! The store's tests, and the values that they share.

mod backup;
mod crash;
mod failing;
mod golden;
mod jobs;
mod letters;
mod migration;
mod opening;
mod outcomes;
mod plugins;
mod recorder;
mod recovery;
mod retention;
mod search;
mod state;

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::domain::{DeliveryId, Header, Position, Response};

fn sub(name: &str) -> SubscriptionId {
    SubscriptionId::parse(name).expect("valid id")
}

fn stream(name: &str) -> StreamName {
    StreamName::parse(name).expect("valid name")
}

fn at(sequence: u64) -> Position {
    Position { stream: stream("EVENTS"), sequence }
}

fn config(dir: &TempDir) -> Config {
    Config { lock_wait: Duration::from_secs(5), ..Config::new(dir.path().join("store")) }
}

fn open(dir: &TempDir) -> Store {
    Store::open(config(dir)).expect("store opens")
}

fn entry(subscription: &str, sequence: u64) -> LogEntry {
    LogEntry {
        subscription: sub(subscription),
        position: at(sequence),
        part: 0,
        parts: 1,
        attempt: 1,
        status: Some(200),
        at_ms: 1_700_000_000_000 + sequence,
        disposition: Disposition::Delivered,
        class: None,
        detail: None,
    }
}

fn content(body: &[u8]) -> Content {
    Content {
        event_id: "evt-1".into(),
        event_type: "orders.eu.created".into(),
        event_time_ms: 1_700_000_000_000,
        content_type: Some("application/json".into()),
        headers: vec![Header { name: "X-Team".into(), value: "sales".into() }],
        body: Bytes::copy_from_slice(body),
    }
}

fn failure() -> LastFailure {
    LastFailure { class: "status".into(), status: Some(503), message: "busy".into() }
}

fn attempt(number: u32) -> Attempt {
    Attempt {
        number,
        at_ms: 1_700_000_000_123,
        took_ms: 45,
        status: Some(503),
        class: Some("status".into()),
        message: "busy".into(),
        response: Some(response()),
    }
}

fn response() -> Response {
    let headers = vec![Header { name: "content-type".into(), value: "text/plain".into() }];
    Response { headers, body: Bytes::from_static(b"come back later"), truncated: true }
}

fn parked(subscription: &str, sequence: u64, due_ms: u64) -> Parked {
    let subscription = sub(subscription);
    Parked {
        delivery: DeliveryId::derive(&subscription, &at(sequence), 0),
        subscription,
        position: at(sequence),
        part: 0,
        parts: 1,
        due_ms,
        attempts: 1,
        first_attempt_ms: 1_700_000_000_123,
        last_failure: Some(failure()),
        content: content(format!("body {sequence}").as_bytes()),
        created_ms: 1_700_000_000_100,
        resent_after: 0,
        order_key: None,
        history: vec![attempt(1)],
    }
}

fn dead(subscription: &str, sequence: u64, failed_ms: u64) -> DeadLetter {
    let parked = parked(subscription, sequence, 0);
    DeadLetter {
        delivery: parked.delivery,
        subscription: parked.subscription,
        position: parked.position,
        part: 0,
        parts: 1,
        failed_ms,
        attempts: 8,
        first_attempt_ms: 1_700_000_000_123,
        failure: failure(),
        content: parked.content,
        created_ms: parked.created_ms,
        resent_after: 0,
        history: (1..=8).map(attempt).collect(),
    }
}

fn park(parked: Parked) -> Change {
    let log = LogEntry {
        disposition: Disposition::Parked,
        status: Some(503),
        class: Some(crate::domain::FailureClass::Status),
        ..entry(parked.subscription.as_str(), parked.position.sequence)
    };
    Change::Park { parked: Box::new(parked), log }
}

fn bury(letter: DeadLetter) -> Change {
    let log =
        LogEntry { disposition: Disposition::Dead, ..entry(letter.subscription.as_str(), letter.position.sequence) };
    Change::Dead { letter: Box::new(letter), log }
}

fn position_at(position: Position) -> PositionRecord {
    PositionRecord { position, recorded_above: Default::default(), partly_above: Default::default() }
}

fn counts(parked: u64, dead: u64) -> Counts {
    Counts { parked, dead, dead_bytes: 0 }
}

/// All counts but the bytes, which depend on how records are written.
fn totals(store: &Store) -> Counts {
    Counts { dead_bytes: 0, ..store.totals() }
}

/// The sequences of a subscription's dead letters, newest first.
fn dead_sequences(store: &Store, subscription: &str) -> Vec<u64> {
    let page = store.dead_letters(&sub(subscription), &DeadFilter::default(), None, 100).expect("page");
    page.letters.iter().map(|letter| letter.position.sequence).collect()
}
