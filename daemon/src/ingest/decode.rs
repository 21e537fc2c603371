//! What a NATS message says: an [`Event`], CloudEvents 1.0 included (NATS protocol binding, binary and structured mode).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde_json::Value;

use super::connect::StreamConfig;
use crate::domain::{Event, Header, Position};

pub(super) const STRUCTURED: &str = "application/cloudevents+json";

/// Where and when JetStream stored a message: read from its reply subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) sequence: u64,
    /// The consumer's own count of what it sent; 1 is its first message.
    pub(super) delivery: u64,
    pub(super) time_ms: u64,
    /// How many messages the consumer could still send after this one.
    pub(super) pending: u64,
}

/// Reads `$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time ns>.<pending>`, or the longer form of
/// ADR-15 that has domain and account hash before the stream.
pub(super) fn stored(reply: &str) -> Option<Stored> {
    let rest = reply.strip_prefix("$JS.ACK.")?;
    let count = rest.split('.').count();
    let mut tokens = rest.split('.').skip(if count >= 9 { 2 } else { 0 });
    let mut number = |skip: usize| tokens.nth(skip)?.parse::<u64>().ok();
    let sequence = number(3)?;
    let delivery = number(0)?;
    let time_ms = number(0)? / 1_000_000;
    let pending = number(0)?;
    Some(Stored { sequence, delivery, time_ms, pending })
}

/// Makes an event of a message. What cannot be understood is kept as it came, with the reason.
pub(super) fn event(stream: &StreamConfig, message: &async_nats::Message, stored: Stored) -> Event {
    let subject = message.subject.as_str();
    let mut event = Event {
        id: "".into(),
        kind: stream.event_type(subject).into(),
        subject: subject.into(),
        position: Position { stream: stream.name.clone(), sequence: stored.sequence },
        time_ms: stored.time_ms,
        headers: Vec::new(),
        content_type: None,
        data: message.payload.clone(),
        undecodable: None,
    };
    let mut id = None;
    if let Some(headers) = &message.headers {
        for (name, values) in headers.iter() {
            let name: &str = name.as_ref();
            for value in values {
                let value = value.as_str();
                if name.eq_ignore_ascii_case("Content-Type") {
                    event.content_type = Some(value.into());
                } else if name.eq_ignore_ascii_case("Nats-Msg-Id") {
                    id = Some(value.into());
                } else if !starts_with_ignore_case(name, "nats-") {
                    event.headers.push(Header { name: name.into(), value: value.into() });
                }
            }
        }
    }
    let structured = event.content_type.as_deref().is_some_and(|t| starts_with_ignore_case(t, STRUCTURED));
    if structured && let Err(reason) = unwrap_structured(&mut event) {
        event.undecodable = Some(reason.into());
    }
    let id: Option<Box<str>> = id.or_else(|| event.header("ce-id").map(Into::into));
    event.id = match id {
        Some(id) if !id.is_empty() => id,
        _ => format!("{}:{}", stream.name, stored.sequence).into(),
    };
    event
}

