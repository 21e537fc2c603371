//! An endpoint made ready for many attempts, and the headers and body of one request.
//!
//! Everything that does not change from attempt to attempt is checked and computed once here; what is left for each
//! attempt is the body's format, the signature and six header values, which share one buffer.

use std::fmt;
use std::fmt::Write as _;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::Uri;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use url::{Host, Url};

use crate::deliver::client::Http;
use crate::deliver::format::{self, CLOUDEVENTS_PREFIX};
use crate::deliver::redact::Confidential;
use crate::deliver::signing::{Signer, Signing};
use crate::deliver::{ed25519, tls};
use crate::domain::{AnswerRules, BodyFormat, BodyKey, BodySignature, DeliveryId, Endpoint, Header};

/// The longest endpoint URL, in bytes.
pub const URL_BYTES_MAX: usize = 2_048;
/// The most headers that an endpoint may add, and the most that transforms may add to one request.
pub const HEADERS_MAX: usize = 64;
/// The longest value of an added header, in bytes as sent.
pub const HEADER_VALUE_BYTES_MAX: usize = 8_192;
/// The longest `sluiced-event-id` and `sluiced-event-type`, in bytes as sent. What is longer is cut.
pub const EVENT_HEADER_BYTES_MAX: usize = 1_024;

static WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
static WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
static WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
static EVENT_ID: HeaderName = HeaderName::from_static("sluiced-event-id");
static EVENT_TYPE: HeaderName = HeaderName::from_static("sluiced-event-type");
static ATTEMPT: HeaderName = HeaderName::from_static("sluiced-attempt");
/// Says that a request is of a replay, and of which.
pub const REPLAY_HEADER: &str = "sluiced-replay";
static REPLAY: HeaderName = HeaderName::from_static(REPLAY_HEADER);
static TEST: HeaderName = HeaderName::from_static("sluiced-test");

/// The headers that belong to the connection or to the daemon, besides those of [`RESERVED_PREFIXES`].
const RESERVED: [&str; 9] =
    ["host", "content-length", "transfer-encoding", "connection", "te", "upgrade", "trailer", "expect", "keep-alive"];
/// What reserved header names begin with.
const RESERVED_PREFIXES: [&str; 3] = ["proxy-", "webhook-", "sluiced-"];

/// Why an endpoint cannot be delivered to as it is written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The URL does not parse, or cannot stand in a request.
    #[error("the URL is not valid")]
    Url(#[source] Option<url::ParseError>),
    /// The URL is longer than [`URL_BYTES_MAX`].
    #[error("the URL is longer than {URL_BYTES_MAX} bytes")]
    UrlLength,
    /// The URL is neither http nor https.
    #[error("the URL's scheme is `{0}`, not http or https")]
    Scheme(Box<str>),
    /// The URL has no host.
    #[error("the URL has no host")]
    Host,
    /// The URL has a user name or password.
    #[error("the URL has a user name or password; use a header instead")]
    UserInfo,
    /// The URL has a fragment, which is never sent.
    #[error("the URL has a fragment")]
    Fragment,
    /// There are more than [`HEADERS_MAX`] headers.
    #[error("there are more than {HEADERS_MAX} headers")]
    HeaderCount,
    /// A header's name is not one.
    #[error("`{0}` is not a header name")]
    HeaderName(Box<str>),
    /// A header belongs to the connection or to the daemon.
    #[error("the header `{0}` is reserved")]
    HeaderReserved(Box<str>),
    /// A header belongs to the body's format.
    #[error("the header `{0}` belongs to the CloudEvents that the endpoint is sent")]
    HeaderOfFormat(Box<str>),
    /// The header of the second signature is one that the endpoint sets too.
    #[error("the header `{0}` is the second signature's already")]
    HeaderTwice(Box<str>),
    /// A header's value has characters other than visible ASCII, spaces and tabs, or is longer than
    /// [`HEADER_VALUE_BYTES_MAX`].
    #[error("the value of the header `{0}` is not printable ASCII of at most {HEADER_VALUE_BYTES_MAX} bytes")]
    HeaderValue(Box<str>),
    /// A file of its TLS settings cannot be used.
    #[error("TLS cannot be done as the endpoint asks")]
    Tls(#[source] tls::Error),
}

/// One delivery's next request.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// The delivery; its text is the `webhook-id`.
    pub delivery: DeliveryId,
    /// Sent as `sluiced-event-id`, with what cannot stand in a header percent-encoded.
    pub event_id: &'a str,
    /// Sent as `sluiced-event-type`, encoded in the same way.
    pub event_type: &'a str,
    /// When the event was stored in its stream, in milliseconds since the Unix epoch.
    pub event_time_ms: u64,
    /// The event's stream.
    pub stream: &'a str,
    /// Which of the event's outputs it is; 0 is the first.
    pub part: u32,
    /// How many outputs the event has.
    pub parts: u32,
    /// Which attempt it is; 1 is the first.
    pub attempt: u32,
    /// The body's media type. Without one it is `application/json` for a body that begins and ends like a JSON object or
    /// array, and `application/octet-stream` for any other.
    pub content_type: Option<&'a str>,
    /// Headers that transforms set. Those that are reserved, that the endpoint sets itself, or that are no headers at all
    /// are left out.
    pub headers: &'a [Header],
    /// The job that replays the event, sent as `sluiced-replay`.
    pub replay: Option<&'a str>,
    /// Say in `sluiced-test` that it is a trial.
    pub test: bool,
    /// The data: what the endpoint's body format makes of it is signed and sent.
    pub body: Bytes,
    /// The time in milliseconds since the Unix epoch.
    pub now_ms: u64,
}

