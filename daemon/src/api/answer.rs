//! Bodies, what receivers answered, attempts and entries of the log, as the API shows them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use utoipa::ToSchema;

use crate::domain::{FailureClass, Header, Response};
use crate::store::{self, Attempt, LogEntry};
use crate::telemetry::clock;

/// A body: as text when it is UTF-8, else in base64.
#[derive(Serialize, ToSchema)]
#[schema(as = Payload)]
pub(super) struct Body {
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_base64: Option<String>,
}

impl From<&[u8]> for Body {
    fn from(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self { body: Some(text.to_owned()), body_base64: None },
            Err(_) => Self { body: None, body_base64: Some(STANDARD.encode(bytes)) },
        }
    }
}

/// Headers as pairs of name and value: a name may come twice.
pub(super) fn headers(headers: &[Header]) -> Vec<[String; 2]> {
    headers.iter().map(|header| [header.name.to_string(), header.value.to_string()]).collect()
}

/// What a receiver answered, as far as it was captured.
#[derive(Serialize, ToSchema)]
#[schema(as = ReceiverAnswer)]
pub(super) struct Answer {
    headers: Vec<[String; 2]>,
    #[serde(flatten)]
    body: Body,
    /// Whether the body went on.
    truncated: bool,
}

impl From<&Response> for Answer {
    fn from(response: &Response) -> Self {
        Self {
            headers: headers(&response.headers),
            body: Body::from(&response.body[..]),
            truncated: response.truncated,
        }
    }
}

/// One attempt of a delivery's history.
#[derive(Serialize, ToSchema)]
#[schema(as = Attempt)]
pub(super) struct Try {
    number: u32,
    at: String,
    took_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    class: Option<String>,
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<Answer>,
}

impl From<&Attempt> for Try {
    fn from(attempt: &Attempt) -> Self {
        Self {
            number: attempt.number,
            at: clock::rfc3339(attempt.at_ms),
            took_ms: attempt.took_ms,
            status: attempt.status,
            class: attempt.class.as_deref().map(ToOwned::to_owned),
            reason: attempt.message.to_string(),
            response: attempt.response.as_ref().map(Answer::from),
        }
    }
}

impl From<&LogEntry> for Try {
    fn from(entry: &LogEntry) -> Self {
        let detail = entry.detail.as_deref();
        Self {
            number: entry.attempt,
            at: clock::rfc3339(entry.at_ms),
            took_ms: detail.map_or(0, |detail| detail.took_ms),
            status: entry.status,
            class: entry.class.map(|class| class.as_str().to_owned()),
            reason: detail.map(|detail| detail.message.to_string()).unwrap_or_default(),
            response: detail.and_then(|detail| detail.response.as_ref()).map(Answer::from),
        }
    }
}

/// One entry of the log.
#[derive(Serialize, ToSchema)]
#[schema(as = LogEntry)]
pub(super) struct Logged {
    id: String,
    stream: String,
    sequence: u64,
    part: u32,
    parts: u32,
    attempt: u32,
    /// `delivered`, `dropped`, `parked` or `dead`.
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    /// Whose fault it was, when it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    class: Option<&'static str>,
    at: String,
    /// Of a failed attempt: how long it took, when the next one is due, what happened, and what the receiver answered.
    #[serde(flatten)]
    detail: Option<Detail>,
}

#[derive(Serialize, ToSchema)]
#[schema(as = LogDetail)]
struct Detail {
    took_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_due: Option<String>,
    reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<Answer>,
}

impl From<&store::Detail> for Detail {
    fn from(detail: &store::Detail) -> Self {
        Self {
            took_ms: detail.took_ms,
            next_due: detail.due_ms.map(clock::rfc3339),
            reason: detail.message.to_string(),
            response: detail.response.as_ref().map(Answer::from),
        }
    }
}

impl From<&LogEntry> for Logged {
    fn from(entry: &LogEntry) -> Self {
        Self {
            id: entry.delivery().to_string(),
            stream: entry.position.stream.to_string(),
            sequence: entry.position.sequence,
            part: entry.part,
            parts: entry.parts,
            attempt: entry.attempt,
            outcome: entry.disposition.as_str(),
            status: entry.status,
            class: entry.class.map(FailureClass::as_str),
            at: clock::rfc3339(entry.at_ms),
            detail: entry.detail.as_deref().map(Detail::from),
        }
    }
}
