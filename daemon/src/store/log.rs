//! The log of deliveries: one value for each flush, compact, and read from its tail.
//!
//! ```text
//! value   = version ‖ base time ‖ streams ‖ section*
//! streams = count ‖ (name ‖ running maximum ‖ span)*
//! span    = 0, or 1 + (maximum - lowest) ‖ maximum - highest
//! section = length ‖ subscription ‖ index into streams ‖ entry*
//! entry   = sequence (difference) ‖ flags ‖ [part ‖ parts] ‖ [attempt] ‖ [status] ‖ [class] ‖ [detail] ‖ time (difference)
//! detail  = time taken ‖ [next due] ‖ message ‖ [response]
//! ```
//! Version 1 has neither spans nor details. A *span* says between which sequences the flush's own entries of a stream
//! lie: a search for one event looks into few flushes only.
//!
//! A stream's *running maximum* is the highest sequence recorded in this or any earlier flush. So a reader that goes
//! backwards may stop at the first flush whose maxima are all at or below the floors that it was given: no earlier flush
//! can hold anything above them.

use std::collections::{BTreeMap, HashMap};

use super::Error;
use super::codec;
use super::records::{Detail, Disposition, LogEntry};
use super::wire::{Reader, Writer};
use crate::domain::{FailureClass, Position, StreamName, SubscriptionId};

/// Highest sequence recorded so far, per stream.
pub(super) type Running = BTreeMap<StreamName, u64>;

/// The current version.
const VERSION: u8 = 2;

const DISPOSITION: u8 = 0b0000_0011;
const PARTS: u8 = 0b0000_0100;
const STATUS_200: u8 = 0b0000_1000;
const STATUS: u8 = 0b0001_0000;
const ATTEMPT: u8 = 0b0010_0000;
const CLASS: u8 = 0b0100_0000;
const DETAIL: u8 = 0b1000_0000;

struct Section<'a> {
    subscription: &'a SubscriptionId,
    stream: &'a StreamName,
    sequence: u64,
    /// The lowest and the highest sequence of its entries.
    span: (u64, u64),
    at_ms: u64,
    entries: Writer,
}

/// Gathers the log entries of one flush.
#[derive(Default)]
pub(super) struct Builder<'a> {
    sections: Vec<Section<'a>>,
    index: HashMap<(&'a SubscriptionId, &'a StreamName), usize>,
    base_ms: Option<u64>,
    last: usize,
}

impl<'a> Builder<'a> {
    /// Adds an entry.
    pub(super) fn push(&mut self, entry: &'a LogEntry) {
        let base_ms = *self.base_ms.get_or_insert(entry.at_ms);
        let at = self.section(entry, base_ms);
        let section = &mut self.sections[at];
        section.entries.difference(section.sequence, entry.position.sequence);
        section.sequence = entry.position.sequence;
        section.span = (section.span.0.min(section.sequence), section.span.1.max(section.sequence));
        write_entry(&mut section.entries, entry);
        section.entries.difference(section.at_ms, entry.at_ms);
        section.at_ms = entry.at_ms;
    }

    /// The section for an entry. Neighbours mostly share theirs, so the last one is looked at before the index.
    fn section(&mut self, entry: &'a LogEntry, base_ms: u64) -> usize {
        let (subscription, stream) = (&entry.subscription, &entry.position.stream);
        if let Some(last) = self.sections.get(self.last)
            && last.subscription == subscription
            && last.stream == stream
        {
            return self.last;
        }
        let sections = &mut self.sections;
        self.last = *self.index.entry((subscription, stream)).or_insert_with(|| {
            let (sequence, span, entries) = (0, (u64::MAX, 0), Writer::default());
            sections.push(Section { subscription, stream, sequence, span, at_ms: base_ms, entries });
            sections.len() - 1
        });
        self.last
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sections.is_empty()
    }

