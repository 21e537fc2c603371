//! How values become bytes: numbers are LEB128 varints, texts and bytes are preceded by their length, and a record begins
//! with its version.

use crate::domain::StreamName;

/// Appends to a record.
#[derive(Default)]
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    /// A record of that version.
    pub(super) fn record(version: u8, capacity_bytes: usize) -> Self {
        let mut bytes = Vec::with_capacity(capacity_bytes);
        bytes.push(version);
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

    pub(super) fn option<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
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

    /// The record's version and content, when the version is `newest` or an older one.
    pub(super) fn record(bytes: &'a [u8], newest: u8) -> Option<(u8, Self)> {
        let (version, rest) = bytes.split_first()?;
        (1..=newest).contains(version).then_some((*version, Self(rest)))
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

    pub(super) fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        match self.byte()? {
            0 => Some(None),
            1 => Some(Some(read(self)?)),
            _ => None,
        }
    }

    pub(super) fn boxed(&mut self) -> Option<Box<str>> {
        self.text().map(Into::into)
    }
}
