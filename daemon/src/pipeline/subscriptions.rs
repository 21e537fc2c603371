//! The set of webhook subscriptions that run: made at start, and brought up to date on reload without losing anybody's
//! state.

mod idle;
mod register;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use self::idle::Idle;
use super::control::Control;
use super::feed::{Retarget, Routes};
use super::worker::Worker;
use super::{Shared, Spec};
use crate::deliver::health::{self, Resume};
use crate::deliver::lane::{Lane, Limits};
use crate::deliver::ledger::Ledger;
use crate::deliver::secrets::Wanted;
use crate::deliver::{Prepared, Secrets, prepared};
use crate::domain::{Order, Pattern, Position, RangeSet, StreamName, Subscription, SubscriptionId, Target};
use crate::failpoint::{self, Place};
use crate::plugin::{self, Chain, Host};
use crate::route::Table;
use crate::store::{Change, Disabled, GapCause, GapRecord, Recovered, Registration};
use crate::telemetry;
use crate::telemetry::metrics::Metrics;
use crate::{ingest, store};

/// The fewest live events that a lane lets wait.
const QUEUE_EVENTS_MIN: u32 = 64;

/// Why a subscription cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// One of its plugins is missing, faulty or refuses its configuration.
    #[error("subscription {subscription} cannot use its plugins")]
    Plugin {
        /// The subscription.
        subscription: SubscriptionId,
        /// What is wrong.
        source: plugin::Error,
    },
    /// Its endpoint is not one.
    #[error("subscription {subscription} cannot use its endpoint")]
    Endpoint {
        /// The subscription.
        subscription: SubscriptionId,
        /// What is wrong.
        source: prepared::Error,
    },
    /// It wants of a stream what that cannot do.
    #[error(
        "subscription {subscription} has `{key}` and reads stream {stream}, which has work-queue or interest retention and \
         forgets what is acked: {reason}"
    )]
    Forgetful {
        /// The subscription.
        subscription: SubscriptionId,
        /// The stream.
        stream: StreamName,
        /// What it has.
        key: &'static str,
        /// Why that cannot be.
        reason: &'static str,
    },
    /// The store could not be read or written.
    #[error("cannot read or write what is known of the subscriptions")]
    Store(#[from] store::Error),
    /// A subscription whose endpoint was replaced could not be enabled.
    #[error("cannot enable a subscription whose endpoint was replaced")]
    Enable(#[source] health::Error),
    /// The store does not take where a subscription stands that cannot run.
    #[error("cannot put on record where a subscription stands that cannot run")]
    NotDurable,
    /// The daemon is stopping.
    #[error("the daemon is stopping")]
    Ending,
    /// A stream's facts or consumer could not be had.
    #[error("cannot bring the streams up to date")]
    Ingest(#[from] ingest::Error),
}

impl Error {
    /// May the same succeed later, with nothing changed in the configuration?
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Plugin { .. } | Self::Endpoint { .. } | Self::Forgetful { .. } => false,
            Self::Store(_) | Self::Enable(_) | Self::NotDurable | Self::Ending => true,
            Self::Ingest(error) => error.is_passing(),
        }
    }
}

/// A subscription that is ready to run.
pub enum Ready {
    /// A webhook.
    Webhook(Box<Spec>),
    /// The plugins of a named Server-Sent Events stream.
    Stream(Chain),
}

/// Makes a subscription ready to run. Blocks: it may compile plugins.
///
/// # Errors
/// When a plugin or the endpoint cannot be used.
pub fn prepare(host: &Host, secrets: &Secrets, subscription: &Subscription) -> Result<Ready, Error> {
    let id = &subscription.id;
    let chain = host
        .chain(id, &subscription.filters, &subscription.transforms, subscription.on_plugin_error)
        .map_err(|source| Error::Plugin { subscription: id.clone(), source })?;
    let Target::Webhook(endpoint) = &subscription.target else { return Ok(Ready::Stream(chain)) };
    let prepared = Prepared::signed_by(endpoint, secrets.signing(id))
        .map_err(|source| Error::Endpoint { subscription: id.clone(), source })?;
    Ok(Ready::Webhook(Box::new(Spec {
        types: subscription.types.clone(),
        chain: Arc::new(chain),
        endpoint: Arc::new(prepared),
        endpoint_digest: endpoint.digest(),
        secret: Wanted { secret: endpoint.secret.clone(), overlap: endpoint.secret_overlap },
        retry: endpoint.retry.clone(),
        health: endpoint.health,
        // One at a time also means that no record waits for others to fill its group.
        in_flight_max: if endpoint.order == Order::Strict { 1 } else { endpoint.in_flight_max.get() },
        deliver_from: subscription.deliver_from.clone(),
        rate_limit: endpoint.rate_limit,
        order: endpoint.order.clone(),
        head_of_line: endpoint.head_of_line,
    })))
}

