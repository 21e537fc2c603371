//! Operational events: published, delivered like any other, and never feeding themselves.

use async_nats::jetstream::stream;
use tokio::time::Instant;

use super::*;

fn head() -> String {
    format!("{HEAD}\n[operational_events]\nsubject_prefix = \"events.\"\n")
}

/// The kinds of the operational events of a subscription that came in at a path, in order, with their bodies.
fn told(receiver: &TestReceiver, path: &str, subscription: &str) -> Vec<(String, Value)> {
    let of_path = receiver.received().into_iter().filter(|request| request.path == path);
    let bodies = of_path.filter_map(|request| serde_json::from_slice::<Value>(&request.body).ok());
    bodies
        .filter(|body| body["subscription"] == subscription)
        .map(|body| (body["event"].as_str().unwrap_or_default().replace("sluiced.endpoint.", ""), body))
        .collect()
}

fn kinds(told: &[(String, Value)]) -> Vec<&str> {
    told.iter().map(|(kind, _)| kind.as_str()).collect()
}

#[tokio::test]
async fn what_happens_to_an_endpoint_is_delivered_to_another_webhook() {
    let (nats, crm, ops) = (TestNats::start().await, TestReceiver::start(), TestReceiver::start());
    let watch = Webhook::new("ops", &ops).types(&["sluiced.endpoint.>"]);
    let daemon = TestDaemon::start(&nats, &config(&head(), &[orders("crm", &crm), watch])).await;
    crm.set(Behaviour::Status(503));
    nats.publish_orders(SUBJECT, 0..40).await;
    let seen = async |last: &[&str]| kinds(&told(&ops, "/ops", "crm")) == last;
    wait_until("failing is told", SOON, async || seen(&["failing"]).await).await;
    crm.set(Behaviour::Ok);
    wait_until("recovered is told", SOON, async || seen(&["failing", "recovered"]).await).await;
    crm.set(Behaviour::Status(410));
    nats.publish_orders(SUBJECT, 40..41).await;
    wait_state(&daemon, "crm", "disabled").await;
    crm.set(Behaviour::Ok);
    post(&daemon, "crm", "enable", None).await;
    let all = ["failing", "recovered", "disabled", "enabled"];
    wait_until("all is told", SOON, async || seen(&all).await).await;

    let told = told(&ops, "/ops", "crm");
    let failing = &told[0].1;
    assert_eq!(failing["last_failure"]["status"], 503, "{failing}");
    assert!(failing["since"].is_string() && failing["at"].is_string() && failing["lag"].is_object(), "{failing}");
    assert_eq!(told[2].1["reason"], "the endpoint answered 410 Gone");
    daemon.wait_metric("sluiced_operational_events_total", &[("type", "sluiced.endpoint.failing")], 1.0).await;
    daemon.accounted("ops", 4).await;
}

#[tokio::test]
async fn a_failing_subscription_to_its_own_events_feeds_no_storm_and_gets_them_in_the_end() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let daemon = TestDaemon::start(&nats, &config(&head(), &[Webhook::new("all", &receiver)])).await;
    receiver.set(Behaviour::Status(500));
    let began = Instant::now();
    nats.publish_orders(SUBJECT, 0..50).await;
    daemon.wait_held("all", true, SOON).await;
    // Probes go on failing, and it flaps: it takes one event now and then.
    for round in 0..5 {
        let requests = receiver.counts().requests;
        receiver.wait_for(requests + 6, SOON).await;
        receiver.set(Behaviour::Ok);
        let recovers = async || daemon.log().matches("the endpoint works again").count() > round;
        wait_until("it recovers", SOON, recovers).await;
        receiver.set(Behaviour::Status(500));
        nats.publish_orders(SUBJECT, 50 + round as u64 * 20..70 + round as u64 * 20).await;
    }
    receiver.set(Behaviour::Ok);
    receiver.wait_for_numbers(0..150, SOON).await;
    daemon.wait_held("all", false, SOON).await;
    let operational = nats.stream_info("EVENTS").await.state.messages - 150;
    // It is told that it fails, and that it has recovered, and after a minute of quiet once more.
    let most = 3 + 2 * (began.elapsed().as_secs() / 60);
    assert!((1..=most).contains(&operational), "{operational} operational events for one subscription");
    let told = told(&receiver, "/all", "all");
    assert_eq!(kinds(&told)[0], "failing", "it is told of itself");
}

#[tokio::test]
async fn history_that_was_discarded_is_on_record_shown_and_told() {
    let (nats, crm, ops) = (TestNats::start().await, TestReceiver::start(), TestReceiver::start());
    let subjects = vec!["events.>".to_owned()];
    let small = stream::Config { name: "EVENTS".to_owned(), subjects, max_messages: 100, ..Default::default() };
    nats.create_stream_with(small).await;
    let watch = Webhook::new("ops", &ops).types(&["sluiced.endpoint.>"]);
    let mut daemon = TestDaemon::start(&nats, &config(&head(), &[orders("crm", &crm), watch])).await;
    crm.set(Behaviour::Status(503));
    nats.publish_orders(SUBJECT, 0..40).await;
    daemon.wait_held("crm", true, SOON).await;
    nats.publish_orders(SUBJECT, 40..400).await;
    crm.set(Behaviour::Ok);
    // Operational events take places of their own in the stream.
    crm.wait_for_numbers(310..400, SOON).await;
    wait_state(&daemon, "crm", "live").await;
    let shown = status(&daemon, "crm").await;
    let gap = shown["gaps"][0].clone();
    assert_eq!((&gap["stream"], &gap["cause"]), (&json!("EVENTS"), &json!("discarded")), "{shown}");
    let missed = gap["events"].as_u64().expect("a number");
    let came = crm.numbers().len() as u64;
    assert!(missed + came >= 400, "{missed} discarded and {came} delivered of 400");
    let told_of = async || kinds(&told(&ops, "/ops", "crm")).contains(&"gap");
    wait_until("the gap is told", SOON, told_of).await;
    daemon.kill9();
    daemon.restart().await;
    assert_eq!(status(&daemon, "crm").await["gaps"][0], gap, "it is on record");
}

#[tokio::test]
async fn a_prefix_that_no_stream_takes_is_refused() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let head = "[operational_events]\nsubject_prefix = \"ops.\"\n";
    let mut daemon = TestDaemon::builder(&nats, &config(head, &[orders("crm", &receiver)])).launch();
    let ended = daemon.process().wait_ended(SOON).await;
    assert_eq!(ended.code(), Some(64));
    let log = daemon.log();
    assert!(log.contains("operational_events.subject_prefix") && log.contains("no stream takes"), "{log}");
}
