//! The event types that were described over the API.

use super::keys::{self, kind};
use super::wire::{Reader, Writer};
use super::{Error, Store};
use crate::domain::Subject;

/// A description of an event type as the API took it. The store does not look into the text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventTypeRecord {
    /// When it was made, in milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// When it was changed last, in milliseconds since the Unix epoch.
    pub updated_ms: u64,
    /// The description, JSON.
    pub text: Box<[u8]>,
}

/// The version of the layout.
const VERSION: u8 = 1;
const DAMAGED: Error = Error::Record { what: "event type" };

impl Store {
    /// Records or replaces the description of an event type; durable when it returns. Blocks.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put_event_type(&self, kind: &Subject, record: &EventTypeRecord) -> Result<(), Error> {
        self.write_directly(|_, _, batch| {
            batch.insert(key(kind), write(record));
            Ok(())
        })
    }

    /// Forgets the description of an event type; durable when it returns. Blocks.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn remove_event_type(&self, kind: &Subject) -> Result<(), Error> {
        self.write_directly(|_, _, batch| {
            batch.remove(key(kind));
            Ok(())
        })
    }

    /// All that were described, in the order of their names.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn event_types(&self) -> Result<Vec<(Subject, EventTypeRecord)>, Error> {
        let mut all = Vec::new();
        for pair in self.engine()?.state.scan_prefix([kind::EVENT_TYPE]) {
            let (key, value) = pair.map_err(Error::read)?;
            let name = key.get(1..).and_then(|name| std::str::from_utf8(name).ok());
            let name = name.and_then(|name| Subject::parse(name).ok()).ok_or(DAMAGED)?;
            all.push((name, read(&value).ok_or(DAMAGED)?));
        }
        Ok(all)
    }
}

fn key(name: &Subject) -> Vec<u8> {
    keys::of_text(kind::EVENT_TYPE, name.as_str())
}

fn write(record: &EventTypeRecord) -> Vec<u8> {
    let mut w = Writer::record(VERSION, 24 + record.text.len());
    w.number(record.created_ms);
    w.number(record.updated_ms);
    w.bytes(&record.text);
    w.0
}

fn read(record: &[u8]) -> Option<EventTypeRecord> {
    let (_, mut r) = Reader::record(record, VERSION)?;
    let (created_ms, updated_ms, text) = (r.number()?, r.number()?, r.bytes()?.into());
    r.is_empty().then_some(EventTypeRecord { created_ms, updated_ms, text })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_1_has_these_bytes() {
        let record = EventTypeRecord { created_ms: 1, updated_ms: 300, text: (*b"{}").into() };
        let bytes = write(&record);
        assert_eq!(hex::encode(&bytes), "0101ac02027b7d");
        assert_eq!(read(&bytes), Some(record));
        assert_eq!((read(&bytes[..5]), read(&[2, 0, 0, 0])), (None, None));
    }
}
