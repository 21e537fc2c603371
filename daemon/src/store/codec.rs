//! The bytes of the records. Every record begins with its version, and each kind of record counts its own versions. A
//! released version's layout is never changed: a golden test holds each. The current version is written, older ones are
//! read, and a newer one is refused.
//!
//! | record | version 1 | version 2 adds |
//! |---|---|---|
//! | parked delivery | place, attempts, last failure, content | creation, when it was resent, order key, every attempt |
//! | dead letter | place, attempts, failure, content | creation, when it was resent, every attempt |
//! | registration | first seen, where it starts, reason of being disabled | since when, failing since, gaps, last change |
//! | log | entries, and each stream's running maximum | which sequences a flush has; details of failed attempts |
//! | count | parked, dead | bytes of dead letters |
//! | job | task, state, counts, place | marks of what came on record after a replay's place |
//! | delivery index | where it lies, its body's file | class, status and size of a dead letter |
//! | position | the next event, what is on record above it | parts on record of events that are not whole |
//! | number | all | not written |

mod deliveries;

use std::collections::BTreeMap;

use bytes::Bytes;

use super::Error;
use super::records::{Disabled, GapCause, GapRecord, PositionRecord, Registration};
use super::wire::{Reader, Writer};
use crate::domain::{DeliveryId, Position, RangeSet, StreamName, SubscriptionId};
pub(super) use deliveries::{read_dead, read_parked, read_response, write_dead, write_parked, write_response};

/// The version of records that have only had one.
const FIRST: u8 = 1;
/// The current version of registrations.
const REGISTRATION: u8 = 2;
/// The current version of positions.
const POSITION: u8 = 2;
/// The current version of counts.
const COUNTS: u8 = 2;
/// The current version of the index by delivery id.
const WHEREABOUTS: u8 = 2;

/// How much room a record's fixed and small parts are given.
const RECORD_BYTES_TYPICAL: usize = 256;

/// A body that lies in a file of its own: enough to find the file and to know it for the right one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BodyRef {
    /// The body's length in bytes.
    pub(super) length: u64,
    /// The first bytes of the body's SHA-256; also part of the file's name.
    pub(super) digest: [u8; 8],
}

/// A stored body: with the record or in a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum StoredBody {
    Inline(Bytes),
    File(BodyRef),
}

pub(super) fn write_registration(registration: &Registration) -> Vec<u8> {
    let mut w = Writer::record(REGISTRATION, RECORD_BYTES_TYPICAL);
    w.number(registration.first_seen_ms);
    w.number(registration.starts_after.len() as u64);
    for (stream, sequence) in &registration.starts_after {
        w.text(stream.as_str());
        w.number(*sequence);
    }
    w.option(registration.disabled.as_ref(), |w, disabled| {
        w.text(&disabled.reason);
        w.number(disabled.since_ms);
        w.option(disabled.endpoint, Writer::number);
    });
    w.number(registration.updated_ms);
    w.option(registration.failing_since_ms, Writer::number);
    w.number(registration.gaps.len() as u64);
    for gap in &registration.gaps {
        w.text(gap.stream.as_str());
        w.number(gap.from);
        w.number(gap.available);
        w.number(gap.at_ms);
        w.number(match gap.cause {
            GapCause::Discarded => 0,
            GapCause::Skipped => 1,
            GapCause::Replaced => 2,
        });
        w.number(gap.events);
    }
    w.0
}

pub(super) fn read_registration(record: &[u8]) -> Result<Registration, Error> {
    let read = || {
        let (version, mut r) = Reader::record(record, REGISTRATION)?;
        let mut registration = Registration { first_seen_ms: r.number()?, ..Registration::default() };
        for _ in 0..r.number()? {
            registration.starts_after.push((r.stream()?, r.number()?));
        }
        registration.disabled = r.option(|r| {
            let reason = r.boxed()?;
            Some(match version {
                1 => Disabled { reason, since_ms: 0, endpoint: None },
                _ => Disabled { reason, since_ms: r.number()?, endpoint: r.option(Reader::number)? },
            })
        })?;
        if version == 1 {
            registration.updated_ms = registration.first_seen_ms;
            return Some(registration);
        }
        registration.updated_ms = r.number()?;
        registration.failing_since_ms = r.option(Reader::number)?;
        for _ in 0..r.number()? {
            let (stream, from) = (r.stream()?, r.number()?);
            let (available, at_ms) = (r.number()?, r.number()?);
            let cause = match r.number()? {
                0 => GapCause::Discarded,
                1 => GapCause::Skipped,
                2 => GapCause::Replaced,
                _ => return None,
            };
            registration.gaps.push(GapRecord { stream, from, available, at_ms, cause, events: r.number()? });
        }
        Some(registration)
    };
    read().ok_or(Error::Record { what: "registration" })
}

/// A position's record; the stream stands in its key.
pub(super) fn write_position(record: &PositionRecord) -> Vec<u8> {
    let mut w = Writer::record(POSITION, RECORD_BYTES_TYPICAL);
    w.number(record.position.sequence);
    write_ranges(&mut w, record.position.sequence, &record.recorded_above);
    w.number(record.partly_above.len() as u64);
    let mut last = record.position.sequence;
    for (sequence, parts) in &record.partly_above {
        w.difference(last, *sequence);
        write_ranges(&mut w, 0, parts);
        last = *sequence;
    }
    w.0
}

pub(super) fn read_position(stream: StreamName, record: &[u8]) -> Result<PositionRecord, Error> {
    let read = || {
        let (version, mut r) = Reader::record(record, POSITION)?;
        let sequence = r.number()?;
        let recorded_above = read_ranges(&mut r, sequence)?;
        let (mut partly_above, mut last) = (BTreeMap::new(), sequence);
        for _ in 0..if version == 1 { 0 } else { r.number()? } {
            last = r.difference(last)?;
            partly_above.insert(last, read_ranges(&mut r, 0)?);
        }
        Some(PositionRecord { position: Position { stream, sequence }, recorded_above, partly_above })
    };
    read().ok_or(Error::Record { what: "position" })
}