pub(super) fn starts_with_ignore_case(text: &str, prefix: &str) -> bool {
    text.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// Takes a structured CloudEvent apart: its attributes become `ce-` headers, as in binary mode, its data the payload.
fn unwrap_structured(event: &mut Event) -> Result<(), &'static str> {
    let envelope: Value = serde_json::from_slice(&event.data).map_err(|_| "the CloudEvent is not JSON")?;
    let Value::Object(attributes) = envelope else { return Err("the CloudEvent is not a JSON object") };
    for required in ["specversion", "id", "source", "type"] {
        if !attributes.get(required).is_some_and(Value::is_string) {
            return Err("the CloudEvent lacks one of specversion, id, source and type");
        }
    }
    let mut data = Bytes::new();
    let mut content_type = None;
    for (name, value) in attributes {
        match (name.as_str(), value) {
            ("data", value) => {
                content_type.get_or_insert_with(|| "application/json".into());
                data = serde_json::to_vec(&value).map_err(|_| "the CloudEvent's data cannot be written")?.into();
            }
            ("data_base64", Value::String(text)) => {
                data = STANDARD.decode(text).map_err(|_| "the CloudEvent's data_base64 is not base64")?.into();
            }
            ("datacontenttype", Value::String(text)) => content_type = Some(text.into()),
            (_, Value::String(text)) => {
                event.headers.push(Header { name: format!("ce-{name}").into(), value: text.into() });
            }
            (_, other) => {
                event.headers.push(Header { name: format!("ce-{name}").into(), value: other.to_string().into() });
            }
        }
    }
    event.data = data;
    event.content_type = content_type;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Pattern, StreamName};

    fn stream() -> StreamConfig {
        StreamConfig {
            name: StreamName::parse("EVENTS").unwrap(),
            subjects: vec![Pattern::parse("events.>").unwrap()],
            type_prefix: "events.".into(),
            create: false,
        }
    }

    fn message(headers: &[(&str, &str)], payload: &str) -> async_nats::Message {
        let mut map = async_nats::HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, *value);
        }
        async_nats::Message {
            subject: "events.orders.created".into(),
            reply: None,
            payload: payload.to_owned().into(),
            headers: Some(map),
            status: None,
            description: None,
            length: 0,
        }
    }

    const STORED: Stored = Stored { sequence: 9, delivery: 1, time_ms: 1, pending: 0 };

    #[test]
    fn reads_both_forms_of_the_reply_subject() {
        let expected = Some(Stored { sequence: 77, delivery: 70, time_ms: 1_700_000_000_123, pending: 4 });
        assert_eq!(stored("$JS.ACK.EVENTS.sluiced.1.77.70.1700000000123456789.4"), expected);
        assert_eq!(stored("$JS.ACK._.hash.EVENTS.sluiced.1.77.70.1700000000123456789.4.token"), expected);
        assert_eq!(stored("$JS.ACK.EVENTS"), None);
        assert_eq!(stored("_INBOX.x"), None);
    }

    #[test]
    fn takes_type_id_headers_and_content_type() {
        let got = event(
            &stream(),
            &message(&[("Nats-Msg-Id", "e1"), ("X-Team", "a"), ("Content-Type", "text/plain")], "hi"),
            STORED,
        );
        assert_eq!((&*got.kind, &*got.id), ("orders.created", "e1"));
        assert_eq!(got.content_type.as_deref(), Some("text/plain"));
        assert_eq!(got.headers, [Header { name: "X-Team".into(), value: "a".into() }]);
        let plain = event(&stream(), &message(&[], "hi"), STORED);
        assert_eq!(&*plain.id, "EVENTS:9");
        assert_eq!(&*event(&stream(), &message(&[("ce-id", "c7")], ""), STORED).id, "c7");
    }

    #[test]
    fn takes_a_structured_cloudevent_apart() {
        let body = r#"{"specversion":"1.0","id":"c1","source":"/s","type":"t","n":3,"data":{"a":1}}"#;
        let got = event(
            &stream(),
            &message(&[("Content-Type", "application/cloudevents+json; charset=utf-8")], body),
            STORED,
        );
        assert_eq!(got.undecodable, None);
        assert_eq!((&*got.id, &got.data[..]), ("c1", &br#"{"a":1}"#[..]));
        assert_eq!(got.content_type.as_deref(), Some("application/json"));
        assert_eq!(got.header("ce-n"), Some("3"));
    }

    #[test]
    fn what_is_not_understood_is_kept_as_it_came() {
        for body in
            ["{", "[]", r#"{"id":"x"}"#, r#"{"specversion":"1.0","id":"c","source":"s","type":"t","data_base64":"%"}"#]
        {
            let got = event(&stream(), &message(&[("Content-Type", "application/cloudevents+json")], body), STORED);
            assert!(got.undecodable.is_some(), "{body}");
            assert_eq!(&got.data[..], body.as_bytes());
            assert_eq!(&*got.kind, "orders.created");
        }
    }
}
