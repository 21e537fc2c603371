//! Which secrets a subscription signs with, and how one takes the place of another.
//!
//! Every transition is one record in the store, written before it is in effect: a crash at any point leaves the secrets
//! before it or those after it. What is signed with follows from the record alone, so that it is the same after a restart.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tracing::{info, warn};

use super::signing::{Signer, Signing, generate};
use crate::domain::{SubscriptionId, WebhookSecret};
use crate::store::{self, Keyring, Origin, PREVIOUS_SECRETS_MAX, PreviousSecret, SigningSecrets, Store};
use crate::telemetry::clock::now_ms;

/// How many subscriptions' secrets are written at a time.
const SETTLE_RECORDS_MAX: usize = 256;

/// Why a secret was not rotated.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The secret stands in the configuration file, which would put it back.
    #[error("the secret of this subscription stands in the configuration file")]
    FromFile,
    /// More secrets would be valid at a time than are signed with.
    #[error("{PREVIOUS_SECRETS_MAX} earlier secrets of this subscription are still valid")]
    TooMany,
    /// It has that secret already.
    #[error("this is the secret that the subscription has already")]
    Same,
    /// The subscription has no secrets on record.
    #[error("the subscription has no secrets on record")]
    Unknown,
    /// They could not be read or written.
    #[error("the secrets could not be read or written")]
    Store(#[from] store::Error),
}

/// What a subscription's definition says of its secret.
#[derive(Clone)]
pub struct Wanted {
    /// The secret of the configuration file; without one the daemon keeps its own.
    pub secret: Option<WebhookSecret>,
    /// How long the one before it stays valid.
    pub overlap: Duration,
}

/// A subscription's secrets as they may be shown: without them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// The first characters of the current secret's text, for people to tell one from another.
    pub preview: String,
    /// Where the current one comes from.
    pub origin: Origin,
    /// When the subscription first had a secret, in milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// When the current one took its place, in milliseconds since the Unix epoch.
    pub rotated_ms: u64,
    /// When the earlier ones that are still valid end, in milliseconds since the Unix epoch, newest first.
    pub previous_until_ms: Vec<u64>,
}

/// The secrets of all subscriptions. Cloning shares them. All methods but [`Secrets::signing`] block on the store.
#[derive(Clone)]
pub struct Secrets(Arc<Inner>);

struct Inner {
    store: Store,
    keyring: Keyring,
    /// What each running subscription signs with. Held while a transition is made: one at a time.
    running: Mutex<HashMap<SubscriptionId, Running>>,
}

struct Running {
    signing: Signing,
    overlap: Duration,
}

impl Secrets {
    /// The secrets in that store, which the keyring opens.
    ///
    /// # Errors
    /// When the store is under another master key, or cannot be read or written.
    pub fn new(store: Store, keyring: Keyring) -> Result<Self, store::Error> {
        store.adopt(&keyring)?;
        Ok(Self(Arc::new(Inner { store, keyring, running: Mutex::new(HashMap::new()) })))
    }

    /// The keyring, for what else is sealed.
    pub fn keyring(&self) -> &Keyring {
        &self.0.keyring
    }

    /// The handle of what a subscription signs with. It signs with nothing before [`Secrets::settle`] was called.
    pub fn signing(&self, id: &SubscriptionId) -> Signing {
        let mut running = self.0.running.lock();
        let new = || Running { signing: Signing::of(Signer::new([])), overlap: Duration::ZERO };
        running.entry(id.clone()).or_insert_with(new).signing.clone()
    }

