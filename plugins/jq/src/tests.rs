//! Unit tests, and the fixtures.

use serde_json::json;
use sluiced_sdk::test::{Fixtures, event};

use super::*;

fn jq(expr: &str) -> Jq {
    sluiced_sdk::component::make(&json!({ "expr": expr }).to_string()).unwrap()
}

fn refusal(config: &Value) -> String {
    sluiced_sdk::component::make::<Jq>(&config.to_string()).err().expect("the configuration is refused").to_string()
}

fn outputs(expr: &str, payload: &str) -> Result<Vec<String>, String> {
    let outputs = jq(expr).apply(event("a.b").json(payload).build()).map_err(|error| error.to_string())?;
    Ok(outputs.into_iter().map(|output| String::from_utf8(output.data).unwrap()).collect())
}

#[test]
fn fixtures() {
    Fixtures::new("fixtures").filter::<Jq>().transform::<Jq>().run();
}

#[test]
fn a_filter_follows_jq_truthiness() {
    let reasons = [
        (".a", Verdict::Keep),
        ("0", Verdict::Keep),
        ("\"\"", Verdict::Keep),
        (".b", Verdict::drop_because("the expression gave null")),
        (".a == 2", Verdict::drop_because("the expression gave false")),
        ("empty", Verdict::drop_because("the expression gave no output")),
        ("false, true", Verdict::drop_because("the expression gave false")),
        ("true, error(\"never reached\")", Verdict::Keep),
    ];
    for (expr, verdict) in reasons {
        assert_eq!(jq(expr).keep(&event("a").json(r#"{"a": 1}"#).build()).unwrap(), verdict, "{expr}");
    }
}

#[test]
fn a_bad_expression_names_the_place() {
    let table = [
        (".a >", "`expr`: expected term at line 1, column 5, at the end"),
        (".a | foo", "`expr`: there is no filter foo/0 at line 1, column 6, at `foo`"),
        (".a\n| map(.b)\n| sellect(.c)", "`expr`: there is no filter sellect/1 at line 3, column 3, at `sellect(.c)`"),
        ("$min", "`expr`: there is no variable $min at line 1, column 1, at `$min`"),
        ("env", "`expr`: there is no filter env/0 at line 1, column 1, at `env`"),
        ("input", "`expr`: there is no filter input/0 at line 1, column 1, at `input`"),
        ("include \"x\"; .", "`expr`: include and import have no meaning here at line 1, column 10, at `x\"; .`"),
        ("(.a", "`expr`: expected"),
    ];
    for (expr, message) in table {
        let refusal = refusal(&json!({ "expr": expr }));
        assert!(refusal.starts_with(message), "{expr}: {refusal}");
    }
}

#[test]
fn a_bad_configuration_is_refused() {
    assert_eq!(refusal(&json!({ "expression": "." })), "unknown field `expression`, expected `expr` or `vars`");
    assert_eq!(
        refusal(&json!({ "expr": ".", "vars": { "a-b": 1 } })),
        "`vars`: \"a-b\" is not the name of a variable: use letters, digits and _"
    );
    assert_eq!(
        refusal(&json!({ "expr": ".", "vars": { "event": 1 } })),
        "`vars`: the name \"event\" is taken: use another"
    );
}

#[test]
fn errors_of_an_event_say_what_is_wrong() {
    assert_eq!(outputs(".", "{\"a\": }").unwrap_err(), "the payload is not JSON: expected a value at byte 6");
    assert_eq!(outputs(".a + 1", r#"{"a": "x"}"#).unwrap_err(), "cannot calculate \"x\" + 1");
    assert_eq!(outputs("halt", "1").unwrap_err(), "the expression called halt, which has no meaning here");
    assert_eq!(outputs("tobytes", "\"x\"").unwrap_err(), "the expression gave a byte string, which JSON does not have");
}

#[test]
fn output_is_strict_json() {
    assert_eq!(
        outputs(".[]", r#"[1.50, 1e3, 12345678901234567890, "é\u0001\"", null]"#).unwrap(),
        ["1.50", "1e3", "12345678901234567890", "\"é\\u0001\\\"\"", "null"]
    );
    assert_eq!(
        outputs("nan, infinite, -infinite, 1.5 * 2, 0.1 + 0.2", "0").unwrap(),
        ["null", "1.7976931348623157e308", "-1.7976931348623157e308", "3", "0.30000000000000004"]
    );
    for output in outputs("infinite, -infinite, 1e400, 1e17 * 3", "0").unwrap() {
        serde_json::from_str::<Box<serde_json::value::RawValue>>(&output).unwrap();
    }
    assert_eq!(outputs("(\"+1.5\", \"01.5\" | fromjson), 00.5", "0").unwrap(), ["1.5", "1.5", "0.5"]);
    assert_eq!(outputs(".", r#"{"z": 1, "a": [true, {}]}"#).unwrap(), [r#"{"z":1,"a":[true,{}]}"#]);
}

#[test]
fn each_output_is_an_event() {
    assert_eq!(
        outputs(".items[] | {sku}", r#"{"items": [{"sku": 1}, {"sku": 2}]}"#).unwrap(),
        [r#"{"sku":1}"#, r#"{"sku":2}"#]
    );
    assert!(outputs("empty", "1").unwrap().is_empty());
}

#[test]
fn variables_reach_the_expression() {
    let mut jq: Jq = sluiced_sdk::component::make(
        r#"{"expr": "[$event.type, $event.headers[\"x-team\"], $min, $list[1]]", "vars": {"min": 100, "list": [1, 2]}}"#,
    )
    .unwrap();
    let event = event("a.b").json("0").header("X-Team", "sales").header("x-team", "ops").build();
    assert_eq!(jq.apply(event).unwrap()[0].data, br#"["a.b","sales, ops",100,2]"#);
}
