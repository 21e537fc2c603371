//! A Server-Sent Events client that reads by the WHATWG rules, and only when it is asked to.

use std::collections::VecDeque;
use std::time::Duration;

use reqwest::{Client, Response, Version};
use tokio::time::{Instant, timeout_at};

use crate::http::client;

/// One dispatched event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SseEvent {
    /// The last id seen when it was dispatched.
    pub id: String,
    /// Its type; `message` when the stream names none.
    pub event: String,
    /// Its data lines, joined.
    pub data: String,
}

/// How a client says who it is.
#[derive(Debug, Clone, Copy)]
pub enum Auth<'a> {
    /// Not at all.
    None,
    /// `X-API-Key`.
    ApiKey(&'a str),
    /// `Authorization: Bearer`.
    Bearer(&'a str),
}

/// An open stream. Nothing is read ahead of what the test asks for, so a test that stops reading is a slow client.
#[derive(Debug)]
pub struct SseClient {
    response: Response,
    parser: SseParser,
    ready: VecDeque<SseEvent>,
    /// The id of the last event that the test has.
    had_id: String,
}

/// Why there is no next event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The server ended the stream in order.
    Closed,
    /// The connection broke.
    Broken,
    /// Nothing came in time.
    TimedOut,
}

impl SseClient {
    /// Opens a stream.
    ///
    /// # Errors
    /// The status, when it is not 200; 0 when the server cannot be reached.
    pub async fn try_connect(url: &str, auth: Auth<'_>, last_event_id: Option<&str>) -> Result<Self, u16> {
        Self::try_connect_by(&client(), url, auth, last_event_id).await
    }

    /// Opens a stream by means of a client.
    ///
    /// # Errors
    /// The status, when it is not 200; 0 when the server cannot be reached.
    pub async fn try_connect_by(
        client: &Client,
        url: &str,
        auth: Auth<'_>,
        last_event_id: Option<&str>,
    ) -> Result<Self, u16> {
        let mut request = client.get(url).header("accept", "text/event-stream");
        request = match auth {
            Auth::None => request,
            Auth::ApiKey(key) => request.header("x-api-key", key),
            Auth::Bearer(token) => request.header("authorization", format!("Bearer {token}")),
        };
        if let Some(id) = last_event_id {
            request = request.header("last-event-id", id);
        }
        let response = request.send().await.map_err(|_| 0_u16)?;
        if response.status() != 200 {
            return Err(response.status().as_u16());
        }
        Ok(Self { response, parser: SseParser::default(), ready: VecDeque::new(), had_id: String::new() })
    }

    /// Opens a stream.
    ///
    /// # Panics
    /// When the server does not answer 200 with an event stream.
    pub async fn connect(url: &str, auth: Auth<'_>, last_event_id: Option<&str>) -> Self {
        let connected = Self::try_connect(url, auth, last_event_id).await;
        let connected = connected.unwrap_or_else(|status| panic!("no event stream at {url}: status {status}"));
        let kind = connected.header("content-type");
        assert!(kind.starts_with("text/event-stream"), "{url} is {kind:?}, not an event stream");
        connected
    }

    /// The version of HTTP that it is spoken in.
    pub fn version(&self) -> Version {
        self.response.version()
    }