    /// Brings subscriptions' secrets in line with their definitions: makes those that are missing, and begins the overlap
    /// of those that have changed. To be called before a definition takes effect. Blocks.
    ///
    /// # Errors
    /// When they cannot be read or written; those settled so far stay so.
    pub fn settle(&self, wanted: &[(SubscriptionId, Wanted)]) -> Result<(), store::Error> {
        let Inner { store, keyring, running } = &*self.0;
        let mut running = running.lock();
        for some in wanted.chunks(SETTLE_RECORDS_MAX) {
            let now_ms = now_ms();
            let (mut signers, mut changed) = (Vec::new(), Vec::new());
            for (id, wanted) in some {
                let known = store.signing_secrets(keyring, id)?;
                let settled = settled(known.as_ref(), wanted, now_ms);
                signers.push((id, wanted.overlap, signer(&settled)));
                if known.as_ref() != Some(&settled) {
                    say(id, known.as_ref(), &settled);
                    changed.push((id.clone(), settled));
                }
            }
            store.put_signing_secrets(keyring, &changed)?;
            for (id, overlap, signer) in signers {
                let new = || Running { signing: Signing::of(Signer::new([])), overlap };
                let running = running.entry(id.clone()).or_insert_with(new);
                running.overlap = overlap;
                running.signing.put(signer);
            }
        }
        Ok(())
    }

    /// Gives a subscription that is new the secret that it begins with, the given one or one that is made here; the daemon
    /// keeps it. Durable when it returns. Blocks.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn begin(&self, id: &SubscriptionId, given: Option<WebhookSecret>) -> Result<WebhookSecret, store::Error> {
        let Inner { store, keyring, running } = &*self.0;
        let _one_at_a_time = running.lock();
        let now_ms = now_ms();
        let current = given.unwrap_or_else(|| generate().0);
        let (origin, previous) = (Origin::Kept, Vec::new());
        let begun =
            SigningSecrets { origin, created_ms: now_ms, rotated_ms: now_ms, current: current.clone(), previous };
        store.put_signing_secrets(keyring, &[(id.clone(), begun)])?;
        Ok(current)
    }

    /// Puts another secret in the place of the current one, which stays valid for `overlap`, or for as long as the
    /// subscription's definition says. Without overlap none but the new one is valid from now on. In effect and durable
    /// when it returns. Blocks.
    ///
    /// # Errors
    /// When the secret stands in the configuration file, too many are valid, or it cannot be written.
    pub fn rotate(
        &self,
        id: &SubscriptionId,
        secret: Option<WebhookSecret>,
        overlap: Option<Duration>,
    ) -> Result<(WebhookSecret, View), Error> {
        let Inner { store, keyring, running } = &*self.0;
        let running = running.lock();
        let running = running.get(id).ok_or(Error::Unknown)?;
        let known = store.signing_secrets(keyring, id)?.ok_or(Error::Unknown)?;
        let now_ms = now_ms();
        let secret = secret.unwrap_or_else(|| generate().0);
        let rotated = rotated(&known, &secret, overlap.unwrap_or(running.overlap), now_ms)?;
        let (signer, view) = (signer(&rotated), view(&rotated, now_ms));
        store.put_signing_secrets(keyring, &[(id.clone(), rotated)])?;
        running.signing.put(signer);
        info!(subscription = %id, still_valid = view.previous_until_ms.len(), "signing secret rotated");
        Ok((secret, view))
    }

    /// A subscription's secrets as they may be shown. Blocks.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn view(&self, id: &SubscriptionId) -> Result<View, Error> {
        let known = self.0.store.signing_secrets(&self.0.keyring, id)?.ok_or(Error::Unknown)?;
        Ok(view(&known, now_ms()))
    }

    /// Forgets the secrets of a subscription that is no more. Blocks.
    ///
    /// # Errors
    /// When they cannot be removed.
    pub fn forget(&self, id: &SubscriptionId) -> Result<(), store::Error> {
        let mut running = self.0.running.lock();
        self.0.store.remove_sealed(store::Purpose::SigningSecrets, id)?;
        running.remove(id);
        Ok(())
    }
}

