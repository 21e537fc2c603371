//! A held subscription's reader: it brings history page by page, under one of a bounded number of permits.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{error, warn};

use super::Shared;
use super::readers::{Permit, Readers};
use crate::domain::{Event, Pattern, StreamName, SubscriptionId};
use crate::ingest::{self, Gap, Reader};
use crate::telemetry;

/// How many events one page brings.
pub(super) const PAGE_EVENTS: usize = 128;
/// How long to wait after a page could not be read.
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// After so many pages a reader gives way when others wait.
const TURN_PAGES: u32 = 8;
/// After this time, too: an endpoint may take long over a page.
const TURN_TIME: Duration = Duration::from_secs(2);
/// The largest payload of an event that is kept from one probe to the next instead of being read again.
const PROBE_BYTES_MAX: usize = 4096;

struct Open {
    reader: Reader,
    permit: Permit,
    /// When its turn began.
    since: Instant,
    pages: u32,
}

impl Open {
    fn had_its_turn(&self) -> bool {
        self.pages >= TURN_PAGES || self.since.elapsed() >= TURN_TIME
    }
}

type Reading = std::pin::Pin<Box<dyn Future<Output = Result<Arrived, ingest::Error>> + Send>>;

struct Arrived {
    open: Option<Box<Open>>,
    round: u64,
    gap: Option<Gap>,
    page: ingest::Page,
    /// The highest skipped event when the page was asked for.
    target: u64,
}

/// A page that came, as the worker is told of it.
pub(super) struct Brought {
    /// The ledger it is for.
    pub(super) ledger: usize,
    /// Everything that matches up to this sequence has been read, when the page was the last one.
    pub(super) through: Option<u64>,
    /// History that was gone.
    pub(super) gap: Option<Gap>,
}

/// What a page is to bring.
pub(super) struct Ask {
    /// The ledger it is for.
    pub(super) ledger: usize,
    /// The ledger's stream.
    pub(super) stream: StreamName,
    /// The subscription's event types.
    pub(super) types: Vec<Pattern>,
    /// Where to read on.
    pub(super) cursor: u64,
    /// The highest event that was skipped so far.
    pub(super) target: u64,
    /// When the oldest event that is to be read was published, in milliseconds since the Unix epoch; 0 when unknown.
    pub(super) oldest_ms: u64,
    /// Only one event is wanted, to probe with.
    pub(super) probe: bool,
}

/// The reading side of one worker.
#[derive(Default)]
pub(super) struct CatchUp {
    /// Which ledger is being read for.
    ledger: usize,
    open: Option<Box<Open>>,
    reading: Option<Reading>,
    page: VecDeque<Arc<Event>>,
    not_before: Option<Instant>,
    /// The round of the last permit.
    last_round: Option<u64>,
    /// The event that was read to probe with last, when it is small enough to be kept for the next probe.
    probe: Option<Arc<Event>>,
}

impl CatchUp {
    /// Is a page on its way?
    pub(super) fn is_reading(&self) -> bool {
        self.reading.is_some()
    }

    /// Has the page no more events?
    pub(super) fn is_empty(&self) -> bool {
        self.page.is_empty()
    }

    /// The next event of the page.
    pub(super) fn next_event(&mut self) -> Option<Arc<Event>> {
        self.page.pop_front()
    }

    /// When reading may be tried again after a failure.
    pub(super) fn not_before(&self) -> Option<Instant> {
        self.not_before.filter(|at| *at > Instant::now())
    }

    /// Forgets the page and whatever is on its way; the reader is closed. The next page begins at the ledger's cursor.
    pub(super) fn reset(&mut self) -> Option<impl Future<Output = ()> + Send + use<>> {
        self.page.clear();
        self.reading = None;
        self.open.take().map(|open| open.reader.close())
    }

    /// Does it hold a permit, or wait for one?
    pub(super) fn is_engaged(&self) -> bool {
        self.open.is_some() || self.reading.is_some()
    }

