//! Sealed records in the store: the signing secrets of subscriptions, and how all are brought under another master key.
//!
//! | key | value |
//! |---|---|
//! | `X` sub, purpose | a record sealed by the [`Keyring`] |
//! | `Mkeycheck` | a sealed record that only the right master key opens |
//! | `Mrekey` | the same for the next master key, while records are brought under it |
//!
//! The check is written before the first sealed record, so that no record is ever sealed under a key that the store does
//! not know. A rekey writes its mark first, then the records in steps, each of which opens under one of the two keys,
//! and at last, in one step, the new check without the mark. Cut short at any point it is repeated with the same keys.

use super::keyring::{Keyring, Opened, Purpose, wipe};
use super::keys::{self, kind};
use super::wire::{Reader, Writer};
use super::{Error, Store};
use crate::domain::{SubscriptionId, WebhookSecret};

/// The version of the layout of [`SigningSecrets`].
const SIGNING_VERSION: u8 = 1;
/// How many records one step of a rekey seals anew.
const REKEY_RECORDS_MAX: usize = 256;
/// How many secrets may stay valid beside the current one.
pub const PREVIOUS_SECRETS_MAX: usize = 4;

/// Where a subscription's current secret comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// It stands in the configuration file.
    File,
    /// The daemon keeps it: it was made here, or given over the API.
    Kept,
}

/// A secret that another one has taken the place of, and that is still signed with for a while.
#[derive(Clone, PartialEq, Eq)]
pub struct PreviousSecret {
    /// The secret.
    pub secret: WebhookSecret,
    /// When it ends, in milliseconds since the Unix epoch.
    pub until_ms: u64,
}

/// A subscription's signing secrets. There is no `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningSecrets {
    /// Where the current one comes from.
    pub origin: Origin,
    /// When the subscription first had a secret, in milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// When the current secret took its place, in milliseconds since the Unix epoch.
    pub rotated_ms: u64,
    /// What is signed with.
    pub current: WebhookSecret,
    /// What is signed with too, newest first; at most [`PREVIOUS_SECRETS_MAX`]. Some may have ended.
    pub previous: Vec<PreviousSecret>,
}

impl SigningSecrets {
    /// The record's bytes before they are sealed.
    fn write(&self) -> Vec<u8> {
        // Large enough for all, so that no copy is left behind by growing.
        let mut w = Writer(Vec::with_capacity(32 + (1 + self.previous.len()) * 80));
        w.0.push(SIGNING_VERSION);
        w.0.push(match self.origin {
            Origin::File => 0,
            Origin::Kept => 1,
        });
        w.number(self.created_ms);
        w.number(self.rotated_ms);
        w.bytes(self.current.bytes());
        w.number(self.previous.len() as u64);
        for previous in &self.previous {
            w.bytes(previous.secret.bytes());
            w.number(previous.until_ms);
        }
        w.0
    }

    fn read(plain: &[u8]) -> Option<Self> {
        let (version, rest) = plain.split_first()?;
        let mut r = Reader::new(rest);
        if *version != SIGNING_VERSION {
            return None;
        }
        let origin = match r.byte()? {
            0 => Origin::File,
            1 => Origin::Kept,
            _ => return None,
        };
        let (created_ms, rotated_ms) = (r.number()?, r.number()?);
        let current = WebhookSecret::new(r.bytes()?)?;
        let mut previous = Vec::new();
        for _ in 0..r.number()? {
            previous.push(PreviousSecret { secret: WebhookSecret::new(r.bytes()?)?, until_ms: r.number()? });
        }
        r.is_empty().then_some(Self { origin, created_ms, rotated_ms, current, previous })
    }
}

/// What a rekey did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rekeyed {
    /// So many records were brought under the new key.
    Records(usize),
    /// The store was under the new key already.
    Before,
}

impl Store {
    /// Does this store have sealed records, or has it been promised a master key?
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn knows_master_key(&self) -> Result<bool, Error> {
        self.engine()?.state.contains_key(keys::META_KEY_CHECK).map_err(Error::read)
    }

