//! From raw subscriptions to the domain's.

use std::ops::RangeInclusive;

use super::places::KeyPath;
use super::report::Report;
use super::valid::{all as all_of, bounds};
use super::{Stream, begin, raw, webhook};
use crate::domain::{OnPluginError, Owner, Pattern, PluginLimits, PluginRef, Subscription, SubscriptionId, Target};

/// The longest plugin name, in bytes.
const PLUGIN_NAME_BYTES_MAX: usize = 64;

/// Checks all subscriptions. `streams` and `defaults` are `None` when they have problems of their own; what depends on them
/// is then not checked.
pub(super) fn all(
    raw: Vec<(KeyPath, Option<raw::Subscription>)>,
    streams: Option<&[Stream]>,
    defaults: Option<&webhook::Defaults<'_>>,
    report: &mut Report<'_>,
) -> Option<Vec<Subscription>> {
    let mut names: Vec<String> = Vec::new();
    all_of(raw.into_iter().map(|(at, raw)| {
        let raw = raw?;
        if names.contains(&raw.name) {
            let reason = format!("{:?} is the name of another subscription already", raw.name);
            report.problem(&at.key("name"), reason);
        }
        names.push(raw.name.clone());
        one(&at, raw, streams, defaults, report)
    }))
}

/// Checks one subscription, the table at `at`.
pub(super) fn one(
    at: &KeyPath,
    raw: raw::Subscription,
    streams: Option<&[Stream]>,
    defaults: Option<&webhook::Defaults<'_>>,
    report: &mut Report<'_>,
) -> Option<Subscription> {
    let id = report.check(&at.key("name"), SubscriptionId::parse(&raw.name));
    let owner = match raw.owner.as_deref().map(Owner::parse) {
        None => Some(None),
        Some(owner) => report.check(&at.key("owner"), owner).map(Some),
    };
    let types = types(&at.key("types"), &raw.types, streams, report);
    let filters = plugins(&at.key("filters"), raw.filters, report);
    let transforms = plugins(&at.key("transforms"), raw.transforms, report);
    let on_plugin_error = match raw.on_plugin_error {
        None => Some(OnPluginError::default()),
        Some(word) => report.word(&at.key("on_plugin_error"), &word, &ON_PLUGIN_ERROR),
    };
    let deliver_from = begin::deliver_from(&at.key("deliver_from"), raw.deliver_from.as_ref(), streams, report);
    if raw.sse.is_some() && raw.deliver_from.is_some() {
        let reason = "has no meaning beside `sse`: each client says where it begins, by Last-Event-ID";
        report.problem(&at.key("deliver_from"), reason);
    }
    let target = match (raw.webhook, raw.sse) {
        (Some(webhook), None) => {
            webhook::endpoint(&at.key("webhook"), webhook.0, defaults, report).map(|e| Target::Webhook(Box::new(e)))
        }
        (None, Some(_)) => Some(Target::Sse),
        (Some(_), Some(_)) => {
            report.problem(&at.key("sse"), "a subscription has one target: remove `sse` or `webhook`");
            None
        }
        (None, None) => {
            report.problem(at, "has no target: add `webhook = { url = \"…\", secret = \"…\" }` or `sse = {}`");
            None
        }
    };
    Some(Subscription {
        id: id?,
        owner: owner?,
        types: types?,
        filters: filters?,
        transforms: transforms?,
        on_plugin_error: on_plugin_error?,
        deliver_from: deliver_from?,
        target: target?,
    })
}

const ON_PLUGIN_ERROR: [(&str, OnPluginError); 3] =
    [("dead-letter", OnPluginError::DeadLetter), ("drop", OnPluginError::Drop), ("pass", OnPluginError::Pass)];

