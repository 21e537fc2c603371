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

/// What was answered to a request that made a webhook and had a key of its own: whoever sends it again is answered alike.
#[derive(Clone, PartialEq, Eq)]
pub struct Answer {
    /// The digest of who asked and of the request's key.
    pub key: [u8; DIGEST_BYTES],
    /// The digest of the request's body.
    pub request: [u8; DIGEST_BYTES],
    /// When it was answered, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The text of the signing secret.
    pub secret: Box<str>,
}

/// The length of a SHA-256 digest.
const DIGEST_BYTES: usize = 32;
/// The version of an answer's layout.
const ANSWER_VERSION: u8 = 1;

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answer").field("at_ms", &self.at_ms).finish_non_exhaustive()
    }
}

impl Answer {
    fn write(&self, definition: &[u8]) -> Vec<u8> {
        let mut w = Writer(Vec::with_capacity(96 + self.secret.len() + definition.len()));
        w.0.push(ANSWER_VERSION);
        w.bytes(&self.key);
        w.bytes(&self.request);
        w.number(self.at_ms);
        w.text(&self.secret);
        w.bytes(definition);
        w.0
    }

    fn read(plain: &[u8]) -> Option<(Self, Definition)> {
        let (_, mut r) = Reader::record(plain, ANSWER_VERSION)?;
        let (key, request) = (r.bytes()?.try_into().ok()?, r.bytes()?.try_into().ok()?);
        let answer = Self { key, request, at_ms: r.number()?, secret: r.text()?.into() };
        let definition = read(r.bytes()?)?;
        r.is_empty().then_some((answer, definition))
    }
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

    /// Records the definition of a webhook that is made, and what its maker is answered, both or neither; durable when it
    /// returns. Blocks.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn put_made(
        &self,
        keyring: &Keyring,
        id: &SubscriptionId,
        definition: &Definition,
        answer: &Answer,
    ) -> Result<(), Error> {
        let (mut plain, mut answered) = (write(definition), answer.write(&write(definition)));
        let records: [(Purpose, &SubscriptionId, &[u8]); 2] =
            [(Purpose::Definition, id, &plain), (Purpose::Answer, id, &answered)];
        let written = self.put_sealed_of_all(keyring, &records);
        wipe(&mut plain);
        wipe(&mut answered);
        written
    }

    /// What was answered when a webhook was made, with its definition as it was then.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn answer(&self, keyring: &Keyring, id: &SubscriptionId) -> Result<Option<(Answer, Definition)>, Error> {
        let opened = self.sealed(keyring, Purpose::Answer, id)?;
        opened.map(|opened| Answer::read(opened.bytes()).ok_or(DAMAGED)).transpose()
    }

    /// All webhooks of which an answer is kept, in the order of their ids.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn answers(&self, keyring: &Keyring) -> Result<Vec<(SubscriptionId, Answer)>, Error> {
        let mut all = Vec::new();
        for key in self.engine()?.state.scan_prefix([kind::SEALED]).keys() {
            let key = key.map_err(Error::read)?;
            let (id, purpose) = keys::parse_subscription(&key).ok_or(DAMAGED)?;
            if purpose == [Purpose::Answer.byte()]
                && let Some((answer, _)) = self.answer(keyring, &id)?
            {
                all.push((id, answer));
            }
        }
        Ok(all)
    }

    /// Forgets an answer; durable when it returns. Blocks.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn remove_answer(&self, id: &SubscriptionId) -> Result<(), Error> {
        self.remove_sealed(Purpose::Answer, id)
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

    /// At most so many ids of definitions that come after that one, in an order that never changes.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn definition_ids(&self, after: Option<&SubscriptionId>, limit: usize) -> Result<Vec<SubscriptionId>, Error> {
        let begin = after.map_or_else(|| vec![kind::SEALED], |after| keys::sealed(after, u8::MAX));
        let mut ids = Vec::new();
        for key in self.engine()?.state.range(begin..vec![kind::SEALED + 1]).keys() {
            if ids.len() == limit {
                break;
            }
            let key = key.map_err(Error::read)?;
            let (id, purpose) = keys::parse_subscription(&key).ok_or(DAMAGED)?;
            if purpose == [Purpose::Definition.byte()] {
                ids.push(id);
            }
        }
        Ok(ids)
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
        let answer = Answer { key: [1; 32], request: [2; 32], at_ms: 300, secret: "whsec_".into() };
        let definition = read(&bytes).expect("valid");
        let whole = hex::encode(answer.write(&bytes));
        assert_eq!(
            whole,
            format!(
                "0120{}20{}ac020677687365635f{:02x}{}",
                "01".repeat(32),
                "02".repeat(32),
                bytes.len(),
                hex::encode(&bytes)
            )
        );
        assert_eq!(Answer::read(&hex::decode(whole).expect("hexadecimal")), Some((answer, definition)));
        assert_eq!((read(&bytes[..9]), read(&[3, 0, 0, 0, 0]), read(&first[..9])), (None, None, None));
    }
}
