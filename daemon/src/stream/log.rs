//! The log behind the streams, as this stage needs it: JetStream, and in tests a log in memory.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tracing::debug;

use super::cursor::Tag;
use crate::domain::{Event, Pattern, StreamName};
use crate::ingest::tail::{Next, Refill, Tail};
use crate::ingest::{Error, Gap, Nats, Reader, StreamConfig, StreamFacts};

/// How many events the first page of a reading asks for, before it is known how large they are.
const FIRST_PAGE_EVENTS: usize = 32;
/// The most events that a page asks for.
const PAGE_EVENTS_MAX: usize = 256;

/// Some history.
#[derive(Debug)]
pub(super) struct History {
    pub(super) gap: Option<Gap>,
    /// In stream order.
    pub(super) events: Vec<Arc<Event>>,
    /// The first sequence that was not looked at.
    pub(super) next: u64,
    /// Nothing more that matches was there.
    pub(super) at_end: bool,
    /// That of the stream that it was read from.
    pub(super) tag: Tag,
}

/// A log of several streams.
pub(super) trait Log: Send + Sync + 'static {
    /// The streams.
    fn streams(&self) -> &[StreamConfig];

    /// Does the stream forget what is acked?
    fn is_forgetful(&self, _stream: &StreamName) -> bool {
        false
    }

    /// What a stream holds now.
    fn facts<'a>(&'a self, stream: &'a StreamName) -> BoxFuture<'a, Result<StreamFacts, Error>>;

    /// The first sequence that was stored at that time or later, in milliseconds since the Unix epoch.
    fn sequence_at<'a>(&'a self, stream: &'a StreamName, at_ms: u64) -> BoxFuture<'a, Result<u64, Error>>;

    /// Its live end, beginning with so much of what is there.
    fn tail<'a>(&'a self, stream: &'a StreamConfig, refill: Refill) -> BoxFuture<'a, Result<Box<dyn Follow>, Error>>;

    /// Events of `types` from a sequence on: about `bytes_max` of them, by size, or up to the end.
    fn read<'a>(
        &'a self,
        stream: &'a StreamConfig,
        types: &'a [Pattern],
        from: u64,
        bytes_max: usize,
    ) -> BoxFuture<'a, Result<History, Error>>;
}

/// The live end of a stream.
pub(super) trait Follow: Send {
    /// The next sequence that is expected.
    fn next_sequence(&self) -> u64;

    /// The last sequence that the stream had when this was opened.
    fn last_at_open(&self) -> u64;

    /// What tells the stream from another one of its name, as it was when this was opened.
    fn identity(&self) -> u64;

    /// What comes next. Failures are waited out. Safe to cancel.
    fn next(&mut self) -> BoxFuture<'_, Next>;

    /// Leaves nothing behind in the log, where it answers.
    fn close(self: Box<Self>) -> BoxFuture<'static, ()>;
}

impl Follow for Tail {
    fn next_sequence(&self) -> u64 {
        Self::next_sequence(self)
    }

    fn last_at_open(&self) -> u64 {
        Self::last_at_open(self)
    }

    fn identity(&self) -> u64 {
        Self::identity(self)
    }

    fn next(&mut self) -> BoxFuture<'_, Next> {
        Box::pin(Self::next(self))
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(Self::close(*self))
    }
}

impl Log for Nats {
    fn streams(&self) -> &[StreamConfig] {
        Self::streams(self)
    }

    fn is_forgetful(&self, stream: &StreamName) -> bool {
        Self::is_forgetful(self, stream)
    }

    fn facts<'a>(&'a self, stream: &'a StreamName) -> BoxFuture<'a, Result<StreamFacts, Error>> {
        Box::pin(Self::facts(self, stream))
    }

    fn sequence_at<'a>(&'a self, stream: &'a StreamName, at_ms: u64) -> BoxFuture<'a, Result<u64, Error>> {
        Box::pin(Self::sequence_at(self, stream, at_ms))
    }

    fn tail<'a>(&'a self, stream: &'a StreamConfig, refill: Refill) -> BoxFuture<'a, Result<Box<dyn Follow>, Error>> {
        Box::pin(async move {
            let tail = Tail::open(self.clone(), stream.clone(), refill).await?;
            Ok(Box::new(tail) as Box<dyn Follow>)
        })
    }

    fn read<'a>(
        &'a self,
        stream: &'a StreamConfig,
        types: &'a [Pattern],
        from: u64,
        bytes_max: usize,
    ) -> BoxFuture<'a, Result<History, Error>> {
        Box::pin(read(self, stream, types, from, bytes_max))
    }
}

async fn read(
    nats: &Nats,
    stream: &StreamConfig,
    types: &[Pattern],
    from: u64,
    bytes_max: usize,
) -> Result<History, Error> {
    let (mut reader, gap) = Reader::open(nats.clone(), stream.clone(), types, from).await?;
    let (next, tag) = (reader.next_sequence(), Tag::of(reader.identity()));
    let history = History { gap, events: Vec::new(), next, at_end: false, tag };
    let read = read_pages(&mut reader, history, bytes_max).await;
    // Also after a failure: the next attempt has a consumer of its own.
    reader.close().await;
    read
}

async fn read_pages(reader: &mut Reader, mut history: History, bytes_max: usize) -> Result<History, Error> {
    let mut bytes = 0;
    let mut page_events = FIRST_PAGE_EVENTS;
    while !history.at_end && bytes < bytes_max {
        let page = match reader.page(page_events).await {
            Ok(page) => page,
            // What came so far is whole; the failure is met again from there.
            Err(error) if !history.events.is_empty() => {
                debug!(%error, "a page of history did not come");
                break;
            }
            Err(error) => return Err(error),
        };
        match (page.gap, &history.gap) {
            // What comes after it is for the next reading, which begins with it.
            (Some(_), _) if !history.events.is_empty() => break,
            (Some(gap), None) => history.gap = Some(gap),
            (Some(gap), Some(before)) => history.gap = Some(Gap { from: before.from, ..gap }),
            (None, _) => {}
        }
        bytes += page.events.iter().map(|event| event.data.len() + 1).sum::<usize>();
        history.at_end = page.at_end;
        history.events.extend(page.events);
        history.next = reader.next_sequence();
        let average = bytes / history.events.len().max(1) + 1;
        page_events = (bytes_max.saturating_sub(bytes) / average).clamp(1, PAGE_EVENTS_MAX);
    }
    Ok(history)
}
