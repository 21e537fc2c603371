//! An endpoint's health and what follows: it is left alone, told of, disabled, enabled again, and nothing is missed in
//! silence.

use std::time::Duration;

use serde_json::{Value, json};
use sluiced_tests::setup::config;
use sluiced_tests::{Behaviour, Received, TestDaemon, TestNats, TestReceiver, Webhook, wait_until};

mod dead;
mod events;
mod turns;

const SOON: Duration = Duration::from_secs(60);
const SUBJECT: &str = "events.orders.created";

/// Endpoints are left alone soon, and probed often.
const HEAD: &str = r#"
[delivery]
breaker = { attempts_min = 5, probe = "100ms", probe_max = "300ms" }
"#;

/// What the API says of a subscription.
async fn status(daemon: &TestDaemon, name: &str) -> Value {
    daemon.request("GET", &format!("/api/v1/subscriptions/{name}"), None).await.json()
}

async fn wait_state(daemon: &TestDaemon, name: &str, state: &str) {
    let what = format!("{name} is {state}");
    wait_until(&what, SOON, async || status(daemon, name).await["state"] == state).await;
}

async fn post(daemon: &TestDaemon, name: &str, what: &str, body: Option<Value>) -> (u16, Value) {
    let answer = daemon.request("POST", &format!("/api/v1/subscriptions/{name}/{what}"), body.as_ref()).await;
    (answer.status, answer.json())
}

fn orders(name: &str, receiver: &TestReceiver) -> Webhook {
    Webhook::new(name, receiver).types(&["orders.>"])
}

#[tokio::test]
async fn an_operator_disables_a_subscription_and_it_goes_on_where_it_stopped_over_a_crash() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let mut daemon = TestDaemon::start(&nats, &config(HEAD, &[orders("crm", &receiver)])).await;
    nats.publish_orders(SUBJECT, 0..20).await;
    // What was received and is not yet on record would come again after the kill, and lag until then.
    assert_eq!(daemon.accounted("crm", 20).await.delivered, 20);
    let (code, answer) = post(&daemon, "crm", "disable", Some(json!({ "reason": "they move house" }))).await;
    assert_eq!((code, &answer["state"], &answer["reason"]), (200, &json!("disabled"), &json!("they move house")));
    assert!(answer["since"].is_string(), "{answer}");
    daemon.kill9();
    daemon.restart().await;
    nats.publish_orders(SUBJECT, 20..60).await;
    let lags = async || status(&daemon, "crm").await["lag"]["events"] == 40;
    wait_until("the lag is measured", SOON, lags).await;
    assert_eq!(status(&daemon, "crm").await["reason"], "they move house");
    assert_eq!(daemon.reading("sluiced_disabled", "crm").await, 1);
    assert_eq!(receiver.numbers().len(), 20, "nothing is delivered while it is disabled");

    let (code, answer) = post(&daemon, "crm", "enable", None).await;
    assert!(code == 200 && answer.get("reason").is_none(), "{answer}");
    receiver.wait_for_numbers(20..60, SOON).await;
    wait_state(&daemon, "crm", "live").await;
    daemon.kill9();
    daemon.restart().await;
    wait_state(&daemon, "crm", "live").await;
    assert_eq!(post(&daemon, "crm", "enable", Some(json!({ "from": "now" }))).await.0, 409, "it is not disabled");
    assert_eq!(post(&daemon, "crm", "enable", Some(json!({ "from": "then" }))).await.0, 400);
    assert_eq!(post(&daemon, "crm", "disable", Some(json!({ "reason": "a\nb" }))).await.0, 400);
}

#[tokio::test]
async fn a_subscription_that_goes_on_from_now_counts_and_shows_what_it_passed_over() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let mut daemon = TestDaemon::start(&nats, &config(HEAD, &[orders("crm", &receiver)])).await;
    nats.publish_orders(SUBJECT, 0..10).await;
    assert_eq!(daemon.accounted("crm", 10).await.delivered, 10);
    post(&daemon, "crm", "disable", None).await;
    nats.publish_orders(SUBJECT, 10..50).await;
    // Not the subscription's: it is not counted.
    nats.publish("events.stock.moved", "{}").await;
    let (code, answer) = post(&daemon, "crm", "enable", Some(json!({ "from": "now" }))).await;
    assert_eq!((code, &answer["gaps"][0]["events"], &answer["gaps"][0]["cause"]), (200, &json!(40), &json!("skipped")));
    assert_eq!(daemon.reading("sluiced_skipped_events_total", "crm").await, 40);
    // Durable with the answer: a crash does not bring them back.
    daemon.kill9();
    daemon.restart().await;
    nats.publish_orders(SUBJECT, 50..60).await;
    receiver.wait_for_numbers(50..60, SOON).await;
    wait_state(&daemon, "crm", "live").await;
    assert!((10..50).all(|number| !receiver.numbers().contains_key(&number)), "what was passed over came");
    assert_eq!(status(&daemon, "crm").await["gaps"][0]["events"], 40);
}

