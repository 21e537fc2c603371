//! When an endpoint is left alone, and when its subscription is disabled.

use std::time::Duration;

use super::places::KeyPath;
use super::report::Report;
use super::valid::bounds;
use super::{OperationalEvents, Stream, raw, webhook};
use crate::domain::{BreakerPolicy, HealthPolicy, Subject};
use crate::pipeline::announce::Kind;

/// Checks a complete breaker policy, given in full or in part by the table at `at`.
pub(super) fn breaker(at: &KeyPath, raw: &raw::Breaker, report: &mut Report<'_>) -> Option<BreakerPolicy> {
    let ratio = raw.failure_ratio;
    let inside = (ratio > 0.0 && ratio <= 1.0).then_some(ratio);
    let reason = || format!("must be above 0 and at most 1, not {ratio}");
    let failure_ratio = report.check(&at.key("failure_ratio"), inside.ok_or_else(reason));
    let attempts_min = report.int(&at.key("attempts_min"), raw.attempts_min, &bounds::BREAKER_ATTEMPTS);
    let window = report.duration(&at.key("window"), &raw.window, &bounds::BREAKER_WINDOW);
    let probe = report.duration(&at.key("probe"), &raw.probe, &bounds::BREAKER_PROBE);
    let probe_max = report.duration(&at.key("probe_max"), &raw.probe_max, &bounds::BREAKER_PROBE);
    let probe_delay = probe?;
    Some(BreakerPolicy {
        failure_ratio: failure_ratio?,
        attempts_min: attempts_min?,
        window: window?,
        probe_delay,
        probe_delay_max: probe_max?.max(probe_delay),
    })
}

/// Checks a time after which a subscription is disabled. The inner `None` is never.
#[expect(clippy::option_option, reason = "not valid, and off, are two things")]
pub(super) fn disable_after(at: &KeyPath, text: &str, report: &mut Report<'_>) -> Option<Option<Duration>> {
    if text == "never" || humantime::parse_duration(text).is_ok_and(|duration| duration.is_zero()) {
        return Some(None);
    }
    report.duration(at, text, &bounds::DISABLE_AFTER).map(Some)
}

/// Checks where operational events are published to: every one must be taken by a stream.
pub(super) fn operational_events(
    raw: raw::OperationalEvents,
    streams: Option<&[Stream]>,
    report: &mut Report<'_>,
) -> Option<OperationalEvents> {
    let at = KeyPath::top("operational_events").key("subject_prefix");
    let Some(prefix) = raw.subject_prefix else { return Some(OperationalEvents { subject_prefix: None }) };
    let literal = prefix.is_empty() || prefix.strip_suffix('.').is_some_and(|tokens| Subject::parse(tokens).is_ok());
    if !literal {
        report.problem(&at, format_args!("{prefix:?} must be literal tokens that end with a dot, such as \"events.\""));
        return None;
    }
    let is_taken = |kind: &Kind| {
        let subject = format!("{prefix}{}", kind.as_str());
        streams.is_none_or(|streams| streams.iter().any(|s| s.subjects.iter().any(|pattern| pattern.matches(&subject))))
    };
    if let Some(lost) = Kind::ALL.iter().find(|kind| !is_taken(kind)) {
        let reason = format!(
            "no stream takes \"{prefix}{}\": begin with the subjects of a [[stream]], such as \"events.\", or add \
             \"{prefix}sluiced.endpoint.>\" to one",
            lost.as_str()
        );
        report.problem(&at, reason);
        return None;
    }
    Some(OperationalEvents { subject_prefix: Some(prefix) })
}

/// A webhook's own policy, completed from `[delivery]`.
pub(super) fn of_webhook(
    at: &KeyPath,
    own_breaker: Option<raw::Table<raw::BreakerPart>>,
    own_disable_after: Option<&str>,
    defaults: &webhook::Defaults<'_>,
    report: &mut Report<'_>,
) -> Option<HealthPolicy> {
    let default = &defaults.valid.health;
    let breaker = match own_breaker {
        None => Some(default.breaker),
        Some(part) => breaker(&at.key("breaker"), &part.0.over(defaults.breaker), report),
    };
    let disable_after = match own_disable_after {
        None => Some(default.disable_after),
        Some(text) => disable_after(&at.key("disable_after"), text, report),
    };
    Some(HealthPolicy { breaker: breaker?, disable_after: disable_after? })
}
