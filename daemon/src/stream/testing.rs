//! A log in memory, and a reader of event streams, for this stage's and the API's tests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::cursor::Tag;
use super::log::{Follow, History, Log};
use super::{Client, Config, Hub, Named, Process, Processed, Request, RingLimits, Wanted, Watched};
use crate::domain::{
    Begin, DeliverFrom, Event, OnPluginError, Output, Pattern, Position, StreamName, Subscription, SubscriptionId,
    Target,
};
use crate::ingest::tail::{Break, Next, Refill};
use crate::ingest::{Error, Gap, StreamConfig, StreamFacts};
use crate::telemetry::metrics::Metrics;

pub(crate) fn name(text: &str) -> StreamName {
    StreamName::parse(text).expect("a stream name")
}

pub(crate) fn pattern(text: &str) -> Pattern {
    Pattern::parse(text).expect("a pattern")
}

/// An event whose data is its sequence.
pub(crate) fn event(stream: &str, sequence: u64, kind: &str) -> Event {
    Event {
        id: format!("{stream}:{sequence}").into(),
        kind: kind.into(),
        subject: format!("{}.{kind}", stream.to_lowercase()).into(),
        position: Position { stream: name(stream), sequence },
        time_ms: 1_000 * sequence,
        headers: Vec::new(),
        content_type: None,
        data: sequence.to_string().into(),
        undecodable: None,
    }
}

impl Event {
    pub(crate) fn data_text(&self) -> String {
        String::from_utf8_lossy(&self.data).into_owned()
    }
}

/// Reads an event stream as a browser does: (last event id, type, data).
pub(crate) fn parse(bytes: &[u8]) -> Vec<(String, String, String)> {
    let text = String::from_utf8(bytes.to_vec()).expect("an event stream is UTF-8");
    let (mut id, mut kind, mut data) = (String::new(), String::new(), String::new());
    let mut events = Vec::new();
    for line in text.replace("\r\n", "\n").split(['\n', '\r']) {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" if line.is_empty() => {
                if data.pop().is_some() {
                    events.push((id.clone(), std::mem::take(&mut kind), std::mem::take(&mut data)));
                }
                kind.clear();
            }
            "id" => value.clone_into(&mut id),
            "event" => value.clone_into(&mut kind),
            "data" => data = format!("{data}{value}\n"),
            _ => {}
        }
    }
    events
}

/// One client of a test: the text so far, what was in it, and its place.
pub(crate) struct Listener {
    client: Client,
    pub(crate) text: Vec<u8>,
}

impl Listener {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, text: Vec::new() }
    }

    pub(crate) fn watched(&self) -> Watched {
        self.client.watched()
    }

    /// The next piece; false at the end.
    pub(crate) async fn piece(&mut self) -> bool {
        let piece = self.client.next().await;
        self.text.extend_from_slice(piece.as_deref().unwrap_or_default());
        piece.is_some()
    }

    pub(crate) async fn until(&mut self, mut enough: impl FnMut(&Self) -> bool) {
        let all = async {
            while !enough(self) {
                assert!(self.piece().await, "the stream ended");
            }
        };
        tokio::time::timeout(Duration::from_secs(3600), all).await.expect("it comes");
    }

    pub(crate) async fn ended(&mut self) {
        let end = async { while self.piece().await {} };
        tokio::time::timeout(Duration::from_secs(3600), end).await.expect("it ends");
    }

    pub(crate) async fn events(&mut self, n: usize) -> Vec<(String, String, String)> {
        self.until(|listener| parse(&listener.text).len() >= n).await;
        parse(&self.text)
    }

    pub(crate) fn data(&self) -> Vec<String> {
        parse(&self.text).into_iter().filter(|(_, kind, _)| kind != "gap").map(|(_, _, data)| data).collect()
    }

    /// What a browser would send as `Last-Event-ID` now.
    pub(crate) fn last_id(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.text).into_owned();
        text.lines().filter_map(|line| line.strip_prefix("id: ")).next_back().map(ToOwned::to_owned)
    }

    pub(crate) fn comments(&self) -> usize {
        String::from_utf8_lossy(&self.text).lines().filter(|line| line.starts_with(':')).count()
    }
}

