//! A held subscription's reader: it brings history page by page, under one of a bounded number of permits.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tracing::{error, warn};

use super::Shared;
use crate::domain::{Event, Pattern, StreamName, SubscriptionId};
use crate::ingest::{self, Gap, Reader};
use crate::telemetry;

/// How many events one page brings.
pub(super) const PAGE_EVENTS: usize = 128;
/// How long to wait after a page could not be read.
const RETRY_DELAY: Duration = Duration::from_secs(1);

struct Open {
    reader: Reader,
    _permit: OwnedSemaphorePermit,
}

type Reading = std::pin::Pin<Box<dyn Future<Output = Result<Arrived, ingest::Error>> + Send>>;

struct Arrived {
    open: Open,
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
    /// The most events to bring.
    pub(super) events_max: usize,
}

/// The reading side of one worker.
#[derive(Default)]
pub(super) struct CatchUp {
    /// Which ledger is being read for.
    ledger: usize,
    open: Option<Open>,
    reading: Option<Reading>,
    page: VecDeque<Arc<Event>>,
    not_before: Option<Instant>,
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

    /// Asks for a page.
    pub(super) fn ask(&mut self, shared: &Shared, ask: Ask) {
        let Ask { ledger, stream, types, cursor, target, events_max } = ask;
        let Some(stream) = shared.nats.stream(&stream).cloned() else { return };
        let in_place = self.ledger == ledger && self.open.as_ref().is_some_and(|o| o.reader.next_sequence() <= cursor);
        let open = self.open.take().filter(|_| in_place);
        self.ledger = ledger;
        let (nats, readers) = (shared.nats.clone(), Arc::clone(&shared.readers));
        self.reading = Some(Box::pin(async move {
            let (mut open, gap) = match open {
                Some(open) => (open, None),
                None => {
                    let permit = readers.acquire_owned().await.expect("the readers' semaphore is never closed");
                    let (reader, gap) = Reader::open(nats, stream, &types, cursor).await?;
                    (Open { reader, _permit: permit }, gap)
                }
            };
            let page = open.reader.page(events_max).await?;
            Ok(Arrived { open, gap, page, target })
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
                self.open = Some(arrived.open);
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
