//! How a request carries the event: its body, its media type, and the headers that belong to the format.
//!
//! It is decided when the request is made. What is parked or a dead letter is always the data itself, so that a format
//! that was changed counts for the next attempt too. Raw data is passed on without a copy.
//!
//! Data is JSON when its media type says so, or none was named and it begins and ends like an object or an array, and when
//! it parses: then it stands in the object byte for byte, so that no number loses a digit. Any other is base64.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use http::header::{HeaderName, HeaderValue};
use serde_json::value::RawValue;

use crate::deliver::prepared::{HEADER_VALUE_BYTES_MAX, HEADERS_MAX, Request, encode};
use crate::domain::BodyFormat;

/// What the names of a CloudEvent's headers begin with.
pub(super) const CLOUDEVENTS_PREFIX: &str = "ce-";
/// The last millisecond of the year 9999: RFC 3339 has no later time.
const TIME_MS_MAX: u64 = 253_402_300_799_999;
/// Attributes that a publisher cannot set: the version is ours, the others are the body and its media type.
const NOT_FROM_HEADERS: [&str; 3] = ["specversion", "datacontenttype", "data"];

/// A body with what belongs to it.
pub(super) struct Formed {
    pub(super) body: Bytes,
    pub(super) content_type: HeaderValue,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
}

/// Puts a request's event into its format. `content_type` is the media type of the data, `source` the CloudEvents' own.
pub(super) fn form(
    format: BodyFormat,
    source: Option<&str>,
    request: &Request<'_>,
    content_type: HeaderValue,
) -> Formed {
    let json = |body: Vec<u8>, media_type| Formed {
        body: body.into(),
        content_type: HeaderValue::from_static(media_type),
        headers: Vec::new(),
    };
    match format {
        BodyFormat::Raw => Formed { body: request.body.clone(), content_type, headers: Vec::new() },
        BodyFormat::Envelope => json(envelope(request, &content_type), "application/json"),
        BodyFormat::CloudEventsStructured => {
            json(structured(request, source, &content_type), "application/cloudevents+json")
        }
        BodyFormat::CloudEventsBinary => {
            let headers = attributes(request, source).into_iter().filter_map(|(name, value)| as_header(&name, &value));
            Formed { body: request.body.clone(), content_type, headers: headers.collect() }
        }
    }
}

/// `{"id", "type", "time", "data"}`, or in the place of `data`, for what is not JSON, `content_type` and `data_base64`.
fn envelope(request: &Request<'_>, content_type: &HeaderValue) -> Vec<u8> {
    let mut object = Object::new(&request.body);
    object.text("id", &part_id(request.event_id, request));
    object.text("type", request.event_type);
    object.text("time", &time(request.event_time_ms));
    match data(&request.body, content_type) {
        Data::Json(data) => object.raw("data", data.as_bytes()),
        Data::Empty => object.raw("data", b"null"),
        Data::Other(bytes) => {
            object.text("content_type", content_type.to_str().unwrap_or_default());
            object.text("data_base64", &STANDARD.encode(bytes));
        }
    }
    object.end()
}

/// The JSON format of CloudEvents 1.0.
fn structured(request: &Request<'_>, source: Option<&str>, content_type: &HeaderValue) -> Vec<u8> {
    let mut object = Object::new(&request.body);
    for (name, value) in attributes(request, source) {
        object.text(&name, &value);
    }
    let data = data(&request.body, content_type);
    if !matches!(data, Data::Empty) {
        object.text("datacontenttype", content_type.to_str().unwrap_or_default());
    }
    match data {
        Data::Json(data) => object.raw("data", data.as_bytes()),
        Data::Other(bytes) => object.text("data_base64", &STANDARD.encode(bytes)),
        Data::Empty => {}
    }
    object.end()
}