    /// A header of the response; empty when it is absent or not text.
    pub fn header(&self, name: &str) -> &str {
        self.response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    /// The next event.
    ///
    /// # Errors
    /// Says why there is none.
    pub async fn try_next(&mut self, timeout: Duration) -> Result<SseEvent, End> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(event) = self.ready.pop_front() {
                event.id.clone_into(&mut self.had_id);
                return Ok(event);
            }
            match timeout_at(deadline, self.response.chunk()).await {
                Ok(Ok(Some(chunk))) => self.ready.extend(self.parser.push(&chunk)),
                Ok(Ok(None)) => return Err(End::Closed),
                Ok(Err(_)) => return Err(End::Broken),
                Err(_) => return Err(End::TimedOut),
            }
        }
    }

    /// The next event.
    ///
    /// # Panics
    /// When none comes in time, or the stream ends.
    pub async fn next_event(&mut self, timeout: Duration) -> SseEvent {
        let next = self.try_next(timeout).await;
        next.unwrap_or_else(|end| panic!("no event within {timeout:?}: {end:?}, last id {:?}", self.last_id()))
    }

    /// The next `n` events, all within `timeout`.
    ///
    /// # Panics
    /// When fewer come.
    pub async fn collect(&mut self, n: usize, timeout: Duration) -> Vec<SseEvent> {
        let deadline = Instant::now() + timeout;
        let mut events = Vec::with_capacity(n);
        while events.len() < n {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.try_next(left).await {
                Ok(event) => events.push(event),
                Err(end) => panic!("{} of {n} events within {timeout:?}: {end:?}", events.len()),
            }
        }
        events
    }

    /// The id to resume from: that of the last event that the test has, or of an `id:` line without data after it. Several
    /// events may have come in one piece.
    pub fn last_id(&self) -> &str {
        match self.ready.is_empty() {
            true => &self.parser.last_id,
            false => &self.had_id,
        }
    }

    /// How many comments (heartbeats) were read.
    pub fn comments(&self) -> u64 {
        self.parser.comments
    }

    /// The last `retry:` read, in milliseconds.
    pub fn retry_ms(&self) -> Option<u64> {
        self.parser.retry_ms
    }
}

/// The WHATWG event stream parser: bytes in, dispatched events out.
#[derive(Debug, Default)]
pub struct SseParser {
    /// Bytes after the last complete line.
    rest: Vec<u8>,
    /// Whether the byte order mark, which only the very start may carry, is past.
    started: bool,
    id: String,
    event: String,
    data: String,
    last_id: String,
    comments: u64,
    retry_ms: Option<u64>,
}

impl SseParser {
    /// Takes the next bytes, cut anywhere, and returns the events that they complete.
    pub fn push(&mut self, bytes: &[u8]) -> Vec<SseEvent> {
        self.rest.extend_from_slice(bytes);
        let mut events = Vec::new();
        while let Some((line, used)) = self.complete_line() {
            self.rest.drain(..used);
            events.extend(self.line(&line));
        }
        events
    }

    /// The first complete line and the bytes it takes. A CR at the very end may be half of a CRLF: it waits.
    fn complete_line(&self) -> Option<(String, usize)> {
        let end = self.rest.iter().position(|byte| matches!(byte, b'\n' | b'\r'))?;
        let used = match (self.rest[end], self.rest.get(end + 1)) {
            (b'\r', None) => return None,
            (b'\r', Some(b'\n')) => end + 2,
            _ => end + 1,
        };
        Some((String::from_utf8_lossy(&self.rest[..end]).into_owned(), used))
    }

    fn line(&mut self, line: &str) -> Option<SseEvent> {
        let line = if self.started { line } else { line.strip_prefix('\u{feff}').unwrap_or(line) };
        self.started = true;
        if line.is_empty() {
            return self.dispatch();
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" => self.comments += 1,
            "id" if !value.contains('\0') => value.clone_into(&mut self.id),
            "event" => value.clone_into(&mut self.event),
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "retry" if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) => {
                self.retry_ms = value.parse().ok();
            }
            _ => {}
        }
        None
    }

    /// An empty line ends a block: the id counts even when there is no data, and then no event is dispatched.
    fn dispatch(&mut self) -> Option<SseEvent> {
        self.id.clone_into(&mut self.last_id);
        let event = std::mem::take(&mut self.event);
        let mut data = std::mem::take(&mut self.data);
        data.pop()?;
        let event = if event.is_empty() { "message".to_owned() } else { event };
        Some(SseEvent { id: self.last_id.clone(), event, data })
    }
}