    /// Checks that the keyring opens what is sealed here, and makes it the store's own where none is yet. To be called
    /// before anything is sealed or opened.
    ///
    /// # Errors
    /// [`Error::WrongKey`] when the store is under another key, [`Error::Rekeying`] when a rekey was cut short.
    pub fn adopt(&self, keyring: &Keyring) -> Result<(), Error> {
        let engine = self.engine()?;
        if engine.state.contains_key(keys::META_REKEY).map_err(Error::read)? {
            return Err(Error::Rekeying);
        }
        if let Some(check) = engine.state.get(keys::META_KEY_CHECK).map_err(Error::read)? {
            return opens(keyring, &check).then_some(()).ok_or(Error::WrongKey);
        }
        if engine.state.scan_prefix([kind::SEALED]).keys().next().is_some() {
            return Err(Error::Record { what: "master key check" });
        }
        let check = keyring.seal(Purpose::KeyCheck, None, b"");
        self.write_directly(|_, _, batch| {
            batch.insert(keys::META_KEY_CHECK, check);
            Ok(())
        })
    }

    /// A subscription's sealed record of that purpose, opened.
    ///
    /// # Errors
    /// When it cannot be read or does not open.
    pub fn sealed(
        &self,
        keyring: &Keyring,
        purpose: Purpose,
        subscription: &SubscriptionId,
    ) -> Result<Option<Opened>, Error> {
        let sealed = self.engine()?.state.get(keys::sealed(subscription, purpose.byte())).map_err(Error::read)?;
        let Some(sealed) = sealed else { return Ok(None) };
        let opened = keyring.open(purpose, Some(subscription), &sealed);
        opened.map(Some).ok_or_else(|| Error::Sealed { subscription: subscription.clone() })
    }

