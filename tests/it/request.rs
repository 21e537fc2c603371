//! What a request looks like: its body in every format, its signatures, its headers.

use std::process::Command;
use std::time::Duration;

use async_nats::HeaderMap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, VerifyingKey};
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;
use sluiced_tests::events::order;
use sluiced_tests::paths::sluiced_binary;
use sluiced_tests::setup::config;
use sluiced_tests::{Behaviour, Received, SECRET, TestDaemon, TestNats, TestReceiver, Webhook};

const SOON: Duration = Duration::from_secs(60);
const CONSUMER: &str = "sluiced";

/// A receiver that verifies the signature of each request, and a subscription for each of these formats, named like it.
async fn formats(formats: &[&str]) -> (TestNats, TestReceiver, TestDaemon) {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start_verifying(SECRET));
    let hook = |format: &&str| Webhook::new(format, &receiver).with("format", format_args!("{format:?}"));
    let daemon = TestDaemon::start(&nats, &config("", &formats.iter().map(hook).collect::<Vec<_>>())).await;
    (nats, receiver, daemon)
}

/// The one request that came for a subscription.
fn request_to(receiver: &TestReceiver, subscription: &str) -> Received {
    let of = |request: &Received| request.path == format!("/{subscription}");
    let mut requests: Vec<Received> = receiver.received().into_iter().filter(of).collect();
    assert_eq!(requests.len(), 1, "{subscription}: {requests:?}");
    let request = requests.remove(0);
    let key = STANDARD.decode(SECRET.trim_start_matches("whsec_")).expect("base64");
    let signed = [request.webhook_id(), ".", request.header("webhook-timestamp"), "."].concat();
    let expected = format!("v1,{}", STANDARD.encode(hmac(&key, &[signed.as_bytes(), &request.body].concat())));
    let signature = request.header("webhook-signature").split(' ').next();
    assert_eq!(signature, Some(&*expected), "what is signed is what is sent: {request:?}");
    request
}

fn hmac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes any key");
    mac.update(message);
    mac.finalize().into_bytes().to_vec()
}

fn object(request: &Received) -> Value {
    serde_json::from_slice(&request.body).unwrap_or_else(|error| panic!("{error} in {request:?}"))
}

const ALL: [&str; 4] = ["raw", "envelope", "cloudevents-binary", "cloudevents-structured"];

