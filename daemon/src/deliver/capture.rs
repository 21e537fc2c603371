//! What is kept of an answer: some headers and the beginning of the body, as they came, without what the receiver was sent
//! in confidence. Nothing is decompressed, so a body takes no more memory than it takes on the wire.

use bytes::Bytes;
use http::HeaderMap;
use http::header::SET_COOKIE;

use crate::deliver::prepared::Prepared;
use crate::domain::{Header, Response};

/// The most headers of an answer that are kept.
pub const RESPONSE_HEADERS_MAX: usize = 16;
/// How much of each header's value is kept, in bytes.
pub const RESPONSE_HEADER_BYTES_MAX: usize = 256;
/// How much of a refusal's body goes into the failure's message, in bytes.
const SAID_BYTES_MAX: usize = 200;

/// An answer while it comes in.
pub(super) struct Capture<'a> {
    target: &'a Prepared,
    headers: Vec<Header>,
    body: Vec<u8>,
    /// How much of the body is looked at: what is kept, and as much as it takes to see a value that begins within it.
    bytes_max: usize,
    seen_bytes: usize,
    ended: bool,
}

impl<'a> Capture<'a> {
    /// Begins with the headers of an answer.
    pub(super) fn of(target: &'a Prepared, headers: &HeaderMap) -> Self {
        let kept = target.answer.capture_bytes_max;
        let headers = if kept == 0 { Vec::new() } else { kept_headers(target, headers) };
        let bytes_max = if kept == 0 { 0 } else { kept + target.confidential.bytes_max() };
        Self { target, headers, body: Vec::new(), bytes_max, seen_bytes: 0, ended: false }
    }

    /// Takes the next piece of the body.
    pub(super) fn push(&mut self, chunk: &[u8]) {
        let wanted = self.bytes_max.saturating_sub(self.body.len()).min(chunk.len());
        self.body.extend_from_slice(&chunk[..wanted]);
        self.seen_bytes = self.seen_bytes.saturating_add(chunk.len());
    }

    /// The body has come to its end, as the receiver meant it.
    pub(super) fn ended(&mut self) {
        self.ended = true;
    }

    /// What is kept, when the endpoint keeps answers.
    pub(super) fn finish(self) -> Option<Box<Response>> {
        let kept_max = self.target.answer.capture_bytes_max;
        if kept_max == 0 {
            return None;
        }
        let truncated = !self.ended || self.seen_bytes > kept_max;
        let mut body = self.target.confidential.redacted(self.body);
        if body.len() > kept_max {
            body.truncate(text_boundary(&body, kept_max));
        }
        Some(Box::new(Response { headers: self.headers, body: Bytes::from(body), truncated }))
    }
}

/// What a receiver said, as it may go into a message: on one line, and short.
pub(super) fn said(response: &Response) -> String {
    let mut said = String::new();
    let text = String::from_utf8_lossy(&response.body);
    for c in text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }) {
        if said.len() + c.len_utf8() > SAID_BYTES_MAX {
            break;
        }
        said.push(c);
    }
    said
}

/// The first headers, without cookies: they are the receiver's own secrets.
fn kept_headers(target: &Prepared, headers: &HeaderMap) -> Vec<Header> {
    let kept = headers.iter().filter(|(name, _)| *name != SET_COOKIE).take(RESPONSE_HEADERS_MAX);
    let kept = kept.map(|(name, value)| {
        let value = target.confidential.redacted(value.as_bytes().to_vec());
        let mut value = String::from_utf8_lossy(&value).into_owned();
        value.truncate(value.floor_char_boundary(RESPONSE_HEADER_BYTES_MAX));
        Header { name: name.as_str().into(), value: value.into() }
    });
    kept.collect()
}

/// The last place at or before `at` that is not within a character, should the bytes be text.
fn text_boundary(bytes: &[u8], at: usize) -> usize {
    let within = |at: &usize| bytes.get(*at).is_some_and(|byte| byte & 0xc0 == 0x80);
    (at.saturating_sub(3)..=at).rev().find(|at| !within(at)).unwrap_or(at)
}
