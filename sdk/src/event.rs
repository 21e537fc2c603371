//! The records that cross the boundary, as the contract in `wit/plugin.wit` has them. The generated bindings lift and
//! lower these very types, so their fields must stay those of the contract.

use serde::Deserialize;
use serde::Serialize;

use crate::Error;

/// A header of an event or of an output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// The name, as it was sent. Names are compared without regard to case.
    pub name: String,
    /// The value, as it was sent.
    pub value: String,
}

/// One event, as it was read from the stream, or as the transform before this one left it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The event's id: `Nats-Msg-Id`, else `ce-id`, else `stream:sequence`.
    pub id: String,
    /// The event type: the subject less the stream's configured prefix.
    pub type_: String,
    /// The NATS subject that it was published on.
    pub subject: String,
    /// The name of its JetStream stream.
    pub stream: String,
    /// Its sequence in that stream; 1 is the first.
    pub sequence: u64,
    /// When JetStream stored it, in milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// The media type of `data`, where the publisher named one.
    pub content_type: Option<String>,
    /// The publisher's headers that the plugin asked for, in their order.
    pub headers: Vec<Header>,
    /// The payload; empty when the plugin said that it does not need it.
    pub data: Vec<u8>,
}

impl Event {
    /// Reads the payload as JSON.
    ///
    /// # Errors
    /// The payload is not JSON, or not of this shape.
    pub fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Error> {
        serde_json::from_slice(&self.data)
            .map_err(|error| Error::from(error).context("the payload is not the JSON that was expected"))
    }

    /// Reads the payload as UTF-8 text.
    ///
    /// # Errors
    /// The payload is not UTF-8.
    pub fn text(&self) -> Result<&str, Error> {
        str::from_utf8(&self.data).map_err(|error| Error::from(error).context("the payload is not UTF-8 text"))
    }

    /// The value of the first header of this name, whatever its case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name)).map(|header| header.value.as_str())
    }

    /// Does the content type say JSON: `application/json`, or any type that ends in `+json`?
    pub fn is_json(&self) -> bool {
        self.content_type.as_deref().is_some_and(is_json_type)
    }
}

/// Is this media type JSON: `application/json`, or any type that ends in `+json`, with or without parameters?
pub fn is_json_type(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    let suffix = essence.get(essence.len().saturating_sub("+json".len())..).unwrap_or_default();
    essence.eq_ignore_ascii_case("application/json") || suffix.eq_ignore_ascii_case("+json")
}

/// What a filter says of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The event goes on.
    Keep,
    /// The event is not for this subscription; the reason, if any, is shown when somebody asks where it went.
    Drop(Option<String>),
}

impl Verdict {
    /// Drops the event and says why.
    pub fn drop_because(reason: impl Into<String>) -> Self {
        Self::Drop(Some(reason.into()))
    }
}

/// One output of a transform, delivered in place of the event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// The payload.
    pub data: Vec<u8>,
    /// The media type of `data`; none keeps the event's.
    pub content_type: Option<String>,
    /// Headers to set; each takes the place of the event's headers of that name.
    pub headers: Vec<Header>,
    /// Another event type; none keeps the event's.
    pub type_: Option<String>,
}

impl Output {
    /// These bytes, with the event's content type.
    pub fn bytes(data: impl Into<Vec<u8>>) -> Self {
        Self { data: data.into(), ..Self::default() }
    }

    /// This text, as `text/plain; charset=utf-8`.
    pub fn text(text: impl Into<String>) -> Self {
        Self::bytes(text.into()).content_type("text/plain; charset=utf-8")
    }

    /// This value as compact JSON, as `application/json`.
    ///
    /// # Errors
    /// The value cannot be written as JSON, for example a map with keys that are not strings.
    pub fn json(value: &(impl Serialize + ?Sized)) -> Result<Self, Error> {
        let data =
            serde_json::to_vec(value).map_err(|error| Error::from(error).context("writing the output as JSON"))?;
        Ok(Self::bytes(data).content_type("application/json"))
    }

    /// Names the media type.
    #[must_use]
    pub fn content_type(mut self, content_type: impl Into<String>) -> Self {
        self.content_type = Some(content_type.into());
        self
    }

    /// Sets a header, in place of the event's headers of that name.
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push(Header { name: name.into(), value: value.into() });
        self
    }

    /// Gives the output another event type.
    #[must_use]
    pub fn event_type(mut self, event_type: impl Into<String>) -> Self {
        self.type_ = Some(event_type.into());
        self
    }
}

/// Which of an event's headers a plugin wants to see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderNeeds {
    /// None of them.
    None,
    /// All of them.
    All,
    /// Those with these names, whatever their case.
    Named(Vec<String>),
}

/// What a plugin says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// The plugin's name.
    pub name: String,
    /// The plugin's own version, by preference a semantic version.
    pub version: String,
    /// One line on what it does.
    pub summary: String,
    /// A JSON Schema (2020-12) of its configuration, as a JSON text.
    pub config_schema: String,
    /// Does it read `event.data`?
    pub needs_payload: bool,
    /// Which headers it reads.
    pub needs_headers: HeaderNeeds,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_json_types() {
        for json in ["application/json", "Application/JSON; charset=utf-8", "application/cloudevents+json", "x/y+JSON "]
        {
            assert!(is_json_type(json), "{json}");
        }
        for other in ["", "json", "text/plain", "application/jsonlines", "é", "application/xml;+json"] {
            assert!(!is_json_type(other), "{other}");
        }
    }

    #[test]
    fn finds_a_header_whatever_its_case() {
        let event = crate::test::event("a").header("X-Team", "sales").header("x-team", "other").build();
        assert_eq!(event.header("x-TEAM"), Some("sales"));
        assert_eq!(event.header("x-tea"), None);
    }

    #[test]
    fn builds_outputs() {
        let output = Output::json(&serde_json::json!({"a": 1})).unwrap().header("x", "y").event_type("t");
        assert_eq!(output.data, br#"{"a":1}"#);
        assert_eq!(output.content_type.as_deref(), Some("application/json"));
        assert_eq!(output.headers, [Header { name: "x".into(), value: "y".into() }]);
        assert_eq!(output.type_.as_deref(), Some("t"));
        assert_eq!(Output::bytes("x").content_type, None);
    }
}
