//! The hub: who may listen to what.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use super::client::{Client, Source, State};
use super::feed::{Feed, Lease, pump_named, pump_stream};
use super::history::{Historian, Plugins};
use super::log::Log;
use super::process::Process;
use super::{Config, Cursor, Error};
use crate::domain::{Pattern, StreamName, Subscription, SubscriptionId};
use crate::ingest::{Nats, StreamConfig};
use crate::telemetry::metrics::{Metrics, SseMetrics};

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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Who it is; clients are limited by it.
    pub principal: String,
    /// What it wants to hear.
    pub wanted: Wanted,
    /// Where it was; without one it hears what comes from now on.
    pub cursor: Option<Cursor>,
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
    clients: Arc<Mutex<Counts>>,
    readers: Arc<Semaphore>,
    closing: CancellationToken,
    tasks: TaskTracker,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Key {
    Stream(StreamName),
    Named { generation: usize, stream: StreamName },
}

/// One definition of a named stream.
struct NamedStream {
    subscription: Subscription,
    process: Mutex<Arc<dyn Process>>,
    generation: usize,
    clients: Arc<AtomicUsize>,
    closing: CancellationToken,
}

#[derive(Default)]
struct Counts {
    all: usize,
    by_principal: HashMap<String, usize>,
}

impl Hub {
    /// A hub over the configured streams. Clients are served as soon as [`Hub::run`] runs or before; nothing is started
    /// until the first one comes.
    pub fn new(nats: Nats, config: Config, named: Vec<Named>, metrics: &Metrics) -> Self {
        Self::over(Arc::new(nats), config, named, metrics)
    }

