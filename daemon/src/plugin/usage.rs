//! A plugin as one subscription uses it: its configuration, and a few warm instances.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use tokio::time::Instant;
use tracing::{info, warn};

use super::Limits;
use super::bindings::v1::sluiced::plugin::types as guest;
use super::error::Error;
use super::fault::{Fault, FaultKind};
use super::host::{Plugin, Shared};
use super::instance::Instance;
use super::quarantine::{Quarantine, Turn};
use super::state::LogGate;
use super::ticker::SLICE_MS;
use super::trial::Attached;
use super::view::{Allowance, View};
use crate::domain::{Output, PluginRef, SubscriptionId, Verdict};

/// A plugin with its configuration, for one subscription.
pub(super) struct Usage {
    shared: Arc<Shared>,
    plugin: Arc<Plugin>,
    subscription: SubscriptionId,
    /// The plugin's name, its configuration and its own limits, as the subscription says.
    setting: PluginRef,
    /// All limits.
    limits: Arc<Limits>,
    log: Arc<LogGate>,
    idle: Mutex<Vec<Instance>>,
    /// When an instance was last wanted, as the ticker counts.
    used: AtomicU32,
    /// How long its calls took since it last waited for a turn, in nanoseconds.
    spent_ns: AtomicU64,
    quarantine: Quarantine,
    /// The memory of the instance that was used last, in bytes.
    memory_bytes: AtomicUsize,
    /// A candidate for the plugin's place, in shadow mode.
    candidate: ArcSwapOption<Attached>,
}

/// What versions of plugins (by their digests) have accepted: configurations, and the limits that they were accepted under. A
/// thousand subscriptions of which many use a plugin alike need not make an instance each before they have an event.
#[derive(Default)]
pub(super) struct Accepted(Mutex<HashSet<(Box<str>, PluginRef)>>);

impl Accepted {
    /// Beyond so many all are forgotten, to be tried again.
    const ENTRIES_MAX: usize = 10_000;

    fn add(&self, accepted: (Box<str>, PluginRef)) {
        let mut all = self.0.lock();
        if all.len() >= Self::ENTRIES_MAX {
            all.clear();
        }
        all.insert(accepted);
    }
}

impl Usage {
    /// Checks the configuration against the plugin's schema and configures a first instance with it, under the use's limits.
    /// Where that was done before, for another subscription or before a reload, the first event makes the first instance.
    ///
    /// # Errors
    /// When schema or plugin refuse the configuration, a limit makes no sense, or the plugin fails.
    pub(super) async fn prepare(
        shared: &Arc<Shared>,
        plugin: Arc<Plugin>,
        used: &PluginRef,
        subscription: &SubscriptionId,
        log: LogGate,
    ) -> Result<Arc<Self>, Error> {
        plugin.check_config(&used.config)?;
        let limits = Arc::new(shared.limits.of_use(&used.limits)?);
        let usage = Arc::new(Self {
            shared: Arc::clone(shared),
            setting: used.clone(),
            log: Arc::new(log),
            plugin,
            subscription: subscription.clone(),
            quarantine: Quarantine::new(&limits),
            limits,
            idle: Mutex::default(),
            used: AtomicU32::new(0),
            spent_ns: AtomicU64::new(0),
            memory_bytes: AtomicUsize::new(0),
            candidate: ArcSwapOption::empty(),
        });
        let accepted = (usage.plugin.digest().into(), used.clone());
        if shared.accepted.0.lock().contains(&accepted) {
            return Ok(Self::registered(usage));
        }
        let instance = usage.make().await.map_err(|kind| match kind {
            FaultKind::Reported { message } => Error::Refused { plugin: usage.plugin.name().into(), message },
            kind => Error::Configure(usage.fault(kind)),
        })?;
        shared.accepted.add(accepted);
        usage.put(instance);
        Ok(Self::registered(usage))
    }

    /// The same, known to the slots, so that its idle instances can be given up.
    fn registered(usage: Arc<Self>) -> Arc<Self> {
        usage.used.store(usage.shared.ticker.begun(), Ordering::Relaxed);
        usage.shared.slots.register(&usage);
        usage
    }

    /// Asks the plugin, a filter, about an event.
    pub(super) async fn keep(&self, view: View<'_>) -> Result<Verdict, Fault> {
        let headers = view.headers(&self.plugin.description().needs_headers);
        let event = view.lower(self.plugin.description(), &headers);
        let verdict = self.call(async |instance| instance.keep(&self.shared, event).await).await?;
        Ok(match verdict {
            guest::Verdict::Keep => Verdict::Keep,
            guest::Verdict::Drop(reason) => Verdict::Drop(reason.map(shortened)),
        })
    }

    /// What the plugin, a transform, makes of one event by itself.
    pub(super) async fn outputs(&self, view: View<'_>) -> Result<Vec<Output>, Fault> {
        let outputs = self.apply(view).await?;
        Allowance::new(&self.limits).take(outputs).map_err(|kind| self.fault(kind))
    }

    /// Has the plugin, a transform, work on an event.
    pub(super) async fn apply(&self, view: View<'_>) -> Result<Vec<guest::Output>, Fault> {
        let headers = view.headers(&self.plugin.description().needs_headers);
        let event = view.lower(self.plugin.description(), &headers);
        self.call(async |instance| instance.apply(&self.shared, event).await).await
    }

