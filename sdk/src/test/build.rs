//! Events for unit tests.

use crate::{Event, Header};

/// Starts an event of this type, with an empty payload and plain values for the rest: id `test-1`, the type as its
/// subject, stream `TEST`, sequence 1, time 0.
pub fn event(event_type: impl Into<String>) -> EventBuilder {
    let event_type = event_type.into();
    EventBuilder(Event {
        id: "test-1".to_owned(),
        subject: event_type.clone(),
        type_: event_type,
        stream: "TEST".to_owned(),
        sequence: 1,
        time_ms: 0,
        content_type: None,
        headers: Vec::new(),
        data: Vec::new(),
    })
}

/// An event in the making. Every field of [`Event`] is public, so what has no method here is set after
/// [`build`](Self::build).
#[derive(Clone, Debug)]
#[must_use]
pub struct EventBuilder(Event);

impl EventBuilder {
    /// Sets the payload to this JSON text, as `application/json`.
    pub fn json(mut self, text: impl Into<String>) -> Self {
        self.0.content_type = Some("application/json".to_owned());
        self.bytes(text.into())
    }

    /// Sets the payload to this text, as `text/plain; charset=utf-8`.
    pub fn text(mut self, text: impl Into<String>) -> Self {
        self.0.content_type = Some("text/plain; charset=utf-8".to_owned());
        self.bytes(text.into())
    }

    /// Sets the payload to these bytes, and leaves the content type alone.
    pub fn bytes(mut self, data: impl Into<Vec<u8>>) -> Self {
        self.0.data = data.into();
        self
    }

    /// Sets the content type.
    pub fn content_type(mut self, content_type: impl Into<String>) -> Self {
        self.0.content_type = Some(content_type.into());
        self
    }

    /// Adds a header.
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.headers.push(Header { name: name.into(), value: value.into() });
        self
    }

    /// Sets the event's id.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.0.id = id.into();
        self
    }

    /// Sets the time, in milliseconds since the Unix epoch.
    pub fn time_ms(mut self, time_ms: u64) -> Self {
        self.0.time_ms = time_ms;
        self
    }

    /// The event.
    pub fn build(self) -> Event {
        self.0
    }
}
