//! What each format makes of an event.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::domain::Header;

fn request<'a>(headers: &'a [Header], body: &[u8]) -> Request<'a> {
    Request {
        event_id: "order \"1\" 50%",
        event_time_ms: 1_700_000_000_123,
        headers,
        body: Bytes::copy_from_slice(body),
        ..Request::sample()
    }
}

fn header(name: &str, value: &str) -> Header {
    Header { name: name.into(), value: value.into() }
}

fn formed(format: BodyFormat, request: &Request<'_>, content_type: &'static str) -> Formed {
    form(format, Some("/shop"), request, HeaderValue::from_static(content_type))
}

fn json_of(formed: &Formed) -> Value {
    serde_json::from_slice(&formed.body).expect("JSON")
}

#[test]
fn raw_data_is_neither_copied_nor_changed() {
    let request = request(&[], b" {} ");
    let formed = formed(BodyFormat::Raw, &request, "text/odd");
    assert_eq!(formed.body.as_ptr(), request.body.as_ptr());
    assert_eq!((formed.content_type.to_str().ok(), formed.headers.len()), (Some("text/odd"), 0));
}

#[test]
fn an_envelope_has_the_data_byte_for_byte() {
    let body = br#" {"amount":  1.10, "big": 123456789012345678901234567890, "exp": 1e999} "#;
    let formed = formed(BodyFormat::Envelope, &request(&[], body), "application/json");
    let text = std::str::from_utf8(&formed.body).expect("text");
    assert_eq!(
        text,
        r#"{"id":"order \"1\" 50%","type":"orders.created","time":"2023-11-14T22:13:20.123Z","data":{"amount":  1.10, "big": 123456789012345678901234567890, "exp": 1e999}}"#
    );
    assert_eq!(formed.content_type, "application/json");
}

#[test]
fn data_that_is_not_json_is_base64() {
    for (body, content_type) in [
        (&b"{\"cut"[..], "application/json"),
        (b"{}", "text/plain"),
        (b"\xff\x00", "application/octet-stream"),
        (b"\"\xff\"", "application/problem+json"),
    ] {
        let request = request(&[], body);
        let envelope = json_of(&formed(BodyFormat::Envelope, &request, content_type));
        let encoded = STANDARD.encode(body);
        assert_eq!(
            envelope,
            json!({ "id": request.event_id, "type": "orders.created", "time": "2023-11-14T22:13:20.123Z",
                    "content_type": content_type, "data_base64": encoded })
        );
        let event = json_of(&formed(BodyFormat::CloudEventsStructured, &request, content_type));
        assert_eq!((&event["data_base64"], &event["datacontenttype"]), (&json!(encoded), &json!(content_type)));
        assert_eq!(event.get("data"), None);
    }
    let empty = json_of(&formed(BodyFormat::Envelope, &request(&[], b""), "application/json"));
    assert_eq!((empty.get("data"), empty.get("data_base64")), (Some(&Value::Null), None));
}

#[test]
fn a_structured_cloudevent_has_attributes_and_data() {
    let formed = formed(BodyFormat::CloudEventsStructured, &request(&[], b"[1]"), "Application/Vnd.Shop+JSON; v=1");
    assert_eq!(formed.content_type, "application/cloudevents+json");
    assert_eq!(
        json_of(&formed),
        json!({ "specversion": "1.0", "id": "order \"1\" 50%", "source": "/shop", "type": "orders.created",
                "time": "2023-11-14T22:13:20.123Z", "datacontenttype": "Application/Vnd.Shop+JSON; v=1", "data": [1] })
    );
    let empty = json_of(&super::tests::formed(BodyFormat::CloudEventsStructured, &request(&[], b""), "text/plain"));
    assert_eq!((empty.get("data"), empty.get("datacontenttype")), (None, None));
}