    pub(super) fn over(log: Arc<dyn Log>, config: Config, named: Vec<Named>, metrics: &Metrics) -> Self {
        let readers = Arc::new(Semaphore::new(config.readers_max.max(1)));
        let hub = Self(Arc::new(Shared {
            log,
            config,
            metrics: metrics.sse(),
            feeds: Mutex::default(),
            named: Mutex::default(),
            generations: AtomicUsize::new(0),
            clients: Arc::default(),
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
        let named = match &request.wanted {
            Wanted::Types(_) => None,
            Wanted::Named(name) => {
                let found = shared.named.lock().get(name).cloned();
                Some(found.ok_or_else(|| Error::NoSuchStream { name: name.clone() })?)
            }
        };
        let types = match (&request.wanted, &named) {
            (Wanted::Types(types), _) => types.clone(),
            (Wanted::Named(_), Some(named)) => named.subscription.types.clone(),
            (Wanted::Named(_), None) => Vec::new(),
        };
        if let Some(unknown) =
            request.cursor.iter().flat_map(Cursor::streams).find(|name| shared.stream(name).is_none())
        {
            return Err(Error::UnknownStream { stream: unknown.clone() });
        }
        let has_types = |stream: &&StreamConfig| !stream.subjects_for(&types).is_empty();
        // A stream that forgets what is acked has no second reader, or none that could come back to what it missed.
        let (forgetful, seen): (Vec<&StreamConfig>, Vec<_>) =
            shared.log.streams().iter().filter(has_types).partition(|stream| shared.log.is_forgetful(&stream.name));
        if let (Some(stream), []) = (forgetful.first(), &*seen) {
            return Err(Error::Forgetful { stream: stream.name.clone() });
        }
        if seen.is_empty() {
            return Err(Error::NoStreamForTypes);
        }
        let mut slot = shared.slot(request.principal)?;
        slot.named = named.as_ref().map(|named| Counted::new(&named.clients));
        let mut sources = Vec::with_capacity(seen.len());
        for stream in seen {
            sources.push(shared.source(stream, &types, named.as_ref(), request.cursor.as_ref()).await?);
        }
        let closing = named.as_ref().map_or(&shared.closing, |named| &named.closing).clone();
        let state = State::new(&shared.config, sources, closing, shared.tasks.clone(), shared.metrics.clone(), slot);
        Ok(Client::new(state))
    }

    /// Lets clients listen until `stop`, then ends them all after the frame that each is at, and waits for the feeds' tasks.
    pub async fn run(self, stop: CancellationToken) {
        let closing = self.0.closing.clone().drop_guard();
        stop.cancelled().await;
        debug!(clients = self.0.clients.lock().all, "event streams end");
        drop(closing);
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}

impl Shared {
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

    fn slot(&self, principal: String) -> Result<Slot, Error> {
        let mut counts = self.clients.lock();
        if counts.all >= self.config.clients_max {
            return Err(Error::Clients { clients_max: self.config.clients_max });
        }
        let own = counts.by_principal.entry(principal.clone()).or_default();
        if *own >= self.config.clients_per_principal_max {
            return Err(Error::ClientsOfPrincipal { clients_max: self.config.clients_per_principal_max });
        }
        *own += 1;
        counts.all += 1;
        self.metrics.clients.inc();
        let metrics = self.metrics.clone();
        Ok(Slot { counts: Arc::clone(&self.clients), principal, metrics, named: None })
    }

    /// A client's place in one stream, with the feed that serves it.
    async fn source(
        self: &Arc<Self>,
        stream: &StreamConfig,
        types: &[Pattern],
        named: Option<&Arc<NamedStream>>,
        cursor: Option<&Cursor>,
    ) -> Result<Source, Error> {
        let derived = named.filter(|named| !named.process.lock().is_empty());
        let lease = match derived {
            None => self.lease_stream(stream),
            Some(named) => self.lease_named(stream, named),
        };
        let feed = Arc::clone(lease.feed());
        let opened = tokio::time::timeout(self.config.start_timeout, feed.opened()).await;
        opened.map_err(|_elapsed| Error::NotReady { stream: stream.name.clone() })?;
        let (last_known, epoch) = {
            let ring = feed.ring();
            (ring.last_known(), ring.epoch())
        };
        let facts = || async {
            let facts = self.log.facts(&stream.name).await;
            facts.map_err(|source| Error::Facts { stream: stream.name.clone(), source })
        };
        let mut reset_from = None;
        let next = match cursor.and_then(|cursor| cursor.get(&stream.name)) {
            None => facts().await?.last_sequence + 1,
            Some(sequence) if sequence <= last_known => sequence + 1,
            Some(sequence) => {
                let facts = facts().await?;
                // The stream never had what the client has seen: it was made anew, and begins at its beginning.
                let reset = sequence > facts.last_sequence;
                reset_from = reset.then_some(sequence + 1);
                if reset { facts.first_sequence.max(1) } else { sequence + 1 }
            }
        };
        let historian = Arc::new(self.historian(stream, types, derived.map(|named| self.plugins(named)), &feed));
        let subjects = derived.is_none().then(|| stream.subjects_for(types));
        Ok(Source::new(stream.name.clone(), lease, historian, subjects, next, epoch, reset_from))
    }

    fn historian(
        &self,
        stream: &StreamConfig,
        types: &[Pattern],
        plugins: Option<Plugins>,
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

    fn plugins(&self, named: &NamedStream) -> Plugins {
        let process = Arc::clone(&named.process.lock());
        Plugins { process, on_error: named.subscription.on_plugin_error, metrics: self.metrics.clone() }
    }

    fn lease_stream(self: &Arc<Self>, stream: &StreamConfig) -> Lease {
        let (log, refill) = (Arc::clone(&self.log), self.config.refill_events_max);
        let key = Key::Stream(stream.name.clone());
        self.lease(key, self.closing.clone(), |feed| pump_stream(feed, log, stream.clone(), refill))
    }

    fn lease_named(self: &Arc<Self>, stream: &StreamConfig, named: &Arc<NamedStream>) -> Lease {
        let base = self.lease_stream(stream);
        let historian = self.historian(stream, &named.subscription.types, None, base.feed());
        let (shared, definition) = (Arc::clone(self), Arc::clone(named));
        let plugins = Box::new(move || shared.plugins(&definition));
        let key = Key::Named { generation: named.generation, stream: stream.name.clone() };
        self.lease(key, named.closing.clone(), |feed| pump_named(feed, base, historian, plugins))
    }

    /// A share in a feed, which is started when it is not there.
    fn lease<F>(self: &Arc<Self>, key: Key, stop: CancellationToken, pump: impl FnOnce(Arc<Feed>) -> F) -> Lease
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
        let pump = pump(Arc::clone(&feed));
        let shared = Arc::clone(self);
        self.tasks.spawn(async move {
            tokio::select! {
                () = pump => {}
                () = stop.cancelled() => { shared.feeds.lock().remove(&key); }
                () = shared.until_unused(&key, &feed) => {}
            }
        });
        lease
    }

    /// Returns when a feed has had no reader for a while; it is then no longer to be had.
    async fn until_unused(&self, key: &Key, feed: &Feed) {
        let mut ticks = tokio::time::interval(self.config.linger.max(std::time::Duration::from_millis(2)) / 2);
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

/// A client's place in the limits, given back when it goes.
pub(super) struct Slot {
    counts: Arc<Mutex<Counts>>,
    principal: String,
    metrics: SseMetrics,
    named: Option<Counted>,
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut counts = self.counts.lock();
        counts.all -= 1;
        if let Some(own) = counts.by_principal.get_mut(&self.principal) {
            *own -= 1;
            if *own == 0 {
                counts.by_principal.remove(&self.principal);
            }
        }
        self.metrics.clients.dec();
    }
}

struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