    /// The running maxima once these entries are on record.
    pub(super) fn running_after(entries: impl Iterator<Item = &'a LogEntry>, running: &Running) -> Running {
        let mut after = running.clone();
        for entry in entries {
            match after.get_mut(&entry.position.stream) {
                Some(max) => *max = (*max).max(entry.position.sequence),
                None => {
                    after.insert(entry.position.stream.clone(), entry.position.sequence);
                }
            }
        }
        after
    }

    /// The lowest and the highest sequence of a stream's entries.
    fn span(&self, stream: &StreamName) -> Option<(u64, u64)> {
        let spans = self.sections.iter().filter(|s| s.stream == stream).map(|s| s.span);
        spans.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))
    }

    /// The flush's value. `running` must have every stream of the entries, and already count them.
    pub(super) fn finish(&self, running: &Running) -> Vec<u8> {
        let entries_bytes: usize = self.sections.iter().map(|s| s.entries.0.len() + 80).sum();
        let mut w = Writer::record(VERSION, 32 + running.len() * 80 + entries_bytes);
        w.number(self.base_ms.unwrap_or_default());
        w.number(running.len() as u64);
        for (stream, max) in running {
            w.text(stream.as_str());
            w.number(*max);
            match self.span(stream) {
                Some((low, high)) => {
                    w.number(1 + max.saturating_sub(low));
                    w.number(max.saturating_sub(high));
                }
                None => w.number(0),
            }
        }
        let mut head = Writer::default();
        for section in &self.sections {
            head.0.clear();
            head.text(section.subscription.as_str());
            head.number(running.range::<StreamName, _>(..section.stream).count() as u64);
            w.number((head.0.len() + section.entries.0.len()) as u64);
            w.0.extend_from_slice(&head.0);
            w.0.extend_from_slice(&section.entries.0);
        }
        w.0
    }
}

fn write_entry(w: &mut Writer, entry: &LogEntry) {
    let mut flags = entry.disposition.code();
    let parts = entry.part != 0 || entry.parts != 1;
    flags |= if parts { PARTS } else { 0 };
    flags |= if entry.attempt == 1 { 0 } else { ATTEMPT };
    flags |= match entry.status {
        None => 0,
        Some(200) => STATUS_200,
        Some(_) => STATUS,
    };
    flags |= if entry.class.is_some() { CLASS } else { 0 };
    flags |= if entry.detail.is_some() { DETAIL } else { 0 };
    w.0.push(flags);
    if parts {
        w.number(u64::from(entry.part));
        w.number(u64::from(entry.parts));
    }
    if entry.attempt != 1 {
        w.number(u64::from(entry.attempt));
    }
    if let Some(status) = entry.status.filter(|status| *status != 200) {
        w.number(u64::from(status));
    }
    if let Some(class) = entry.class {
        w.0.push(class_code(class));
    }
    if let Some(detail) = &entry.detail {
        w.number(detail.took_ms);
        w.option(detail.due_ms, Writer::number);
        w.text(&detail.message);
        w.option(detail.response.as_ref(), codec::write_response);
    }
}

fn read_detail(r: &mut Reader<'_>) -> Option<Box<Detail>> {
    Some(Box::new(Detail {
        took_ms: r.number()?,
        due_ms: r.option(Reader::number)?,
        message: r.boxed()?,
        response: r.option(codec::read_response)?,
    }))
}

/// Takes one flush's value apart.
pub(super) struct Group<'a> {
    /// The streams and their running maxima.
    pub(super) running: Vec<(StreamName, u64)>,
    /// For each stream the lowest and highest sequence of this flush. Of a flush of version 1 all that is known is that
    /// nothing lies above the running maximum.
    pub(super) spans: Vec<Option<(u64, u64)>>,
    /// The time of the flush's first entry, in milliseconds since the Unix epoch.
    pub(super) base_ms: u64,
    sections: Reader<'a>,
}

/// One subscription's entries in one stream, not yet read.
pub(super) struct GroupSection<'a> {
    /// The subscription's id.
    pub(super) subscription: &'a str,
    /// The stream: an index into [`Group::running`].
    pub(super) stream: usize,
    at_ms: u64,
    sequence: u64,
    entries: Reader<'a>,
}

