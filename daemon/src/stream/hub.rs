//! The hub: who may listen to what.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info};

use super::admit::{Admission, Counted};
use super::client::{Begun, Client, Common, Source};
use super::connection::Remembered;
use super::cursor::{Seen, Tag};
use super::facts::Lookup;
use super::feed::{Feed, Lease, pump_named, pump_stream};
use super::group::Wish;
use super::history::{CurrentPlugins, Historian, Plugins};
use super::log::Log;
use super::process::Process;
use super::{Config, Connection, Cursor, Error, SEQUENCE_MAX};
use crate::domain::{Begin, Pattern, StreamName, Subscription, SubscriptionId};
use crate::ingest::tail::Refill;
use crate::ingest::{Nats, StreamConfig, StreamFacts};
use crate::telemetry::metrics::{Metrics, SseMetrics};

/// How often the watch over the clients looks.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// How often it is measured how far the live tails are behind.
const MEASURE_INTERVAL: Duration = Duration::from_secs(2);
/// How long clients may take at the stop to hear that their streams end.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(2);
/// How often it is looked whether they have.
const FAREWELL_POLL: Duration = Duration::from_millis(20);

/// A named stream: an SSE subscription with its plugins.
#[derive(Clone)]
pub struct Named {
    /// The subscription.
    pub subscription: Subscription,
    /// Its plugins, ready to run.
    pub process: Arc<dyn Process>,
}

/// What a client wants to hear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// All events of these types.
    Types(Vec<Pattern>),
    /// A named stream.
    Named(SubscriptionId),
}

/// A client that wants to listen.
#[derive(Debug, Clone)]
pub struct Request {
    /// Who it is; clients are limited by it.
    pub principal: String,
    /// What it wants to hear.
    pub wanted: Wanted,
    /// Where it was.
    pub cursor: Option<Cursor>,
    /// Where it begins in the streams that its cursor does not name.
    pub from: Begin,
    /// The connection that it is on, which is cut when it reads nothing for [`Config::unread_timeout`].
    pub connection: Option<Connection>,
}

/// A named stream and how many listen to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: SubscriptionId,
    /// The types that it has.
    pub types: Vec<Pattern>,
    /// How many clients it has now.
    pub clients: usize,
}

/// The hub. Cloning shares it.
#[derive(Clone)]
pub struct Hub(Arc<Shared>);

struct Shared {
    log: Arc<dyn Log>,
    config: Config,
    metrics: SseMetrics,
    feeds: Mutex<HashMap<Key, Arc<Feed>>>,
    named: Mutex<HashMap<SubscriptionId, Arc<NamedStream>>>,
    /// How many definitions of named streams there have been.
    generations: AtomicUsize,
    admission: Arc<Admission>,
    lookup: Lookup,
    readers: Arc<Semaphore>,
    closing: CancellationToken,
    tasks: TaskTracker,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Key {
    Stream(StreamName),
    Named { generation: usize, stream: StreamName },
}

/// Where a client begins in a stream.
struct Place {
    next: u64,
    epoch: u64,
    tag: Tag,
    /// How far it was in another stream of that name.
    before: Option<Seen>,
}

/// One definition of a named stream.
struct NamedStream {
    subscription: Subscription,
    process: Mutex<Arc<dyn Process>>,
    generation: usize,
    clients: Arc<AtomicUsize>,
    closing: CancellationToken,
}

impl Hub {
    /// A hub over the configured streams. Clients are served as soon as [`Hub::run`] runs or before; nothing is started
    /// until the first one comes.
    pub fn new(nats: Nats, config: Config, named: Vec<Named>, metrics: &Metrics) -> Self {
        Self::over(Arc::new(nats), config, named, metrics)
    }

    pub(super) fn over(log: Arc<dyn Log>, config: Config, named: Vec<Named>, metrics: &Metrics) -> Self {
        let readers = Arc::new(Semaphore::new(config.readers_max.max(1)));
        let admission = Admission::new(config.clients_max, config.clients_per_principal_max, metrics.sse());
        let hub = Self(Arc::new(Shared {
            lookup: Lookup::new(Arc::clone(&log)),
            log,
            config,
            metrics: metrics.sse(),
            feeds: Mutex::default(),
            named: Mutex::default(),
            generations: AtomicUsize::new(0),
            admission,
            readers,
            closing: CancellationToken::new(),
            tasks: TaskTracker::new(),
        }));
        hub.update(named);
        hub
    }

