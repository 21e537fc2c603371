//! `deliver_from`: where a new subscription begins.

use serde_json::Value;

use super::Stream;
use super::places::KeyPath;
use super::report::Report;
use crate::domain::{Begin, DeliverFrom};
use crate::telemetry::clock;

/// The key under which the TOML reader hands on a date that stands without quotes.
pub(super) const DATE_KEY: &str = "$__toml_private_datetime";

const HINT: &str = "must be \"now\", \"all\", a time such as \"2026-01-31T08:00:00Z\", or a stream sequence from 1 on";

/// Checks `deliver_from` at `at`. `streams` is `None` when they have problems of their own.
pub(super) fn deliver_from(
    at: &KeyPath,
    raw: Option<&Value>,
    streams: Option<&[Stream]>,
    report: &mut Report<'_>,
) -> Option<DeliverFrom> {
    let (mut from, mut sound) = (DeliverFrom::default(), true);
    match raw {
        None => {}
        Some(Value::Object(table)) if !table.contains_key(DATE_KEY) => {
            for (name, value) in table {
                let at = at.key(name);
                let begin = report.check(&at, begin(value).ok_or(HINT));
                let Some(streams) = streams else { continue };
                let Some(stream) = streams.iter().find(|stream| stream.name.as_str() == name) else {
                    let names = streams.iter().map(|stream| stream.name.as_str()).collect::<Vec<_>>().join(", ");
                    report.problem(&at, format_args!("{name:?} is not one of the streams: {names}"));
                    sound = false;
                    continue;
                };
                sound &= begin.is_some();
                from.streams.extend(begin.map(|begin| (stream.name.clone(), begin)));
            }
        }
        Some(value) => {
            from.general = report.check(at, begin(value).ok_or(HINT))?;
            if matches!(from.general, Begin::Sequence(_)) && streams.is_some_and(|streams| streams.len() > 1) {
                let reason = "a sequence is one stream's: name it, as in { EVENTS = 4711 }";
                report.problem(at, reason);
            }
        }
    }
    sound.then_some(from)
}

fn begin(value: &Value) -> Option<Begin> {
    match value {
        Value::String(text) => match text.as_str() {
            "now" => Some(Begin::Now),
            "all" => Some(Begin::All),
            time => clock::parse_rfc3339(time).map(Begin::Time),
        },
        Value::Number(number) => number.as_u64().filter(|sequence| *sequence > 0).map(Begin::Sequence),
        Value::Object(date) => date.get(DATE_KEY)?.as_str().and_then(clock::parse_rfc3339).map(Begin::Time),
        _ => None,
    }
}