#[test]
fn a_binary_cloudevent_has_its_attributes_in_headers() {
    let request = request(&[], b"{}");
    let formed = form(BodyFormat::CloudEventsBinary, None, &request, HeaderValue::from_static("application/json"));
    let headers: Vec<_> =
        formed.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().expect("ASCII"))).collect();
    assert_eq!(
        headers,
        [
            ("ce-specversion", "1.0"),
            ("ce-id", "order%20%221%22%2050%25"),
            ("ce-source", "/streams/EVENTS"),
            ("ce-type", "orders.created"),
            ("ce-time", "2023-11-14T22:13:20.123Z"),
        ]
    );
    assert_eq!(formed.body.as_ptr(), request.body.as_ptr());
    assert_eq!(formed.content_type, "application/json");
}

#[test]
fn an_event_that_came_as_a_cloudevent_keeps_its_attributes() {
    let headers = [
        header("ce-specversion", "0.3"),
        header("Ce-Id", "c 1"),
        header("ce-source", "/their/shop"),
        header("ce-type", "their.type"),
        header("ce-time", "2020-01-01T00:00:00+02:00"),
        header("ce-subject", "order é"),
        header("CE-Partition", "7"),
        header("ce-datacontenttype", "text/forged"),
        header("ce-data", "forged"),
        header("ce-data_base64", "forged"),
        header("ce-", "none"),
        header("ce-empty", ""),
        header("x-other", "no attribute"),
    ];
    let event = json_of(&formed(BodyFormat::CloudEventsStructured, &request(&headers, b"{}"), "application/json"));
    assert_eq!(
        event,
        json!({ "specversion": "1.0", "id": "c 1", "source": "/their/shop", "type": "their.type",
                "time": "2020-01-01T00:00:00+02:00", "subject": "order é", "partition": "7",
                "datacontenttype": "application/json", "data": {} })
    );
    let binary = formed(BodyFormat::CloudEventsBinary, &request(&headers, b"{}"), "application/json");
    let subject = binary.headers.iter().find(|(name, _)| name == "ce-subject").map(|(_, value)| value);
    assert_eq!(subject.and_then(|value| value.to_str().ok()), Some("order%20%C3%A9"));
}

#[test]
fn the_parts_of_an_event_have_ids_of_their_own() {
    for (part, expected) in [(0, "order \"1\" 50%#0"), (2, "order \"1\" 50%#2")] {
        let request = Request { part, parts: 3, ..request(&[], b"{}") };
        for format in [BodyFormat::Envelope, BodyFormat::CloudEventsStructured] {
            assert_eq!(json_of(&formed(format, &request, "application/json"))["id"], expected);
        }
    }
}

proptest! {
    #[test]
    fn whatever_comes_makes_an_object_that_gives_it_back(
        id in ".*", kind in ".*", body in proptest::collection::vec(any::<u8>(), 0..60) , text in "[\\[{\"a:1,}\\] ]{0,12}",
        name in ".{0,8}", value in ".{0,8}", time_ms: u64, is_json: bool,
    ) {
        let headers = [header(&format!("ce-{name}"), &value), header(&name, &value)];
        for body in [&body[..], text.as_bytes()] {
            let content_type = if is_json { "application/json" } else { "text/plain" };
            let request = Request { event_id: &id, event_type: &kind, event_time_ms: time_ms, ..request(&headers, body) };
            for format in [BodyFormat::Envelope, BodyFormat::CloudEventsStructured] {
                let object = json_of(&formed(format, &request, content_type));
                if format == BodyFormat::Envelope {
                    prop_assert_eq!((&object["id"], &object["type"]), (&json!(id), &json!(kind)));
                }
                match (object.get("data_base64").and_then(Value::as_str), object.get("data")) {
                    (Some(encoded), None) => prop_assert_eq!(STANDARD.decode(encoded).expect("base64"), body),
                    (None, Some(Value::Null)) if body.is_empty() => {}
                    (None, Some(data)) => prop_assert_eq!(data, &serde_json::from_slice::<Value>(body).expect("JSON")),
                    (None, None) => prop_assert!(body.is_empty()),
                    both => prop_assert!(false, "{both:?}"),
                }
            }
            let binary = formed(BodyFormat::CloudEventsBinary, &request, content_type);
            prop_assert!(binary.headers.iter().all(|(_, value)| value.to_str().is_ok()));
        }
    }
}
