//! One instance of a plugin, and calls into it that cannot take more than they may.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use wasmtime::{Store, Trap};

use super::Limits;
use super::bindings::v1::exports::sluiced::plugin::{filter, lifecycle, transform};
use super::bindings::v1::sluiced::plugin::types as guest;
use super::contract::Linked;
use super::description::Description;
use super::fault::{FaultKind, cut};
use super::host::Shared;
use super::state::{DeadlineReached, LogGate, Refused, State};

/// The length of what a plugin says when it refuses or fails, in bytes; what is longer is cut.
const MESSAGE_BYTES_MAX: usize = 1_024;

/// One instance, which is used by one call at a time.
pub(super) struct Instance {
    // Dropped before the permit, so that there are never more stores than permits.
    store: Store<State>,
    lifecycle: lifecycle::Guest,
    filter: Option<filter::Guest>,
    transform: Option<transform::Guest>,
    limits: Arc<Limits>,
    calls: u64,
    _permit: OwnedSemaphorePermit,
}

impl Instance {
    /// A fresh instance, not yet configured.
    pub(super) async fn new(
        shared: &Shared,
        linked: &Linked,
        limits: &Arc<Limits>,
        log: Arc<LogGate>,
        permit: OwnedSemaphorePermit,
    ) -> Result<Self, FaultKind> {
        let mut store = State::store(&shared.engine, limits, Arc::clone(&shared.turns), log);
        State::begin(&mut store, limits.configure_deadline_ms);
        let made = within(shared, limits, linked.pre.instantiate_async(&mut store)).await;
        let instance = settle(limits, limits.configure_deadline_ms, &store, made).map_err(|fault| match fault {
            FaultKind::Trap { reason } | FaultKind::Output { reason } => FaultKind::Instantiate { reason },
            other => other,
        })?;
        let unfit = |error: wasmtime::Error| FaultKind::Instantiate { reason: error.root_cause().to_string().into() };
        let filter = linked.filter.as_ref().map(|indices| indices.load(&mut store, &instance));
        let transform = linked.transform.as_ref().map(|indices| indices.load(&mut store, &instance));
        Ok(Self {
            lifecycle: linked.lifecycle.load(&mut store, &instance).map_err(unfit)?,
            filter: filter.transpose().map_err(unfit)?,
            transform: transform.transpose().map_err(unfit)?,
            store,
            limits: Arc::clone(limits),
            calls: 0,
            _permit: permit,
        })
    }

    /// How many events it has served.
    pub(super) fn calls(&self) -> u64 {
        self.calls
    }

    /// The memory that it has, in bytes. It never gives any back.
    pub(super) fn memory_bytes(&self) -> usize {
        self.store.data().memory_bytes()
    }

    /// What the plugin says of itself.
    pub(super) async fn describe(&mut self, shared: &Shared) -> Result<Description, FaultKind> {
        let deadline_ms = self.limits.configure_deadline_ms;
        State::begin(&mut self.store, deadline_ms);
        let ran = within(shared, &self.limits, self.lifecycle.call_describe(&mut self.store)).await;
        settle(&self.limits, deadline_ms, &self.store, ran).map(Description::from)
    }

    /// Configures the instance. A refusal is [`FaultKind::Reported`].
    pub(super) async fn configure(&mut self, shared: &Shared, config: &str) -> Result<(), FaultKind> {
        let deadline_ms = self.limits.configure_deadline_ms;
        State::begin(&mut self.store, deadline_ms);
        let ran = within(shared, &self.limits, self.lifecycle.call_configure(&mut self.store, config)).await;
        settle(&self.limits, deadline_ms, &self.store, ran)?.map_err(|message| reported(&message))
    }

    /// Asks the filter.
    pub(super) async fn keep(&mut self, shared: &Shared, event: guest::Event<'_>) -> Result<guest::Verdict, FaultKind> {
        let filter = self.filter.as_ref().expect("only a plugin that exports a filter is used as one");
        let deadline_ms = self.limits.call_deadline_ms;
        State::begin(&mut self.store, deadline_ms);
        self.calls += 1;
        let ran = within(shared, &self.limits, filter.call_keep(&mut self.store, event)).await;
        settle(&self.limits, deadline_ms, &self.store, ran)?.map_err(|message| reported(&message))
    }

    /// Calls the transform.
    pub(super) async fn apply(
        &mut self,
        shared: &Shared,
        event: guest::Event<'_>,
    ) -> Result<Vec<guest::Output>, FaultKind> {
        let transform = self.transform.as_ref().expect("only a plugin that exports a transform is used as one");
        let deadline_ms = self.limits.call_deadline_ms;
        State::begin(&mut self.store, deadline_ms);
        self.calls += 1;
        let ran = within(shared, &self.limits, transform.call_apply(&mut self.store, event)).await;
        settle(&self.limits, deadline_ms, &self.store, ran)?.map_err(|message| reported(&message))
    }
}

/// Runs a call with the ticker awake. `None` when it takes longer than any call may, however little it runs. Most calls
/// are done when they are first polled, so the timer is made only for those that are not.
async fn within<T>(shared: &Shared, limits: &Limits, call: impl Future<Output = T>) -> Option<T> {
    let _running = shared.ticker.begin();
    let mut call = pin!(call);
    let mut timer = None;
    poll_fn(|cx| {
        if let Poll::Ready(result) = call.as_mut().poll(cx) {
            return Poll::Ready(Some(result));
        }
        let wall = Duration::from_millis(limits.wall_ms_max());
        let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(wall)));
        timer.as_mut().poll(cx).map(|()| None)
    })
    .await
}

/// The result of a call, or what the plugin did wrong.
fn settle<T>(
    limits: &Limits,
    deadline_ms: u64,
    store: &Store<State>,
    ran: Option<wasmtime::Result<T>>,
) -> Result<T, FaultKind> {
    let error = match ran {
        Some(Ok(result)) => return Ok(result),
        Some(Err(error)) => error,
        None => return Err(FaultKind::Deadline { limit_ms: limits.wall_ms_max() }),
    };
    if error.is::<DeadlineReached>() {
        return Err(FaultKind::Deadline { limit_ms: deadline_ms });
    }
    match store.data().refused() {
        Some(Refused::Memory) => return Err(FaultKind::Memory { bytes_max: limits.memory_bytes_max }),
        Some(Refused::Table) => return Err(FaultKind::Table { entries_max: limits.table_entries_max }),
        None => {}
    }
    if let Some(trap) = error.downcast_ref::<Trap>() {
        return Err(FaultKind::Trap { reason: trap.to_string().into() });
    }
    if let Some(exit) = error.downcast_ref::<wasmtime_wasi::I32Exit>() {
        return Err(FaultKind::Trap { reason: exit.to_string().into() });
    }
    // Neither a trap nor a limit: a value that does not fit the contract, or more than the host takes in.
    Err(FaultKind::Output { reason: cut(&error.root_cause().to_string(), MESSAGE_BYTES_MAX).into() })
}

fn reported(message: &str) -> FaultKind {
    FaultKind::Reported { message: cut(message, MESSAGE_BYTES_MAX).into() }
}