/// A stream as the subscriptions see it.
pub struct StreamLink {
    /// Its name.
    pub name: StreamName,
    /// The highest event handed out before this daemon began.
    pub delivered_before: u64,
    /// Everything up to there was acked to the daemon before this one: nothing of it comes again.
    pub acked_before: u64,
    /// It has taken the place of an older stream of that name.
    pub replaced: bool,
    /// Asks its feed for other event types.
    pub retarget: mpsc::Sender<Retarget>,
}

/// When a subscription comes to the live tail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Joins {
    /// Before the first event is taken: all that is published from now on is offered to it.
    AtStart,
    /// While events pass: what is published before the live tail knows of it is its reader's.
    Later,
}

/// A subscription as the store knows it.
struct Registered {
    registration: Registration,
    /// The streams in which it begins with history, its position durable.
    begun: Vec<Begun>,
}

/// Where a subscription begins in a stream, and the last event that the stream had by then.
struct Begun {
    position: Position,
    last_sequence: u64,
}

struct Running {
    lane: Arc<Lane>,
    spec: Arc<ArcSwap<Spec>>,
    stop: CancellationToken,
}

/// The running set.
pub struct Subscriptions {
    shared: Arc<Shared>,
    metrics: Metrics,
    routes: Arc<ArcSwap<Routes>>,
    room: Arc<Notify>,
    streams: Vec<StreamLink>,
    running: HashMap<SubscriptionId, Running>,
    /// Those that are configured and cannot run.
    idle: HashMap<SubscriptionId, Idle>,
    workers: TaskTracker,
    stop: CancellationToken,
    control: Control,
    /// The event types that every stream was asked for last, when all of them took them.
    asked: Option<Vec<Pattern>>,
}

impl Subscriptions {
    /// An empty set. Workers are spawned on `workers` and end when `stop` is cancelled.
    pub fn new(
        shared: Shared,
        metrics: Metrics,
        routes: Arc<ArcSwap<Routes>>,
        room: Arc<Notify>,
        workers: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        let control = Control::new(shared.clone());
        let (streams, running, idle) = (Vec::new(), HashMap::new(), HashMap::new());
        Self {
            shared: Arc::new(shared),
            metrics,
            routes,
            room,
            streams,
            running,
            idle,
            workers,
            stop,
            control,
            asked: None,
        }
    }

    /// Enables and disables its subscriptions.
    pub fn control(&self) -> Control {
        self.control.clone()
    }

    /// Starts the set for the first time, from what the store has on record. Those of `idle` are configured and cannot
    /// run, for the reason that is with them: where they stand is kept.
    ///
    /// # Errors
    /// When the store or JetStream cannot be read.
    pub async fn start(
        &mut self,
        streams: Vec<StreamLink>,
        specs: Vec<(SubscriptionId, Spec)>,
        idle: &[(SubscriptionId, Box<str>)],
        recovered: Vec<Recovered>,
    ) -> Result<(), Error> {
        self.streams = streams;
        self.check_streams(&specs)?;
        self.forget_unknown(&specs.iter().map(|(id, _)| id).chain(idle.iter().map(|(id, _)| id)).collect())?;
        let mut on_record: HashMap<SubscriptionId, Vec<Recovered>> = HashMap::new();
        for entry in recovered {
            on_record.entry(entry.subscription.clone()).or_default().push(entry);
        }
        for (id, reason) in idle {
            let recovered = on_record.remove(id).unwrap_or_default();
            let idle = self.keep_place(id, reason, &recovered).await?;
            self.idle.insert(id.clone(), idle);
        }
        self.settle_secrets(&specs).await?;
        let mut workers = Vec::with_capacity(specs.len());
        let all: Vec<_> = specs.iter().collect();
        let registered = self.register(&all, Joins::AtStart).await?;
        for ((id, spec), registered) in specs.into_iter().zip(registered) {
            let recovered = on_record.remove(&id).unwrap_or_default();
            let ledgers = self.ledgers(&registered, &recovered, &spec.order);
            workers.push(self.add(&id, spec, ledgers, &registered.registration));
        }
        self.publish_routes();
        self.set_to_work(workers);
        Ok(())
    }

