//! Crashes while an operator's wish is written: a dead letter sent again, a secret or the master key changed.

use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use sluiced::domain::SubscriptionId;
use sluiced::store::{self, Store};
use sluiced_tests::http::try_request;
use sluiced_tests::paths::sluiced_binary;
use sluiced_tests::{ADMIN_KEY, Received};

use super::*;

/// What is written outside of the groups comes to these.
const CRASHES: [Place; 3] = [Place::BeforeWrite, Place::BeforeFlush, Place::BeforeSync];

const LETTERS: &str = "/api/v1/subscriptions/crm/dead-letters";
const ROTATE: &str = "/api/v1/subscriptions/crm/secret/rotate";

struct Operated {
    nats: TestNats,
    receiver: TestReceiver,
    daemon: TestDaemon,
    published: u64,
}

impl Operated {
    async fn start() -> Self {
        let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
        let daemon = TestDaemon::builder(&nats, &text(&receiver)).failpoints().start().await;
        Self { nats, receiver, daemon, published: 0 }
    }

    /// Sends a request to a daemon that ends at that place, and starts it again.
    async fn crash(&mut self, place: Place, path: &str, body: Option<&Value>) -> HashMap<String, u64> {
        eprintln!("{} at {path}", place.name());
        self.daemon.arm(&format!("{} = abort", place.name()));
        let answer = try_request("POST", &self.daemon.url(path), Some(ADMIN_KEY), body).await;
        assert!(answer.is_none(), "it was to end at {}: {answer:?}", place.name());
        self.daemon.wait_aborted().await;
        self.daemon.arm("");
        let parked = whole::assert_whole(&self.daemon);
        self.daemon.restart().await;
        parked
    }

    /// Publishes one order, and what the receiver got of it.
    async fn publish(&mut self) -> Received {
        let number = self.published;
        self.published += 1;
        self.nats.publish_orders("events.orders.created", number..number + 1).await;
        self.receiver.wait_for_numbers(number..number + 1, SOON).await;
        self.nats.wait_drained("EVENTS", "sluiced", SOON).await;
        self.receiver.received().into_iter().rfind(|r| r.number() == Some(number)).expect("it has come")
    }
}

impl Operated {
    /// Makes a webhook that has a delivery parked and a dead letter, and returns its path.
    async fn make_webhook_with_deliveries(&mut self) -> String {
        self.receiver.set(Behaviour::custom(|request| {
            let refuses = if request.number().is_some_and(|number| number % 2 == 0) { 422 } else { 503 };
            Reply::status(if request.path == "/made" { refuses } else { 200 })
        }));
        let wanted = json!({
            "name": "made", "url": self.receiver.url("/made"), "types": ["orders.created"],
            "retry": { "schedule": ["1h"] },
        });
        let made = self.daemon.request("POST", "/api/v1/webhooks", Some(&wanted)).await;
        assert_eq!(made.status, 201, "{made:?}");
        let id = made.json()["id"].as_str().expect("an id").to_owned();
        self.publish().await;
        self.publish().await;
        let of = ("subscription", id.as_str());
        self.daemon.wait_metric("sluiced_parked", &[of], 1.0).await;
        self.daemon.wait_metric("sluiced_deliveries_total", &[of, ("outcome", "failed")], 1.0).await;
        format!("/api/v1/webhooks/{id}")
    }
}

fn text(receiver: &TestReceiver) -> String {
    config("", &[Webhook::new("crm", receiver).secret(None)])
}

fn secret(number: u8) -> String {
    format!("whsec_{}", STANDARD.encode([number; 32]))
}

#[tokio::test]
async fn a_crash_while_a_dead_letter_is_sent_again_sends_it_once() {
    let mut all = Operated::start().await;
    for (round, place) in (1..).zip(CRASHES) {
        all.receiver.set(Behaviour::Status(422));
        let id = all.publish().await.webhook_id().to_owned();
        all.daemon.wait_metric("sluiced_dead_letters", &[], 1.0).await;
        all.receiver.set(Behaviour::Ok);
        let again = format!("{LETTERS}/{id}/resend");
        let parked = all.crash(place, &again, None).await;
        // What was written whole is under way; otherwise the dead letter is still there, and the wish is repeated.
        if parked["crm"] == 0 {
            assert_eq!(all.daemon.request("POST", &again, None).await.status, 202, "it is still a dead letter");
        }
        all.daemon.wait_metric("sluiced_dead_letters", &[], 0.0).await;
        all.daemon.wait_metric("sluiced_parked", &[("subscription", "crm")], 0.0).await;
        assert_eq!(all.receiver.counts().requests, 2 * round, "{}: refused, and then taken", place.name());
    }
}

