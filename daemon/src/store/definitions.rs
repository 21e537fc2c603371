//! Subscriptions that were defined over the API: the text of each definition, sealed, and when it was made and changed.

use std::collections::BTreeSet;

use super::keyring::{Keyring, Purpose, wipe};
use super::keys::{self, kind};
use super::wire::{Reader, Writer};
use super::{Error, Store};
use crate::domain::{Owner, SubscriptionId};

/// A subscription's definition as the API took it. The store does not look into the text.
#[derive(Clone, PartialEq, Eq)]
pub struct Definition {
    /// What it is called: for people.
    pub label: Box<str>,
    /// Whose it is; without one it is the operator's, as are all of version 1.
    pub owner: Option<Owner>,
    /// When it was made, in milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// When it was changed last, in milliseconds since the Unix epoch.
    pub updated_ms: u64,
    /// The definition, JSON. It may hold credentials in its headers.
    pub text: Box<[u8]>,
}

impl std::fmt::Debug for Definition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Definition").field("label", &self.label).finish_non_exhaustive()
    }
}

impl Store {
    /// Records or replaces a definition, sealed; durable when it returns. Blocks.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put_definition(&self, keyring: &Keyring, id: &SubscriptionId, definition: &Definition) -> Result<(), Error> {
        let mut plain = write(definition);
        let written = self.put_sealed(keyring, Purpose::Definition, &[(id, &plain)]);
        wipe(&mut plain);
        written
    }

    /// Forgets a definition; durable when it returns. Blocks.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn remove_definition(&self, id: &SubscriptionId) -> Result<(), Error> {
        self.remove_sealed(Purpose::Definition, id)
    }

    /// A definition.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn definition(&self, keyring: &Keyring, id: &SubscriptionId) -> Result<Option<Definition>, Error> {
        let opened = self.sealed(keyring, Purpose::Definition, id)?;
        opened.map(|opened| read(opened.bytes()).ok_or(DAMAGED)).transpose()
    }

    /// All definitions, in the order of their ids.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn definitions(&self, keyring: &Keyring) -> Result<Vec<(SubscriptionId, Definition)>, Error> {
        let mut all = Vec::new();
        for key in self.engine()?.state.scan_prefix([kind::SEALED]).keys() {
            let key = key.map_err(Error::read)?;
            let (id, purpose) = keys::parse_subscription(&key).ok_or(DAMAGED)?;
            if purpose == [Purpose::Definition.byte()]
                && let Some(definition) = self.definition(keyring, &id)?
            {
                all.push((id, definition));
            }
        }
        Ok(all)
    }

    /// The subscriptions of which something is kept that nobody else needs: sealed records, parked deliveries, dead
    /// letters. For finding what was left of one that is no more.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn owners(&self) -> Result<BTreeSet<SubscriptionId>, Error> {
        let mut owners: BTreeSet<_> = self.inner.counts.lock().by_subscription.keys().cloned().collect();
        for key in self.engine()?.state.scan_prefix([kind::SEALED]).keys() {
            let key = key.map_err(Error::read)?;
            owners.insert(keys::parse_subscription(&key).ok_or(DAMAGED)?.0);
        }
        Ok(owners)
    }
}

const DAMAGED: Error = Error::Record { what: "definition" };

/// The version of the layout. Version 2 has an owner at the end.
const VERSION: u8 = 2;

/// The record's bytes before they are sealed.
fn write(definition: &Definition) -> Vec<u8> {
    // Large enough for all, so that no copy is left behind by growing.
    let owner_bytes = definition.owner.as_ref().map_or(0, |owner| owner.as_str().len());
    let mut w = Writer(Vec::with_capacity(64 + definition.label.len() + definition.text.len() + owner_bytes));
    w.0.push(VERSION);
    w.text(&definition.label);
    w.number(definition.created_ms);
    w.number(definition.updated_ms);
    w.bytes(&definition.text);
    w.option(definition.owner.as_ref(), |w, owner| w.text(owner.as_str()));
    w.0
}

fn read(plain: &[u8]) -> Option<Definition> {
    let (version, mut r) = Reader::record(plain, VERSION)?;
    let (label, created_ms, updated_ms) = (r.boxed()?, r.number()?, r.number()?);
    let text = r.bytes()?.into();
    let owner = if version == 1 { None } else { r.option(|r| Owner::parse(r.text()?).ok())? };
    r.is_empty().then_some(Definition { label, owner, created_ms, updated_ms, text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_has_these_bytes() {
        let mut definition =
            Definition { label: "crm".into(), owner: None, created_ms: 1, updated_ms: 300, text: (*b"{}").into() };
        let first = hex::decode("010363726d01ac02027b7d").expect("hexadecimal");
        assert_eq!(read(&first), Some(definition.clone()), "version 1 has no owner");
        assert_eq!(hex::encode(write(&definition)), "020363726d01ac02027b7d00");
        definition.owner = Some(Owner::parse("acme").expect("an owner"));
        let bytes = write(&definition);
        assert_eq!(hex::encode(&bytes), "020363726d01ac02027b7d010461636d65");
        assert_eq!(read(&bytes), Some(definition));
        assert_eq!((read(&bytes[..9]), read(&[3, 0, 0, 0, 0]), read(&first[..9])), (None, None, None));
    }
}
