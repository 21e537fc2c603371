//! What one does with a webhook under its own path: try it out, enable and disable it, rotate its secret, replay to it.

use std::time::Duration;

use serde_json::{Value, json};
use sluiced_tests::events::order;
use sluiced_tests::setup::config;
use sluiced_tests::{Behaviour, Reply, SECRET, TestDaemon, TestNats, TestReceiver, Webhook, wait_until};

use super::{SOON, get};

async fn send(daemon: &TestDaemon, method: &str, path: &str, body: Value) -> (u16, Value) {
    let body = Some(body).filter(|body| !body.is_null());
    let answer = daemon.request(method, path, body.as_ref()).await;
    (answer.status, serde_json::from_str(&answer.body).unwrap_or_default())
}

#[tokio::test]
async fn a_webhook_is_tried_out_with_one_signed_request_of_which_nothing_is_recorded() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start_verifying(SECRET));
    let hook = Webhook::to("crm", &receiver.url("/hook")).secret(Some(SECRET)).with("capture_bytes_max", 64);
    let away = Webhook::to("away", "http://10.0.0.1/hook");
    let daemon = TestDaemon::start(&nats, &config("", &[hook, away])).await;
    let (status, told) = send(&daemon, "POST", "/api/v1/webhooks/crm/test", Value::Null).await;
    assert_eq!((status, &told["delivered"], &told["response_status"]), (200, &json!(true), &json!(200)), "{told}");
    assert!(told["took_ms"].is_u64() && told["at"].is_string());
    let request = receiver.received().pop().expect("a request");
    assert_eq!((request.verified, request.header("sluiced-test")), (Some(true), "true"));
    assert_eq!(
        (request.header("sluiced-event-type"), request.webhook_id()),
        ("sluiced.test", told["id"].as_str().expect("an id"))
    );

    let asked = json!({ "type": "orders.created", "data": { "number": 7 } });
    send(&daemon, "POST", "/api/v1/webhooks/crm/test", asked).await;
    assert_eq!(receiver.received().pop().and_then(|request| request.number()), Some(7));
    receiver.set(Behaviour::custom(|_| Reply { body: "no such order".into(), ..Reply::status(503) }));
    let (status, told) = send(&daemon, "POST", "/api/v1/webhooks/crm/test", json!({})).await;
    assert_eq!((status, &told["delivered"], &told["response_status"]), (200, &json!(false), &json!(503)));
    assert_eq!((&told["class"], &told["response"]["body"]), (&json!("status"), &json!("no such order")));
    // The address guard stands before it, as before any attempt.
    let (status, told) = send(&daemon, "POST", "/api/v1/webhooks/away/test", Value::Null).await;
    assert_eq!((status, &told["class"]), (200, &json!("address_refused")), "{told}");
    assert_eq!(receiver.counts().requests, 3, "none is tried again");
    assert_eq!(get(&daemon, "/api/v1/deliveries").await["deliveries"], json!([]));
    assert_eq!(daemon.metrics().await.sum("sluiced_deliveries_total", &[]), 0.0);
    for (name, body, status) in
        [("nobody", json!({}), 404), ("crm", json!({ "type": "a..b" }), 400), ("crm", json!({ "x": 1 }), 400)]
    {
        assert_eq!(send(&daemon, "POST", &format!("/api/v1/webhooks/{name}/test"), body).await.0, status, "{name}");
    }
}