#[tokio::test]
async fn a_crash_while_a_secret_is_rotated_leaves_the_old_one_or_both() {
    let mut all = Operated::start().await;
    let mut current = secret(0);
    assert_eq!(all.daemon.request("POST", ROTATE, Some(&json!({ "secret": current }))).await.status, 200);
    for (number, place) in (1..).zip(CRASHES) {
        let next = secret(number);
        let body = json!({ "secret": next });
        all.crash(place, ROTATE, Some(&body)).await;
        let request = all.publish().await;
        assert!(request.verifies(&current), "{}: a receiver that knows the old one verifies", place.name());
        if !request.verifies(&next) {
            assert_eq!(all.daemon.request("POST", ROTATE, Some(&body)).await.status, 200);
        }
        let request = all.publish().await;
        assert!(request.verifies(&current) && request.verifies(&next), "{}: both", place.name());
        current = next;
    }
}

/// What the removal of a webhook writes, one after the other: its definition, its place in the streams, the definition once
/// more, its secrets, what it has parked with its dead letters.
const REMOVAL_WRITES: u64 = 5;

#[tokio::test]
async fn a_removed_webhook_leaves_nothing_in_the_store_also_when_its_removal_is_cut_short() {
    let mut all = Operated::start().await;
    for visit in 1..=REMOVAL_WRITES + 1 {
        let path = all.make_webhook_with_deliveries().await;
        if visit > REMOVAL_WRITES {
            assert_eq!(all.daemon.request("DELETE", &path, None).await.status, 204);
            continue;
        }
        all.daemon.arm(&format!("store.before_write = abort @ {visit}"));
        let answer = try_request("DELETE", &all.daemon.url(&path), Some(ADMIN_KEY), None).await;
        assert!(answer.is_none(), "it was to end at write {visit}: {answer:?}");
        all.daemon.wait_aborted().await;
        all.daemon.arm("");
        all.daemon.restart().await;
        if all.daemon.request("GET", &path, None).await.status == 200 {
            assert_eq!(visit, 1, "its definition goes first");
            assert_eq!(all.daemon.request("DELETE", &path, None).await.status, 204);
        }
    }
    assert!(all.daemon.terminate().await.success());
    let store = Store::open(store::Config::new(all.daemon.data_dir().join("store"))).expect("the store opens");
    let names = |ids: Vec<SubscriptionId>| ids.iter().map(|id| id.as_str().to_owned()).collect::<Vec<_>>();
    assert_eq!(names(store.owners().expect("read").into_iter().collect()), ["crm"]);
    assert_eq!(names(store.registrations().expect("read").into_iter().map(|(id, _)| id).collect()), ["crm"]);
    assert_eq!(store.totals(), store::Counts::default());
}

#[tokio::test]
async fn a_crash_while_the_master_key_is_changed_is_repaired_by_doing_it_again() {
    let mut all = Operated::start().await;
    let current = secret(0);
    assert_eq!(all.daemon.request("POST", ROTATE, Some(&json!({ "secret": current }))).await.status, 200);
    assert!(all.daemon.terminate().await.success());
    let new = all.daemon.config_path().with_file_name("new.key");
    let rekey = |failpoints: &str| {
        all.daemon.arm(failpoints);
        let mut command = Command::new(sluiced_binary());
        command.args(["secrets", "rekey", "--new-master-key-file"]).arg(&new);
        command.arg("--config").arg(all.daemon.config_path());
        command.env("SLUICED_FAILPOINTS", all.daemon.failpoints_path());
        command.output().expect("sluiced runs")
    };
    for visit in 1..=2 {
        for place in CRASHES {
            let ended = rekey(&format!("{} = abort @ {visit}", place.name()));
            assert_eq!(ended.status.code(), None, "it was to end at {}: {ended:?}", place.name());
        }
    }
    let done = rekey("");
    assert!(done.status.success(), "{done:?}");
    all.daemon.write_config(&format!("[secrets]\nmaster_key_file = {new:?}\n{}", text(&all.receiver)));
    all.daemon.restart().await;
    assert!(all.publish().await.verifies(&current), "the secret is the same");
}
