//! Unit tests, and the fixtures.

use serde_json::json;
use sluiced_sdk::test::{Fixtures, event};

use super::*;

fn render(config: &serde_json::Value, payload: &str) -> Result<String, String> {
    let mut render: Render = sluiced_sdk::component::make(&config.to_string()).map_err(|error| error.to_string())?;
    let event = event("orders.created").json(payload).header("X-Team", "sales").time_ms(5).build();
    let outputs = render.apply(event).map_err(|error| error.to_string())?;
    assert_eq!(outputs.len(), 1);
    Ok(String::from_utf8(outputs[0].data.clone()).unwrap())
}

#[test]
fn fixtures() {
    Fixtures::new("fixtures").transform::<Render>().run();
}

#[test]
fn the_template_sees_payload_and_event() {
    let template =
        "{{ event.type }} {{ event.headers['x-team'] }} {{ event.time_ms }} {{ data.n }} {{ data.l | join('-') }}";
    let out = render(&json!({ "template": template }), r#"{"n": 1.5, "l": [1, "a"]}"#).unwrap();
    assert_eq!(out, "orders.created sales 5 1.5 1-a");
}

#[test]
fn json_keeps_its_order_and_its_texts() {
    let config = json!({ "template": "{\"d\": {{ data | tojson }}}", "content_type": "application/json" });
    let out = render(&config, r#"{"z": "\"quoted\"", "a": 1}"#).unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&out).unwrap()["d"]["z"], "\"quoted\"");
    assert!(out.find("\"z\"") < out.find("\"a\""), "{out}");
    let config = json!({ "template": "{\"a\": {{ data.z }}}", "content_type": "x/y+json", "escape": "json" });
    assert_eq!(render(&config, r#"{"z": "\"quoted\""}"#).unwrap(), r#"{"a": "\"quoted\""}"#);
}

#[test]
fn what_is_not_json_is_not_delivered_as_json() {
    let config = json!({ "template": "{\"text\": \"{{ data.who }}\"}", "content_type": "application/json" });
    assert_eq!(render(&config, r#"{"who": "Ada"}"#).unwrap(), r#"{"text": "Ada"}"#);
    let error = render(&config, r#"{"who": "Ada \"Countess\""}"#).unwrap_err();
    assert!(error.starts_with("what was rendered is not JSON (write values with the tojson filter): "), "{error}");
}

#[test]
fn html_is_escaped_by_itself() {
    let config = json!({ "template": "<b>{{ data.who }}</b>", "content_type": "text/html; charset=utf-8" });
    assert_eq!(render(&config, r#"{"who": "<i>"}"#).unwrap(), "<b>&lt;i&gt;</b>");
}

#[test]
fn a_typing_mistake_is_an_error_with_its_line() {
    let error = render(&json!({ "template": "a\n{{ data.amuont }}" }), r#"{"amount": 1}"#).unwrap_err();
    assert!(error.starts_with("`template`, line 2: undefined value: `data.amuont` is undefined"), "{error}");
    let error = render(&json!({ "template": "{% if dta.x %}{% endif %}" }), "{}").unwrap_err();
    assert!(error.starts_with("`template`, line 1: undefined value"), "{error}");
    let config = json!({ "template": "x", "headers": { "X-A": "{{ event.nope }}" } });
    let error = render(&config, "{}").unwrap_err();
    assert!(error.starts_with("`headers`, X-A: undefined value"), "{error}");
    assert_eq!(render(&json!({ "template": "{{ data.x | default('-') }}" }), "{}").unwrap(), "-");
}

#[test]
fn a_bad_template_is_refused() {
    let table = [
        (json!({ "template": "a\nb {{ data. }}" }), "`template`, line 2: syntax error: "),
        (json!({ "template": "{% for x in data %}" }), "`template`, line 1: syntax error: "),
        (json!({ "template": "", "headers": { "X-A": 1 } }), "`headers`: the value of \"X-A\" is not a string"),
        (json!({ "template": "", "headers": { "X-A": "{{" } }), "`headers`, X-A: syntax error: "),
        (json!({ "tmeplate": "" }), "unknown field `tmeplate`"),
    ];
    for (config, message) in table {
        let error = render(&config, "{}").unwrap_err();
        assert!(error.starts_with(message), "{error}");
    }
}

#[test]
fn an_unknown_filter_is_an_error() {
    let error = render(&json!({ "template": "{{ data | tojsn }}" }), "{}").unwrap_err();
    assert!(error.starts_with("`template`, line 1: unknown filter"), "{error}");
}