fn types(at: &KeyPath, raw: &[String], streams: Option<&[Stream]>, report: &mut Report<'_>) -> Option<Vec<Pattern>> {
    if raw.is_empty() {
        report.problem(at, "must name at least one event type; [\">\"] is all of them");
        return None;
    }
    all_of(raw.iter().enumerate().map(|(i, text)| {
        let at = at.index(i);
        let pattern = Pattern::parse(text).map_err(|reason| format!("{text:?} is not an event type: {reason}"));
        let pattern = report.check(&at, pattern)?;
        if let Some(streams) = streams.filter(|streams| !streams.iter().any(|stream| carries(stream, &pattern))) {
            let carried = streams.iter().map(carried).collect::<Vec<_>>().join("; ");
            report.problem(&at, format_args!("no stream has events of type {text:?}: {carried}"));
        }
        Some(pattern)
    }))
}

/// Can an event of that stream have a type that matches?
fn carries(stream: &Stream, types: &Pattern) -> bool {
    let subjects = types.prefixed(&stream.type_prefix);
    subjects.is_ok_and(|subjects| stream.subjects.iter().any(|subject| subject.overlaps(&subjects)))
}

/// The types of a stream's events, for a person.
fn carried(stream: &Stream) -> String {
    let types = stream.subjects.iter().map(|subject| {
        let subject = subject.as_str();
        format!("\"{}\"", subject.strip_prefix(&stream.type_prefix).unwrap_or(subject))
    });
    format!("{} has {}", stream.name, types.collect::<Vec<_>>().join(", "))
}

fn plugins(at: &KeyPath, raw: Vec<raw::Table<raw::PluginRef>>, report: &mut Report<'_>) -> Option<Vec<PluginRef>> {
    let max = bounds::PLUGINS_PER_LIST_MAX;
    if raw.len() > max {
        report.problem(at, format_args!("has {} plugins, {max} is the limit", raw.len()));
    }
    all_of(raw.into_iter().enumerate().map(|(i, raw)| plugin(&at.index(i), raw.0, report)))
}

fn plugin(at: &KeyPath, raw: raw::PluginRef, report: &mut Report<'_>) -> Option<PluginRef> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
    let starts = raw.plugin.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    let name = &raw.plugin;
    if !starts || !name.chars().all(allowed) || name.len() > PLUGIN_NAME_BYTES_MAX {
        let reason = format!(
            "{name:?} is not a plugin name: 1 to {PLUGIN_NAME_BYTES_MAX} of a-z, 0-9, `-` and `_`, without folder or .wasm"
        );
        report.problem(&at.key("plugin"), reason);
        return None;
    }
    let limits = plugin_limits(at, &raw, report);
    let config = serde_json::Value::Object(raw.config).to_string();
    if config.contains(begin::DATE_KEY) {
        report.problem(&at.key("config"), "holds a date, which JSON has no form for: write it as a text in quotes");
        return None;
    }
    Some(PluginRef { plugin: raw.plugin.into(), config: config.into(), limits: limits? })
}

/// The limits of one use of a plugin: those that are given.
fn plugin_limits(at: &KeyPath, raw: &raw::PluginRef, report: &mut Report<'_>) -> Option<PluginLimits> {
    let mut given = |key: &str, n: Option<i64>, bounds: &RangeInclusive<i64>| match n {
        None => Some(None),
        Some(n) => report.int::<u32>(&at.key(key), n, bounds).map(Some),
    };
    let call_deadline_ms = given("call_deadline_ms", raw.call_deadline_ms, &bounds::CALL_DEADLINE_MS);
    let memory_mib = given("memory_mib_max", raw.memory_mib_max, &bounds::MEMORY_MIB);
    let output_kib = given("output_kib_max", raw.output_kib_max, &bounds::OUTPUT_KIB);
    let warm = given("warm_instances_max", raw.warm_instances_max, &bounds::WARM_INSTANCES);
    let calls = given("calls_per_instance_max", raw.calls_per_instance_max, &bounds::CALLS_PER_INSTANCE);
    Some(PluginLimits {
        call_deadline_ms: call_deadline_ms?.map(u64::from),
        memory_bytes_max: memory_mib?.map(|mib| (mib as usize) << 20),
        output_bytes_max: output_kib?.map(|kib| (kib as usize) << 10),
        warm_instances_max: warm?.map(|count| count as usize),
        calls_per_instance_max: calls?.map(u64::from),
    })
}
