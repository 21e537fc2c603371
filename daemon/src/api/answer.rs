//! What receivers answered, and bodies, as the API shows them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;

use crate::domain::{Header, Response};
use crate::store::Attempt;
use crate::telemetry::clock;

/// A body: as text when it is UTF-8, else in base64.
#[derive(Serialize)]
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
#[derive(Serialize)]
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
#[derive(Serialize)]
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