fn read_span(r: &mut Reader<'_>, max: u64) -> Option<Option<(u64, u64)>> {
    match r.number()?.checked_sub(1) {
        None => Some(None),
        Some(below) => Some(Some((max.checked_sub(below)?, max.checked_sub(r.number()?)?))),
    }
}

const DAMAGED: Error = Error::Record { what: "log" };

impl<'a> Group<'a> {
    pub(super) fn read(value: &'a [u8]) -> Result<Self, Error> {
        let read = || {
            let (version, mut r) = Reader::record(value, VERSION)?;
            let base_ms = r.number()?;
            let (mut running, mut spans) = (Vec::new(), Vec::new());
            for _ in 0..r.number()? {
                let (stream, max) = (r.stream()?, r.number()?);
                spans.push(if version == 1 { Some((0, max)) } else { read_span(&mut r, max)? });
                running.push((stream, max));
            }
            Some(Self { running, spans, base_ms, sections: r })
        };
        read().ok_or(DAMAGED)
    }

    /// The next section; those that are not looked into cost next to nothing.
    pub(super) fn section(&mut self) -> Result<Option<GroupSection<'a>>, Error> {
        if self.sections.is_empty() {
            return Ok(None);
        }
        let mut read = || {
            let mut r = Reader::new(self.sections.bytes()?);
            let subscription = r.text()?;
            let stream = usize::try_from(r.number()?).ok().filter(|n| *n < self.running.len())?;
            Some(GroupSection { subscription, stream, at_ms: self.base_ms, sequence: 0, entries: r })
        };
        read().map(Some).ok_or(DAMAGED)
    }
}

impl GroupSection<'_> {
    /// The next entry; `subscription` and `stream` are what this section's stand for.
    pub(super) fn entry(
        &mut self,
        subscription: &SubscriptionId,
        stream: &StreamName,
    ) -> Result<Option<LogEntry>, Error> {
        if self.entries.is_empty() {
            return Ok(None);
        }
        self.read_entry(subscription, stream).map(Some).ok_or(DAMAGED)
    }

    fn read_entry(&mut self, subscription: &SubscriptionId, stream: &StreamName) -> Option<LogEntry> {
        let r = &mut self.entries;
        self.sequence = r.difference(self.sequence)?;
        let flags = r.byte()?;
        let disposition = Disposition::of_code(flags & DISPOSITION)?;
        let (part, parts) = if flags & PARTS != 0 { (r.small()?, r.small()?) } else { (0, 1) };
        let attempt = if flags & ATTEMPT != 0 { r.small()? } else { 1 };
        let status = if flags & STATUS != 0 {
            Some(u16::try_from(r.number()?).ok()?)
        } else {
            (flags & STATUS_200 != 0).then_some(200)
        };
        let class = if flags & CLASS != 0 { class_of(r.byte()?) } else { None };
        let detail = if flags & DETAIL != 0 { Some(read_detail(r)?) } else { None };
        self.at_ms = r.difference(self.at_ms)?;
        Some(LogEntry {
            subscription: subscription.clone(),
            position: Position { stream: stream.clone(), sequence: self.sequence },
            part,
            parts,
            attempt,
            status,
            at_ms: self.at_ms,
            disposition,
            class,
            detail,
        })
    }
}

fn class_code(class: FailureClass) -> u8 {
    match class {
        FailureClass::Network => 1,
        FailureClass::Timeout => 2,
        FailureClass::Status => 3,
        FailureClass::Gone => 4,
        FailureClass::AddressRefused => 5,
        FailureClass::Plugin => 6,
        FailureClass::Undecodable => 7,
        FailureClass::Internal => 8,
    }
}

fn class_of(code: u8) -> Option<FailureClass> {
    Some(match code {
        1 => FailureClass::Network,
        2 => FailureClass::Timeout,
        3 => FailureClass::Status,
        4 => FailureClass::Gone,
        5 => FailureClass::AddressRefused,
        6 => FailureClass::Plugin,
        7 => FailureClass::Undecodable,
        8 => FailureClass::Internal,
        _ => return None,
    })
}