    /// Calls an instance, unless the plugin is set aside.
    async fn call<T>(&self, call: impl AsyncFnOnce(&mut Instance) -> Result<T, FaultKind>) -> Result<T, Fault> {
        let began = Instant::now();
        self.quarantine.permit(began).map_err(|kind| self.fault(kind))?;
        let result = match self.take().await {
            Ok(mut instance) => {
                let result = call(&mut instance).await;
                self.settle(instance, &result);
                result
            }
            Err(kind) => Err(kind),
        };
        let ended = Instant::now();
        let turn = self.quarantine.ended(&result, ended);
        let (subscription, plugin) = (&self.subscription, self.name());
        match (turn, &result) {
            (Turn::Aside, Err(fault)) => {
                warn!(%subscription, plugin, %fault, "the plugin is set aside for a while, it has done nothing but fail");
            }
            (Turn::Back, _) => info!(%subscription, plugin, "the plugin works again"),
            _ => {}
        }
        self.rest(ended - began).await;
        result.map_err(|kind| self.fault(kind))
    }

    /// Lets others go on when its calls have taken a slice since it last did: many short calls in a row would keep them
    /// waiting as a long one would.
    async fn rest(&self, took: Duration) {
        let took_ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let spent_ns = self.spent_ns.fetch_add(took_ns, Ordering::Relaxed).saturating_add(took_ns);
        if spent_ns >= SLICE_MS * 1_000_000 {
            self.spent_ns.store(0, Ordering::Relaxed);
            self.shared.turns.next().await;
        }
    }

    /// Has a candidate for the plugin's place try itself on what the plugin is called with.
    pub(super) fn try_out(&self, candidate: Attached) {
        self.candidate.store(Some(Arc::new(candidate)));
    }

    /// The candidate for the plugin's place, where there is one; with the beginning of a call to compare it with.
    pub(super) fn tried_out(&self) -> Option<(Arc<Attached>, Instant)> {
        let candidate = self.candidate.load().as_ref().map(Arc::clone)?;
        if candidate.is_over() {
            self.candidate.store(None);
            return None;
        }
        Some((candidate, Instant::now()))
    }

    /// How many faults in a row the plugin had, when it is set aside.
    pub(super) fn quarantined(&self) -> Option<u32> {
        self.quarantine.faults()
    }

    /// Whose use it is.
    pub(super) fn subscription(&self) -> &SubscriptionId {
        &self.subscription
    }

    /// The plugin as the subscription names it: its configuration and its own limits.
    pub(super) fn setting(&self) -> &PluginRef {
        &self.setting
    }

    /// The plugin's name.
    pub(super) fn name(&self) -> &str {
        self.plugin.name()
    }

    /// The plugin's own version.
    pub(super) fn version(&self) -> &str {
        &self.plugin.description().version
    }

    /// What it may cost.
    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The memory of the instance that served the last call, in bytes; 0 before the first.
    pub(super) fn memory_bytes(&self) -> usize {
        self.memory_bytes.load(Ordering::Relaxed)
    }

    /// That failure, of this plugin.
    pub(super) fn fault(&self, kind: FaultKind) -> Fault {
        kind.of(self.plugin.name())
    }

    /// How long ago an instance was wanted, in calls of the whole host; `None` when there is no idle one.
    pub(super) fn idle_for(&self, now: u32) -> Option<u32> {
        (!self.idle.lock().is_empty()).then(|| now.wrapping_sub(self.used.load(Ordering::Relaxed)))
    }

    /// Drops the idle instances.
    pub(super) fn evict(&self) {
        // The instances are dropped after the lock is released.
        let _idle = std::mem::take(&mut *self.idle.lock());
    }

    async fn take(&self) -> Result<Instance, FaultKind> {
        self.used.store(self.shared.ticker.begun(), Ordering::Relaxed);
        let warm = self.idle.lock().pop();
        match warm {
            Some(instance) => Ok(instance),
            None => self.make().await.map_err(|kind| match kind {
                FaultKind::Reported { message } => FaultKind::Instantiate { reason: message },
                kind => kind,
            }),
        }
    }

    async fn make(&self) -> Result<Instance, FaultKind> {
        let permit = self.shared.slots.acquire(self.shared.ticker.begun()).await;
        let log = Arc::clone(&self.log);
        let mut instance = Instance::new(&self.shared, self.plugin.linked(), &self.limits, log, permit).await?;
        instance.configure(&self.shared, &self.setting.config).await?;
        Ok(instance)
    }

    /// Keeps the instance for the next call, unless it has served its time or cannot be trusted any more. After an
    /// error that the plugin reported in an orderly way it can.
    fn settle<T>(&self, instance: Instance, result: &Result<T, FaultKind>) {
        self.memory_bytes.store(instance.memory_bytes(), Ordering::Relaxed);
        let sound = matches!(result, Ok(_) | Err(FaultKind::Reported { .. }));
        if sound && instance.calls() < self.limits.calls_per_instance_max {
            self.put(instance);
        }
    }

    fn put(&self, instance: Instance) {
        let surplus = {
            let mut idle = self.idle.lock();
            let surplus = (idle.len() >= self.limits.warm_instances_max).then(|| idle.pop()).flatten();
            idle.push(instance);
            surplus
        };
        drop(surplus);
        // Looked at after the instance can be seen as idle: whoever waits has either seen it or is seen here.
        if self.shared.slots.is_wanted() {
            self.evict();
        }
    }
}

/// A reason, short enough to keep.
fn shortened(reason: String) -> String {
    const REASON_BYTES_MAX: usize = 256;
    if reason.len() <= REASON_BYTES_MAX { reason } else { super::fault::cut(&reason, REASON_BYTES_MAX).into() }
}