    /// Brings the set up to date: new subscriptions begin where they say, changed ones go on with their state, those of
    /// `gone` end, and all others stay as they are. One that was gone and comes back is new, save that its parked
    /// deliveries and dead letters are still its own.
    ///
    /// # Errors
    /// When JetStream does not take the new event types or the store not a new subscription: the set is then as before.
    pub async fn update(&mut self, specs: Vec<(SubscriptionId, Spec)>, gone: Vec<SubscriptionId>) -> Result<(), Error> {
        self.check_streams(&specs)?;
        self.retarget(&specs, &gone).await?;
        let added: Vec<_> = specs.iter().filter(|(id, _)| !self.running.contains_key(id)).collect();
        for (id, _) in &added {
            // One that was removed earlier comes back as a new one: what it knew of the streams no longer counts. One that
            // knows none of them was made disabled a moment ago.
            let known = self.shared.store.registration(id)?;
            if !self.idle.contains_key(id) && known.is_some_and(|known| !known.starts_after.is_empty()) {
                let (store, id) = (self.shared.store.clone(), id.clone());
                away(move || store.remove_registration(&id)).await?;
            }
        }
        let registered = self.register(&added, Joins::Later).await?;
        let ids: Vec<_> = added.into_iter().map(|(id, _)| id.clone()).collect();
        let mut new: HashMap<_, _> = ids.into_iter().zip(registered).collect();
        self.settle_secrets(&specs).await?;
        for id in &gone {
            self.idle.remove(id);
            if let Some(running) = self.running.remove(id) {
                info!(subscription = %id, "subscription removed");
                running.lane.state().removed = true;
                self.metrics.forget(&running.lane.metrics);
                running.stop.cancel();
            }
        }
        let (mut workers, mut relieved) = (Vec::new(), Vec::new());
        for (id, spec) in specs {
            if let Some(running) = self.running.get(&id) {
                let mut state = running.lane.state();
                state.set_limits(limits(&spec));
                // A reader goes on with the event types that it was opened with.
                if running.spec.load().types != spec.types {
                    state.ledgers.iter_mut().for_each(Ledger::reread);
                }
                state.types.clone_from(&spec.types);
                let lifted = state.disabled.as_ref().is_some_and(|disabled| is_lifted(disabled, &spec));
                drop(state);
                running.spec.store(Arc::new(spec));
                running.lane.wake();
                if lifted {
                    relieved.push(Arc::clone(&running.lane));
                }
            } else if let Some(registered) = new.remove(&id) {
                let ledgers = self.ledgers(&registered, &[], &spec.order);
                let ledgers = self.with_kept_places(&id, ledgers);
                info!(subscription = %id, "subscription added");
                workers.push(self.add(&id, spec, ledgers, &registered.registration));
            }
        }
        self.publish_routes();
        self.set_to_work(workers);
        self.forget(gone).await;
        for lane in relieved {
            info!(subscription = %lane.id(), "another endpoint takes the place of the one that was disabled");
            self.control.enable(&lane, Resume::Stop).await.map_err(Error::Enable)?;
        }
        Ok(())
    }

    /// The plugins of all that run.
    pub fn chains(&self) -> Vec<Arc<Chain>> {
        self.running.values().map(|running| Arc::clone(&running.spec.load().chain)).collect()
    }

    /// Gives a subscription other plugins; events under way end on those that they began with. False when it does not run.
    pub fn replace_plugins(&self, id: &SubscriptionId, chain: Arc<Chain>) -> bool {
        let Some(running) = self.running.get(id) else { return false };
        let spec = running.spec.load_full();
        running.spec.store(Arc::new(Spec { chain, ..(*spec).clone() }));
        true
    }

    /// Takes out of the store where subscriptions that are gone stood, so that each is new when it comes back, also after
    /// a restart. What they had handed in before is waited for: a position among it would come after.
    async fn forget(&self, gone: Vec<SubscriptionId>) {
        if gone.is_empty() {
            return;
        }
        // When the store fails they are forgotten when they come back, or at the next start.
        if !matches!(self.shared.written(Change::Barrier).await, Ok(true)) {
            return;
        }
        for id in gone {
            let (store, gone) = (self.shared.store.clone(), id.clone());
            if let Err(error) = away(move || store.remove_registration(&gone)).await {
                warn!(subscription = %id, error = %telemetry::chain(&error), "cannot forget a removed subscription yet");
            }
        }
    }

