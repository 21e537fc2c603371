//! The audit log: who changed what, or tried to, when and from where. It is bounded: the oldest records go.
//!
//! | key | value |
//! |---|---|
//! | `Y` number (big-endian) | one change |

use super::keys::kind;
use super::wire::{Reader, Writer};
use super::{Error, Store};

/// The most records that are kept; of one more, the oldest goes.
pub const AUDIT_RECORDS_MAX: usize = 100_000;
/// How many records one write takes out at most, where a smaller bound finds many.
const AUDIT_REMOVED_MAX: u64 = 64;
/// The version of the layout. Version 2 has a code and the changed fields at the end.
const VERSION: u8 = 2;
/// The most fields of one record; of more, the first are kept.
const CHANGES_MAX: usize = 64;

/// One change. It never holds a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRecord {
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Who: the name of the principal.
    pub principal: Box<str>,
    /// For whom: the principal's owner.
    pub owner: Option<Box<str>>,
    /// What was done: `webhook.create` and the like.
    pub action: Box<str>,
    /// To what: the path of the thing.
    pub target: Box<str>,
    /// How it was answered: an HTTP status.
    pub status: u16,
    /// From where: the address of the client.
    pub from: Box<str>,
    /// The stable code of a change that was refused.
    pub code: Option<Box<str>>,
    /// The fields that were changed, as far as they are known.
    pub changes: Box<[AuditChange]>,
}

/// A field that was changed. Its values are JSON, and told only when they are plain and no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditChange {
    /// Its name.
    pub field: Box<str>,
    /// What it was.
    pub before: Option<Box<str>>,
    /// What it is.
    pub after: Option<Box<str>>,
}

/// A page of the audit log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditPage {
    /// The records with their numbers, newest first.
    pub records: Vec<(u64, AuditRecord)>,
    /// Where the next page begins: before that number; `None` at the end.
    pub next: Option<u64>,
}

impl Store {
    /// Records a change; durable when it returns. Blocks.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn add_audit(&self, record: &AuditRecord) -> Result<(), Error> {
        self.write_directly(|engine, _, batch| {
            let all = || engine.state.scan_prefix([kind::AUDIT]).keys();
            let number = |found: Option<sled::Result<sled::IVec>>| match found {
                None => Ok(None),
                Some(key) => number_of(&key.map_err(Error::read)?).map(Some),
            };
            let (first, last) = (number(all().next())?, number(all().next_back())?);
            let number = last.map_or(0, |last| last + 1);
            batch.insert(key(number), write(record));
            let first = first.unwrap_or(number);
            let too_old = (number + 1).saturating_sub(AUDIT_RECORDS_MAX as u64);
            (first..too_old).take(AUDIT_REMOVED_MAX as usize).for_each(|old| batch.remove(key(old)));
            Ok(())
        })
    }

    /// A page of the audit log, newest first: at most `limit` records with numbers below `before`.
    ///
    /// # Errors
    /// When a record cannot be read.
    pub fn audit(&self, before: Option<u64>, limit: usize) -> Result<AuditPage, Error> {
        let engine = self.engine()?;
        let end = before.map_or_else(|| vec![kind::AUDIT + 1], key);
        let mut records = Vec::new();
        for pair in engine.state.range(vec![kind::AUDIT]..end).rev() {
            let (key, record) = pair.map_err(Error::read)?;
            if records.len() == limit {
                let next = records.last().map(|(number, _)| *number);
                return Ok(AuditPage { records, next });
            }
            records.push((number_of(&key)?, read(&record).ok_or(DAMAGED)?));
        }
        Ok(AuditPage { records, next: None })
    }
}

const DAMAGED: Error = Error::Record { what: "audit" };

fn key(number: u64) -> Vec<u8> {
    let mut key = vec![kind::AUDIT];
    key.extend_from_slice(&number.to_be_bytes());
    key
}

fn number_of(key: &[u8]) -> Result<u64, Error> {
    let number = key.get(1..).and_then(|number| number.try_into().ok()).ok_or(DAMAGED)?;
    Ok(u64::from_be_bytes(number))
}