#[tokio::test]
async fn each_format_carries_json_as_it_was_published_and_is_signed_as_sent() {
    let (nats, receiver, _daemon) = formats(&ALL).await;
    let data = r#"{"amount":  1.10, "big": 123456789012345678901234567890}"#;
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", "order é 1");
    headers.insert("Content-Type", "application/json");
    nats.publish_with("events.orders.created", headers, data).await;
    receiver.wait_for(4, SOON).await;

    let raw = request_to(&receiver, "raw");
    assert_eq!((&raw.body[..], raw.header("content-type")), (data.as_bytes(), "application/json"));

    let envelope = request_to(&receiver, "envelope");
    assert_eq!(envelope.header("content-type"), "application/json");
    assert!(String::from_utf8_lossy(&envelope.body).ends_with(&format!(r#","data":{data}}}"#)), "{envelope:?}");
    let object_of = object(&envelope);
    assert_eq!((&object_of["id"], &object_of["type"]), (&json!("order é 1"), &json!("orders.created")));
    let time = object_of["time"].as_str().expect("a time").to_owned();
    assert!(time.starts_with("20") && time.ends_with('Z'), "{time}");

    let binary = request_to(&receiver, "cloudevents-binary");
    assert_eq!((&binary.body[..], binary.header("content-type")), (data.as_bytes(), "application/json"));
    for (name, expected) in [
        ("ce-specversion", "1.0"),
        ("ce-id", "order%20%C3%A9%201"),
        ("ce-source", "/streams/EVENTS"),
        ("ce-type", "orders.created"),
        ("ce-time", &time),
    ] {
        assert_eq!(binary.header(name), expected, "{name}");
    }

    let structured = request_to(&receiver, "cloudevents-structured");
    assert_eq!(structured.header("content-type"), "application/cloudevents+json");
    assert!(!structured.headers.contains_key("ce-id"));
    let event = json!({ "specversion": "1.0", "id": "order é 1", "source": "/streams/EVENTS", "type": "orders.created",
        "time": time, "datacontenttype": "application/json", "data": serde_json::from_str::<Value>(data).expect("JSON") });
    assert_eq!(object(&structured), event);
}

#[tokio::test]
async fn each_format_carries_bytes_and_gives_them_back() {
    let (nats, receiver, _daemon) = formats(&ALL).await;
    let data: &[u8] = b"\x89PNG\r\n\x00\xff";
    let mut headers = HeaderMap::new();
    headers.insert("Content-Type", "image/png");
    nats.publish_with("events.images.drawn", headers, data).await;
    receiver.wait_for(4, SOON).await;
    for format in ["raw", "cloudevents-binary"] {
        let request = request_to(&receiver, format);
        assert_eq!((&request.body[..], request.header("content-type")), (data, "image/png"));
    }
    let encoded = json!(STANDARD.encode(data));
    let envelope = object(&request_to(&receiver, "envelope"));
    assert_eq!((&envelope["data_base64"], &envelope["content_type"]), (&encoded, &json!("image/png")));
    let event = object(&request_to(&receiver, "cloudevents-structured"));
    assert_eq!((&event["data_base64"], &event["datacontenttype"]), (&encoded, &json!("image/png")));
    assert_eq!((envelope.get("data"), event.get("data")), (None, None));
}

#[tokio::test]
async fn a_cloudevent_goes_out_as_it_came_in_and_its_parts_have_ids_of_their_own() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start_verifying(SECRET));
    let hook = |name, format| Webhook::new(name, &receiver).with("format", format_args!("{format:?}"));
    let hooks = [
        hook("whole", "cloudevents-structured"),
        hook("parts", "cloudevents-binary")
            .transform("jq", r#"{ expr = ".items[]" }"#)
            .with("cloudevents_source", "\"https://shop.example/\""),
    ];
    let daemon = TestDaemon::start(&nats, &config("", &hooks)).await;
    let mut headers = HeaderMap::new();
    headers.insert("Content-Type", "application/cloudevents+json");
    let came = json!({ "specversion": "1.0", "id": "c-1", "source": "/tills/7", "type": "com.example.sold",
        "subject": "basket", "time": "2026-01-02T03:04:05+01:00", "traceparent": "00-ab-cd-01",
        "datacontenttype": "application/json", "data": { "items": [{ "number": 0 }, { "number": 1 }] } });
    nats.publish_with("events.baskets.sold", headers, came.to_string()).await;
    receiver.wait_for(3, SOON).await;
    nats.wait_drained("EVENTS", CONSUMER, SOON).await;
    assert_eq!(object(&request_to(&receiver, "whole")), came);
    let mut parts: Vec<Received> = receiver.received().into_iter().filter(|request| request.path == "/parts").collect();
    parts.sort_by_key(Received::number);
    assert_eq!(parts.iter().map(|part| part.header("ce-id")).collect::<Vec<_>>(), ["c-1#0", "c-1#1"]);
    for part in &parts {
        assert_eq!((part.header("ce-source"), part.header("ce-traceparent")), ("/tills/7", "00-ab-cd-01"));
        assert_eq!((part.header("sluiced-event-id"), part.verified), ("c-1", Some(true)));
    }
    nats.publish("events.baskets.sold", r#"{ "items": [{ "number": 2 }] }"#).await;
    receiver.wait_for(5, SOON).await;
    let own = receiver.received().into_iter().find(|request| request.number() == Some(2)).expect("the part came");
    assert_eq!((own.header("ce-source"), own.header("ce-id")), ("https://shop.example/", "EVENTS:2"));
    drop(daemon);
}

#[tokio::test]
async fn a_format_that_was_changed_counts_for_the_next_attempt() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start_verifying(SECRET));
    receiver.set(Behaviour::fail_times(1, 503));
    let hook = Webhook::new("crm", &receiver).retry_after(&["6s"]);
    let mut daemon = TestDaemon::start(&nats, &config("", std::slice::from_ref(&hook))).await;
    nats.publish("events.orders.created", order(1)).await;
    daemon.wait_metric("sluiced_parked", &[("subscription", "crm")], 1.0).await;
    daemon.write_config(&config("", &[hook.with("format", "\"envelope\"")]));
    daemon.reload();
    receiver.wait_for(2, SOON).await;
    let received = receiver.received();
    assert_eq!((&received[0].body, received[0].verified), (&order(1), Some(true)));
    assert_eq!((received[1].attempt(), received[1].verified), (2, Some(true)));
    assert_eq!(received[0].webhook_id(), received[1].webhook_id());
    let data = serde_json::from_slice::<Value>(&order(1)).expect("JSON");
    assert_eq!(object(&received[1])["data"], data, "what was parked is the data itself");
}

/// The private and the public key that `sluiced secret --ed25519` prints.
fn key_pair() -> (String, String) {
    let printed = Command::new(sluiced_binary()).args(["secret", "--ed25519"]).output().expect("the binary runs");
    let text = String::from_utf8(printed.stdout).expect("text");
    let (private, public) = text.trim_end().split_once('\n').expect("two lines");
    assert!(private.starts_with("whsk_") && public.starts_with("whpk_"), "{public}");
    (private.to_owned(), public.to_owned())
}

fn sha256_of(key: &[u8], body: &[u8]) -> String {
    let digits: String = hmac(key, body).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256={digits}")
}

#[tokio::test]
async fn every_signature_is_right_and_no_key_is_shown() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start_verifying(SECRET));
    let (private, public) = key_pair();
    let hook = |name| Webhook::new(name, &receiver).with("ed25519_key", format_args!("{private:?}"));
    let hooks = [
        hook("bytes").with("body_signature", "{ header = \"X-Hub-Signature-256\" }"),
        hook("text")
            .with("body_signature", "{ header = \"X-Sum\", keyed_by = \"text\" }")
            .with("format", "\"envelope\""),
    ];
    let daemon = TestDaemon::start(&nats, &config("[log]\nlevel = \"trace\"\n", &hooks)).await;
    nats.publish("events.orders.created", order(1)).await;
    receiver.wait_for(2, SOON).await;

    let public = STANDARD.decode(public.trim_start_matches("whpk_")).expect("base64");
    let public = VerifyingKey::from_bytes(&public.try_into().expect("32 bytes")).expect("a key");
    let secret = STANDARD.decode(SECRET.trim_start_matches("whsec_")).expect("base64");
    for (name, header, key) in [("bytes", "x-hub-signature-256", &secret[..]), ("text", "x-sum", SECRET.as_bytes())] {
        let request = request_to(&receiver, name);
        assert_eq!(request.header(header), sha256_of(key, &request.body));
        let signatures: Vec<&str> = request.header("webhook-signature").split(' ').collect();
        let [first, second] = signatures[..] else { panic!("two signatures: {signatures:?}") };
        assert!(first.starts_with("v1,"), "{first}");
        let signature = STANDARD.decode(second.strip_prefix("v1a,").expect("its version")).expect("base64");
        let signature = Signature::from_slice(&signature).expect("64 bytes");
        let signed = [request.webhook_id(), ".", request.header("webhook-timestamp"), "."].concat();
        let signed = [signed.as_bytes(), &request.body].concat();
        public.verify_strict(&signed, &signature).expect("it verifies");
    }
    let dump = Command::new(sluiced_binary())
        .args(["check", "--dump-config", "--config"])
        .arg(daemon.config_path())
        .output()
        .expect("the binary runs");
    let dump = String::from_utf8(dump.stdout).expect("text");
    assert!(dump.contains("ed25519_key = \"***\"") && dump.contains("keyed_by = \"text\""), "{dump}");
    let shown = daemon.request("GET", "/api/v1/subscriptions/bytes", None).await.body;
    for place in [&dump, &daemon.log(), &shown] {
        for hidden in [&private[5..30], &SECRET[6..30]] {
            assert!(!place.contains(hidden), "a key is shown in {place}");
        }
    }
}