    /// Forgets the places of subscriptions that were removed while no daemon ran, or whose end the store did not take.
    fn forget_unknown(&self, configured: &HashSet<&SubscriptionId>) -> Result<(), Error> {
        for (id, _) in self.shared.store.registrations()? {
            if !configured.contains(&id) {
                info!(subscription = %id, "a subscription is no longer configured: where it stood is forgotten");
                self.shared.store.remove_registration(&id)?;
            }
        }
        Ok(())
    }

    /// The lanes, for readings.
    pub fn routes(&self) -> Arc<ArcSwap<Routes>> {
        Arc::clone(&self.routes)
    }

    /// Makes the secrets that are missing, and begins the overlap of those that have changed. From here on requests are
    /// signed so, also those of a set that then stays as before.
    async fn settle_secrets(&self, specs: &[(SubscriptionId, Spec)]) -> Result<(), Error> {
        let wanted: Vec<_> = specs.iter().map(|(id, spec)| (id.clone(), spec.secret.clone())).collect();
        let secrets = self.shared.secrets.clone();
        match tokio::task::spawn_blocking(move || secrets.settle(&wanted)).await {
            Ok(settled) => Ok(settled?),
            Err(ended) => std::panic::resume_unwind(ended.into_panic()),
        }
    }

    /// Asks every stream for the types of the set as it will be, where they differ from those of now.
    async fn retarget(&mut self, specs: &[(SubscriptionId, Spec)], gone: &[SubscriptionId]) -> Result<(), Error> {
        let stays = |id: &SubscriptionId| !gone.contains(id) && !specs.iter().any(|(other, _)| other == id);
        let staying = self.running.iter().filter(|(id, _)| stays(id)).map(|(_, running)| running.spec.load_full());
        let mut types: Vec<_> = specs.iter().flat_map(|(_, spec)| spec.types.iter().cloned()).collect();
        types.extend(staying.flat_map(|spec| spec.types.clone()));
        types.sort();
        types.dedup();
        if self.asked.as_ref() == Some(&types) {
            return Ok(());
        }
        self.asked = None;
        for stream in &self.streams {
            let (done, answer) = oneshot::channel();
            let ask = Retarget { types: types.clone(), done };
            // A feed that is gone, or drops the question, is one that ends: the daemon is stopping.
            if stream.retarget.send(ask).await.is_ok()
                && let Ok(result) = answer.await
            {
                result?;
            }
        }
        failpoint::pass(Place::Retargeted);
        self.asked = Some(types);
        Ok(())
    }

    fn ledgers(&self, registered: &Registered, recovered: &[Recovered], order: &Order) -> Vec<Ledger> {
        let ledger = |stream: &StreamLink| {
            let name = &stream.name;
            let offered = stream.delivered_before;
            let record = recovered.iter().find(|r| r.stream == *name);
            let begun = registered.begun.iter().find(|begun| begun.position.stream == *name);
            let held = record.and_then(|r| r.position.as_ref());
            let forgetful = self.shared.nats.is_forgetful(name);
            let mut ledger = match (begun, held) {
                _ if forgetful => Ledger::live(name.clone(), offered),
                (Some(begun), _) => {
                    let offered = offered.max(begun.last_sequence);
                    Ledger::held_at(name.clone(), begun.position.sequence, RangeSet::new(), offered)
                }
                (None, Some(held)) => {
                    let (above, parts) = (held.recorded_above.clone(), held.partly_above.clone());
                    Ledger::held_at(name.clone(), held.position.sequence, above, offered).with_parts(parts)
                }
                (None, None) => Ledger::live(name.clone(), offered),
            };
            if forgetful {
                ledger.set_forgetful();
            }
            // It may have begun with history that the live tail had no reason to offer.
            ledger.read_to_end();
            if let Some(after) = starts_after(&registered.registration, name).filter(|after| *after > 0) {
                ledger.begin_after(after);
            }
            for part in record.into_iter().flat_map(|r| &r.recorded) {
                ledger.recover(part.sequence, part.part, part.parts);
            }
            // What the daemon before this one had in hand comes again from JetStream after newer events: a subscription
            // that keeps an order reads it first, by itself.
            ledger.set_ordered(order.is_kept());
            ledger.begin_above(stream.acked_before);
            ledger
        };
        self.streams.iter().map(ledger).collect()
    }