struct Kept {
    events: BTreeMap<u64, Arc<Event>>,
    first: u64,
    last: u64,
    identity: u64,
}

impl Kept {
    fn new(identity: u64) -> Self {
        Self { events: BTreeMap::new(), first: 1, last: 0, identity }
    }
}

/// A log in memory.
pub(crate) struct MemoryLog {
    streams: Vec<StreamConfig>,
    kept: Arc<Mutex<BTreeMap<StreamName, Kept>>>,
    changed: watch::Sender<()>,
    pub(crate) broken: AtomicBool,
    /// How many seconds later than all others the live tails hear that a stream was made anew.
    pub(crate) late_s: Arc<AtomicU64>,
    pub(crate) tails: AtomicUsize,
    pub(crate) readers: AtomicUsize,
    pub(crate) readers_most: AtomicUsize,
    pub(crate) reads: AtomicUsize,
    pub(crate) questions: AtomicUsize,
}

#[derive(Debug, thiserror::Error)]
#[error("the log is broken on purpose")]
struct Broken;

impl MemoryLog {
    /// A log of streams `NAME` with the subjects `name.>`.
    pub(crate) fn new(names: &[&str]) -> Arc<Self> {
        let stream = |text: &&str| StreamConfig {
            name: name(text),
            subjects: vec![pattern(&format!("{}.>", text.to_lowercase()))],
            type_prefix: format!("{}.", text.to_lowercase()).into(),
            create: false,
        };
        let kept = names.iter().map(|text| (name(text), Kept::new(1))).collect();
        Arc::new(Self {
            streams: names.iter().map(stream).collect(),
            kept: Arc::new(Mutex::new(kept)),
            changed: watch::Sender::new(()),
            broken: AtomicBool::new(false),
            late_s: Arc::default(),
            tails: AtomicUsize::new(0),
            readers: AtomicUsize::new(0),
            readers_most: AtomicUsize::new(0),
            reads: AtomicUsize::new(0),
            questions: AtomicUsize::new(0),
        })
    }

    pub(crate) fn hub(self: &Arc<Self>, config: Config, named: Vec<Named>) -> Hub {
        Hub::over(Arc::clone(self) as Arc<dyn Log>, config, named, &Metrics::new())
    }

    pub(crate) fn append(&self, stream: &str, kind: &str) -> u64 {
        let mut kept = self.kept.lock();
        let kept = kept.get_mut(&name(stream)).expect("the stream");
        kept.last += 1;
        kept.events.insert(kept.last, Arc::new(event(stream, kept.last, kind)));
        self.changed.send_replace(());
        kept.last
    }

    /// Discards everything before a sequence.
    pub(crate) fn purge_below(&self, stream: &str, first: u64) {
        let mut kept = self.kept.lock();
        let kept = kept.get_mut(&name(stream)).expect("the stream");
        kept.events.retain(|sequence, _| *sequence >= first);
        kept.first = first;
        self.changed.send_replace(());
    }

    /// Makes the stream anew, with some events.
    pub(crate) fn recreate(&self, stream: &str, events: u64) {
        let identity = self.identity(stream) + 1;
        self.kept.lock().insert(name(stream), Kept::new(identity));
        self.changed.send_replace(());
        (0..events).for_each(|_| {
            self.append(stream, "new");
        });
    }

    fn identity(&self, stream: &str) -> u64 {
        self.kept.lock()[&name(stream)].identity
    }

    /// The cursor of one who has seen that much of a stream as it is now.
    pub(crate) fn place(&self, stream: &str, sequence: u64) -> String {
        format!("{stream}:{sequence}:{}", Tag::of(self.identity(stream)))
    }

