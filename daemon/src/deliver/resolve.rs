//! Names to addresses, each judged before anything is dialled.
//!
//! The client dials exactly the addresses that were judged here, so a name cannot point elsewhere between the two. Both
//! kinds of addresses are asked for, and one that is refused refuses the name. An answer is kept for as long as it says,
//! within bounds, and callers that ask for the same name at the same time share one look-up.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::deliver::address::{Policy, Refused};
use crate::deliver::dns::{Dns, Found};

/// The most addresses of one name that are dialled; all of them are judged.
const ADDRESSES_MAX: usize = 16;
/// The most look-ups under way at a time.
const LOOKUPS_MAX: usize = 128;
/// The most names whose answers are kept.
const NAMES_MAX: usize = 4_096;
/// The shortest time that an answer is kept, whatever it says.
const ANSWER_AGE_MIN: Duration = Duration::from_secs(1);
/// The longest time that an answer is kept, whatever it says.
const ANSWER_AGE_MAX: Duration = Duration::from_secs(300);
/// The longest time that it is kept that a name has no addresses, whatever the answer says.
const NOTHING_AGE_MAX: Duration = Duration::from_secs(30);
/// How long a failed look-up is kept.
const FAILURE_AGE_MAX: Duration = Duration::from_secs(1);

/// Why a name led nowhere.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum Error {
    /// An address of the name is not let through.
    #[error("look-up refused")]
    Refused(#[source] Refused),
    /// The name has no addresses.
    #[error("the name has no addresses")]
    Nothing,
    /// The name could not be resolved. The cause is shared among callers.
    #[error("look-up failed")]
    Lookup(Arc<io::Error>),
    /// Too many look-ups are under way.
    #[error("{LOOKUPS_MAX} look-ups are under way")]
    Busy,
}

type Answer = Result<Arc<[IpAddr]>, Error>;
type Look = Box<dyn Fn(&str) -> BoxFuture<'static, Found> + Send + Sync>;

enum Entry {
    Looking(Shared<BoxFuture<'static, Answer>>),
    Known { answer: Answer, until: Instant },
}

/// Resolves names for the client. Cloning shares the kept answers.
#[derive(Clone)]
pub(super) struct Resolver(Arc<Inner>);

struct Inner {
    look: Look,
    names: Mutex<HashMap<Box<str>, Entry>>,
    lookups: Arc<Semaphore>,
    tasks: TaskTracker,
    turn: AtomicUsize,
}

impl Resolver {
    /// Resolves by those servers, or by the system's when there are none.
    pub(super) fn new(servers: &[SocketAddr]) -> Self {
        let dns = Arc::new(Dns::new(servers));
        Self::with(Box::new(move |host| Arc::clone(&dns).look(host.to_owned()).boxed()))
    }

    fn with(look: Look) -> Self {
        Self(Arc::new(Inner {
            look,
            names: Mutex::default(),
            lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)),
            tasks: TaskTracker::new(),
            turn: AtomicUsize::new(0),
        }))
    }

    /// Where to dial for `host` and `port`: its addresses, all of them let through by `policy`, in the order in which to
    /// try them. A host that is an address itself is judged in the same way.
    pub(super) async fn vetted(&self, host: &str, port: u16, policy: &Policy) -> Result<Vec<SocketAddr>, Error> {
        let addresses = self.addresses(host).await?;
        for address in addresses.iter() {
            policy.permits(*address).map_err(Error::Refused)?;
        }
        Ok(self.ordered(&addresses, port))
    }

    /// Where `host` and `port` are, without judging: for hosts that the operator names.
    pub(super) async fn found(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, Error> {
        Ok(self.ordered(&self.addresses(host).await?, port))
    }

    fn ordered(&self, addresses: &[IpAddr], port: u16) -> Vec<SocketAddr> {
        let turn = self.0.turn.fetch_add(1, Ordering::Relaxed);
        let addresses = interleaved(addresses, turn).into_iter().take(ADDRESSES_MAX);
        addresses.map(|ip| SocketAddr::new(ip, port)).collect()
    }

    async fn addresses(&self, host: &str) -> Answer {
        if let Ok(address) = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            return Ok(Arc::new([address]));
        }
        let looking = {
            let mut names = self.0.names.lock();
            match names.get(host) {
                Some(Entry::Known { answer, until }) if *until > Instant::now() => return answer.clone(),
                // One that has ended without an answer to keep has failed for good, and must not stay.
                Some(Entry::Looking(looking)) if looking.peek().is_none() => looking.clone(),
                _ => {
                    let looking = self.0.start(host)?;
                    insert(&mut names, host, Entry::Looking(looking.clone()));
                    looking
                }
            }
        };
        looking.await
    }
}

