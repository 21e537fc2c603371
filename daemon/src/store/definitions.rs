//! Subscriptions that were defined over the API: the text of each definition, and when it was made and changed.

use super::codec::{Reader, Writer};
use super::keys::{self, kind};
use super::{Error, Store};
use crate::domain::SubscriptionId;

/// A subscription's definition as the API took it. The store does not look into the text.
#[derive(Clone, PartialEq, Eq)]
pub struct Definition {
    /// What it is called: for people.
    pub label: Box<str>,
    /// When it was made, in milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// When it was changed last, in milliseconds since the Unix epoch.
    pub updated_ms: u64,
    /// The definition, JSON. It may hold credentials in its headers: it is for the keyring to seal.
    pub text: Box<[u8]>,
}

impl std::fmt::Debug for Definition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Definition").field("label", &self.label).finish_non_exhaustive()
    }
}

impl Store {
    /// Records or replaces a definition; durable when it returns. Blocks.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put_definition(&self, id: &SubscriptionId, definition: &Definition) -> Result<(), Error> {
        let key = keys::of_subscription(kind::DEFINITION, id);
        let record = write(definition);
        self.write_directly(|_, _, batch| {
            batch.insert(key, record);
            Ok(())
        })
    }

    /// Forgets a definition; durable when it returns. Blocks.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn remove_definition(&self, id: &SubscriptionId) -> Result<(), Error> {
        let key = keys::of_subscription(kind::DEFINITION, id);
        self.write_directly(|_, _, batch| {
            batch.remove(key);
            Ok(())
        })
    }

    /// A definition.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn definition(&self, id: &SubscriptionId) -> Result<Option<Definition>, Error> {
        let record = self.engine()?.state.get(keys::of_subscription(kind::DEFINITION, id)).map_err(Error::read)?;
        record.map(|record| read(&record)).transpose()
    }

    /// All definitions, in the order of their ids.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn definitions(&self) -> Result<Vec<(SubscriptionId, Definition)>, Error> {
        let mut all = Vec::new();
        for pair in self.engine()?.state.scan_prefix([kind::DEFINITION]) {
            let (key, record) = pair.map_err(Error::read)?;
            let (id, _) = keys::parse_subscription(&key).ok_or(DAMAGED)?;
            all.push((id, read(&record)?));
        }
        Ok(all)
    }
}

const DAMAGED: Error = Error::Record { what: "definition" };

fn write(definition: &Definition) -> Vec<u8> {
    let mut w = Writer::record(48 + definition.label.len() + definition.text.len());
    w.text(&definition.label);
    w.number(definition.created_ms);
    w.number(definition.updated_ms);
    w.bytes(&definition.text);
    w.0
}

fn read(record: &[u8]) -> Result<Definition, Error> {
    let read = || {
        let mut r = Reader::record(record)?;
        Some(Definition {
            label: r.text()?.into(),
            created_ms: r.number()?,
            updated_ms: r.number()?,
            text: r.bytes()?.into(),
        })
    };
    read().ok_or(DAMAGED)
}
