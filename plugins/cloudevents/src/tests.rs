//! Unit tests, and the fixtures.

use serde_json::{Value, json};
use sluiced_sdk::test::{Fixtures, event};

use super::*;

fn apply(config: &Value, event: Event) -> Result<Output, String> {
    let mut plugin: CloudEvents = sluiced_sdk::component::make(&config.to_string()).map_err(|e| e.to_string())?;
    let mut outputs = plugin.apply(event).map_err(|error| error.to_string())?;
    assert_eq!(outputs.len(), 1);
    Ok(outputs.remove(0))
}

fn json_of(output: &Output) -> Value {
    serde_json::from_slice(&output.data).unwrap()
}

#[test]
fn fixtures() {
    Fixtures::new("fixtures").transform::<CloudEvents>().run();
}

#[test]
fn there_and_back_again_nothing_changes() {
    let (there, back) = (json!({ "to": "structured" }), json!({ "to": "raw" }));
    for (kind, payload) in [
        (Some("application/json"), &br#"{"z":1.50,"a":12345678901234567890123}"#[..]),
        (Some("text/plain"), b"plain"),
        (Some("application/octet-stream"), b"\x00\xff"),
        (None, b"[1]"),
    ] {
        let mut given = event("orders.created").bytes(payload).build();
        given.content_type = kind.map(ToOwned::to_owned);
        let structured = apply(&there, given.clone()).unwrap();
        assert_eq!(structured.content_type.as_deref(), Some(STRUCTURED));
        let mut again = event("other").bytes(structured.data).build();
        again.content_type = structured.content_type;
        let raw = apply(&back, again).unwrap();
        assert_eq!((raw.data.as_slice(), raw.type_.as_deref()), (payload, Some("orders.created")));
        assert_eq!(raw.content_type.as_deref(), Some(kind.unwrap_or("application/json")));
    }
}

#[test]
fn source_and_type_are_those_of_the_configuration() {
    let config = json!({ "to": "structured", "source": "https://shop.example", "type_prefix": "com.example." });
    let made = json_of(&apply(&config, event("orders.created").json("{}").build()).unwrap());
    assert_eq!(
        (&made["source"], &made["type"]),
        (&json!("https://shop.example"), &json!("com.example.orders.created"))
    );
    let bare = json_of(&apply(&json!({ "to": "structured" }), event("a").build()).unwrap());
    assert_eq!(bare["source"], "/TEST");
    assert!(bare.get("data").is_none() && bare.get("data_base64").is_none());
}

#[test]
fn what_is_no_cloudevent_is_an_error() {
    let back = json!({ "to": "raw" });
    for (payload, word) in [
        ("1", "structured CloudEvent"),
        (r#"{"specversion":"0.3","type":"a"}"#, "version 0.3"),
        (r#"{"specversion":"1.0"}"#, "no `type`"),
        (r#"{"specversion":"1.0","type":"a","data":1,"data_base64":"AA=="}"#, "both"),
        (r#"{"specversion":"1.0","type":"a","data_base64":"?"}"#, "base64"),
    ] {
        let error = apply(&back, event("a").json(payload).build()).unwrap_err();
        assert!(error.contains(word), "{error}");
    }
    assert!(apply(&json!({ "to": "raw", "source": "a" }), event("a").build()).unwrap_err().contains("source"));
}
