//! What a webhook's requests look like and what their answers mean: body format, further signatures, statuses, capture.

use http::HeaderName;

use super::places::KeyPath;
use super::raw;
use super::report::Report;
use super::valid::bounds;
use super::webhook::{Defaults, header_name};
use crate::deliver::ed25519;
use crate::domain::webhook::Statuses;
use crate::domain::{AnswerRules, BodyFormat, BodyKey, BodySignature, RequestShape, StatusRules};

const FORMATS: [(&str, BodyFormat); 4] = [
    ("raw", BodyFormat::Raw),
    ("envelope", BodyFormat::Envelope),
    ("cloudevents-binary", BodyFormat::CloudEventsBinary),
    ("cloudevents-structured", BodyFormat::CloudEventsStructured),
];

const BODY_KEYS: [(&str, BodyKey); 2] = [("bytes", BodyKey::Bytes), ("text", BodyKey::Text)];

/// Checks the shape of a webhook's requests.
pub(super) fn shape(
    at: &KeyPath,
    raw: &raw::Webhook,
    defaults: Option<&Defaults<'_>>,
    report: &mut Report<'_>,
) -> Option<RequestShape> {
    let format = match &raw.format {
        None => Some(BodyFormat::default()),
        Some(word) => report.word(&at.key("format"), word, &FORMATS),
    };
    if format.is_some_and(BodyFormat::is_cloudevents) {
        for name in raw.headers.keys().filter(|name| is_cloudevents_header(name)) {
            let reason = "belongs to the CloudEvents that this webhook is sent: remove it, or choose another format";
            report.problem(&at.key("headers").key(name), reason);
        }
    }
    let source = raw.cloudevents_source.as_deref().map(|text| {
        let at = at.key("cloudevents_source");
        if format.is_some_and(|format| !format.is_cloudevents()) {
            report.problem(
                &at,
                "has a meaning only for the formats \"cloudevents-binary\" and \"cloudevents-structured\"",
            );
        }
        report.check(&at, source(text))
    });
    let signed_in = at.key("body_signature");
    let body_signature = match &raw.body_signature {
        Some(table) => Some(body_signature(&signed_in, &table.0, report)),
        None => defaults.and_then(|defaults| defaults.valid.body_signature.clone()).map(Some),
    };
    if let Some(Some(signature)) = &body_signature
        && let Some(name) = raw.headers.keys().find(|name| name.eq_ignore_ascii_case(&signature.header))
    {
        match &raw.body_signature {
            Some(own) => {
                let reason = format_args!("{:?} is set in `headers` already: remove one of them", own.0.header);
                report.problem(&signed_in.key("header"), reason);
            }
            None => {
                let reason = "carries the signature of delivery.body_signature: remove it, or sign in another header";
                report.problem(&at.key("headers").key(name), reason);
            }
        }
    }
    let key = raw.ed25519_key.as_deref().map(|text| {
        let parsed = ed25519::parse_private(text);
        let parsed = parsed.map_err(|error| format!("{error}: make one with `sluiced secret --ed25519`"));
        report.check(&at.key("ed25519_key"), parsed)
    });
    Some(RequestShape {
        format: format?,
        cloudevents_source: given(source)?,
        body_signature: given(body_signature)?,
        ed25519_key: given(key)?,
    })
}

/// Checks what a webhook's answers mean; what it does not say is taken from `[delivery]`.
pub(super) fn answer(
    at: &KeyPath,
    raw: &raw::Webhook,
    defaults: Option<&Defaults<'_>>,
    report: &mut Report<'_>,
) -> Option<AnswerRules> {
    let own_capture = raw.capture_bytes_max.map(|n| capture(at, n, report));
    let own_retry = raw.retry_statuses.as_ref().map(|list| entries(&at.key("retry_statuses"), list, report));
    let own_fail = raw.fail_statuses.as_ref().map(|list| entries(&at.key("fail_statuses"), list, report));
    let defaults = defaults?;
    let statuses = if own_retry.is_none() && own_fail.is_none() {
        Some(defaults.valid.statuses.clone())
    } else {
        // Those of [delivery] were found valid there.
        let inherited = |list: &[String]| list.iter().filter_map(|text| Statuses::parse(text).ok()).collect();
        let key = if own_retry.is_some() { "retry_statuses" } else { "fail_statuses" };
        let retry = own_retry.unwrap_or_else(|| Some(inherited(defaults.retry_statuses)));
        let fail = own_fail.unwrap_or_else(|| Some(inherited(defaults.fail_statuses)));
        retry.zip(fail).and_then(|(retry, fail)| report.check(&at.key(key), StatusRules::new(retry, fail)))
    };
    let capture_bytes_max = own_capture.unwrap_or(Some(defaults.valid.capture_bytes_max));
    Some(AnswerRules { statuses: statuses?, capture_bytes_max: capture_bytes_max? })
}

/// Checks the two lists of statuses of the table at `at`.
pub(super) fn statuses(
    at: &KeyPath,
    retry: &[String],
    fail: &[String],
    report: &mut Report<'_>,
) -> Option<StatusRules> {
    let retry = entries(&at.key("retry_statuses"), retry, report);
    let fail = entries(&at.key("fail_statuses"), fail, report);
    report.check(&at.key("retry_statuses"), StatusRules::new(retry?, fail?))
}

/// Checks `capture_bytes_max` of the table at `at`.
pub(super) fn capture(at: &KeyPath, n: i64, report: &mut Report<'_>) -> Option<usize> {
    report.int(&at.key("capture_bytes_max"), n, &bounds::CAPTURE_BYTES)
}

fn entries(at: &KeyPath, list: &[String], report: &mut Report<'_>) -> Option<Vec<Statuses>> {
    let entries = list.iter().enumerate().map(|(i, text)| report.check(&at.index(i), Statuses::parse(text)));
    super::valid::all(entries)
}

/// Checks a further signature of a webhook, or of all that have none of their own.
pub(super) fn body_signature(at: &KeyPath, raw: &raw::BodySignature, report: &mut Report<'_>) -> Option<BodySignature> {
    let key = match &raw.keyed_by {
        None => Some(BodyKey::default()),
        Some(word) => report.word(&at.key("keyed_by"), word, &BODY_KEYS),
    };
    let at = at.key("header");
    let name = report.check(&at, signature_header(&raw.header))?;
    Some(BodySignature { header: name.as_str().into(), key: key? })
}

fn signature_header(name: &str) -> Result<HeaderName, &'static str> {
    if is_cloudevents_header(name) {
        return Err("belongs to CloudEvents: choose another name");
    }
    header_name(name)
}

fn is_cloudevents_header(name: &str) -> bool {
    name.get(..3).is_some_and(|prefix| prefix.eq_ignore_ascii_case("ce-"))
}

/// A URI reference, as far as it matters: something, of the characters that one may have.
fn source(text: &str) -> Result<Box<str>, String> {
    let max = bounds::CLOUDEVENTS_SOURCE_BYTES_MAX;
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=%".contains(&b);
    let valid = (1..=max).contains(&text.len()) && text.bytes().all(allowed);
    let reason = || format!("must be a URI such as \"https://shop.example/orders\", of at most {max} bytes");
    valid.then(|| text.into()).ok_or_else(reason)
}

/// A key that was given must be valid; one that was not is none.
pub(super) fn given<T>(checked: Option<Option<T>>) -> Option<Option<T>> {
    match checked {
        None => Some(None),
        Some(checked) => checked.map(Some),
    }
}
