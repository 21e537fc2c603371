//! A stretch of a stream's history, page by page.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use crate::domain::{Event, Pattern};
use crate::ingest::{self, Gap, Nats, Page, Reader, StreamConfig};
use crate::telemetry;

/// How many events one page brings.
const PAGE_EVENTS: usize = 128;
/// How long to wait after a page could not be read, at first and at most.
const RETRY_DELAY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// A reader that was not used for so long is opened again: the server may have removed its consumer.
const IDLE_MAX: Duration = Duration::from_secs(30);

type Reading = Pin<Box<dyn Future<Output = Result<(Reader, Option<Gap>, Page), ingest::Error>> + Send>>;

/// Reads from a sequence up to and with another one.
pub(super) struct History {
    nats: Nats,
    stream: StreamConfig,
    /// The next sequence to hand out.
    next: u64,
    to: u64,
    types: Vec<Pattern>,
    reader: Option<(Reader, Instant)>,
    reading: Option<Reading>,
    page: VecDeque<Arc<Event>>,
    /// Nothing comes after the page.
    last_page: bool,
    not_before: Option<Instant>,
    delay: Duration,
    /// The first sequence that was still there, where the beginning was gone.
    pub(super) available: Option<u64>,
}

impl History {
    pub(super) fn new(nats: Nats, stream: StreamConfig, from: u64, to: u64) -> Self {
        Self {
            nats,
            stream,
            next: from,
            to,
            types: Vec::new(),
            reader: None,
            reading: None,
            page: VecDeque::new(),
            last_page: false,
            not_before: None,
            delay: RETRY_DELAY.0,
            available: None,
        }
    }

    /// Has everything been handed out?
    pub(super) fn is_over(&self) -> bool {
        self.next > self.to || (self.last_page && self.page.is_empty())
    }

    /// The next event of the page.
    pub(super) fn pop(&mut self) -> Option<Arc<Event>> {
        let event = self.page.pop_front()?;
        self.next = event.position.sequence + 1;
        if event.position.sequence > self.to {
            self.page.clear();
            return None;
        }
        Some(event)
    }

    /// Asks for a page of those types, when there is none and more is to come. Returns when to ask again, when it must wait.
    pub(super) fn ask(&mut self, types: &[Pattern]) -> Option<Instant> {
        if self.types != types {
            types.clone_into(&mut self.types);
            self.forget();
        }
        if !self.page.is_empty() || self.reading.is_some() || self.is_over() {
            return None;
        }
        if let Some(at) = self.not_before.filter(|at| *at > Instant::now()) {
            return Some(at);
        }
        let open = self.reader.take().filter(|(_, used)| used.elapsed() < IDLE_MAX);
        let (nats, stream, types, next) = (self.nats.clone(), self.stream.clone(), self.types.clone(), self.next);
        self.reading = Some(Box::pin(async move {
            let (mut reader, gap) = match open {
                Some((reader, _)) => (reader, None),
                None => Reader::open(nats, stream, &types, next).await?,
            };
            let page = reader.page(PAGE_EVENTS).await?;
            Ok((reader, gap, page))
        }));
        None
    }

    /// Waits for the page that was asked for; pends for ever when none was. Safe to cancel.
    pub(super) async fn arrival(&mut self) {
        let Some(reading) = &mut self.reading else { return std::future::pending().await };
        let arrived = reading.await;
        self.reading = None;
        match arrived {
            Ok((reader, gap, page)) => {
                self.delay = RETRY_DELAY.0;
                self.available = self.available.or(gap.map(|gap| gap.available));
                self.last_page = page.at_end;
                self.page = page.events.into();
                self.reader = Some((reader, Instant::now()));
            }
            Err(error) => {
                warn!(stream = %self.stream.name, error = %telemetry::chain(&error), "could not read history, trying again");
                self.not_before = Some(Instant::now() + self.delay);
                self.delay = (self.delay * 2).min(RETRY_DELAY.1);
            }
        }
    }

    /// Removes the reader's consumer.
    pub(super) async fn close(mut self) {
        if let Some((reader, _)) = self.reader.take() {
            reader.close().await;
        }
    }

    /// Forgets what was read ahead: the next page begins at the next event that was not handed out.
    fn forget(&mut self) {
        self.page.clear();
        self.reading = None;
        self.reader = None;
        self.last_page = false;
    }
}