/// The attributes of the CloudEvent. An event that came as one keeps its own, extensions included.
fn attributes<'a>(request: &'a Request<'_>, source: Option<&'a str>) -> Vec<(Cow<'a, str>, Cow<'a, str>)> {
    let own = |name: &str| {
        let mut headers = request.headers.iter().take(HEADERS_MAX);
        let header = headers.find(|header| attribute(&header.name).is_some_and(|own| own.eq_ignore_ascii_case(name)));
        header.map(|header| &*header.value).filter(|value| !value.is_empty())
    };
    let source = own("source").or(source).map(Cow::Borrowed);
    let source = source.unwrap_or_else(|| format!("/streams/{}", request.stream).into());
    let time = own("time").map(Cow::Borrowed).unwrap_or_else(|| time(request.event_time_ms).into());
    let mut attributes: Vec<(Cow<'_, str>, Cow<'_, str>)> = vec![
        ("specversion".into(), "1.0".into()),
        ("id".into(), part_id(own("id").unwrap_or(request.event_id), request)),
        ("source".into(), source),
        ("type".into(), own("type").unwrap_or(request.event_type).into()),
        ("time".into(), time),
    ];
    for header in request.headers.iter().take(HEADERS_MAX) {
        let Some(name) = attribute(&header.name).map(str::to_ascii_lowercase) else { continue };
        let valid = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric());
        let taken = attributes.iter().any(|(other, _)| *other == name);
        if valid && !taken && !NOT_FROM_HEADERS.contains(&&*name) && !header.value.is_empty() {
            attributes.push((name.into(), (&*header.value).into()));
        }
    }
    attributes
}

/// The attribute that a header of that name stands for.
fn attribute(header: &str) -> Option<&str> {
    let (prefix, name) = header.split_at_checked(CLOUDEVENTS_PREFIX.len())?;
    prefix.eq_ignore_ascii_case(CLOUDEVENTS_PREFIX).then_some(name)
}

/// An id that no two outputs of one event share.
fn part_id<'a>(id: &'a str, request: &Request<'_>) -> Cow<'a, str> {
    if request.parts > 1 { format!("{id}#{}", request.part).into() } else { id.into() }
}

fn time(ms: u64) -> String {
    let time = SystemTime::UNIX_EPOCH + Duration::from_millis(ms.min(TIME_MS_MAX));
    humantime::format_rfc3339_millis(time).to_string()
}

/// An attribute as the HTTP binding has it: what is not visible ASCII, and quotes and percent signs, percent-encoded.
fn as_header(name: &str, value: &str) -> Option<(HeaderName, HeaderValue)> {
    let name = HeaderName::from_bytes([CLOUDEVENTS_PREFIX, name].concat().as_bytes()).ok()?;
    let mut encoded = BytesMut::with_capacity(value.len());
    encode(value, HEADER_VALUE_BYTES_MAX, |b| (b'!'..=b'~').contains(&b) && b != b'"' && b != b'%', &mut encoded);
    Some((name, HeaderValue::from_maybe_shared(encoded.freeze()).ok()?))
}

enum Data<'a> {
    Json(&'a str),
    Other(&'a [u8]),
    Empty,
}

fn data<'a>(body: &'a [u8], content_type: &HeaderValue) -> Data<'a> {
    if body.is_empty() {
        return Data::Empty;
    }
    if !content_type.to_str().is_ok_and(is_json) {
        return Data::Other(body);
    }
    match serde_json::from_slice::<&RawValue>(body) {
        Ok(json) => Data::Json(json.get()),
        Err(_) => Data::Other(body),
    }
}

/// Is a media type JSON: `application/json`, or one that ends with `+json`?
fn is_json(media_type: &str) -> bool {
    let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    matches!(&*essence, "application/json" | "text/json") || essence.ends_with("+json")
}

/// A JSON object that is written member by member.
struct Object(Vec<u8>);

impl Object {
    fn new(data: &[u8]) -> Self {
        Self(Vec::with_capacity(data.len() + 256))
    }

    fn raw(&mut self, name: &str, json: &[u8]) {
        self.0.push(if self.0.is_empty() { b'{' } else { b',' });
        self.write(name);
        self.0.push(b':');
        self.0.extend_from_slice(json);
    }

    fn text(&mut self, name: &str, value: &str) {
        self.raw(name, b"");
        self.write(value);
    }

    fn write(&mut self, text: &str) {
        serde_json::to_writer(&mut self.0, text).expect("a text can be written to memory as JSON");
    }

    fn end(mut self) -> Vec<u8> {
        self.0.push(b'}');
        self.0
    }
}

#[cfg(test)]
mod tests;
