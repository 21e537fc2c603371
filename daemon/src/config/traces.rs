//! `[traces]`: where spans go, and of what.

use std::collections::BTreeMap;

use http::{HeaderName, HeaderValue};

use super::places::KeyPath;
use super::report::Report;
use super::valid::{all, bounds, plain_url};
use super::{Collector, Secret, Traces, raw};

pub(super) fn traces(raw: raw::Traces, report: &mut Report<'_>) -> Option<Traces> {
    let at = KeyPath::top("traces");
    let collector = match raw.otlp_url {
        None => Some(None),
        Some(url) => {
            let url = report.check(&at.key("otlp_url"), plain_url(&url));
            let headers = headers(&at.key("otlp_headers"), raw.otlp_headers, report);
            url.zip(headers).map(|(url, headers)| Some(Collector { url, headers }))
        }
    };
    let (low, high) = (bounds::SAMPLE_RATIO.start(), bounds::SAMPLE_RATIO.end());
    let ratio = bounds::SAMPLE_RATIO.contains(&raw.sample_ratio).then_some(raw.sample_ratio);
    let sample_ratio = report.check(
        &at.key("sample_ratio"),
        ratio.ok_or_else(|| format!("must be from {low} to {high}, not {}", raw.sample_ratio)),
    );
    let named = Some(raw.service_name).filter(|name| !name.is_empty()).ok_or("must not be empty");
    let service_name = report.check(&at.key("service_name"), named);
    Some(Traces { collector: collector?, sample_ratio: sample_ratio?, service_name: service_name? })
}

fn headers(at: &KeyPath, raw: BTreeMap<String, String>, report: &mut Report<'_>) -> Option<Vec<(String, Secret)>> {
    all(raw.into_iter().map(|(name, value)| {
        let valid = name.parse::<HeaderName>().is_ok() && HeaderValue::from_str(&value).is_ok();
        let header = valid.then(|| (name.clone(), Secret(value.into())));
        report.check(&at.key(&name), header.ok_or("is no header that can be sent"))
    }))
}
