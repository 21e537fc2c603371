//! What makes an endpoint, and the headers of its requests.

use std::num::NonZeroU32;

use proptest::prelude::*;

use super::*;
use crate::domain::{BodyKey, HeadOfLine, Order, RequestShape, RetryPolicy};

fn header(name: &str, value: &str) -> Header {
    Header { name: name.into(), value: value.into() }
}

fn endpoint(url: &str, headers: Vec<Header>) -> Endpoint {
    Endpoint {
        url: url.into(),
        secret: Some(crate::deliver::signing::generate().0),
        secret_overlap: Duration::ZERO,
        headers,
        retry: RetryPolicy::default(),
        in_flight_max: NonZeroU32::MIN,
        rate_limit: None,
        order: Order::None,
        head_of_line: HeadOfLine::default(),
        connect_timeout: Duration::from_secs(5),
        total_timeout: Duration::from_secs(15),
        request: RequestShape::default(),
        answer: AnswerRules::default(),
        tls: None,
        health: crate::domain::HealthPolicy::default(),
    }
}

fn request<'a>(headers: &'a [Header], body: &'static [u8]) -> Request<'a> {
    Request {
        delivery: DeliveryId::from_bytes([0xab; 16]),
        event_id: "order 1 of 50%\r\nx: é",
        event_type: "orders.eu.created",
        event_time_ms: 1_699_999_999_123,
        stream: "EVENTS",
        part: 0,
        parts: 1,
        attempt: 3,
        replay: None,
        test: false,
        content_type: None,
        headers,
        body: Bytes::from_static(body),
        now_ms: 1_700_000_000_999,
    }
}

#[test]
fn refuses_urls_that_are_no_endpoint() {
    let long = format!("http://a.example/{}", "x".repeat(URL_BYTES_MAX));
    for (url, expected) in [
        ("ftp://a.example/", Error::Scheme("ftp".into())),
        ("file:///etc/passwd", Error::Scheme("file".into())),
        ("http://user@a.example/", Error::UserInfo),
        ("http://:pass@a.example/", Error::UserInfo),
        ("http://a.example/#part", Error::Fragment),
        ("http://", Error::Host),
        ("/hook", Error::Url(Some(url::ParseError::RelativeUrlWithoutBase))),
        ("http://1.2.3.4.5.6.0x/", Error::Url(Some(url::ParseError::InvalidIpv4Address))),
        (&*long, Error::UrlLength),
        // A zone names an interface of this machine, and has no place in a URL (WHATWG).
        ("http://[fe80::1%25eth0]/", Error::Url(Some(url::ParseError::InvalidIpv6Address))),
        ("http://[fe80::1%eth0]/", Error::Url(Some(url::ParseError::InvalidIpv6Address))),
    ] {
        assert_eq!(Prepared::new(&endpoint(url, Vec::new())).err(), Some(expected), "{url}");
    }
}

#[test]
fn sees_the_address_behind_every_way_of_writing_it() {
    for url in [
        "http://127.0.0.1/",
        "http://2130706433/",
        "http://0x7f.1/",
        "http://017700000001:80/",
        "http://127.1./",
        "http://①27.0.0.1/",
    ] {
        let prepared = Prepared::new(&endpoint(url, Vec::new())).expect(url);
        assert_eq!(prepared.uri.host(), Some("127.0.0.1"), "{url}");
    }
    let prepared = Prepared::new(&endpoint("https://[::ffff:7f00:1]:8443/a?key=secret", Vec::new())).expect("valid");
    assert_eq!(prepared.uri.host(), Some("[::ffff:7f00:1]"));
    assert_eq!(&*prepared.host, "[::ffff:127.0.0.1]:8443");
    assert!(!format!("{prepared:?}").contains("secret"));
}

#[test]
fn refuses_reserved_and_invalid_headers_without_showing_values() {
    for name in RESERVED.into_iter().chain(["Host", "proxy-authorization", "Webhook-Id", "sluiced-anything"]) {
        let refused = Prepared::new(&endpoint("http://a.example", vec![header(name, "x")])).err();
        assert_eq!(refused, Some(Error::HeaderReserved(name.into())));
    }
    for (name, value) in [("X-A", "hush\r\nhush"), ("X-A", "hush é"), ("X A", "hush"), ("", "hush")] {
        let refused = Prepared::new(&endpoint("http://a.example", vec![header(name, value)])).expect_err(value);
        assert!(!format!("{refused} {refused:?}").contains("hush"));
    }
    let many = vec![header("X-A", "x"); HEADERS_MAX + 1];
    assert_eq!(Prepared::new(&endpoint("http://a.example", many)).err(), Some(Error::HeaderCount));
}