    /// Takes another set of named streams. Clients of a stream that is gone or has another definition are ended, and come
    /// back with their place; those of the others notice nothing.
    pub fn update(&self, named: Vec<Named>) {
        let mut current = self.0.named.lock();
        let mut before = std::mem::take(&mut *current);
        for Named { subscription, process } in named {
            let id = subscription.id.clone();
            let old = before.remove(&id);
            let stream = match old {
                Some(same) if same.subscription == subscription => {
                    *same.process.lock() = process;
                    same
                }
                other => {
                    if let Some(other) = other {
                        other.closing.cancel();
                    }
                    self.0.define(subscription, process)
                }
            };
            current.insert(id, stream);
        }
        before.into_values().for_each(|gone| gone.closing.cancel());
        drop(current);
        // Those whose stream has ended see it when they look again.
        self.0.feeds.lock().values().for_each(|feed| feed.wake_all());
    }

    /// Gives a named stream other plugins. Its clients notice nothing else.
    pub fn replace_plugins(&self, id: &SubscriptionId, process: Arc<dyn Process>) {
        if let Some(stream) = self.0.named.lock().get(id) {
            *stream.process.lock() = process;
        }
    }

    /// The named streams, by name.
    pub fn named(&self) -> Vec<Listed> {
        let named = self.0.named.lock();
        let list = |s: &Arc<NamedStream>| Listed {
            name: s.subscription.id.clone(),
            types: s.subscription.types.clone(),
            clients: s.clients.load(Ordering::Relaxed),
        };
        let mut listed: Vec<Listed> = named.values().map(list).collect();
        listed.sort_by(|a, b| a.name.cmp(&b.name));
        listed
    }

    /// The named streams with their plugins of now, by name.
    pub fn definitions(&self) -> Vec<Named> {
        let named = self.0.named.lock();
        let define = |s: &Arc<NamedStream>| Named {
            subscription: s.subscription.clone(),
            process: Arc::clone(&s.process.lock()),
        };
        let mut all: Vec<Named> = named.values().map(define).collect();
        all.sort_by(|a, b| a.subscription.id.cmp(&b.subscription.id));
        all
    }

    /// Admits a client, finds its place in every stream that it will see, and returns its bytes. They begin at once, end
    /// when the hub does, and are made only as fast as they are read.
    ///
    /// # Errors
    /// When a limit is reached, what it wants or its cursor does not exist, or JetStream does not answer.
    pub async fn subscribe(&self, request: Request) -> Result<Client, Error> {
        let shared = &self.0;
        if shared.closing.is_cancelled() {
            return Err(Error::Stopping);
        }
        let (types, named) = match &request.wanted {
            Wanted::Types(types) => (types.clone(), None),
            Wanted::Named(name) => {
                let found = shared.named.lock().get(name).cloned();
                let named = found.ok_or_else(|| Error::NoSuchStream { name: name.clone() })?;
                (named.subscription.types.clone(), Some(named))
            }
        };
        if let Some(unknown) =
            request.cursor.iter().flat_map(Cursor::streams).find(|name| shared.stream(name).is_none())
        {
            return Err(Error::UnknownStream { stream: unknown.clone() });
        }
        let seen = shared.seen(&types)?;
        if matches!(request.from, Begin::Sequence(_)) && seen.len() > 1 {
            return Err(Error::SequenceOfSeveral);
        }
        let counted = named.as_ref().map(|named| Counted::new(&named.clients));
        let slot = shared.admission.slot(&request.principal, request.connection.clone(), counted)?;
        let mut begun = Vec::with_capacity(seen.len());
        for stream in seen {
            begun.push(shared.source(stream, &types, named.as_ref(), &request).await?);
        }
        begun.sort_by(|a, b| a.source.group().stream().cmp(b.source.group().stream()));
        let closing = named.as_ref().map_or(&shared.closing, |named| &named.closing).clone();
        let common = Common { closing, tasks: shared.tasks.clone(), metrics: shared.metrics.clone() };
        Ok(Client::new(&shared.config, begun, common, slot))
    }