    fn check(&self) -> Result<(), Error> {
        match self.broken.load(Ordering::Relaxed) {
            true => Err(Error::JetStream(Broken.into())),
            false => Ok(()),
        }
    }

    fn facts_now(&self, stream: &StreamName) -> StreamFacts {
        let kept = self.kept.lock();
        let kept = &kept[stream];
        StreamFacts {
            identity: kept.identity,
            first_sequence: kept.first,
            last_sequence: kept.last,
            messages: kept.events.len() as u64,
            bytes: kept.events.len() as u64,
            keeps_acked: true,
            age_max: None,
        }
    }
}

impl Log for MemoryLog {
    fn streams(&self) -> &[StreamConfig] {
        &self.streams
    }

    fn facts<'a>(&'a self, stream: &'a StreamName) -> BoxFuture<'a, Result<StreamFacts, Error>> {
        Box::pin(async move {
            self.questions.fetch_add(1, Ordering::Relaxed);
            let facts = self.facts_now(stream);
            tokio::time::sleep(Duration::from_millis(1)).await;
            self.check()?;
            Ok(facts)
        })
    }

    fn sequence_at<'a>(&'a self, stream: &'a StreamName, at_ms: u64) -> BoxFuture<'a, Result<u64, Error>> {
        Box::pin(async move {
            self.check()?;
            let kept = self.kept.lock();
            let kept = &kept[stream];
            let first = kept.events.iter().find(|(_, event)| event.time_ms >= at_ms);
            Ok(first.map_or(kept.last + 1, |(sequence, _)| *sequence))
        })
    }

    fn tail<'a>(&'a self, stream: &'a StreamConfig, refill: Refill) -> BoxFuture<'a, Result<Box<dyn Follow>, Error>> {
        Box::pin(async move {
            self.check()?;
            self.tails.fetch_add(1, Ordering::Relaxed);
            let facts = self.facts_now(&stream.name);
            let last_at_open = facts.last_sequence;
            let next = (last_at_open + 1).saturating_sub(refill.events_max).max(facts.first_sequence);
            let tail = MemoryTail {
                late_s: Arc::clone(&self.late_s),
                identity: facts.identity,
                kept: Arc::clone(&self.kept),
                changed: self.changed.subscribe(),
                stream: stream.name.clone(),
                next,
                last_at_open,
            };
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
        Box::pin(async move {
            let now = self.readers.fetch_add(1, Ordering::Relaxed) + 1;
            self.readers_most.fetch_max(now, Ordering::Relaxed);
            self.reads.fetch_add(1, Ordering::Relaxed);
            let _reading = Reading(&self.readers);
            tokio::time::sleep(Duration::from_millis(3)).await;
            let subjects = stream.subjects_for(types);
            let read = {
                let kept = self.kept.lock();
                let kept = &kept[&stream.name];
                let gap = (kept.first > from).then(|| Gap { stream: stream.name.clone(), from, available: kept.first });
                let (next, tag) = (from.max(kept.first), Tag::of(kept.identity));
                let mut history = History { gap, events: Vec::new(), next, at_end: true, tag };
                for (sequence, event) in kept.events.range(history.next..) {
                    if history.events.len() >= bytes_max {
                        history.at_end = false;
                        break;
                    }
                    if subjects.iter().any(|pattern| pattern.matches(&event.subject)) {
                        history.events.push(Arc::clone(event));
                        history.next = sequence + 1;
                    }
                }
                history
            };
            tokio::time::sleep(Duration::from_millis(2)).await;
            self.check()?;
            Ok(read)
        })
    }
}

/// Given back also when a reading is cancelled.
struct Reading<'a>(&'a AtomicUsize);

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

struct MemoryTail {
    kept: Arc<Mutex<BTreeMap<StreamName, Kept>>>,
    changed: watch::Receiver<()>,
    late_s: Arc<AtomicU64>,
    stream: StreamName,
    identity: u64,
    next: u64,
    last_at_open: u64,
}

impl Follow for MemoryTail {
    fn next_sequence(&self) -> u64 {
        self.next
    }