#[tokio::test]
async fn an_inactive_webhook_is_sent_nothing_until_it_is_active_again() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let mut daemon = TestDaemon::start(&nats, &config("", &[])).await;
    let wanted = json!({ "name": "x", "url": receiver.url("/"), "types": [">"], "active": false });
    let (status, made) = send(&daemon, "POST", "/api/v1/webhooks", wanted).await;
    assert_eq!((status, &made["active"]), (201, &json!(false)), "{made}");
    let path = format!("/api/v1/webhooks/{}", made["id"].as_str().expect("an id"));
    nats.publish("events.orders.created", order(1)).await;
    let (status, changed) = send(&daemon, "PATCH", &path, json!({ "active": true })).await;
    assert_eq!((status, &changed["active"]), (200, &json!(true)), "{changed}");
    receiver.wait_for_numbers(1..2, SOON).await;

    let (_, changed) = send(&daemon, "PATCH", &path, json!({ "active": false, "max_in_flight": 2 })).await;
    assert_eq!((&changed["active"], &changed["max_in_flight"]), (&json!(false), &json!(2)));
    nats.publish("events.orders.created", order(2)).await;
    daemon.kill9();
    daemon.restart().await;
    assert_eq!(get(&daemon, &path).await["active"], json!(false), "also after a kill");
    // What was published in the meantime waits in the stream.
    let (status, _) = send(&daemon, "POST", &format!("{path}/enable"), Value::Null).await;
    assert_eq!((status, get(&daemon, &path).await["active"].clone()), (200, json!(true)));
    receiver.wait_for_numbers(1..3, SOON).await;
    let (status, _) = send(&daemon, "POST", &format!("{path}/disable"), json!({ "reason": "a pause" })).await;
    assert_eq!((status, get(&daemon, &path).await["active"].clone()), (200, json!(false)));
    assert_eq!(send(&daemon, "PATCH", &path, json!({ "active": "no" })).await.0, 400);
}

#[tokio::test]
async fn a_webhook_that_is_made_inactive_is_never_active_before() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let mut daemon = TestDaemon::start(&nats, &config("", &[])).await;
    nats.publish_orders("events.orders.created", 0..20).await;
    // All of history is due to each at once, were it active for an instant.
    let wanted = |name: &str| {
        let url = receiver.url(&format!("/{name}"));
        json!({ "name": name, "url": url, "types": [">"], "deliver_from": "all", "active": false })
    };
    let mut paths = Vec::new();
    for number in 0..5 {
        let (status, made) = send(&daemon, "POST", "/api/v1/webhooks", wanted(&number.to_string())).await;
        assert_eq!((status, &made["active"]), (201, &json!(false)), "{made}");
        paths.push(format!("/api/v1/webhooks/{}", made["id"].as_str().expect("an id")));
    }
    // What is refused leaves nothing behind.
    let mut refused = wanted("refused");
    refused["filters"] = json!([{ "plugin": "nowhere" }]);
    assert_eq!(send(&daemon, "POST", "/api/v1/webhooks", refused).await.0, 400);
    daemon.kill9();
    daemon.restart().await;
    assert_eq!(get(&daemon, "/api/v1/webhooks").await["webhooks"].as_array().map(Vec::len), Some(5));
    let told = get(&daemon, &paths[0].replace("webhooks", "subscriptions")).await;
    assert_eq!((&told["state"], &told["reason"]), (&json!("disabled"), &json!("made inactive over the API")), "{told}");
    let (_, active) = send(&daemon, "PATCH", &paths[0], json!({ "active": true })).await;
    assert_eq!(active["active"], true);
    receiver.wait_for(20, SOON).await;
    assert_eq!(receiver.numbers_of("0"), (0..20).collect::<Vec<_>>(), "from the place where it was to begin");
    assert_eq!(receiver.received().len(), 20, "and nothing of the others");
}

#[tokio::test]
async fn a_webhook_s_secret_is_rotated_and_history_replayed_under_its_own_path() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let daemon = TestDaemon::start(&nats, &config("", &[])).await;
    let wanted = json!({ "name": "x", "url": receiver.url("/"), "types": [">"] });
    let (_, made) = send(&daemon, "POST", "/api/v1/webhooks", wanted).await;
    let path = format!("/api/v1/webhooks/{}", made["id"].as_str().expect("an id"));
    nats.publish("events.orders.created", order(1)).await;
    receiver.wait_for(1, SOON).await;
    let (status, rotated) = send(&daemon, "POST", &format!("{path}/rotate-secret"), json!({ "overlap": "0s" })).await;
    let secret = rotated["secret"].as_str().expect("a text");
    assert!(status == 200 && secret.starts_with("whsec_") && made["secret"] != secret);
    let replay = async || send(&daemon, "POST", &format!("{path}/replay"), json!({ "from": 1 })).await.0 == 202;
    wait_until("what is to be replayed is on record", SOON, replay).await;
    receiver.wait_for(2, Duration::from_secs(60)).await;
    assert!(receiver.received()[1].verifies(secret), "signed with the new one");
}