    /// Seals and records bytes for subscriptions, all or none; durable when it returns. Blocks.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn put_sealed(
        &self,
        keyring: &Keyring,
        purpose: Purpose,
        records: &[(&SubscriptionId, &[u8])],
    ) -> Result<(), Error> {
        let records: Vec<_> = records.iter().map(|(subscription, plain)| (purpose, *subscription, *plain)).collect();
        self.put_sealed_of_all(keyring, &records)
    }

    /// The same with records of several purposes.
    ///
    /// # Errors
    /// When they cannot be written.
    pub(super) fn put_sealed_of_all(
        &self,
        keyring: &Keyring,
        records: &[(Purpose, &SubscriptionId, &[u8])],
    ) -> Result<(), Error> {
        self.write_directly(|_, _, batch| {
            for &(purpose, subscription, plain) in records {
                let sealed = keyring.seal(purpose, Some(subscription), plain);
                batch.insert(keys::sealed(subscription, purpose.byte()), sealed);
            }
            Ok(())
        })
    }

    /// Forgets a subscription's sealed record of that purpose; durable when it returns. Blocks.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn remove_sealed(&self, purpose: Purpose, subscription: &SubscriptionId) -> Result<(), Error> {
        let key = keys::sealed(subscription, purpose.byte());
        self.write_directly(|_, _, batch| {
            batch.remove(key);
            Ok(())
        })
    }

    /// A subscription's signing secrets.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn signing_secrets(
        &self,
        keyring: &Keyring,
        subscription: &SubscriptionId,
    ) -> Result<Option<SigningSecrets>, Error> {
        let Some(opened) = self.sealed(keyring, Purpose::SigningSecrets, subscription)? else { return Ok(None) };
        let read = SigningSecrets::read(opened.bytes());
        read.map(Some).ok_or_else(|| Error::Sealed { subscription: subscription.clone() })
    }

    /// Records subscriptions' signing secrets, all or none; durable when it returns. Blocks.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn put_signing_secrets(
        &self,
        keyring: &Keyring,
        secrets: &[(SubscriptionId, SigningSecrets)],
    ) -> Result<(), Error> {
        if secrets.is_empty() {
            return Ok(());
        }
        let mut plain: Vec<Vec<u8>> = secrets.iter().map(|(_, secrets)| secrets.write()).collect();
        let records: Vec<(&SubscriptionId, &[u8])> =
            secrets.iter().zip(&plain).map(|((id, _), bytes)| (id, bytes.as_slice())).collect();
        let written = self.put_sealed(keyring, Purpose::SigningSecrets, &records);
        plain.iter_mut().for_each(|bytes| wipe(bytes));
        written
    }

    /// Brings every sealed record under another master key, in steps of bounded size. Cut short at any point it goes on
    /// when it is called again with the same two keyrings. For a store that no daemon works on. Blocks.
    ///
    /// # Errors
    /// [`Error::WrongKey`] when `old` is not the store's key, [`Error::Rekeying`] when a rekey with another new key was
    /// cut short, and when something cannot be read or written.
    pub fn rekey(&self, old: &Keyring, new: &Keyring) -> Result<Rekeyed, Error> {
        let engine = self.engine()?;
        let get = |key: &[u8]| engine.state.get(key).map_err(Error::read);
        match (get(keys::META_KEY_CHECK)?, get(keys::META_REKEY)?) {
            (None, _) => {
                self.adopt(new)?;
                return Ok(Rekeyed::Records(0));
            }
            (Some(check), None) if opens(new, &check) => return Ok(Rekeyed::Before),
            (Some(check), _) if !opens(old, &check) => return Err(Error::WrongKey),
            (Some(_), Some(mark)) if !opens(new, &mark) => return Err(Error::Rekeying),
            (Some(_), Some(_)) => {}
            (Some(_), None) => self.write_meta(keys::META_REKEY, new.seal(Purpose::KeyCheck, None, b""))?,
        }
        let (mut records, mut after) = (0, vec![kind::SEALED]);
        while let Some((last, sealed)) = self.reseal_step(old, new, &after)? {
            records += sealed;
            after = last;
        }
        let check = new.seal(Purpose::KeyCheck, None, b"");
        self.write_directly(|_, _, batch| {
            batch.insert(keys::META_KEY_CHECK, check);
            batch.remove(keys::META_REKEY);
            Ok(())
        })?;
        Ok(Rekeyed::Records(records))
    }

    /// Seals the next records anew, those that still open under the old key; the last key looked at and how many were
    /// sealed, or `None` at the end.
    pub(super) fn reseal_step(
        &self,
        old: &Keyring,
        new: &Keyring,
        after: &[u8],
    ) -> Result<Option<(Vec<u8>, usize)>, Error> {
        let (mut last, mut sealed) = (None, 0);
        self.write_directly(|engine, _, batch| {
            let from = std::ops::Bound::Excluded(after.to_vec());
            let to = std::ops::Bound::Excluded(vec![kind::SEALED + 1]);
            for pair in engine.state.range((from, to)).take(REKEY_RECORDS_MAX) {
                let (key, record) = pair.map_err(Error::read)?;
                let damaged = || Error::Record { what: "sealed" };
                let (subscription, rest) = keys::parse_subscription(&key).ok_or_else(damaged)?;
                let purpose = rest.first().and_then(|byte| Purpose::of(*byte)).ok_or_else(damaged)?;
                if new.open(purpose, Some(&subscription), &record).is_none() {
                    let opened = old.open(purpose, Some(&subscription), &record);
                    let opened = opened.ok_or_else(|| Error::Sealed { subscription: subscription.clone() })?;
                    batch.insert(key.clone(), new.seal(purpose, Some(&subscription), opened.bytes()));
                    sealed += 1;
                }
                last = Some(key.to_vec());
            }
            Ok(())
        })?;
        Ok(last.map(|last| (last, sealed)))
    }

    /// Drops every sealed record and the check of the master key, for when that is lost: the next start makes new secrets.
    /// Returns how many there were. Durable when it returns. Blocks.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn forget_sealed(&self) -> Result<usize, Error> {
        let mut records = 0;
        self.write_directly(|engine, _, batch| {
            for key in engine.state.scan_prefix([kind::SEALED]).keys() {
                batch.remove(key.map_err(Error::read)?);
                records += 1;
            }
            batch.remove(keys::META_KEY_CHECK);
            batch.remove(keys::META_REKEY);
            Ok(())
        })?;
        Ok(records)
    }

    pub(super) fn write_meta(&self, key: &'static [u8], value: Vec<u8>) -> Result<(), Error> {
        self.write_directly(|_, _, batch| {
            batch.insert(key, value);
            Ok(())
        })
    }
}

fn opens(keyring: &Keyring, check: &[u8]) -> bool {
    keyring.open(Purpose::KeyCheck, None, check).is_some()
}

#[cfg(test)]
mod tests;