#[tokio::test]
async fn nothing_but_failures_for_too_long_disables_a_subscription_also_over_a_restart() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    receiver.set(Behaviour::Status(500));
    let webhook = |after: &str| config(HEAD, &[orders("crm", &receiver).with("disable_after", format!("{after:?}"))]);
    let mut daemon = TestDaemon::start(&nats, &webhook("never")).await;
    nats.publish_orders(SUBJECT, 0..50).await;
    let failing = async || status(&daemon, "crm").await["failing"] == true;
    wait_until("it counts as failing", SOON, failing).await;
    let since = status(&daemon, "crm").await["failing_since"].clone();
    assert_eq!(status(&daemon, "crm").await["last_failure"]["status"], 500);
    // Flushed by the stop, and known to the next run.
    daemon.terminate().await;
    daemon.write_config(&webhook("1s"));
    daemon.restart().await;
    assert_eq!(status(&daemon, "crm").await["failing_since"], since);
    wait_state(&daemon, "crm", "disabled").await;
    let reason = status(&daemon, "crm").await["reason"].clone();
    assert_eq!(reason, "the endpoint has done nothing but fail for 1s");
    receiver.set(Behaviour::Ok);
    post(&daemon, "crm", "enable", None).await;
    receiver.wait_for_numbers(0..50, SOON).await;
    wait_state(&daemon, "crm", "live").await;
    assert!(status(&daemon, "crm").await.get("failing_since").is_none());
}

#[tokio::test]
async fn what_is_gone_stays_disabled_until_it_has_another_url() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    receiver
        .set(Behaviour::custom(|request| sluiced_tests::Reply::status(if request.path == "/crm" { 410 } else { 200 })));
    let crm = orders("crm", &receiver);
    let mut daemon = TestDaemon::start(&nats, &config(HEAD, std::slice::from_ref(&crm))).await;
    nats.publish_orders(SUBJECT, 0..1).await;
    wait_state(&daemon, "crm", "disabled").await;
    nats.publish_orders(SUBJECT, 1..20).await;
    daemon.write_config(&config(HEAD, &[crm.with("timeout", "\"9s\"")]));
    daemon.reload();
    wait_until("it is reloaded", SOON, async || daemon.log().contains("configuration reloaded")).await;
    assert_eq!(status(&daemon, "crm").await["state"], "disabled", "the URL is the same");
    daemon.restart().await;
    assert_eq!(status(&daemon, "crm").await["state"], "disabled", "so it is after a restart");

    let moved = Webhook::to("crm", &receiver.url("/new")).types(&["orders.>"]);
    daemon.write_config(&config(HEAD, &[moved]));
    daemon.reload();
    receiver.wait_for_numbers(1..20, SOON).await;
    wait_state(&daemon, "crm", "live").await;
    // Killed before it is on record that it had caught up, it begins where it was held.
    daemon.restart().await;
    wait_state(&daemon, "crm", "live").await;
}

#[tokio::test]
async fn a_subscription_that_is_gone_leaves_no_metrics_behind() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let both = [orders("crm", &receiver), orders("erp", &receiver)];
    let mut daemon = TestDaemon::start(&nats, &config(HEAD, &both)).await;
    nats.publish_orders(SUBJECT, 0..5).await;
    receiver.wait_for(10, SOON).await;
    assert!(daemon.request("GET", "/metrics", None).await.body.contains("subscription=\"erp\""));
    daemon.write_config(&config(HEAD, &both[..1]));
    daemon.reload();
    let gone = async || !daemon.request("GET", "/metrics", None).await.body.contains("subscription=\"erp\"");
    wait_until("no metric names it", SOON, gone).await;
    assert!(daemon.request("GET", "/metrics", None).await.body.contains("subscription=\"crm\""));
}

#[tokio::test]
async fn a_reload_while_nats_is_away_is_made_good_when_it_is_back() {
    let (mut nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let mut daemon = TestDaemon::start(&nats, &config(HEAD, &[orders("crm", &receiver)])).await;
    nats.kill();
    daemon.write_config(&config(HEAD, &[orders("crm", &receiver), orders("erp", &receiver)]));
    daemon.reload();
    let refused = async || daemon.log().contains("the configuration was not reloaded, trying again");
    // The feed looks after the consumer that is gone first, and then the question to JetStream has its time.
    wait_until("it says that it tries again", SOON * 3, refused).await;
    assert_eq!(daemon.request("GET", "/healthz", None).await.status, 200);
    nats.restart().await;
    wait_until("it is reloaded", SOON * 3, async || daemon.log().contains("configuration reloaded")).await;
    nats.publish_orders(SUBJECT, 0..5).await;
    let came = async || receiver.received().iter().filter(|r: &&Received| r.path == "/erp").count() == 5;
    wait_until("the new subscription gets its events", SOON, came).await;
}