    /// How far the live tails of a named stream are behind the ends of its streams, in events of all types; `None` where
    /// nobody listens, and so nothing is read, and where JetStream does not say it in time.
    pub async fn tail_lag(&self, name: &SubscriptionId) -> Option<u64> {
        let shared = &self.0;
        let named = shared.named.lock().get(name).cloned()?;
        let is_derived = !named.process.lock().is_empty();
        let mut lag_events = None;
        for stream in shared.seen(&named.subscription.types).ok()? {
            let name = stream.name.clone();
            let key = match is_derived {
                true => Key::Named { generation: named.generation, stream: name },
                false => Key::Stream(name),
            };
            let Some(feed) = shared.feeds.lock().get(&key).cloned() else { continue };
            lag_events = Some(lag_events.unwrap_or(0) + shared.lag_of(&stream.name, &feed).await?);
        }
        lag_events
    }

    /// Lets clients listen until `stop`, and watches over them; then ends them all after the frame that each is at, and
    /// waits for the feeds' tasks. The connections of those who do not take that are cut after a while.
    pub async fn run(self, stop: CancellationToken) {
        let closing = self.0.closing.clone().drop_guard();
        let watch = async { tokio::join!(self.0.watch(), self.0.measure()) };
        stop.run_until_cancelled(watch).await;
        let connections = self.0.admission.connections();
        debug!(clients = self.0.admission.clients(), "event streams end");
        drop(closing);
        self.0.tasks.close();
        tokio::join!(self.0.tasks.wait(), cut_late(connections));
    }
}

impl Shared {
    /// Cuts clients that read nothing, and tells how far the others are behind. Does not end.
    async fn watch(&self) {
        // A client that reads is asked for bytes with every heartbeat at least.
        let bound = self.config.unread_timeout.max(2 * self.config.heartbeat);
        let looks_max = u32::try_from(bound.as_secs() / LOOK_INTERVAL.as_secs()).unwrap_or(u32::MAX).max(1);
        let mut looks = interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            self.admission.look(looks_max);
            let feeds: Vec<Arc<Feed>> = self.feeds.lock().values().cloned().collect();
            let behind = feeds.iter().flat_map(|feed| feed.groups()).map(|group| group.behind()).max();
            self.metrics.lag_events.set(behind.map_or(0, |behind| i64::try_from(behind).unwrap_or(i64::MAX)));
        }
    }

