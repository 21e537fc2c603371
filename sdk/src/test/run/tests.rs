//! Tests of the fixture runner, on fixtures that they write themselves.

use std::path::Path;

use super::*;
use crate::{Output, Verdict};

struct Echo;

impl Plugin for Echo {
    type Config = serde_json::Value;
    const SUMMARY: &'static str = "Echoes.";
    const NEEDS_HEADERS: Headers = Headers::Named(&["x-seen"]);

    fn new(config: serde_json::Value) -> Result<Self, Error> {
        if config == "bad" { Err(Error::new("bad configuration")) } else { Ok(Self) }
    }
}

impl Filter for Echo {
    fn keep(&mut self, event: &Event) -> Result<Verdict, Error> {
        Ok(Verdict::drop_because(format!("{} headers, {} bytes", event.headers.len(), event.data.len())))
    }
}

impl Transform for Echo {
    fn apply(&mut self, event: Event) -> Result<Vec<Output>, Error> {
        Ok(vec![Output::bytes(event.data)])
    }
}

fn outcome_of(folder: &Path, input: &str, out: &str) -> Result<(), FixtureError> {
    std::fs::create_dir_all(folder).unwrap();
    std::fs::write(folder.join("one.in.json"), input).unwrap();
    std::fs::write(folder.join("one.out.json"), out).unwrap();
    let fixtures = Fixtures::new(folder).filter::<Echo>().transform::<Echo>();
    let result = fixtures.run_one(&Fixture::load_all(folder).unwrap()[0], false);
    std::fs::remove_dir_all(folder).unwrap();
    result
}

fn folder(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("sluiced-sdk-{}-{name}", std::process::id()))
}

#[test]
fn compares_verdicts_and_shows_only_what_was_asked_for() {
    let input = r#"{"config": {}, "as": "filter", "event": {"type": "a", "headers": {"X-Seen": "1", "other": "2"},
        "text": "four"}}"#;
    let out = r#"{"verdict": "drop", "reason": "1 headers, 4 bytes"}"#;
    outcome_of(&folder("verdict"), input, out).unwrap();
    let mismatch = outcome_of(&folder("mismatch"), input, r#"{"verdict": "keep"}"#).unwrap_err();
    assert!(matches!(mismatch, FixtureError::Mismatch { .. }), "{mismatch}");
}

#[test]
fn compares_payloads_in_the_form_of_the_expectation() {
    let input = r#"{"config": {}, "as": "transform", "event": {"type": "a", "data": {"b": 1,"a": 2}}}"#;
    outcome_of(&folder("data"), input, r#"{"outputs": [{"data": {"a": 2, "b": 1}}]}"#).unwrap();
    outcome_of(&folder("text"), input, r#"{"outputs": [{"text": "{\"b\": 1,\"a\": 2}"}]}"#).unwrap();
    outcome_of(&folder("base64"), input, r#"{"outputs": [{"base64": "eyJiIjogMSwiYSI6IDJ9"}]}"#).unwrap();
    outcome_of(&folder("other-text"), input, r#"{"outputs": [{"text": "{\"b\":1,\"a\":2}"}]}"#).unwrap_err();
    outcome_of(&folder("too-few"), input, r#"{"outputs": []}"#).unwrap_err();
}

#[test]
fn an_error_of_the_configuration_is_an_outcome() {
    let input = r#"{"config": "bad", "as": "filter", "event": {"type": "a"}}"#;
    outcome_of(&folder("error"), input, r#"{"error": "bad configuration"}"#).unwrap();
}

#[test]
fn a_misspelt_key_is_refused() {
    let text = r#"{"config": {}, "as": "filter", "event": {"type": "a", "dta": 1}}"#;
    let folder = folder("misspelt");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("one.in.json"), text).unwrap();
    let error = Fixture::load_all(&folder).unwrap_err();
    std::fs::remove_dir_all(&folder).unwrap();
    assert!(Error::from(error).to_string().contains("unknown field `dta`"));
}