    fn last_at_open(&self) -> u64 {
        self.last_at_open
    }

    fn identity(&self) -> u64 {
        self.identity
    }

    fn next(&mut self) -> BoxFuture<'_, Next> {
        Box::pin(async move {
            loop {
                self.changed.mark_unchanged();
                if self.kept.lock()[&self.stream].identity != self.identity {
                    tokio::time::sleep(Duration::from_secs(self.late_s.load(Ordering::Relaxed))).await;
                }
                if let Some(next) = self.now() {
                    return next;
                }
                let _closed = self.changed.changed().await;
            }
        })
    }

    fn close(self: Box<Self>) -> BoxFuture<'static, ()> {
        Box::pin(std::future::ready(()))
    }
}

impl MemoryTail {
    fn now(&mut self) -> Option<Next> {
        let kept = self.kept.lock();
        let kept = &kept[&self.stream];
        let available = kept.first;
        if kept.identity != self.identity {
            (self.identity, self.next) = (kept.identity, available);
            return Some(Next::Broken(Break::Reset { available, identity: kept.identity }));
        }
        if available > self.next {
            self.next = available;
            return Some(Next::Broken(Break::Discarded { available }));
        }
        let events: Vec<_> = kept.events.range(self.next..).take(7).map(|(_, event)| Arc::clone(event)).collect();
        self.next = events.last()?.position.sequence + 1;
        Some(Next::Events(events))
    }
}

/// Small bounds, so that tests meet them.
pub(crate) fn config() -> Config {
    Config {
        ring: RingLimits { entries_max: 16, bytes_max: 1 << 20 },
        refill_events_max: 8,
        readers_max: 2,
        history_bytes_max: 10,
        ..Config::default()
    }
}

/// A client of these types.
pub(crate) fn wants(types: &[&str], cursor: Option<&str>) -> Request {
    Request {
        principal: "somebody".to_owned(),
        wanted: Wanted::Types(types.iter().map(|text| pattern(text)).collect()),
        cursor: cursor.map(|text| super::Cursor::parse(text).expect("a cursor")),
        from: Begin::Now,
        connection: None,
    }
}

/// Drops every third event, fails on every seventh, and makes two parts of the others. It counts its runs.
#[derive(Default)]
pub(crate) struct Doubles {
    pub(crate) runs: AtomicUsize,
}

impl Doubles {
    /// What comes of an event with that sequence.
    pub(crate) fn expected(sequence: u64) -> Vec<String> {
        match sequence {
            s if s % 3 == 0 || s % 7 == 0 => Vec::new(),
            s => vec![format!("{s}/1"), format!("{s}/2")],
        }
    }
}

impl Process for Doubles {
    fn is_empty(&self) -> bool {
        false
    }

    fn run<'a>(&'a self, event: &'a Event) -> BoxFuture<'a, Processed> {
        self.runs.fetch_add(1, Ordering::Relaxed);
        let sequence = event.position.sequence;
        let output = |data: String| Output { data: Bytes::from(data), content_type: None, headers: vec![], kind: None };
        let outputs: Vec<Output> = Self::expected(sequence).into_iter().map(output).collect();
        Box::pin(async move {
            tokio::task::yield_now().await;
            match outputs.is_empty() {
                true if sequence.is_multiple_of(3) => Processed::Dropped,
                true => Processed::Faulted,
                false => Processed::Kept(outputs),
            }
        })
    }
}

/// A named stream of these types.
pub(crate) fn named(id: &str, types: &[&str], process: Arc<dyn Process>) -> Named {
    let subscription = Subscription {
        id: SubscriptionId::parse(id).expect("an id"),
        owner: None,
        types: types.iter().map(|text| pattern(text)).collect(),
        filters: Vec::new(),
        transforms: Vec::new(),
        on_plugin_error: OnPluginError::DeadLetter,
        deliver_from: DeliverFrom::default(),
        target: Target::Sse,
    };
    Named { subscription, process }
}
