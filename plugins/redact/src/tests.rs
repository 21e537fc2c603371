//! Unit tests, and the fixtures.

use serde_json::{Value, json};
use sluiced_sdk::test::{Fixtures, event};

use super::*;

fn apply(config: &Value, payload: &str) -> Result<String, String> {
    let mut redact: Redact = sluiced_sdk::component::make(&config.to_string()).map_err(|error| error.to_string())?;
    let outputs = redact.apply(event("a").bytes(payload).build()).map_err(|error| error.to_string())?;
    assert_eq!((outputs.len(), &outputs[0].content_type), (1, &None));
    Ok(String::from_utf8(outputs[0].data.clone()).unwrap())
}

fn mask(pointers: &[&str], payload: &str) -> String {
    apply(&json!({ "pointers": pointers }), payload).unwrap()
}

fn remove(pointers: &[&str], payload: &str) -> String {
    apply(&json!({ "pointers": pointers, "mode": "remove" }), payload).unwrap()
}

#[test]
fn fixtures() {
    Fixtures::new("fixtures").transform::<Redact>().run();
}

#[test]
fn what_is_not_redacted_stays_as_it_is() {
    let payload =
        r#"{"z": 1.50,"a":12345678901234567890123, "card":{"number":"4111","exp" : "é\u00e9\/"},"b":[1e3 , {}]}"#;
    assert_eq!(
        mask(&["/card/number", "/card/missing", "/a/b", "/b/7"], payload),
        r#"{"z":1.50,"a":12345678901234567890123,"card":{"number":"***","exp":"é\u00e9\/"},"b":[1e3,{}]}"#
    );
}

#[test]
fn arrays_take_indexes_and_wildcards() {
    let payload = r#"{"items":[{"s":1,"k":2},{"s":3},4,{"k":{"s":5}}]}"#;
    assert_eq!(remove(&["/items/*/s"], payload), r#"{"items":[{"k":2},{},4,{"k":{"s":5}}]}"#);
    assert_eq!(remove(&["/items/0", "/items/2"], payload), r#"{"items":[{"s":3},{"k":{"s":5}}]}"#);
    assert_eq!(mask(&["/items/*"], payload), r#"{"items":["***","***","***","***"]}"#);
    assert_eq!(
        mask(&["/*/*/*/s", "/items/1/s"], payload),
        r#"{"items":[{"s":1,"k":2},{"s":"***"},4,{"k":{"s":"***"}}]}"#
    );
    assert_eq!(mask(&["/0/a"], r#" [{"a":1},{"a":2}] "#), r#"[{"a":"***"},{"a":2}]"#);
}

#[test]
fn a_wildcard_and_a_name_both_lead_on() {
    let payload = r#"{"a":{"x":1,"y":2,"z":3},"b":{"x":1,"y":2}}"#;
    assert_eq!(mask(&["/*/x", "/a/y"], payload), r#"{"a":{"x":"***","y":"***","z":3},"b":{"x":"***","y":2}}"#);
    assert_eq!(remove(&["/a", "/a/y"], payload), r#"{"b":{"x":1,"y":2}}"#);
}

#[test]
fn no_spelling_of_a_key_escapes() {
    assert_eq!(
        mask(&["/card"], r#"{"\u0063ard":1,"card":2,"card":{"a":[3]}}"#),
        r#"{"card":"***","card":"***","card":"***"}"#
    );
    assert_eq!(
        mask(&["/a~1b", "/c~0d", "/"], r#"{"a/b":1,"c~d":2,"":3,"e\"f":4}"#),
        r#"{"a/b":"***","c~d":"***","":"***","e\"f":4}"#
    );
}

#[test]
fn a_hash_is_of_the_text_as_it_reads() {
    let config = json!({ "pointers": ["/a", "/b", "/c"], "mode": "hash", "key": "0123456789abcdef" });
    let out: Value = serde_json::from_str(&apply(&config, r#"{"a":"é","b":"\u00e9","c":["x", 1]}"#).unwrap()).unwrap();
    // printf 'é' | openssl dgst -sha256 -hmac 0123456789abcdef
    assert_eq!(out["a"], "hmac-sha256:26382c5adb93384755a55b17c0c37aae724ec74042101cae59fd075e577a743c");
    assert_eq!(out["a"], out["b"]);
    assert_eq!(out["c"], "hmac-sha256:85dbb104c071e5ddcc85c86e9fe4c2bc4726160d4ab65bb6fdf001cd0d5936b0");
}

#[test]
fn what_is_not_json_is_an_error() {
    let table = [
        "",
        "nope",
        "{\"a\":1",
        "{\"a\":1}}",
        "{\"a\":{\"b\":01}}",
        "{\"a\":{\"b\":1,}}",
        "[1 2]",
        "{\"a\":\"\u{1}\"}",
        "{a:1}",
    ];
    for payload in table {
        let error = apply(&json!({ "pointers": ["/a/b"] }), payload).unwrap_err();
        assert!(error.starts_with("the payload is not JSON: "), "{payload}: {error}");
    }
    for payload in ["null", " 1.50 ", "\"x\"", "[]", "{}"] {
        assert_eq!(mask(&["/a"], payload), payload.trim());
    }
}

#[test]
fn deep_nesting_is_no_danger() {
    let deep = format!("{{\"a\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(mask(&["/b"], &deep), deep);
    assert_eq!(mask(&["/a/0/0/x"], &deep), deep);
}

#[test]
fn a_bad_configuration_is_refused() {
    let table = [
        (json!({ "pointers": [] }), "`pointers` is empty: name at least one place, for example \"/card/number\""),
        (json!({ "pointers": ["card"] }), "`pointers`: \"card\" is not a JSON pointer: it must begin with /"),
        (
            json!({ "pointers": ["/a~2"] }),
            "`pointers`: \"/a~2\" is not a JSON pointer: ~ must be written ~0, and / within a name ~1",
        ),
        (
            json!({ "pointers": [""] }),
            "`pointers`: \"\" points at the whole payload: name a place in it, for example \"/card\"",
        ),
        (json!({ "pointers": ["/a"], "mode": "hash" }), "mode \"hash\" needs a `key`"),
        (
            json!({ "pointers": ["/a"], "mode": "hash", "key": "short" }),
            "`key` is too short: use at least 16 bytes, made at random",
        ),
        (json!({ "pointers": ["/a"], "key": "x" }), "`key` is only for mode \"hash\""),
        (json!({ "pointers": ["/a"], "mode": "remove", "mask": "x" }), "`mask` is only for mode \"mask\""),
        (
            json!({ "pointers": ["/a"], "mode": "drop" }),
            "unknown variant `drop`, expected one of `mask`, `remove`, `hash`",
        ),
    ];
    for (config, message) in table {
        assert_eq!(apply(&config, "{}").unwrap_err(), message);
    }
}