    /// Measures how far the live tails are behind.
    async fn measure(&self) {
        let mut times = interval(MEASURE_INTERVAL);
        times.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            times.tick().await;
            for stream in self.log.streams() {
                let feed = self.feeds.lock().get(&Key::Stream(stream.name.clone())).cloned();
                let lag_events = match feed {
                    Some(feed) => self.lag_of(&stream.name, &feed).await,
                    // Nobody listens.
                    None => Some(0),
                };
                if let Some(lag_events) = lag_events {
                    let gauge = self.metrics.tail_lag(stream.name.as_str());
                    gauge.set(i64::try_from(lag_events).unwrap_or(i64::MAX));
                }
            }
        }
    }

    /// How many events of its stream a feed has not taken yet; `None` when that cannot be had in time.
    async fn lag_of(&self, stream: &StreamName, feed: &Feed) -> Option<u64> {
        let facts = tokio::time::timeout(self.config.start_timeout, self.lookup.facts(stream)).await.ok()?.ok()?;
        let ring = feed.ring();
        // Of a stream that was made anew and that it has yet to see, it has nothing.
        let end = if ring.tag() == Tag::of(facts.identity) { ring.end() } else { facts.first_sequence };
        ring.is_open().then(|| (facts.last_sequence + 1).saturating_sub(end))
    }

    /// The streams that have events of these types.
    fn seen(&self, types: &[Pattern]) -> Result<Vec<&StreamConfig>, Error> {
        let has_types = |stream: &&StreamConfig| !stream.subjects_for(types).is_empty();
        // A stream that forgets what is acked has no second reader, or none that could come back to what it missed.
        let (forgetful, seen): (Vec<&StreamConfig>, Vec<_>) =
            self.log.streams().iter().filter(has_types).partition(|stream| self.log.is_forgetful(&stream.name));
        match (forgetful.first(), seen.is_empty()) {
            (Some(stream), true) => Err(Error::Forgetful { stream: stream.name.clone() }),
            (None, true) => Err(Error::NoStreamForTypes),
            (_, false) => Ok(seen),
        }
    }

    fn define(&self, subscription: Subscription, process: Arc<dyn Process>) -> Arc<NamedStream> {
        Arc::new(NamedStream {
            subscription,
            process: Mutex::new(process),
            generation: self.generations.fetch_add(1, Ordering::Relaxed),
            clients: Arc::default(),
            closing: self.closing.child_token(),
        })
    }

    fn stream(&self, name: &StreamName) -> Option<&StreamConfig> {
        self.log.streams().iter().find(|stream| stream.name == *name)
    }

    /// A client's place in one stream, with the feed that serves it.
    async fn source(
        self: &Arc<Self>,
        stream: &StreamConfig,
        types: &[Pattern],
        named: Option<&Arc<NamedStream>>,
        request: &Request,
    ) -> Result<Begun, Error> {
        let derived = named.filter(|named| !named.process.lock().is_empty());
        let lease = match derived {
            None => self.lease_stream(stream),
            Some(named) => self.lease_named(stream, named),
        };
        let feed = Arc::clone(lease.feed());
        let opened = tokio::time::timeout(self.config.start_timeout, feed.opened()).await;
        opened.map_err(|_elapsed| Error::NotReady { stream: stream.name.clone() })?;
        let Place { next, epoch, tag, before } = self.place(stream, &feed, request).await?;
        let wish: Wish = derived.is_none().then(|| {
            let mut subjects = stream.subjects_for(types);
            subjects.sort_unstable();
            subjects.dedup();
            subjects.into_boxed_slice()
        });
        let plugins = || derived.map(|named| self.plugins(named));
        let group = Feed::group(lease, wish, || self.historian(stream, types, plugins(), &feed));
        Ok(Begun { source: Source::new(group, next, epoch, tag), before })
    }

    /// What a stream holds, and which it is, once its feed is of that same one: a stream that was made anew shows there a
    /// little later.
    async fn facts(&self, stream: &StreamConfig, feed: &Feed) -> Result<(StreamFacts, u64, Tag), Error> {
        let fail = |source| Error::Facts { stream: stream.name.clone(), source };
        let facts = self.lookup.facts(&stream.name).await.map_err(fail)?;
        let tag = Tag::of(facts.identity);
        let same = tokio::time::timeout(self.config.start_timeout, feed.becomes(tag)).await;
        let epoch = same.map_err(|_elapsed| Error::NotReady { stream: stream.name.clone() })?;
        Ok((facts, epoch, tag))
    }

    /// Where a client begins.
    async fn place(&self, stream: &StreamConfig, feed: &Feed, request: &Request) -> Result<Place, Error> {
        // Before the place is looked for: a stream that is made anew meanwhile shows as another epoch.
        let (epoch, tag, last_known) = {
            let ring = feed.ring();
            (ring.epoch(), ring.tag(), ring.last_known())
        };
        let seen = request.cursor.as_ref().and_then(|cursor| cursor.get(&stream.name));
        if let Some(Seen { sequence, .. }) =
            seen.filter(|seen| seen.sequence <= last_known && seen.tag.is_none_or(|own| own == tag))
        {
            return Ok(Place { next: sequence + 1, epoch, tag, before: None });
        }
        if let (None, Begin::Sequence(sequence)) = (seen, request.from) {
            return Ok(Place { next: sequence.clamp(1, SEQUENCE_MAX), epoch, tag, before: None });
        }
        let (facts, epoch, tag) = self.facts(stream, feed).await?;
        let first = facts.first_sequence.max(1);
        let next = match (seen, request.from) {
            // What it has seen is of another stream of that name, or this one has lost it: it begins at the beginning.
            (Some(seen), _) if seen.tag.is_some_and(|own| own != tag) || seen.sequence > facts.last_sequence => {
                return Ok(Place { next: first, epoch, tag, before: Some(seen) });
            }
            (Some(seen), _) => seen.sequence + 1,
            (None, Begin::All) => first,
            (None, Begin::Time(at_ms)) => self.sequence_at(stream, at_ms).await?,
            (None, Begin::Now | Begin::Sequence(_)) => facts.last_sequence + 1,
        };
        Ok(Place { next, epoch, tag, before: None })
    }

    /// The first sequence that was stored at that time or later.
    async fn sequence_at(&self, stream: &StreamConfig, at_ms: u64) -> Result<u64, Error> {
        let found = async {
            // The semaphore is never closed; looking up without a permit would do no harm.
            let _permit = self.readers.acquire().await.ok();
            self.log.sequence_at(&stream.name, at_ms).await
        };
        let found = tokio::time::timeout(self.config.start_timeout, found).await;
        let found = found.map_err(|_elapsed| Error::NotReady { stream: stream.name.clone() })?;
        found.map_err(|source| Error::Facts { stream: stream.name.clone(), source: Arc::new(source) })
    }

    fn historian(
        &self,
        stream: &StreamConfig,
        types: &[Pattern],
        plugins: Option<CurrentPlugins>,
        feed: &Arc<Feed>,
    ) -> Historian {
        Historian {
            log: Arc::clone(&self.log),
            stream: stream.clone(),
            types: types.to_vec(),
            plugins,
            feed: Arc::clone(feed),
            readers: Arc::clone(&self.readers),
            history_bytes_max: self.config.history_bytes_max,
        }
    }

    /// A named stream's plugins as they are whenever they are asked for.
    fn plugins(&self, named: &Arc<NamedStream>) -> CurrentPlugins {
        let (named, metrics) = (Arc::clone(named), self.metrics.clone());
        Box::new(move || {
            let process = Arc::clone(&named.process.lock());
            Plugins { process, on_error: named.subscription.on_plugin_error, metrics: metrics.clone() }
        })
    }

    fn lease_stream(self: &Arc<Self>, stream: &StreamConfig) -> Lease {
        let log = Arc::clone(&self.log);
        let refill =
            Refill { events_max: self.config.refill_events_max, bytes_max: self.config.ring.bytes_max as u64 / 2 };
        let key = Key::Stream(stream.name.clone());
        self.lease(key, self.closing.clone(), |feed, end| pump_stream(feed, log, stream.clone(), refill, end))
    }

    fn lease_named(self: &Arc<Self>, stream: &StreamConfig, named: &Arc<NamedStream>) -> Lease {
        let base = self.lease_stream(stream);
        let historian = self.historian(stream, &named.subscription.types, None, base.feed());
        let plugins = self.plugins(named);
        let key = Key::Named { generation: named.generation, stream: stream.name.clone() };
        self.lease(key, named.closing.clone(), |feed, end| async move {
            end.run_until_cancelled(pump_named(feed, base, historian, plugins)).await;
        })
    }

    /// A share in a feed, which is started when it is not there. Its pump is told of its end.
    fn lease<F>(
        self: &Arc<Self>,
        key: Key,
        stop: CancellationToken,
        pump: impl FnOnce(Arc<Feed>, CancellationToken) -> F,
    ) -> Lease
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut feeds = self.feeds.lock();
        if let Some(feed) = feeds.get(&key) {
            return Lease::new(feed);
        }
        let feed = Arc::new(Feed::new(self.config.ring));
        let lease = Lease::new(&feed);
        feeds.insert(key.clone(), Arc::clone(&feed));
        let end = CancellationToken::new();
        let pump = pump(Arc::clone(&feed), end.clone());
        let shared = Arc::clone(self);
        let until_over = async move {
            tokio::select! {
                () = stop.cancelled() => { shared.feeds.lock().remove(&key); }
                () = shared.until_unused(&key, &feed) => {}
            }
            end.cancel();
            feed.wake_all();
        };
        self.tasks.spawn(async move {
            tokio::join!(pump, until_over);
        });
        lease
    }

    /// Returns when a feed has had no reader for a while; it is then no longer to be had.
    async fn until_unused(&self, key: &Key, feed: &Feed) {
        let mut ticks = tokio::time::interval(self.config.linger.max(Duration::from_millis(2)) / 2);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut unused_ticks = 0;
        loop {
            ticks.tick().await;
            // Leases are taken under this lock, so that nobody gets one of a feed that ends.
            let mut feeds = self.feeds.lock();
            unused_ticks = if feed.is_unused() { unused_ticks + 1 } else { 0 };
            if unused_ticks > 2 {
                feeds.remove(key);
                return;
            }
        }
    }
}

/// Waits until connections have ended, and cuts those that have not after a while: a client that reads nothing takes no end
/// either, and is not to keep the daemon.
async fn cut_late(mut connections: Vec<Remembered>) {
    let ended = async {
        let mut looks = interval(FAREWELL_POLL);
        while !connections.is_empty() {
            looks.tick().await;
            connections.retain(Remembered::is_open);
        }
    };
    if tokio::time::timeout(FAREWELL_TIMEOUT, ended).await.is_err() {
        info!(connections = connections.len(), "some event streams did not take their end, cutting them off");
        connections.iter().for_each(Remembered::cut);
    }
}