/// Sequences, mostly above `from`.
pub(super) fn write_ranges(w: &mut Writer, from: u64, ranges: &RangeSet) {
    w.number(ranges.len() as u64);
    let mut last = from;
    for (start, end) in ranges.iter() {
        w.difference(last, start);
        w.number(end - start);
        last = end;
    }
}

pub(super) fn read_ranges(r: &mut Reader<'_>, from: u64) -> Option<RangeSet> {
    let mut ranges = RangeSet::new();
    let mut last = from;
    for _ in 0..r.number()? {
        let start = r.difference(last)?;
        last = start.checked_add(r.number()?)?;
        ranges.insert_range(start, last);
    }
    Some(ranges)
}

/// A record that is one number.
pub(super) fn write_number(n: u64) -> Vec<u8> {
    let mut w = Writer::record(FIRST, 10);
    w.number(n);
    w.0
}

pub(super) fn read_number(what: &'static str, record: &[u8]) -> Result<u64, Error> {
    Reader::record(record, FIRST).and_then(|(_, mut r)| r.number()).ok_or(Error::Record { what })
}

/// How many parked deliveries and dead letters a subscription has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Parked deliveries.
    pub parked: u64,
    /// Dead letters.
    pub dead: u64,
    /// The bytes of the dead letters' records and bodies.
    pub dead_bytes: u64,
}

pub(super) fn write_counts(counts: Counts) -> Vec<u8> {
    let mut w = Writer::record(COUNTS, 24);
    w.number(counts.parked);
    w.number(counts.dead);
    w.number(counts.dead_bytes);
    w.0
}

pub(super) fn read_counts(record: &[u8]) -> Result<Counts, Error> {
    let read = || {
        let (version, mut r) = Reader::record(record, COUNTS)?;
        let (parked, dead) = (r.number()?, r.number()?);
        Some(Counts { parked, dead, dead_bytes: if version == 1 { 0 } else { r.number()? } })
    };
    read().ok_or(Error::Record { what: "count" })
}

/// What a delivery has in the state tree: where it lies, and the file of its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Whereabouts {
    /// Dead letter or parked.
    pub(super) dead: bool,
    /// Its subscription.
    pub(super) subscription: SubscriptionId,
    /// Due time or time of death: the time in its key.
    pub(super) at_ms: u64,
    /// Its body's file.
    pub(super) file: Option<BodyRef>,
    /// What the other indexes of a dead letter say of it; `None` for parked deliveries, and in version 1.
    pub(super) traits: Option<Traits>,
}

/// What the indexes say of a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Traits {
    /// The class of its failure.
    pub(super) class: Box<str>,
    /// The receiver's last status.
    pub(super) status: Option<u16>,
    /// The bytes of its record and its body.
    pub(super) bytes: u64,
}

fn write_traits(w: &mut Writer, traits: &Traits) {
    w.text(&traits.class);
    w.option(traits.status, |w, status| w.number(u64::from(status)));
    w.number(traits.bytes);
}

fn read_traits(r: &mut Reader<'_>) -> Option<Traits> {
    let (class, status) = (r.boxed()?, r.option(|r| u16::try_from(r.number()?).ok())?);
    Some(Traits { class, status, bytes: r.number()? })
}

pub(super) fn write_whereabouts(whereabouts: &Whereabouts) -> Vec<u8> {
    let mut w = Writer::record(WHEREABOUTS, 96);
    w.0.push(u8::from(whereabouts.dead));
    w.text(whereabouts.subscription.as_str());
    w.number(whereabouts.at_ms);
    w.option(whereabouts.file, |w, file| {
        w.number(file.length);
        w.0.extend_from_slice(&file.digest);
    });
    w.option(whereabouts.traits.as_ref(), write_traits);
    w.0
}

pub(super) fn read_whereabouts(record: &[u8]) -> Result<Whereabouts, Error> {
    let read = || {
        let (version, mut r) = Reader::record(record, WHEREABOUTS)?;
        let dead = r.byte()? != 0;
        let subscription = SubscriptionId::parse(r.text()?).ok()?;
        let at_ms = r.number()?;
        let file = r.option(|r| {
            let length = r.number()?;
            let mut digest = [0; 8];
            digest.copy_from_slice(r.take(8)?);
            Some(BodyRef { length, digest })
        })?;
        let traits = if version == 1 { None } else { r.option(read_traits)? };
        Some(Whereabouts { dead, subscription, at_ms, file, traits })
    };
    read().ok_or(Error::Record { what: "delivery index" })
}

/// A dead letter as the index by time has it: its subscription and its traits.
pub(super) fn write_dead_index(subscription: &SubscriptionId, traits: &Traits) -> Vec<u8> {
    let mut w = Writer::record(FIRST, 64);
    w.text(subscription.as_str());
    write_traits(&mut w, traits);
    w.0
}

pub(super) fn read_dead_index(record: &[u8]) -> Result<(SubscriptionId, Traits), Error> {
    let read = || {
        let (_, mut r) = Reader::record(record, FIRST)?;
        Some((SubscriptionId::parse(r.text()?).ok()?, read_traits(&mut r)?))
    };
    read().ok_or(Error::Record { what: "dead letter index" })
}

/// The body's file name in the `bodies` directory.
pub(super) fn body_file_name(delivery: &DeliveryId, file: &BodyRef) -> String {
    format!("{}-{}", hex::encode(delivery.bytes()), hex::encode(file.digest))
}
