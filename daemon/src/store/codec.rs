//! The bytes of the records. Every record begins with its version; numbers are LEB128 varints, texts and bytes are
//! preceded by their length. A released version's layout is never changed: a golden test holds each.

use bytes::Bytes;

use super::Error;
use super::records::{Content, DeadLetter, LastFailure, Parked, PositionRecord, Registration};
use crate::domain::{DeliveryId, Header, Position, RangeSet, StreamName, SubscriptionId};

/// The version that every record is written with.
pub(super) const RECORD_VERSION: u8 = 1;

/// Appends to a record.
#[derive(Default)]
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    /// A record of the current version.
    pub(super) fn record(capacity_bytes: usize) -> Self {
        let mut bytes = Vec::with_capacity(capacity_bytes);
        bytes.push(RECORD_VERSION);
        Self(bytes)
    }

    pub(super) fn number(&mut self, mut n: u64) {
        while n >= 0x80 {
            self.0.push((n & 0x7f) as u8 | 0x80);
            n >>= 7;
        }
        self.0.push(n as u8);
    }

    /// A difference that may go either way: small ones stay small.
    pub(super) fn difference(&mut self, from: u64, to: u64) {
        let d = to.wrapping_sub(from) as i64;
        self.number(((d << 1) ^ (d >> 63)) as u64);
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn text(&mut self, text: &str) {
        self.bytes(text.as_bytes());
    }

    fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        match value {
            None => self.0.push(0),
            Some(value) => {
                self.0.push(1);
                write(self, value);
            }
        }
    }
}

/// Takes a record apart. Each method is `None` when the record is too short or not of that form.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The record's content, when its version is one that this code reads.
    pub(super) fn record(bytes: &'a [u8]) -> Option<Self> {
        let (version, rest) = bytes.split_first()?;
        (*version == RECORD_VERSION).then_some(Self(rest))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|b| b[0])
    }

    pub(super) fn number(&mut self) -> Option<u64> {
        let mut n = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            n |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(n);
            }
        }
        None
    }

    pub(super) fn small(&mut self) -> Option<u32> {
        u32::try_from(self.number()?).ok()
    }

    pub(super) fn difference(&mut self, from: u64) -> Option<u64> {
        let n = self.number()?;
        let d = (n >> 1) as i64 ^ -((n & 1) as i64);
        Some(from.wrapping_add(d as u64))
    }

    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let n = usize::try_from(self.number()?).ok()?;
        self.take(n)
    }

    pub(super) fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    pub(super) fn stream(&mut self) -> Option<StreamName> {
        StreamName::parse(self.text()?).ok()
    }

    fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        match self.byte()? {
            0 => Some(None),
            1 => Some(Some(read(self)?)),
            _ => None,
        }
    }

    fn boxed(&mut self) -> Option<Box<str>> {
        self.text().map(Into::into)
    }
}

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

fn write_content(w: &mut Writer, content: &Content, file: Option<BodyRef>) {
    w.text(&content.event_id);
    w.text(&content.event_type);
    w.number(content.event_time_ms);
    w.option(content.content_type.as_deref(), Writer::text);
    w.number(content.headers.len() as u64);
    for header in &content.headers {
        w.text(&header.name);
        w.text(&header.value);
    }
    match file {
        None => {
            w.0.push(0);
            w.bytes(&content.body);
        }
        Some(file) => {
            w.0.push(1);
            w.number(file.length);
            w.0.extend_from_slice(&file.digest);
        }
    }
}

fn read_content(r: &mut Reader<'_>) -> Option<(Content, StoredBody)> {
    let mut content = Content {
        event_id: r.boxed()?,
        event_type: r.boxed()?,
        event_time_ms: r.number()?,
        content_type: r.option(Reader::boxed)?,
        headers: Vec::new(),
        body: Bytes::new(),
    };
    for _ in 0..r.number()? {
        content.headers.push(Header { name: r.boxed()?, value: r.boxed()? });
    }
    let body = match r.byte()? {
        0 => StoredBody::Inline(Bytes::copy_from_slice(r.bytes()?)),
        1 => {
            let length = r.number()?;
            let mut digest = [0; 8];
            digest.copy_from_slice(r.take(8)?);
            StoredBody::File(BodyRef { length, digest })
        }
        _ => return None,
    };
    Some((content, body))
}