impl Inner {
    /// Begins a look-up in a task of its own, which also keeps the answer: it does so even when every caller has given up
    /// waiting.
    fn start(self: &Arc<Self>, host: &str) -> Result<Shared<BoxFuture<'static, Answer>>, Error> {
        let permit = Arc::clone(&self.lookups).try_acquire_owned().map_err(|_| Error::Busy)?;
        let looking = (self.look)(host);
        let inner = Arc::clone(self);
        let host: Box<str> = host.into();
        let lookup = self.tasks.spawn(async move {
            let (answer, age) = read(looking.await);
            let until = Instant::now() + age;
            insert(&mut inner.names.lock(), &host, Entry::Known { answer: answer.clone(), until });
            drop(permit);
            answer
        });
        let answered =
            async move { lookup.await.unwrap_or_else(|e| Err(Error::Lookup(Arc::new(io::Error::other(e))))) };
        Ok(answered.boxed().shared())
    }
}

/// What a look-up found, and for how long it is kept.
fn read(found: Found) -> (Answer, Duration) {
    match found.addresses {
        Ok(addresses) if addresses.is_empty() => (Err(Error::Nothing), clamped(found.valid_for, NOTHING_AGE_MAX)),
        Ok(addresses) => (Ok(addresses.into()), clamped(found.valid_for, ANSWER_AGE_MAX)),
        Err(error) => (Err(Error::Lookup(Arc::new(error))), FAILURE_AGE_MAX),
    }
}

fn clamped(age: Duration, max: Duration) -> Duration {
    age.clamp(ANSWER_AGE_MIN, max)
}

/// Keeps an entry. When there are too many, those past their time go, and if that does not help, all go: an answer that
/// is asked for again costs one look-up.
fn insert(names: &mut HashMap<Box<str>, Entry>, host: &str, entry: Entry) {
    if names.len() >= NAMES_MAX && !names.contains_key(host) {
        let now = Instant::now();
        names.retain(|_, entry| !matches!(entry, Entry::Known { until, .. } if *until <= now));
        if names.len() >= NAMES_MAX {
            names.clear();
        }
    }
    names.insert(host.into(), entry);
}

/// The addresses with another one first each turn, so that not all connections go to one, and with the two families by
/// turns, so that a network that this machine does not have costs one try (RFC 8305). The family that the answer put
/// first stays first.
fn interleaved(addresses: &[IpAddr], turn: usize) -> Vec<IpAddr> {
    let first_is_v4 = addresses.first().is_some_and(IpAddr::is_ipv4);
    let (mut preferred, mut other): (Vec<IpAddr>, Vec<IpAddr>) =
        addresses.iter().partition(|address| address.is_ipv4() == first_is_v4);
    for family in [&mut preferred, &mut other] {
        let start = turn.checked_rem(family.len()).unwrap_or(0);
        family.rotate_left(start);
    }
    let both = preferred.len().min(other.len());
    let rest = if preferred.len() > other.len() { preferred.split_off(both) } else { other.split_off(both) };
    preferred.into_iter().zip(other).flat_map(|(one, two)| [one, two]).chain(rest).collect()
}

#[cfg(test)]
mod tests;