#[cfg(test)]
impl Request<'static> {
    /// One for tests, which name what matters to them.
    pub(super) fn sample() -> Self {
        Self {
            delivery: DeliveryId::from_bytes([7; 16]),
            event_id: "e-1",
            event_type: "orders.created",
            event_time_ms: 1_699_999_999_123,
            stream: "EVENTS",
            part: 0,
            parts: 1,
            attempt: 1,
            content_type: None,
            headers: &[],
            replay: None,
            test: false,
            body: Bytes::from_static(br#"{"amount":1}"#),
            now_ms: 0,
        }
    }
}

/// An endpoint, checked, with everything computed that does not change from attempt to attempt.
pub struct Prepared {
    pub(super) uri: Uri,
    /// Host and explicit port: what messages may name of the URL.
    pub(super) host: Box<str>,
    /// How TLS is done with it, where that differs from the default.
    pub(super) tls: Option<tls::Own>,
    /// The HTTP client for `tls`, once it has been asked for.
    pub(super) own_client: OnceLock<Arc<Http>>,
    pub(super) connect_timeout: Duration,
    pub(super) total_timeout: Duration,
    /// What its answers mean, and how much of them is kept.
    pub(super) answer: AnswerRules,
    /// What it is sent in confidence.
    pub(super) confidential: Confidential,
    format: BodyFormat,
    cloudevents_source: Option<Box<str>>,
    headers: HeaderMap,
    signing: Signing,
    ed25519: Option<Box<ed25519::Signer>>,
    /// The header of the second signature, and what it is keyed by.
    body_signature: Option<(HeaderName, BodyKey)>,
}