fn write_failure(w: &mut Writer, failure: &LastFailure) {
    w.text(&failure.class);
    w.option(failure.status, |w, status| w.number(u64::from(status)));
    w.text(&failure.message);
}

fn read_failure(r: &mut Reader<'_>) -> Option<LastFailure> {
    Some(LastFailure { class: r.boxed()?, status: r.option(|r| u16::try_from(r.number()?).ok())?, message: r.boxed()? })
}

fn write_place(w: &mut Writer, position: &Position, part: u32, parts: u32) {
    w.text(position.stream.as_str());
    w.number(position.sequence);
    w.number(u64::from(part));
    w.number(u64::from(parts));
}

fn read_place(r: &mut Reader<'_>) -> Option<(Position, u32, u32)> {
    let position = Position { stream: r.stream()?, sequence: r.number()? };
    Some((position, r.small()?, r.small()?))
}

/// How much room a record's fixed and small parts are given.
const RECORD_BYTES_TYPICAL: usize = 256;

fn room(content: &Content, file: Option<BodyRef>) -> usize {
    RECORD_BYTES_TYPICAL + if file.is_some() { 0 } else { content.body.len() }
}

pub(super) fn write_parked(parked: &Parked, file: Option<BodyRef>) -> Vec<u8> {
    let mut w = Writer::record(room(&parked.content, file));
    write_place(&mut w, &parked.position, parked.part, parked.parts);
    w.number(u64::from(parked.attempts));
    w.number(parked.first_attempt_ms);
    w.option(parked.last_failure.as_ref(), write_failure);
    write_content(&mut w, &parked.content, file);
    w.0
}

/// A parked delivery from its key's parts and its record. Its body is still empty: the caller puts it in.
pub(super) fn read_parked(
    subscription: SubscriptionId,
    due_ms: u64,
    delivery: DeliveryId,
    record: &[u8],
) -> Result<(Parked, StoredBody), Error> {
    let read = || {
        let mut r = Reader::record(record)?;
        let (position, part, parts) = read_place(&mut r)?;
        let (attempts, first_attempt_ms) = (r.small()?, r.number()?);
        let last_failure = r.option(read_failure)?;
        let (content, body) = read_content(&mut r)?;
        let parked = Parked {
            delivery,
            subscription,
            position,
            part,
            parts,
            due_ms,
            attempts,
            first_attempt_ms,
            last_failure,
            content,
        };
        Some((parked, body))
    };
    read().ok_or(Error::Record { what: "parked delivery" })
}

pub(super) fn write_dead(letter: &DeadLetter, file: Option<BodyRef>) -> Vec<u8> {
    let mut w = Writer::record(room(&letter.content, file));
    write_place(&mut w, &letter.position, letter.part, letter.parts);
    w.number(u64::from(letter.attempts));
    w.number(letter.first_attempt_ms);
    write_failure(&mut w, &letter.failure);
    write_content(&mut w, &letter.content, file);
    w.0
}

/// A dead letter from its key's parts and its record. Its body is still empty: the caller puts it in.
pub(super) fn read_dead(
    subscription: SubscriptionId,
    failed_ms: u64,
    delivery: DeliveryId,
    record: &[u8],
) -> Result<(DeadLetter, StoredBody), Error> {
    let read = || {
        let mut r = Reader::record(record)?;
        let (position, part, parts) = read_place(&mut r)?;
        let (attempts, first_attempt_ms) = (r.small()?, r.number()?);
        let failure = read_failure(&mut r)?;
        let (content, body) = read_content(&mut r)?;
        let letter = DeadLetter {
            delivery,
            subscription,
            position,
            part,
            parts,
            failed_ms,
            attempts,
            first_attempt_ms,
            failure,
            content,
        };
        Some((letter, body))
    };
    read().ok_or(Error::Record { what: "dead letter" })
}