    /// When its turn ends, if it has one.
    pub(super) fn turn_end(&self) -> Option<Instant> {
        self.open.as_ref().map(|open| open.since + TURN_TIME)
    }

    /// Must it give way to others? If not, and its time is up, its turn begins anew.
    pub(super) fn must_give_way(&mut self, readers: &Readers) -> bool {
        let Some(open) = self.open.as_mut().filter(|open| open.since.elapsed() >= TURN_TIME) else { return false };
        open.since = Instant::now();
        readers.is_awaited()
    }

    /// The event that the last probe was made with, when that is the one to probe with again.
    pub(super) fn kept_probe(&self, stream: &StreamName, cursor: u64, types: &[Pattern]) -> Option<Arc<Event>> {
        let is_it = |event: &&Arc<Event>| {
            event.position.sequence == cursor
                && event.position.stream == *stream
                && types.iter().any(|pattern| pattern.matches(&event.kind))
        };
        self.probe.as_ref().filter(is_it).cloned()
    }

    /// Asks for a page.
    pub(super) fn ask(&mut self, shared: &Shared, ask: Ask) {
        let Ask { ledger, stream, types, cursor, target, oldest_ms, probe } = ask;
        let Some(stream) = shared.nats.stream(&stream).cloned() else { return };
        let in_place = self.ledger == ledger && self.open.as_ref().is_some_and(|o| o.reader.next_sequence() <= cursor);
        let (open, spent) = match self.open.take() {
            Some(open) if !in_place || (open.had_its_turn() && shared.readers.is_awaited()) => (None, Some(open)),
            open => (open, None),
        };
        self.ledger = ledger;
        let (nats, readers, last_round) = (shared.nats.clone(), shared.readers.clone(), self.last_round);
        let background = shared.background.clone();
        self.reading = Some(Box::pin(async move {
            if let Some(spent) = spent {
                spent.reader.close().await;
            }
            let (mut open, gap) = match open {
                Some(open) => (open, None),
                None => {
                    let permit = readers.acquire(oldest_ms, last_round).await;
                    let (reader, gap) = Reader::open(nats, stream, &types, cursor).await?;
                    (Box::new(Open { reader, permit, since: Instant::now(), pages: 0 }), gap)
                }
            };
            let mut page = open.reader.page(if probe { 1 } else { PAGE_EVENTS }).await?;
            let gap = gap.or(page.gap.take());
            open.pages += 1;
            let round = open.permit.round();
            // A probe may take long: nobody is to wait for its end.
            let open = match probe {
                true => {
                    background.spawn(open.reader.close());
                    None
                }
                false => Some(open),
            };
            Ok(Arrived { open, round, gap, page, target })
        }));
    }

    /// Waits for the page; pends for ever when none was asked for. Safe to cancel.
    pub(super) async fn arrival(&mut self, subscription: &SubscriptionId) -> Brought {
        let Some(reading) = &mut self.reading else { return std::future::pending().await };
        let arrived = reading.await;
        self.reading = None;
        match arrived {
            Ok(arrived) => {
                let through = arrived.page.at_end.then_some(arrived.target);
                self.page = arrived.page.events.into();
                self.last_round = Some(arrived.round);
                let kept = |event: &&Arc<Event>| arrived.open.is_none() && event.data.len() <= PROBE_BYTES_MAX;
                self.probe = self.page.front().filter(kept).cloned();
                self.open = arrived.open;
                if let Some(gap) = &arrived.gap {
                    error!(
                        %subscription, stream = %gap.stream, from = gap.from, available = gap.available,
                        "history was discarded before it was read"
                    );
                }
                Brought { ledger: self.ledger, through, gap: arrived.gap }
            }
            Err(error) => {
                warn!(%subscription, error = %telemetry::chain(&error), "could not read history, trying again");
                self.not_before = Some(Instant::now() + RETRY_DELAY);
                Brought { ledger: self.ledger, through: None, gap: None }
            }
        }
    }
}