#[test]
fn a_request_has_its_headers() {
    let endpoint = endpoint("http://a.example", vec![header("X-Team", "sales"), header("Authorization", "Bearer abc")]);
    let transforms = [
        header("x-team", "other"),
        header("Host", "b.example"),
        header("X-Note", "caf\u{e9}\n"),
        header("bad name", "x"),
    ];
    let body = br#" {"amount": 1} "#;
    let headers = Prepared::new(&endpoint).expect("valid").message(&request(&transforms, body)).headers;
    let id = "msg_abababababababababababababababab";
    let signature = Signer::new(&endpoint.secret).sign(id, 1_700_000_000, body);
    for (name, expected) in [
        ("webhook-id", Some(id)),
        ("webhook-timestamp", Some("1700000000")),
        ("webhook-signature", Some(&*signature)),
        ("sluiced-event-id", Some("order%201%20of%2050%25%0D%0Ax:%20%C3%A9")),
        ("sluiced-event-type", Some("orders.eu.created")),
        ("sluiced-attempt", Some("3")),
        ("content-type", Some("application/json")),
        ("x-team", Some("sales")),
        ("authorization", Some("Bearer abc")),
        ("x-note", Some("caf%C3%A9%0A")),
        ("host", None),
    ] {
        let found: Vec<_> = headers.get_all(name).iter().map(|value| value.to_str().expect("ASCII")).collect();
        assert_eq!(found, expected.into_iter().collect::<Vec<_>>(), "{name}");
    }
}

#[test]
fn the_content_type_has_an_order_of_precedence() {
    let own = [header("Content-Type", "text/own")];
    let of = |configured: &[Header], named: Option<&str>, transforms: &[Header], body: &'static [u8]| {
        let prepared = Prepared::new(&endpoint("http://a.example", configured.to_vec())).expect("valid");
        let headers = prepared.message(&Request { content_type: named, ..request(transforms, body) }).headers;
        let all: Vec<_> = headers.get_all(CONTENT_TYPE).iter().map(|v| v.to_str().expect("ASCII").to_owned()).collect();
        all.join(" and ")
    };
    let header = [header("content-type", "text/header")];
    assert_eq!(of(&own, Some("text/named"), &header, b"{}"), "text/own");
    assert_eq!(of(&[], Some("text/named"), &header, b"{}"), "text/named");
    assert_eq!(of(&[], None, &header, b"{}"), "text/header");
    assert_eq!(of(&[], None, &[], b"\n[1, 2]\n"), "application/json");
    assert_eq!(of(&[], None, &[], b"{\"cut"), "application/octet-stream");
    assert_eq!(of(&[], None, &[], b""), "application/octet-stream");
}

#[test]
fn a_second_signature_is_of_the_body_that_is_sent() {
    let shaped = |format, key| {
        let body_signature = Some(BodySignature { header: "X-Hub-Signature-256".into(), key });
        let shape = RequestShape { format, body_signature, ..RequestShape::default() };
        Endpoint { request: shape, ..endpoint("http://a.example", Vec::new()) }
    };
    let forged = [header("x-hub-signature-256", "sha256=00")];
    for (format, key) in [(BodyFormat::Raw, BodyKey::Bytes), (BodyFormat::Envelope, BodyKey::Text)] {
        let endpoint = shaped(format, key);
        let message = Prepared::new(&endpoint).expect("valid").message(&request(&forged, b"{}"));
        let signer = Signer::new(&endpoint.secret);
        let expected = signer.sign_body(key, &message.body).expect("there is a secret");
        let values: Vec<_> = message.headers.get_all("x-hub-signature-256").iter().collect();
        assert_eq!(values, [&*expected], "a transform cannot add another");
        let id = "msg_abababababababababababababababab";
        let standard = signer.sign(id, 1_700_000_000, &message.body);
        assert_eq!(message.headers["webhook-signature"], standard);
    }
    for (name, why) in [
        ("Host", Error::HeaderReserved("Host".into())),
        ("webhook-signature", Error::HeaderReserved("webhook-signature".into())),
        ("content-type", Error::HeaderReserved("content-type".into())),
        ("ce-id", Error::HeaderReserved("ce-id".into())),
        ("no name", Error::HeaderName("no name".into())),
        ("x-team", Error::HeaderTwice("x-team".into())),
    ] {
        let body_signature = Some(BodySignature { header: name.into(), key: BodyKey::Bytes });
        let shape = RequestShape { body_signature, ..RequestShape::default() };
        let endpoint = Endpoint { request: shape, ..endpoint("http://a.example", vec![header("X-Team", "sales")]) };
        assert_eq!(Prepared::new(&endpoint).err(), Some(why));
    }
}

#[test]
fn headers_of_cloudevents_are_the_formats_own() {
    let shape = RequestShape { format: BodyFormat::CloudEventsBinary, ..RequestShape::default() };
    let endpoint = Endpoint { request: shape, ..endpoint("http://a.example", vec![header("ce-source", "x")]) };
    assert_eq!(Prepared::new(&endpoint).err(), Some(Error::HeaderOfFormat("ce-source".into())));
}

proptest! {
    #[test]
    fn no_text_stops_a_request(id in ".*", kind in ".*", named in proptest::option::of(".*"), name in ".*", value in ".*") {
        let prepared = Prepared::new(&endpoint("http://a.example", Vec::new())).expect("valid");
        let transforms = vec![header(&name, &value), header("x-value", &value.repeat(50)), header("x-long", &"x".repeat(10_000))];
        let long = id.repeat(200);
        let headers = prepared.message(&Request {
            event_id: &long, event_type: &kind, content_type: named.as_deref(), ..request(&transforms, b"{}")
        }).headers;
        prop_assert!(headers.contains_key("webhook-signature") && headers.contains_key(CONTENT_TYPE));
        prop_assert!(!headers.contains_key("x-long"));
        prop_assert!(headers["sluiced-event-id"].len() <= EVENT_HEADER_BYTES_MAX);
        prop_assert!(headers.values().all(|v| v.to_str().is_ok() && v.len() <= HEADER_VALUE_BYTES_MAX));
    }
}