pub(super) fn write_registration(registration: &Registration) -> Vec<u8> {
    let mut w = Writer::record(RECORD_BYTES_TYPICAL);
    w.number(registration.first_seen_ms);
    w.number(registration.starts_after.len() as u64);
    for (stream, sequence) in &registration.starts_after {
        w.text(stream.as_str());
        w.number(*sequence);
    }
    w.option(registration.disabled.as_deref(), Writer::text);
    w.0
}

pub(super) fn read_registration(record: &[u8]) -> Result<Registration, Error> {
    let read = || {
        let mut r = Reader::record(record)?;
        let mut registration = Registration { first_seen_ms: r.number()?, ..Registration::default() };
        for _ in 0..r.number()? {
            registration.starts_after.push((r.stream()?, r.number()?));
        }
        registration.disabled = r.option(Reader::boxed)?;
        Some(registration)
    };
    read().ok_or(Error::Record { what: "registration" })
}

/// A position's record; the stream stands in its key.
pub(super) fn write_position(record: &PositionRecord) -> Vec<u8> {
    let mut w = Writer::record(RECORD_BYTES_TYPICAL);
    w.number(record.position.sequence);
    w.number(record.recorded_above.len() as u64);
    let mut last = record.position.sequence;
    for (start, end) in record.recorded_above.iter() {
        w.difference(last, start);
        w.number(end - start);
        last = end;
    }
    w.0
}

pub(super) fn read_position(stream: StreamName, record: &[u8]) -> Result<PositionRecord, Error> {
    let read = || {
        let mut r = Reader::record(record)?;
        let sequence = r.number()?;
        let mut recorded_above = RangeSet::new();
        let mut last = sequence;
        for _ in 0..r.number()? {
            let start = r.difference(last)?;
            last = start.checked_add(r.number()?)?;
            recorded_above.insert_range(start, last);
        }
        Some(PositionRecord { position: Position { stream, sequence }, recorded_above })
    };
    read().ok_or(Error::Record { what: "position" })
}

/// A record that is one number.
pub(super) fn write_number(n: u64) -> Vec<u8> {
    let mut w = Writer::record(10);
    w.number(n);
    w.0
}

pub(super) fn read_number(what: &'static str, record: &[u8]) -> Result<u64, Error> {
    Reader::record(record).and_then(|mut r| r.number()).ok_or(Error::Record { what })
}

/// How many parked deliveries and dead letters a subscription has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Parked deliveries.
    pub parked: u64,
    /// Dead letters.
    pub dead: u64,
}

pub(super) fn write_counts(counts: Counts) -> Vec<u8> {
    let mut w = Writer::record(20);
    w.number(counts.parked);
    w.number(counts.dead);
    w.0
}

pub(super) fn read_counts(record: &[u8]) -> Result<Counts, Error> {
    let read = || {
        let mut r = Reader::record(record)?;
        Some(Counts { parked: r.number()?, dead: r.number()? })
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
}

pub(super) fn write_whereabouts(whereabouts: &Whereabouts) -> Vec<u8> {
    let mut w = Writer::record(96);
    w.0.push(u8::from(whereabouts.dead));
    w.text(whereabouts.subscription.as_str());
    w.number(whereabouts.at_ms);
    w.option(whereabouts.file, |w, file| {
        w.number(file.length);
        w.0.extend_from_slice(&file.digest);
    });
    w.0
}

pub(super) fn read_whereabouts(record: &[u8]) -> Result<Whereabouts, Error> {
    let read = || {
        let mut r = Reader::record(record)?;
        let dead = r.byte()? != 0;
        let subscription = SubscriptionId::parse(r.text()?).ok()?;
        let at_ms = r.number()?;
        let file = r.option(|r| {
            let length = r.number()?;
            let mut digest = [0; 8];
            digest.copy_from_slice(r.take(8)?);
            Some(BodyRef { length, digest })
        })?;
        Some(Whereabouts { dead, subscription, at_ms, file })
    };
    read().ok_or(Error::Record { what: "delivery index" })
}

/// The body's file name in the `bodies` directory.
pub(super) fn body_file_name(delivery: &DeliveryId, file: &BodyRef) -> String {
    format!("{}-{}", hex::encode(delivery.bytes()), hex::encode(file.digest))
}
