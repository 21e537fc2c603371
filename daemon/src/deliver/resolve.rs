//! Names to addresses, each judged before anything is dialled.
//!
//! The client dials exactly the addresses that were judged here, so a name cannot point elsewhere between the two. An
//! answer is kept for a few seconds, and callers that ask for the same name at the same time share one look-up.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::deliver::address::{Policy, Refused};

/// The most addresses of one name that are dialled; all of them are judged.
const ADDRESSES_MAX: usize = 16;
/// The most look-ups under way at a time; each occupies a thread.
const LOOKUPS_MAX: usize = 128;
/// The most names whose answers are kept.
const NAMES_MAX: usize = 4_096;
/// How long an answer is kept.
const ANSWER_AGE_MAX: Duration = Duration::from_secs(5);
/// How long a failed look-up is kept.
const FAILURE_AGE_MAX: Duration = Duration::from_secs(1);

/// Why a name led nowhere.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum Error {
    /// An address of the name is not let through.
    #[error("look-up refused")]
    Refused(#[source] Refused),
    /// The system could not resolve the name. The cause is shared among callers.
    #[error("look-up failed")]
    Lookup(Arc<io::Error>),
    /// Too many look-ups are under way.
    #[error("{LOOKUPS_MAX} look-ups are under way")]
    Busy,
}

type Answer = Result<Arc<[IpAddr]>, Error>;
type Look = fn(&str) -> io::Result<Vec<IpAddr>>;

enum Entry {
    Looking(Shared<BoxFuture<'static, Answer>>),
    Known { answer: Answer, until: Instant },
}

/// Resolves names for the client. Cloning shares the kept answers.
#[derive(Clone)]
pub(super) struct Resolver(Arc<Inner>);

struct Inner {
    policy: Policy,
    look: Look,
    names: Mutex<HashMap<Box<str>, Entry>>,
    lookups: Arc<Semaphore>,
    turn: AtomicUsize,
}

impl Resolver {
    /// Resolves by the system's resolver and judges by `policy`.
    pub(super) fn new(policy: Policy) -> Self {
        Self::with(policy, |host| Ok((host, 0).to_socket_addrs()?.map(|a| a.ip()).collect()))
    }

    fn with(policy: Policy, look: Look) -> Self {
        Self(Arc::new(Inner {
            policy,
            look,
            names: Mutex::default(),
            lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)),
            turn: AtomicUsize::new(0),
        }))
    }

    /// The addresses of `host`, all of them let through by the policy.
    async fn vetted(&self, host: &str) -> Answer {
        let looking = {
            let mut names = self.0.names.lock();
            match names.get(host) {
                Some(Entry::Known { answer, until }) if *until > Instant::now() => return answer.clone(),
                Some(Entry::Looking(looking)) => looking.clone(),
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

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let resolver = self.clone();
        Box::pin(async move {
            let addresses = resolver.vetted(name.as_str()).await?;
            let turn = resolver.0.turn.fetch_add(1, Ordering::Relaxed);
            Ok(Box::new(rotated(&addresses, turn).into_iter()) as Addrs)
        })
    }
}

impl Inner {
    /// Begins a look-up on a thread of its own, which also keeps the answer: it does so even when every caller has
    /// given up waiting.
    fn start(self: &Arc<Self>, host: &str) -> Result<Shared<BoxFuture<'static, Answer>>, Error> {
        let permit = Arc::clone(&self.lookups).try_acquire_owned().map_err(|_| Error::Busy)?;
        let inner = Arc::clone(self);
        let host: Box<str> = host.into();
        let lookup = tokio::task::spawn_blocking(move || {
            let answer = inner.judge((inner.look)(&host));
            let age_max = if answer.is_ok() { ANSWER_AGE_MAX } else { FAILURE_AGE_MAX };
            let until = Instant::now() + age_max;
            insert(&mut inner.names.lock(), &host, Entry::Known { answer: answer.clone(), until });
            drop(permit);
            answer
        });
        let answered =
            async move { lookup.await.unwrap_or_else(|e| Err(Error::Lookup(Arc::new(io::Error::other(e))))) };
        Ok(answered.boxed().shared())
    }

    fn judge(&self, found: io::Result<Vec<IpAddr>>) -> Answer {
        let found = found.map_err(|e| Error::Lookup(Arc::new(e)))?;
        if found.is_empty() {
            return Err(Error::Lookup(Arc::new(io::ErrorKind::NotFound.into())));
        }
        for address in &found {
            self.policy.permits(*address).map_err(Error::Refused)?;
        }
        Ok(found.into_iter().take(ADDRESSES_MAX).collect())
    }
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

/// The addresses with another one first each turn, so that an attempt whose first address is dead is followed by one
/// that begins elsewhere. The family that the system put first stays first.
fn rotated(addresses: &[IpAddr], turn: usize) -> Vec<SocketAddr> {
    let first_is_v4 = addresses.first().is_some_and(IpAddr::is_ipv4);
    let all = addresses.iter().map(|ip| SocketAddr::new(*ip, 0));
    let (mut preferred, mut other): (Vec<_>, Vec<_>) = all.partition(|address| address.is_ipv4() == first_is_v4);
    for family in [&mut preferred, &mut other] {
        let start = turn.checked_rem(family.len()).unwrap_or(0);
        family.rotate_left(start);
    }
    preferred.append(&mut other);
    preferred
}

#[cfg(test)]
mod tests;