/// What is sent: the signatures are of this body.
pub(super) struct Message {
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Prepared {
    /// Its host, and its port where the URL names one.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Checks the endpoint, reads the files that it names, and computes what its attempts share. Blocks.
    ///
    /// # Errors
    /// When the URL is not an http or https URL with a host and without user information and fragment, a header is
    /// invalid or reserved, or a file of its TLS settings cannot be used.
    pub fn new(endpoint: &Endpoint) -> Result<Self, Error> {
        Self::signed_by(endpoint, Signing::of(Signer::new(&endpoint.secret)))
    }

    /// The same, signed with what the handle holds at the time of each request, whatever secret the endpoint has.
    ///
    /// # Errors
    /// As [`Prepared::new`].
    pub fn signed_by(endpoint: &Endpoint, signing: Signing) -> Result<Self, Error> {
        let (url, uri) = check_url(&endpoint.url)?;
        let name = match url.host() {
            None => return Err(Error::Host),
            Some(Host::Domain(name)) => name.to_owned(),
            Some(Host::Ipv4(address)) => address.to_string(),
            Some(Host::Ipv6(address)) => format!("[{address}]"),
        };
        let host = url.port().map(|port| format!("{name}:{port}")).unwrap_or(name);
        let shape = &endpoint.request;
        let headers = check_headers(&endpoint.headers, shape.format)?;
        let body_signature = shape.body_signature.as_ref().map(|of| check_body_signature(of, &headers));
        Ok(Self {
            confidential: Confidential::new(&url, &headers),
            uri,
            host: host.into(),
            tls: endpoint.tls.as_ref().map(tls::Own::load).transpose().map_err(Error::Tls)?,
            own_client: OnceLock::new(),
            connect_timeout: endpoint.connect_timeout,
            total_timeout: endpoint.total_timeout,
            answer: endpoint.answer.clone(),
            format: shape.format,
            cloudevents_source: shape.cloudevents_source.clone(),
            headers,
            signing,
            ed25519: shape.ed25519_key.as_ref().map(|key| Box::new(ed25519::Signer::new(key))),
            body_signature: body_signature.transpose()?,
        })
    }

    /// Is it sent CloudEvents?
    pub fn is_cloudevents(&self) -> bool {
        self.format.is_cloudevents()
    }

    /// The headers and the body of a request, signed.
    pub(super) fn message(&self, request: &Request<'_>) -> Message {
        let source = self.cloudevents_source.as_deref();
        let formed = format::form(self.format, source, request, self.content_type(request));
        let mut headers = self.headers.clone();
        headers.reserve(8 + formed.headers.len() + request.headers.len().min(HEADERS_MAX));
        self.sign(request, &formed.body, &mut headers);
        if let Some(replay) = request.replay.and_then(lenient_value) {
            headers.insert(&REPLAY, replay);
        }
        if request.test {
            headers.insert(&TEST, HeaderValue::from_static("true"));
        }
        headers.insert(CONTENT_TYPE, formed.content_type);
        headers.extend(formed.headers);
        for header in request.headers.iter().take(HEADERS_MAX) {
            let Ok(name) = HeaderName::from_bytes(header.name.as_bytes()) else { continue };
            if let Some(value) = lenient_value(&header.value)
                && !self.sets(&name)
            {
                headers.append(name, value);
            }
        }
        Message { headers, body: formed.body }
    }

    /// Is a header of that name not for transforms to set?
    fn sets(&self, name: &HeaderName) -> bool {
        let of_format = self.format.is_cloudevents() && name.as_str().starts_with(CLOUDEVENTS_PREFIX);
        let signs = self.body_signature.as_ref().is_some_and(|(own, _)| own == name);
        name == CONTENT_TYPE || of_format || signs || is_reserved(name) || self.headers.contains_key(name)
    }

    /// The media type of a request's data.
    fn content_type(&self, request: &Request<'_>) -> HeaderValue {
        let mut headers = request.headers.iter().take(HEADERS_MAX);
        let own = self.headers.get(CONTENT_TYPE).cloned();
        own.or_else(|| request.content_type.and_then(lenient_value))
            .or_else(|| {
                headers
                    .find(|h| h.name.eq_ignore_ascii_case(CONTENT_TYPE.as_str()))
                    .and_then(|h| lenient_value(&h.value))
            })
            .unwrap_or_else(|| HeaderValue::from_static(guess_content_type(&request.body)))
    }

    /// Adds the daemon's own headers. Their values are parts of one buffer, so that they cost one allocation.
    fn sign(&self, request: &Request<'_>, body: &[u8], headers: &mut HeaderMap) {
        let event_bytes = request.event_id.len() + request.event_type.len();
        let signer = self.signing.load();
        let mut text = BytesMut::with_capacity(80 + signer.len() + event_bytes);
        let _ = write!(text, "{}", request.delivery);
        let id_end = text.len();
        let _ = write!(text, "{}", request.now_ms / 1_000);
        let timestamp_end = text.len();
        let mut signature = BytesMut::with_capacity(signer.len());
        signer.sign_into(&text[..id_end], &text[id_end..], request.now_ms, body, &mut signature);
        if let Some(signer) = &self.ed25519 {
            if !signature.is_empty() {
                signature.extend_from_slice(b" ");
            }
            let parts = [&text[..id_end], b".", &text[id_end..], b".", body];
            signature.extend_from_slice(signer.sign(&parts).as_bytes());
        }
        text.extend_from_slice(&signature);
        let signature_end = text.len();
        let _ = write!(text, "{}", request.attempt);
        let attempt_end = text.len();
        encode_event_text(request.event_id, &mut text);
        let event_id_end = text.len();
        encode_event_text(request.event_type, &mut text);
        let text = text.freeze();
        let ends = [
            (&WEBHOOK_ID, id_end),
            (&WEBHOOK_TIMESTAMP, timestamp_end),
            (&WEBHOOK_SIGNATURE, signature_end),
            (&ATTEMPT, attempt_end),
            (&EVENT_ID, event_id_end),
            (&EVENT_TYPE, text.len()),
        ];
        let mut start = 0;
        for (name, end) in ends {
            let value = HeaderValue::from_maybe_shared(text.slice(start..end));
            headers.insert(name, value.expect("only visible ASCII was written"));
            start = end;
        }
        if let Some((name, key)) = &self.body_signature
            && let Some(value) = signer.sign_body(*key, body)
        {
            let value = HeaderValue::from_maybe_shared(Bytes::from(value));
            headers.insert(name, value.expect("hexadecimal digits are visible ASCII"));
        }
    }
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prepared").field("host", &self.host).finish_non_exhaustive()
    }
}

