//! The fixtures of the standard plugins, run on the built components. The format is in `sdk/FIXTURES.md`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sluiced::domain::Output;
use sluiced_tests::paths::workspace;

use super::*;

#[tokio::test]
async fn fixtures_of_cloudevents() {
    run("cloudevents").await;
}

#[tokio::test]
async fn fixtures_of_jq() {
    run("jq").await;
}

#[tokio::test]
async fn fixtures_of_redact() {
    run("redact").await;
}

#[tokio::test]
async fn fixtures_of_render() {
    run("render").await;
}

#[tokio::test]
async fn fixtures_of_route_type() {
    run("route-type").await;
}

#[tokio::test]
async fn fixtures_of_sample() {
    run("sample").await;
}

#[tokio::test]
async fn fixtures_of_schema() {
    run("schema").await;
}

async fn run(plugin: &str) {
    let lab = Lab::new(&[plugin]);
    let folder = workspace().join("plugins").join(plugin).join("fixtures");
    let mut ran = 0;
    for entry in fs::read_dir(&folder).expect("the folder of fixtures") {
        let input = entry.expect("an entry").path();
        let Some(name) = input.to_str().and_then(|path| path.strip_suffix(".in.json")) else { continue };
        let expected = read(Path::new(&format!("{name}.out.json")));
        check(&lab, plugin, name, &read(&input), &expected).await;
        ran += 1;
    }
    assert!(ran > 0, "no fixtures in {}", folder.display());
}

async fn check(lab: &Lab, plugin: &str, name: &str, input: &Value, expected: &Value) {
    let used = [with(plugin, &input["config"])];
    let (filters, transforms) = match input["as"].as_str() {
        Some("filter") => (&used[..], &[][..]),
        _ => (&[][..], &used[..]),
    };
    let chain = match lab.try_chain(filters, transforms, OnPluginError::DeadLetter) {
        Ok(chain) => chain,
        // The schema may refuse what the plugin would refuse later and in other words.
        Err(Error::Config { .. }) => return assert!(expected["error"].is_string(), "{name}"),
        Err(Error::Refused { message, .. }) => return assert_eq!(json!({ "error": message }), *expected, "{name}"),
        Err(error) => panic!("{name}: {error:?}"),
    };
    match chain.run(&fixture_event(&input["event"])).await.passed {
        Passed::Kept(_) if !filters.is_empty() => assert_eq!(json!({ "verdict": "keep" }), *expected, "{name}"),
        Passed::Kept(outputs) => check_outputs(name, &outputs, expected),
        Passed::Dropped { .. } if filters.is_empty() => assert_eq!(expected["outputs"], json!([]), "{name}"),
        Passed::Dropped { reason, .. } => {
            assert_eq!(expected["verdict"], "drop", "{name}");
            assert_eq!(reason.as_deref(), expected["reason"].as_str(), "{name}");
        }
        Passed::Faulted { fault: Fault { kind: FaultKind::Reported { message }, .. }, .. } => {
            assert_eq!(json!({ "error": message }), *expected, "{name}");
        }
        Passed::Faulted { fault, .. } => panic!("{name}: {fault}"),
    }
}

fn check_outputs(name: &str, outputs: &[Output], expected: &Value) {
    let expected = expected["outputs"].as_array().unwrap_or_else(|| panic!("{name}: expected {expected}"));
    assert_eq!(outputs.len(), expected.len(), "{name}: {outputs:?}");
    for (output, expected) in outputs.iter().zip(expected) {
        if let Some(data) = expected.get("data") {
            assert_eq!(&serde_json::from_slice::<Value>(&output.data).expect("JSON"), data, "{name}");
        } else {
            assert_eq!(output.data, payload(expected), "{name}");
        }
        assert_eq!(output.content_type.as_deref(), expected["content_type"].as_str(), "{name}");
        assert_eq!(output.kind.as_deref(), expected["type"].as_str(), "{name}");
        assert_eq!(output.headers, headers(&expected["headers"]), "{name}");
    }
}

fn fixture_event(given: &Value) -> Event {
    let text = |key: &str, default: &str| given[key].as_str().unwrap_or(default).into();
    let kind = given["type"].as_str().expect("a type");
    Event {
        id: text("id", "fixture"),
        kind: kind.into(),
        subject: text("subject", kind),
        position: Position {
            stream: StreamName::parse(given["stream"].as_str().unwrap_or("FIXTURES")).expect("a stream name"),
            sequence: given["sequence"].as_u64().unwrap_or(1),
        },
        time_ms: given["time_ms"].as_u64().unwrap_or(0),
        headers: headers(&given["headers"]),
        content_type: given["content_type"].as_str().map(Into::into),
        data: payload(given).into(),
        undecodable: None,
    }
}

fn payload(given: &Value) -> Vec<u8> {
    match (given.get("data"), given["text"].as_str(), given["base64"].as_str()) {
        (Some(data), _, _) => data.to_string().into_bytes(),
        (_, Some(text), _) => text.into(),
        (_, _, Some(base64)) => BASE64.decode(base64).expect("base64"),
        _ => Vec::new(),
    }
}

fn headers(given: &Value) -> Vec<Header> {
    let header = |(name, value): (&String, &Value)| Header {
        name: name.as_str().into(),
        value: value.as_str().expect("text").into(),
    };
    given.as_object().into_iter().flatten().map(header).collect()
}

fn read(path: &Path) -> Value {
    let text = fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
