//! Plugins as the API shows them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::{Listed, Stage};
use crate::domain::{Output, Verdict};
use crate::plugin::{Fault, HeaderNeeds, Plugin, Said, Tally, Trial};
use crate::store::{PluginOrigin, PluginRecord, PluginVersion};
use crate::telemetry::clock::rfc3339;

/// A plugin; `whole` is with its configuration's schema, its versions, and what shadow mode found.
pub(super) fn shown(listed: &Listed, whole: bool) -> Map<String, Value> {
    let mut shown = listed.about.clone();
    if let Some(name) = shown.insert("name".to_owned(), json!(listed.name)) {
        shown.insert("own_name".to_owned(), name);
    }
    if !whole {
        shown.remove("config_schema");
    }
    let record = listed.record.as_ref();
    if let Some(version) = record.and_then(|record| record.version(&record.current)) {
        shown.insert("digest".to_owned(), json!(version.digest));
        shown.insert("from".to_owned(), json!(origin(version.origin)));
        shown.insert("running_since".to_owned(), json!(version.ran_ms.map(rfc3339)));
    }
    if let Some(record) = record.filter(|_| whole) {
        let versions: Vec<_> = record.versions.iter().map(|version| kept(version, record)).collect();
        shown.insert("versions".to_owned(), json!(versions));
    }
    let used_by = listed.used_by.iter().map(|(id, quarantined)| match quarantined {
        None => json!({ "subscription": id.as_str() }),
        Some(faults) => json!({ "subscription": id.as_str(), "quarantined_after": faults }),
    });
    shown.insert("used_by".to_owned(), used_by.collect());
    if let Some(candidate) = &listed.candidate {
        let (state, reason) = match &candidate.stage {
            Stage::Compiling => ("compiling", None),
            Stage::Checking => ("checking", None),
            Stage::Refused(reason) => ("refused", Some(reason)),
        };
        let mut on_its_way = json!({
            "digest": candidate.digest,
            "from": origin(candidate.origin),
            "state": state,
            "since": rfc3339(candidate.since_ms),
        });
        if let Some(reason) = reason {
            on_its_way["reason"] = json!(reason);
        }
        shown.insert("candidate".to_owned(), on_its_way);
    }
    if let Some(running) = &listed.trial {
        shown.insert("shadow".to_owned(), trial(running, whole));
    }
    shown
}

/// What a plugin says of itself, and what it is.
pub fn described(plugin: &Plugin) -> Map<String, Value> {
    let description = plugin.description();
    let headers = match &description.needs_headers {
        HeaderNeeds::None => json!("none"),
        HeaderNeeds::All => json!("all"),
        HeaderNeeds::Named(names) => json!(names),
    };
    // It was parsed when the plugin was loaded.
    let schema: Value = serde_json::from_str(&description.config_schema).unwrap_or_default();
    let described = json!({
        "name": description.name,
        "version": description.version,
        "summary": description.summary,
        "contract_version": plugin.contract_version(),
        "world": plugin.world(),
        "filter": plugin.is_filter(),
        "transform": plugin.is_transform(),
        "imports": plugin.imports().collect::<Vec<_>>(),
        "bytes": plugin.file_bytes(),
        "digest": plugin.digest(),
        "needs_payload": description.needs_payload,
        "needs_headers": headers,
        "config_schema": schema,
    });
    match described {
        Value::Object(described) => described,
        _ => Map::new(),
    }
}

fn kept(version: &PluginVersion, record: &PluginRecord) -> Value {
    json!({
        "digest": version.digest,
        "version": version.version,
        "bytes": version.bytes,
        "from": origin(version.origin),
        "added_at": rfc3339(version.added_ms),
        "ran_at": version.ran_ms.map(rfc3339),
        "is_current": version.digest == record.current,
        "is_shadow": record.shadow.as_ref() == Some(&version.digest),
    })
}

fn origin(origin: PluginOrigin) -> &'static str {
    match origin {
        PluginOrigin::File => "file",
        PluginOrigin::Upload => "upload",
    }
}

/// What shadow mode has found so far; `whole` is with the last differences.
pub(super) fn trial(trial: &Trial, whole: bool) -> Value {
    let tally = trial.tally();
    let Tally { same, verdicts, outputs, faults, mended, skipped, .. } = tally;
    let compared = same + verdicts + outputs + faults + mended;
    let mean_us = |took: std::time::Duration| match compared {
        0 => None,
        calls => Some(took.as_micros() as u64 / calls),
    };
    let mut shown = json!({
        "digest": trial.candidate().digest(),
        "version": trial.candidate().description().version,
        "since": rfc3339(trial.since_ms()),
        "compared": compared,
        "same": same,
        "different": { "verdict": verdicts, "output": outputs, "only_shadow_failed": faults, "only_current_failed": mended },
        "skipped": skipped,
        "mean_us": { "current": mean_us(tally.current_took), "shadow": mean_us(tally.candidate_took) },
        "unfit": tally.unfit.iter().map(|(id, reason)| json!({ "subscription": id.as_str(), "reason": reason })).collect::<Vec<_>>(),
    });
    if whole {
        let samples = tally.samples.iter().rev().map(|difference| {
            json!({
                "at": rfc3339(difference.at_ms),
                "subscription": difference.subscription.as_str(),
                "stream": difference.position.stream.as_str(),
                "sequence": difference.position.sequence,
                "type": difference.kind,
                "current": said(&difference.current),
                "shadow": said(&difference.candidate),
            })
        });
        shown["samples"] = samples.collect();
    }
    shown
}

/// What a plugin said of an event.
pub(super) fn said(said: &Said) -> Value {
    match said {
        Said::Verdict(Verdict::Keep) => json!({ "verdict": "keep" }),
        Said::Verdict(Verdict::Drop(reason)) => json!({ "verdict": "drop", "reason": reason }),
        Said::Outputs(outputs) => json!({ "outputs": outputs.iter().map(output).collect::<Vec<_>>() }),
        Said::Fault(Fault { kind, .. }) => json!({ "fault": kind.as_str(), "reason": kind.to_string() }),
    }
}

fn output(output: &Output) -> Value {
    let mut shown = Map::new();
    match std::str::from_utf8(&output.data) {
        Ok(text) => shown.insert("data".to_owned(), json!(text)),
        Err(_) => shown.insert("data_base64".to_owned(), json!(STANDARD.encode(&output.data))),
    };
    if let Some(content_type) = &output.content_type {
        shown.insert("content_type".to_owned(), json!(content_type));
    }
    if let Some(kind) = &output.kind {
        shown.insert("type".to_owned(), json!(kind));
    }
    if !output.headers.is_empty() {
        shown.insert("headers".to_owned(), json!(super::super::answer::headers(&output.headers)));
    }
    Value::Object(shown)
}
