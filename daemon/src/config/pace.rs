//! A webhook's order and pace: which events wait for each other, and how many attempts are made a time.

use std::num::NonZeroU32;

use http::HeaderName;

use super::places::KeyPath;
use super::raw;
use super::report::Report;
use super::valid::bounds;
use crate::domain::{HeadOfLine, KeySource, Order, RateLimit};

/// Checks a complete rate limit, given in full or in part by the table at `at`. A rate of 0 is no limit: `Some(None)`.
pub(super) fn rate_limit(at: &KeyPath, raw: &raw::RateLimit, report: &mut Report<'_>) -> Option<Option<RateLimit>> {
    let rate = report.int::<u32>(&at.key("rate"), raw.rate, &bounds::RATE_TOKENS);
    let per = report.duration(&at.key("per"), &raw.per, &bounds::RATE_SPAN);
    let burst = match raw.burst {
        // As many as come in one span, so that whoever has been quiet may send a span's worth at once.
        None => rate,
        Some(burst) => report.int::<u32>(&at.key("burst"), burst, &(1..=*bounds::RATE_TOKENS.end())),
    };
    let (rate, per, burst) = (rate?, per?, burst?);
    if rate == 0 {
        return Some(None);
    }
    report.check(at, RateLimit::new(rate, per, burst)).map(Some)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Ordering {
    None,
    Key,
    Strict,
}

const ORDERING: [(&str, Ordering); 3] =
    [("none", Ordering::None), ("key", Ordering::Key), ("strict", Ordering::Strict)];

const HEAD_OF_LINE: [(&str, HeadOfLine); 2] = [("dead-letter", HeadOfLine::DeadLetter), ("wait", HeadOfLine::Wait)];

/// Checks the order of the webhook at `at`.
pub(super) fn order(at: &KeyPath, raw: &raw::Webhook, report: &mut Report<'_>) -> Option<(Order, HeadOfLine)> {
    let ordering = match &raw.ordering {
        None => Some(Ordering::None),
        Some(word) => report.word(&at.key("ordering"), word, &ORDERING),
    };
    let head_of_line = match &raw.head_of_line {
        None => Some(HeadOfLine::default()),
        Some(word) => report.word(&at.key("head_of_line"), word, &HEAD_OF_LINE),
    };
    let key_at = at.key("order_key");
    let source = match &raw.order_key {
        None => Some(None),
        Some(key) => key_source(&key_at, &key.0, report).map(Some),
    };
    let (ordering, head_of_line, source) = (ordering?, head_of_line?, source?);
    if ordering == Ordering::None && raw.head_of_line.is_some() {
        let reason = "has no meaning without an order: set `ordering` to \"key\" or \"strict\", or remove it";
        report.problem(&at.key("head_of_line"), reason);
        return None;
    }
    let order = match (ordering, source) {
        (Ordering::Key, Some(source)) => Order::ByKey(source),
        (Ordering::Key, None) => {
            let reason =
                "needs `order_key` beside it: `{ token = 2 }` of the event type, or `{ header = \"X-Tenant\" }`";
            report.problem(&at.key("ordering"), reason);
            return None;
        }
        (_, Some(_)) => {
            report.problem(&key_at, "has no meaning without `ordering = \"key\"`: remove one of them");
            return None;
        }
        (Ordering::None, None) => Order::None,
        (Ordering::Strict, None) => Order::Strict,
    };
    Some((order, head_of_line))
}

fn key_source(at: &KeyPath, raw: &raw::OrderKey, report: &mut Report<'_>) -> Option<KeySource> {
    match (&raw.token, &raw.header) {
        (Some(token), None) => {
            let token = report.int::<u32>(&at.key("token"), *token, &bounds::KEY_TOKEN)?;
            NonZeroU32::new(token).map(KeySource::Token)
        }
        (None, Some(header)) => {
            let name = HeaderName::from_bytes(header.as_bytes()).map_err(|_| "is not a header name");
            report.check(&at.key("header"), name).map(|_| KeySource::Header(header.as_str().into()))
        }
        _ => {
            report.problem(at, "names one place: `token` (of the event type, from 1) or `header`");
            None
        }
    }
}