    fn add(
        &mut self,
        id: &SubscriptionId,
        spec: Spec,
        ledgers: Vec<Ledger>,
        registration: &Registration,
    ) -> (Box<Worker>, CancellationToken) {
        let metrics = self.metrics.subscription(id.as_str());
        let disabled = registration.disabled.clone();
        metrics.disabled.set(disabled.is_some().into());
        metrics.failing.set(registration.failing_since_ms.is_some().into());
        let held = disabled.is_some() || ledgers.iter().any(Ledger::is_held);
        metrics.held.set(held.into());
        let lane = Arc::new(Lane::new(id.clone(), metrics, limits(&spec), ledgers, Arc::clone(&self.room)));
        lane.read_parked(&self.shared.store);
        {
            let mut state = lane.state();
            state.due_ms = self.shared.store.next_due_ms(id).unwrap_or(Some(0));
            state.disabled = disabled;
            state.types.clone_from(&spec.types);
            state.health.failing = registration.failing_since_ms.is_some();
            state.health.failing_since_ms = registration.failing_since_ms;
            state.health.gaps.clone_from(&registration.gaps);
        }
        if lane.state().disabled.is_some() {
            lane.hold();
        }
        let spec = Arc::new(ArcSwap::from_pointee(spec));
        let stop = self.stop.child_token();
        let mut worker =
            Worker::new(Arc::clone(&lane), Arc::clone(&spec), Arc::clone(&self.shared), Arc::clone(&self.room));
        let is_new = |gap: &&GapRecord| self.streams.iter().any(|s| s.replaced && s.name == gap.stream);
        if let Some(gap) = registration.gaps.last().filter(|gap| gap.cause == GapCause::Replaced).filter(is_new) {
            worker.tell_of(gap.clone());
        }
        self.running.insert(id.clone(), Running { lane, spec, stop: stop.clone() });
        (Box::new(worker), stop)
    }

    /// Only now that the live tail knows of the new subscriptions: the first page that comes to the end then has all that
    /// it did not offer to them.
    fn set_to_work(&self, workers: Vec<(Box<Worker>, CancellationToken)>) {
        for (worker, stop) in workers {
            self.workers.spawn(worker.run(stop));
        }
    }

    fn publish_routes(&self) {
        let mut lanes = Vec::with_capacity(self.running.len());
        let mut specs = Vec::with_capacity(self.running.len());
        let mut types = Vec::new();
        let mut entries = Vec::new();
        for (index, running) in (0u32..).zip(self.running.values()) {
            lanes.push(Arc::clone(&running.lane));
            specs.push(Arc::clone(&running.spec));
            let spec = running.spec.load();
            types.extend(spec.types.iter().cloned());
            entries.extend(spec.types.iter().cloned().map(|pattern| (pattern, index)));
        }
        let table = Table::new(entries.iter().map(|(pattern, index)| (pattern, *index)));
        types.sort();
        types.dedup();
        let idle = self.idle.iter().map(|(id, idle)| (id.clone(), Arc::clone(&idle.reason))).collect();
        self.routes.store(Arc::new(Routes { table, lanes, specs, types, idle }));
    }
}

fn starts_after(registration: &Registration, stream: &StreamName) -> Option<u64> {
    registration.starts_after.iter().find(|(name, _)| name == stream).map(|(_, sequence)| *sequence)
}

/// Is a subscription no longer disabled, because its endpoint is another one than that which was the cause?
fn is_lifted(disabled: &Disabled, spec: &Spec) -> bool {
    disabled.endpoint.is_some_and(|endpoint| endpoint != spec.endpoint_digest)
}

/// Writes what is flushed before it returns away from the data plane.
async fn away(write: impl FnOnce() -> Result<(), store::Error> + Send + 'static) -> Result<(), Error> {
    match tokio::task::spawn_blocking(write).await {
        Ok(written) => Ok(written?),
        // The runtime is ending: nothing was written, and nobody asks any more.
        Err(_) => Err(Error::Ending),
    }
}

/// The most live events that wait in a subscription's lane.
pub fn queue_events_max(spec: &Spec) -> u32 {
    spec.in_flight_max.saturating_mul(2).max(QUEUE_EVENTS_MIN)
}

fn limits(spec: &Spec) -> Limits {
    let queue_events_max = queue_events_max(spec) as usize;
    Limits { in_flight_max: spec.in_flight_max, queue_events_max, rate: spec.rate_limit, ordered: spec.order.is_kept() }
}
