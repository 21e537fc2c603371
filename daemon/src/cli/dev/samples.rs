//! The trickle of sample events: a small shop.

use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::account::{Account, Mark};
use crate::domain::Subject;
use crate::ingest::{Nats, Publish};
use crate::telemetry::chain;

/// How often an event is published.
const INTERVAL: Duration = Duration::from_millis(1_000);
const CUSTOMERS: [&str; 5] = ["Ada", "Grace", "Linus", "Barbara", "Edsger"];
/// Numbers that the card schemes have set aside for tests.
const CARDS: [&str; 3] = ["4111111111111111", "5555555555554444", "378282246310005"];

/// Publishes sample events through a connection of its own, as any program would, until `stop`. Returns how many.
pub(super) async fn publish(nats: Nats, account: &Account, stop: &CancellationToken) -> u64 {
    // Ids of different runs on one data directory must differ: an id that JetStream knows is not stored again.
    let run: u32 = rand::random();
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut published = 0;
    for number in 1_u64.. {
        let (kind, data) = sample(number);
        let event = Publish {
            kind: Subject::parse(kind).expect("the samples' types are subjects"),
            id: Some(format!("{run:08x}-{number}")),
            content_type: "application/json".to_owned(),
            data: Bytes::from(data.to_string()),
        };
        let publish = async {
            ticks.tick().await;
            // Told when it is sent: its delivery can come before its acknowledgement.
            account.line(Mark::Published, "publish", kind, &summary(&data));
            nats.publish(event).await
        };
        let result = tokio::select! {
            result = publish => result,
            () = stop.cancelled() => break,
        };
        match result {
            Ok(_) => published += 1,
            Err(error) => account.line(Mark::Note, "publish", kind, &format!("not published: {}", chain(&error))),
        }
    }
    published
}

/// The event of that number: its type and its data. The kinds come in turn, so that everything is soon seen.
fn sample(number: u64) -> (&'static str, Value) {
    let pick = |from: &[&'static str]| from[rand::random_range(0..from.len())];
    let cents = |euros: std::ops::Range<u32>| f64::from(rand::random_range(euros.start * 100..euros.end * 100)) / 100.0;
    let order = |amount: f64| {
        json!({
            "id": format!("order-{number}"), "customer": pick(&CUSTOMERS), "amount": amount, "currency": "EUR",
            "card": { "number": pick(&CARDS), "expires": "12/30" },
        })
    };
    let payment = |state: &str| {
        json!({
            "id": format!("payment-{number}"), "customer": pick(&CUSTOMERS), "amount": cents(5..900), "currency": "EUR",
            "state": state,
        })
    };
    match number % 6 {
        1 => ("orders.created", order(cents(101..900))),
        2 => ("payments.settled", payment("settled")),
        3 => ("orders.created", order(cents(5..99))),
        4 => ("orders.cancelled", order(cents(101..900))),
        5 => ("payments.failed", payment("failed")),
        _ => ("orders.eu.shipped", json!({ "id": format!("order-{}", number - 5), "parcel": format!("P{number:06}") })),
    }
}

/// An event's data in a few words.
pub(super) fn summary(data: &Value) -> String {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), ToOwned::to_owned);
    let mut words: Vec<String> = ["text", "id", "amount", "currency", "customer", "state", "parcel"]
        .iter()
        .filter_map(|key| data.get(key).map(text))
        .collect();
    words.extend(data.pointer("/card/number").map(|number| format!("card {}", text(number))));
    words.join(" ")
}