fn write(record: &AuditRecord) -> Vec<u8> {
    let mut w = Writer::record(VERSION, 192);
    w.number(record.at_ms);
    w.text(&record.principal);
    w.option(record.owner.as_deref(), Writer::text);
    w.text(&record.action);
    w.text(&record.target);
    w.number(u64::from(record.status));
    w.text(&record.from);
    w.option(record.code.as_deref(), Writer::text);
    let changes = &record.changes[..record.changes.len().min(CHANGES_MAX)];
    w.number(changes.len() as u64);
    for change in changes {
        w.text(&change.field);
        w.option(change.before.as_deref(), Writer::text);
        w.option(change.after.as_deref(), Writer::text);
    }
    w.0
}

fn read(record: &[u8]) -> Option<AuditRecord> {
    let (version, mut r) = Reader::record(record, VERSION)?;
    let mut record = AuditRecord {
        at_ms: r.number()?,
        principal: r.boxed()?,
        owner: r.option(Reader::boxed)?,
        action: r.boxed()?,
        target: r.boxed()?,
        status: u16::try_from(r.number()?).ok()?,
        from: r.boxed()?,
        code: None,
        changes: Box::default(),
    };
    if version > 1 {
        record.code = r.option(Reader::boxed)?;
        let mut changes = Vec::new();
        for _ in 0..r.number()? {
            let (field, before) = (r.boxed()?, r.option(Reader::boxed)?);
            changes.push(AuditChange { field, before, after: r.option(Reader::boxed)? });
        }
        record.changes = changes.into();
    }
    r.is_empty().then_some(record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Config;

    fn record(at_ms: u64) -> AuditRecord {
        AuditRecord {
            at_ms,
            principal: "owner:u1".into(),
            owner: Some("u1".into()),
            action: "webhook.create".into(),
            target: "/api/v1/webhooks/wh_1".into(),
            status: 201,
            from: "127.0.0.1".into(),
            code: None,
            changes: Box::default(),
        }
    }

    #[test]
    fn each_version_has_these_bytes() {
        let mut written = AuditRecord { target: "/w".into(), ..record(300) };
        let golden = "ac02086f776e65723a753101027531 0e776562686f6f6b2e637265617465 022f77c901 093132372e302e302e31";
        let golden = golden.replace(' ', "");
        let first = hex::decode(format!("01{golden}")).expect("hexadecimal");
        assert_eq!(read(&first), Some(written.clone()), "version 1 names no fields");
        let change = AuditChange { field: "a".into(), before: Some("1".into()), after: None };
        (written.code, written.changes) = (Some("b".into()), [change].into());
        let bytes = write(&written);
        assert_eq!(hex::encode(&bytes), format!("02{golden}010162 01 0161 010131 00").replace(' ', ""));
        assert_eq!(read(&bytes), Some(written));
        assert_eq!((read(&bytes[..8]), read(&bytes[..bytes.len() - 1]), read(&[3, 0])), (None, None, None));
    }

    #[test]
    fn pages_stay_where_they_are_while_records_come() {
        let dir = tempfile::tempdir().expect("a folder");
        let store = Store::open(Config::new(dir.path().join("store"))).expect("opens");
        assert_eq!(store.audit(None, 2).expect("reads"), AuditPage { records: Vec::new(), next: None });
        (0..5).for_each(|at_ms| store.add_audit(&record(at_ms)).expect("writes"));
        let times = |page: &AuditPage| page.records.iter().map(|(_, record)| record.at_ms).collect::<Vec<_>>();
        let first = store.audit(None, 2).expect("reads");
        assert_eq!((times(&first), first.next), (vec![4, 3], Some(3)));
        store.add_audit(&record(5)).expect("writes");
        let second = store.audit(first.next, 2).expect("reads");
        assert_eq!((times(&second), second.next), (vec![2, 1], Some(1)));
        let last = store.audit(second.next, 2).expect("reads");
        assert_eq!((times(&last), last.next), (vec![0], None));
    }
}
