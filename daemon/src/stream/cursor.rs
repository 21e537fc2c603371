//! Where a client stands in every stream that it sees: the `id:` of its frames.

use std::collections::BTreeMap;
use std::fmt;

use crate::domain::StreamName;

/// The longest cursor accepted, in bytes.
pub const CURSOR_BYTES_MAX: usize = 4096;
/// The highest sequence accepted: there is always room for a next one.
pub const SEQUENCE_MAX: u64 = u64::MAX >> 1;

/// The last sequence seen of each stream, written `EVENTS:123` or `EVENTS:123,ORDERS:9`. Names come in order, so that one
/// place has one text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cursor(BTreeMap<StreamName, u64>);

/// Why a text is not a cursor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Longer than [`CURSOR_BYTES_MAX`].
    #[error("it is longer than {CURSOR_BYTES_MAX} bytes")]
    TooLong,
    /// A part that is not `STREAM:SEQUENCE`.
    #[error("each part must be STREAM:SEQUENCE")]
    Part,
    /// A part whose first half cannot be a stream's name.
    #[error("a part does not begin with a stream's name")]
    Stream(#[source] crate::domain::event::StreamNameError),
    /// A part whose second half is not a plain decimal number below [`SEQUENCE_MAX`].
    #[error("a part does not end with a sequence")]
    Sequence,
    /// The same stream twice.
    #[error("it names a stream twice")]
    Twice,
}

impl Cursor {
    /// Parses the text of a cursor.
    ///
    /// # Errors
    /// When the text is not one that [`Display`](fmt::Display) writes, the order of its parts apart.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text.len() > CURSOR_BYTES_MAX {
            return Err(Error::TooLong);
        }
        let mut places = BTreeMap::new();
        for part in text.split(',') {
            let (name, digits) = part.split_once(':').ok_or(Error::Part)?;
            let stream = StreamName::parse(name).map_err(Error::Stream)?;
            if places.insert(stream, sequence(digits)?).is_some() {
                return Err(Error::Twice);
            }
        }
        Ok(Self(places))
    }

    /// The last sequence seen of a stream; `None` when the stream is not part of it.
    pub fn get(&self, stream: &StreamName) -> Option<u64> {
        self.0.get(stream).copied()
    }

    /// Sets the last sequence seen of a stream.
    pub fn set(&mut self, stream: StreamName, sequence: u64) {
        self.0.insert(stream, sequence);
    }

    /// The streams that it names.
    pub fn streams(&self) -> impl Iterator<Item = &StreamName> {
        self.0.keys()
    }
}

fn sequence(digits: &str) -> Result<u64, Error> {
    let plain = digits.bytes().all(|b| b.is_ascii_digit()) && (digits == "0" || !digits.starts_with('0'));
    let number = digits.parse().ok().filter(|n| plain && *n <= SEQUENCE_MAX);
    number.ok_or(Error::Sequence)
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (stream, sequence)) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            write!(f, "{comma}{stream}:{sequence}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_one_and_several_streams() {
        let cursor = Cursor::parse("ORDERS:9,EVENTS:123").unwrap();
        assert_eq!(cursor.get(&StreamName::parse("EVENTS").unwrap()), Some(123));
        assert_eq!(cursor.get(&StreamName::parse("OTHER").unwrap()), None);
        assert_eq!(cursor.to_string(), "EVENTS:123,ORDERS:9");
        assert_eq!(Cursor::parse("E:0").unwrap().to_string(), "E:0");
    }

    #[test]
    fn refuses_everything_else() {
        for text in ["", "EVENTS", "EVENTS:1,", ",EVENTS:1", "1"] {
            assert_eq!(Cursor::parse(text), Err(Error::Part), "{text:?}");
        }
        for text in ["EVENTS:", "EVENTS:-1", "EVENTS:+1", "EVENTS:01", "E:1:2", "E:1 ", "E:18446744073709551615", "E:x"]
        {
            assert_eq!(Cursor::parse(text), Err(Error::Sequence), "{text:?}");
        }
        for text in [":1", "a b:1", "é:1", "a\n:1"] {
            assert!(matches!(Cursor::parse(text), Err(Error::Stream(_))), "{text:?}");
        }
        assert_eq!(Cursor::parse("E:1,E:2"), Err(Error::Twice));
        assert_eq!(Cursor::parse(&"E:1,".repeat(2000)), Err(Error::TooLong));
    }

    proptest! {
        #[test]
        fn parsing_is_total(text in "\\PC*") {
            let _ = Cursor::parse(&text);
        }

        #[test]
        fn text_and_cursor_are_one_to_one(
            places in proptest::collection::btree_map("[A-Za-z0-9_-]{1,64}", 0..=SEQUENCE_MAX, 1..8)
        ) {
            let mut cursor = Cursor::default();
            for (name, sequence) in places {
                cursor.set(StreamName::parse(&name).unwrap(), sequence);
            }
            let text = cursor.to_string();
            prop_assert_eq!(&Cursor::parse(&text).unwrap(), &cursor);
            prop_assert!(!text.contains(['\n', '\r', '\0']));
        }
    }
}