/// What a subscription's secrets are once its definition is in effect.
fn settled(known: Option<&SigningSecrets>, wanted: &Wanted, now_ms: u64) -> SigningSecrets {
    let origin = if wanted.secret.is_some() { Origin::File } else { Origin::Kept };
    let Some(known) = known else {
        let current = wanted.secret.clone().unwrap_or_else(|| generate().0);
        return SigningSecrets { origin, created_ms: now_ms, rotated_ms: now_ms, current, previous: Vec::new() };
    };
    match &wanted.secret {
        Some(secret) if *secret != known.current => {
            let mut next = replaced(known, secret, wanted.overlap, now_ms);
            next.previous.truncate(PREVIOUS_SECRETS_MAX);
            SigningSecrets { origin, ..next }
        }
        // A secret that left the file stays the subscription's: its receiver knows no other.
        _ => {
            let mut next = SigningSecrets { origin, ..known.clone() };
            next.previous.retain(|previous| now_ms < previous.until_ms);
            next
        }
    }
}

fn rotated(
    known: &SigningSecrets,
    secret: &WebhookSecret,
    overlap: Duration,
    now_ms: u64,
) -> Result<SigningSecrets, Error> {
    if known.origin == Origin::File {
        return Err(Error::FromFile);
    }
    if known.current == *secret {
        return Err(Error::Same);
    }
    let next = replaced(known, secret, overlap, now_ms);
    if next.previous.len() > PREVIOUS_SECRETS_MAX { Err(Error::TooMany) } else { Ok(next) }
}

/// The secrets after `secret` has taken the place of the current one. Without overlap no earlier one stays valid.
fn replaced(known: &SigningSecrets, secret: &WebhookSecret, overlap: Duration, now_ms: u64) -> SigningSecrets {
    let mut previous = Vec::new();
    if !overlap.is_zero() {
        let overlap_ms = u64::try_from(overlap.as_millis()).unwrap_or(u64::MAX);
        previous.push(PreviousSecret { secret: known.current.clone(), until_ms: now_ms.saturating_add(overlap_ms) });
        let valid = known.previous.iter().filter(|previous| now_ms < previous.until_ms && previous.secret != *secret);
        previous.extend(valid.cloned());
    }
    SigningSecrets { rotated_ms: now_ms, current: secret.clone(), previous, ..*known }
}

/// The current secret's signature first, then those of the earlier ones, each until its end.
fn signer(secrets: &SigningSecrets) -> Signer {
    let previous = secrets.previous.iter().map(|previous| (&previous.secret, previous.until_ms));
    Signer::ending(std::iter::once((&secrets.current, u64::MAX)).chain(previous))
}

fn view(secrets: &SigningSecrets, now_ms: u64) -> View {
    View {
        preview: super::signing::preview(&secrets.current),
        origin: secrets.origin,
        created_ms: secrets.created_ms,
        rotated_ms: secrets.rotated_ms,
        previous_until_ms: secrets.previous.iter().map(|p| p.until_ms).filter(|until| now_ms < *until).collect(),
    }
}

/// Says what a definition has changed.
fn say(id: &SubscriptionId, known: Option<&SigningSecrets>, settled: &SigningSecrets) {
    match known {
        None if settled.origin == Origin::Kept => {
            info!(subscription = %id, "made a signing secret, rotate it over the API to learn its text");
        }
        None => {}
        Some(known) if known.current != settled.current => {
            info!(subscription = %id, still_valid = settled.previous.len(), "the signing secret has changed");
            let room = PREVIOUS_SECRETS_MAX - 1;
            if known.previous.len() > room && settled.previous.len() == PREVIOUS_SECRETS_MAX {
                warn!(subscription = %id, "too many secrets are valid, the oldest is not signed with any more");
            }
        }
        Some(known) if known.origin == Origin::File && settled.origin == Origin::Kept => {
            info!(subscription = %id, "the signing secret left the configuration, the daemon keeps it");
        }
        Some(_) => {}
    }
}

#[cfg(test)]
mod tests;
