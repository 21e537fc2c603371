//! Who is connected: the limits, and the watch over clients that read nothing.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

use parking_lot::Mutex;

use super::connection::Remembered;
use super::{Connection, Error};
use crate::telemetry::metrics::SseMetrics;

/// The clients of a hub.
pub(super) struct Admission {
    clients_max: usize,
    clients_per_principal_max: usize,
    metrics: SseMetrics,
    clients: Mutex<Clients>,
    /// How often the watch has looked: a clock that costs nothing to read.
    looks: AtomicU32,
}

#[derive(Default)]
struct Clients {
    by_principal: HashMap<Arc<str>, usize>,
    pulses: HashMap<u64, Arc<Pulse>>,
    /// How many there have been.
    ever: u64,
}

/// When a client was last asked for bytes, and the connection that it is on.
struct Pulse {
    polled: AtomicU32,
    connection: Option<Connection>,
}

impl Admission {
    pub(super) fn new(clients_max: usize, clients_per_principal_max: usize, metrics: SseMetrics) -> Arc<Self> {
        let (clients, looks) = (Mutex::default(), AtomicU32::new(0));
        Arc::new(Self { clients_max, clients_per_principal_max, metrics, clients, looks })
    }

    pub(super) fn clients(&self) -> usize {
        self.clients.lock().pulses.len()
    }

    /// The connections that clients are on.
    pub(super) fn connections(&self) -> Vec<Remembered> {
        let clients = self.clients.lock();
        clients.pulses.values().filter_map(|pulse| pulse.connection.as_ref()).map(Connection::remember).collect()
    }

    /// A place for one more client.
    pub(super) fn slot(
        self: &Arc<Self>,
        principal: &str,
        connection: Option<Connection>,
        named: Option<Counted>,
    ) -> Result<Slot, Error> {
        let mut clients = self.clients.lock();
        if clients.pulses.len() >= self.clients_max {
            return Err(Error::Clients { clients_max: self.clients_max });
        }
        let own = clients.by_principal.get_key_value(principal);
        let (principal, own) = own.map_or_else(|| (principal.into(), 0), |(known, own)| (Arc::clone(known), *own));
        if own >= self.clients_per_principal_max {
            return Err(Error::ClientsOfPrincipal { clients_max: self.clients_per_principal_max });
        }
        clients.by_principal.insert(Arc::clone(&principal), own + 1);
        let pulse = Arc::new(Pulse { polled: AtomicU32::new(self.looks.load(Ordering::Relaxed)), connection });
        let number = clients.ever;
        clients.ever += 1;
        clients.pulses.insert(number, Arc::clone(&pulse));
        self.metrics.clients.inc();
        Ok(Slot { admission: Arc::clone(self), principal, number, pulse, _named: named })
    }

    /// Looks once, and cuts the connections of the clients that were not asked for bytes, and took none, for so many looks.
    pub(super) fn look(&self, looks_max: u32) {
        let now = self.looks.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        for pulse in self.clients.lock().pulses.values() {
            if pulse.connection.as_ref().is_some_and(Connection::take_moved) {
                pulse.polled.store(now, Ordering::Relaxed);
            }
            // Once: a connection that is cut needs a moment to end.
            if now.wrapping_sub(pulse.polled.load(Ordering::Relaxed)) == looks_max
                && let Some(connection) = &pulse.connection
            {
                self.metrics.stalled.inc();
                connection.cut();
            }
        }
    }
}

/// A client's place in the limits, given back when it goes.
pub(super) struct Slot {
    admission: Arc<Admission>,
    principal: Arc<str>,
    number: u64,
    pulse: Arc<Pulse>,
    _named: Option<Counted>,
}

impl Slot {
    /// The client was asked for bytes.
    pub(super) fn polled(&self) {
        self.pulse.polled.store(self.admission.looks.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut clients = self.admission.clients.lock();
        clients.pulses.remove(&self.number);
        if let Some(own) = clients.by_principal.get_mut(&self.principal) {
            *own -= 1;
            if *own == 0 {
                clients.by_principal.remove(&self.principal);
            }
        }
        self.admission.metrics.clients.dec();
    }
}

/// One among the clients of a named stream.
pub(super) struct Counted(Arc<AtomicUsize>);

impl Counted {
    pub(super) fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
