//! `[[event_type]]`: the catalogue of event types.

use serde_json::Value;

use super::begin::DATE_KEY;
use super::places::KeyPath;
use super::raw;
use super::report::Report;
use crate::api::event_types::{Definition, EventType};
use crate::domain::Subject;

/// Checks all of them.
pub(super) fn all(
    raw: Vec<(KeyPath, Option<raw::EventType>)>,
    report: &mut Report<'_>,
) -> Option<Vec<(Subject, EventType)>> {
    let (mut valid, mut complete) = (Vec::<(Subject, EventType)>::new(), true);
    for (at, raw) in raw {
        let Some((name, kind)) = raw.and_then(|raw| one(&at, raw, report)) else {
            complete = false;
            continue;
        };
        if valid.iter().any(|(other, _)| *other == name) {
            report.problem(&at.key("name"), format_args!("\"{name}\" is described already"));
            complete = false;
        }
        valid.push((name, kind));
    }
    complete.then_some(valid)
}

fn one(at: &KeyPath, raw: raw::EventType, report: &mut Report<'_>) -> Option<(Subject, EventType)> {
    let name = report.check(&at.key("name"), Subject::parse(&raw.name));
    let schema = match raw.schema {
        // A schema is often at hand as JSON.
        Some(Value::String(text)) => {
            let parsed = serde_json::from_str(&text).map_err(|error| format!("is not JSON: {error}"));
            Some(report.check(&at.key("schema"), parsed)?)
        }
        other => other,
    };
    let date = |value: &Option<Value>| value.as_ref().is_some_and(|value| value.to_string().contains(DATE_KEY));
    for (key, value) in [("schema", &schema), ("example", &raw.example)] {
        if date(value) {
            report.problem(&at.key(key), "holds a date, which JSON has no form for: write it as a text in quotes");
            return None;
        }
    }
    let description = raw.description.map(Into::into);
    let definition = Definition { description, schema, example: raw.example, enforce: raw.enforce };
    let kind = match EventType::new(definition) {
        Ok(kind) => Some(kind),
        Err(flaws) => {
            flaws.into_iter().for_each(|flaw| report.problem(&at.key(flaw.key), flaw.reason));
            None
        }
    };
    name.zip(kind)
}
