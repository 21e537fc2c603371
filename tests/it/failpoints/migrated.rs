//! Crashes while the store of an older version is brought up to date.
//!
//! The store in `format-1` was written by the last version of the daemon that knew only that format. It has the
//! subscriptions `crm` and `wall`, a position of `crm`, three deliveries parked and due, 600 dead letters, and their log.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use flate2::read::GzDecoder;
use sluiced::domain::SubscriptionId;
use sluiced::store::{self, DeadFilter, Store};

use super::*;

/// The steps: 500 dead letters, the others with the counts, the number of the format, the file that repeats it.
pub(super) const CRASHES: &[Crash] = &[(Place::Migrating, 1..=4)];

const LETTERS: u64 = 600;
/// What waits for `crm`: what is parked, and what its reader finds at and after its position.
const WAITING: [u64; 6] = [2, 3, 4, 900, 901, 902];

#[tokio::test]
async fn a_crash_while_an_older_store_is_brought_up_to_date_loses_nothing_and_leaves_nothing_by_halves() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    nats.create_stream("EVENTS", &["events.>"]).await;
    nats.publish_orders("events.orders.created", 0..5).await;
    let hook = |name| Webhook::new(name, &receiver).with("max_in_flight", IN_FLIGHT_MAX);
    // Its dead letters are of 2023.
    let text = config("[store]\ndead_letter_retention = \"3650d\"", &[hook("crm"), hook("wall")]);
    let mut daemon = TestDaemon::builder(&nats, &text).failpoints().start().await;
    for (place, visits) in CRASHES {
        for visit in visits.clone() {
            eprintln!("{} at visit {visit}", place.name());
            daemon.kill9();
            receiver.forget();
            unpack(&daemon.data_dir().join("store"));
            daemon.arm(&format!("{} = abort @ {visit}", place.name()));
            // Before its last step it begins anew, and can be cut short again.
            for _ in 0..if visit < *visits.end() { 2 } else { 1 } {
                daemon.launch();
                daemon.wait_aborted().await;
            }
            daemon.arm("");
            daemon.restart().await;
            wait_until("what waits has come", SOON, async || receiver.numbers().len() >= WAITING.len()).await;
            assert_all_there(&mut daemon, &receiver).await;
            daemon.launch();
        }
    }
}

/// Puts the store of format 1 in the place of another.
fn unpack(store: &Path) {
    let from = workspace().join("tests/it/failpoints/format-1");
    fs::remove_dir_all(store).expect("the other is removed");
    fs::create_dir_all(store.join("sled")).expect("made");
    fs::write(store.join("format"), "1\n").expect("written");
    fs::copy(from.join("conf"), store.join("sled/conf")).expect("copied");
    let packed = File::open(from.join("db.gz")).expect("it is there");
    let mut db = File::create(store.join("sled/db")).expect("made");
    io::copy(&mut GzDecoder::new(packed), &mut db).expect("unpacked");
}

/// Everything of the older store is found, by the new indexes too, and works.
async fn assert_all_there(daemon: &mut TestDaemon, receiver: &TestReceiver) {
    daemon.wait_metric("sluiced_dead_letters", &[], LETTERS as f64).await;
    let numbers = receiver.numbers();
    assert!(WAITING.iter().all(|number| numbers.contains_key(number)), "{numbers:?}");
    daemon.wait_metric("sluiced_parked", &[], 0.0).await;
    let busy = "/api/v1/subscriptions/crm/dead-letters?status=503&limit=1";
    let newest = daemon.request("GET", busy, None).await.json()["dead_letters"][0].clone();
    let resend = format!("/api/v1/subscriptions/crm/dead-letters/{}/resend", newest["id"].as_str().expect("an id"));
    assert_eq!(daemon.request("POST", &resend, None).await.status, 202);
    receiver.wait_for_numbers(1598..1599, SOON).await;
    daemon.wait_metric("sluiced_dead_letters", &[], LETTERS as f64 - 1.0).await;
    daemon.wait_held("crm", false, SOON).await;
    assert_eq!(receiver.received().len(), WAITING.len() + 1, "each came once");

    assert!(daemon.terminate().await.success());
    whole::assert_whole(daemon);
    let store = Store::open(store::Config::new(daemon.data_dir().join("store"))).expect("the store opens");
    for (name, status, letters) in [("crm", 503, 299), ("wall", 422, 300)] {
        let subscription = SubscriptionId::parse(name).expect("a name");
        let by_reason = DeadFilter { class: Some("status".into()), status: Some(status), ..DeadFilter::default() };
        assert_eq!(whole::dead_of(&store, &subscription, &by_reason), letters, "{name}: by reason");
    }
    let dead_bytes = store.totals().dead_bytes;
    assert!(dead_bytes / (LETTERS - 1) > 50, "each is counted with its bytes: {dead_bytes}");
}