fn check_url(text: &str) -> Result<(Url, Uri), Error> {
    if text.len() > URL_BYTES_MAX {
        return Err(Error::UrlLength);
    }
    let url = Url::parse(text).map_err(|e| match e {
        url::ParseError::EmptyHost => Error::Host,
        e => Error::Url(Some(e)),
    })?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(Error::Scheme(url.scheme().into()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Error::UserInfo);
    }
    if url.fragment().is_some() {
        return Err(Error::Fragment);
    }
    // The client parses the URL a second time by its own rules, and must come to the same host.
    let uri: Uri = url.as_str().parse().map_err(|_| Error::Url(None))?;
    if uri.host() != url.host_str() { Err(Error::Url(None)) } else { Ok((url, uri)) }
}

fn check_headers(headers: &[Header], format: BodyFormat) -> Result<HeaderMap, Error> {
    if headers.len() > HEADERS_MAX {
        return Err(Error::HeaderCount);
    }
    let mut checked = HeaderMap::with_capacity(headers.len());
    for header in headers {
        let shown = || header.name.clone();
        let name = HeaderName::from_bytes(header.name.as_bytes()).map_err(|_| Error::HeaderName(shown()))?;
        if is_reserved(&name) {
            return Err(Error::HeaderReserved(shown()));
        }
        if format.is_cloudevents() && name.as_str().starts_with(CLOUDEVENTS_PREFIX) {
            return Err(Error::HeaderOfFormat(shown()));
        }
        if header.value.len() > HEADER_VALUE_BYTES_MAX || !header.value.bytes().all(is_plain) {
            return Err(Error::HeaderValue(shown()));
        }
        let mut value = HeaderValue::from_str(&header.value).map_err(|_| Error::HeaderValue(shown()))?;
        value.set_sensitive(true);
        checked.append(name, value);
    }
    Ok(checked)
}

/// The header of the second signature, and what it is keyed by.
fn check_body_signature(of: &BodySignature, own: &HeaderMap) -> Result<(HeaderName, BodyKey), Error> {
    let name = HeaderName::from_bytes(of.header.as_bytes()).map_err(|_| Error::HeaderName(of.header.clone()))?;
    if is_reserved(&name) || name == CONTENT_TYPE || name.as_str().starts_with(CLOUDEVENTS_PREFIX) {
        return Err(Error::HeaderReserved(of.header.clone()));
    }
    if own.contains_key(&name) {
        return Err(Error::HeaderTwice(of.header.clone()));
    }
    Ok((name, of.key))
}

fn is_reserved(name: &HeaderName) -> bool {
    let name = name.as_str();
    RESERVED.contains(&name) || RESERVED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Whether a byte may stand in a header's value everywhere. The client would send bytes beyond ASCII too, but what
/// receivers make of them differs.
fn is_plain(byte: u8) -> bool {
    byte == b'\t' || (b' '..=b'~').contains(&byte)
}

/// The value as it stands when it may, else with the characters that may not stand in a header percent-encoded. `None`
/// when it is too long.
fn lenient_value(text: &str) -> Option<HeaderValue> {
    if text.len() > HEADER_VALUE_BYTES_MAX {
        return None;
    }
    if text.bytes().all(is_plain) {
        return HeaderValue::from_str(text).ok();
    }
    let mut encoded = BytesMut::with_capacity(text.len() * 3);
    encode(text, text.len() * 3, is_plain, &mut encoded);
    let fits = encoded.len() <= HEADER_VALUE_BYTES_MAX;
    HeaderValue::from_maybe_shared(encoded.freeze()).ok().filter(|_| fits)
}

/// Encodes an event's id or type as CloudEvents does in HTTP headers: whatever the text, decoding gives it back.
fn encode_event_text(text: &str, out: &mut BytesMut) {
    encode(text, EVENT_HEADER_BYTES_MAX, |b| (b'!'..=b'~').contains(&b) && b != b'"' && b != b'%', out);
}

/// Appends `text` with the bytes that are not `plain` percent-encoded, cut before it would pass `bytes_max`.
pub(super) fn encode(text: &str, bytes_max: usize, plain: impl Fn(u8) -> bool, out: &mut BytesMut) {
    const DIGITS: [u8; 16] = *b"0123456789ABCDEF";
    let end = out.len() + bytes_max;
    for byte in text.bytes() {
        let escaped = [b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]];
        let piece: &[u8] = if plain(byte) { &[byte] } else { &escaped };
        if out.len() + piece.len() > end {
            break;
        }
        out.extend_from_slice(piece);
    }
}

fn guess_content_type(body: &[u8]) -> &'static str {
    let body = body.trim_ascii();
    match (body.first(), body.last()) {
        (Some(b'{'), Some(b'}')) | (Some(b'['), Some(b']')) => "application/json",
        _ => "application/octet-stream",
    }
}

#[cfg(test)]
mod tests;
