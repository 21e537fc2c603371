//! Where a client stands in every stream that it sees: the `id:` of its frames.

use std::collections::BTreeMap;
use std::fmt;

use crate::domain::StreamName;

/// The longest cursor accepted, in bytes.
pub const CURSOR_BYTES_MAX: usize = 4096;
/// The highest sequence accepted: there is always room for a next one.
pub const SEQUENCE_MAX: u64 = u64::MAX >> 1;

/// How many bits of a tag there are.
const TAG_BITS: u32 = 24;
/// How many hexadecimal digits it is written with.
const TAG_DIGITS: usize = 6;

/// Tells a stream from another one of its name, which was made before or after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tag(u32);

impl Tag {
    /// The tag of the stream with that identity, which is when it was made. It is the same in every daemon and every version,
    /// as clients keep it.
    pub fn of(identity: u64) -> Self {
        // Identities lie close together, tags do not: the last step of SplitMix64.
        let mut mixed = identity;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Self(u32::try_from((mixed ^ (mixed >> 31)) >> (u64::BITS - TAG_BITS)).expect("so many bits fit"))
    }

    fn parse(text: &str) -> Option<Self> {
        let plain = text.len() == TAG_DIGITS && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        plain.then(|| u32::from_str_radix(text, 16).ok().map(Self)).flatten()
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:06x}", self.0)
    }
}

/// How far a client is in one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The last sequence seen.
    pub sequence: u64,
    /// Which stream of that name it is of; an older daemon's cursor does not say.
    pub tag: Option<Tag>,
}

impl Seen {
    /// Of one that looks for this sequence next, in the stream with this tag.
    pub(super) fn before(next: u64, tag: Tag) -> Self {
        Self { sequence: next.saturating_sub(1), tag: Some(tag) }
    }
}

/// A part of a cursor, as it is written: `EVENTS:123:09af3c`.
pub(super) struct Part<'a>(pub(super) &'a StreamName, pub(super) Seen);

impl fmt::Display for Part<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(stream, Seen { sequence, tag }) = self;
        match tag {
            Some(tag) => write!(f, "{stream}:{sequence}:{tag}"),
            None => write!(f, "{stream}:{sequence}"),
        }
    }
}

/// The last sequence seen of each stream, written `EVENTS:123:09af3c` or `EVENTS:123:09af3c,ORDERS:9:77d1e0`; the tags may be
/// left out. Names come in order, so that one place has one text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cursor(BTreeMap<StreamName, Seen>);

/// Why a text is not a cursor.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Longer than [`CURSOR_BYTES_MAX`].
    #[error("it is longer than {CURSOR_BYTES_MAX} bytes")]
    TooLong,
    /// A part that is not `STREAM:SEQUENCE` or `STREAM:SEQUENCE:TAG`.
    #[error("each part must be STREAM:SEQUENCE or STREAM:SEQUENCE:TAG")]
    Part,
    /// A part whose first piece cannot be a stream's name.
    #[error("a part does not begin with a stream's name")]
    Stream(#[source] crate::domain::event::StreamNameError),
    /// A part whose second piece is not a plain decimal number below [`SEQUENCE_MAX`].
    #[error("a part has no sequence behind the stream's name")]
    Sequence,
    /// A part whose tag is not six hexadecimal digits.
    #[error("a part does not end with a tag")]
    Tag,
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
            let (name, rest) = part.split_once(':').ok_or(Error::Part)?;
            let stream = StreamName::parse(name).map_err(Error::Stream)?;
            let (digits, tag) = rest.split_once(':').map_or((rest, None), |(digits, tag)| (digits, Some(tag)));
            let sequence = sequence(digits)?;
            let tag = tag.map(|tag| Tag::parse(tag).ok_or(Error::Tag)).transpose()?;
            if places.insert(stream, Seen { sequence, tag }).is_some() {
                return Err(Error::Twice);
            }
        }
        Ok(Self(places))
    }

    /// How far it is in a stream; `None` when the stream is not part of it.
    pub fn get(&self, stream: &StreamName) -> Option<Seen> {
        self.0.get(stream).copied()
    }

    /// The stream that it names and how far it is there, when that is one alone: the place of an event.
    pub fn only(&self) -> Option<(&StreamName, Seen)> {
        let (stream, seen) = self.0.first_key_value()?;
        (self.0.len() == 1).then_some((stream, *seen))
    }

    /// Sets how far it is in a stream.
    pub fn set(&mut self, stream: StreamName, seen: Seen) {
        self.0.insert(stream, seen);
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
        write_parts(f, self.0.iter().map(|(stream, seen)| Part(stream, *seen)))
    }
}

/// Writes the text of a cursor with these parts, which are in the order of the streams' names.
pub(super) fn write_parts<'a>(f: &mut fmt::Formatter<'_>, parts: impl Iterator<Item = Part<'a>>) -> fmt::Result {
    for (at, part) in parts.enumerate() {
        let comma = if at == 0 { "" } else { "," };
        write!(f, "{comma}{part}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_one_and_several_streams_with_tags_and_without() {
        let cursor = Cursor::parse("ORDERS:9,EVENTS:123:00ff3a").unwrap();
        let tag = Tag::parse("00ff3a");
        assert_eq!(cursor.get(&StreamName::parse("EVENTS").unwrap()), Some(Seen { sequence: 123, tag }));
        assert_eq!(cursor.get(&StreamName::parse("ORDERS").unwrap()), Some(Seen { sequence: 9, tag: None }));
        assert_eq!(cursor.get(&StreamName::parse("OTHER").unwrap()), None);
        assert_eq!(cursor.to_string(), "EVENTS:123:00ff3a,ORDERS:9");
        assert_eq!(Cursor::parse("E:0").unwrap().to_string(), "E:0");
    }

    #[test]
    fn refuses_everything_else() {
        for text in ["", "EVENTS", "EVENTS:1,", ",EVENTS:1", "1"] {
            assert_eq!(Cursor::parse(text), Err(Error::Part), "{text:?}");
        }
        for text in
            ["EVENTS:", "EVENTS:-1", "EVENTS:+1", "EVENTS:01", "E::00ff3a", "E:1 ", "E:18446744073709551615", "E:x"]
        {
            assert_eq!(Cursor::parse(text), Err(Error::Sequence), "{text:?}");
        }
        for text in ["E:1:", "E:1:2", "E:1:00FF3A", "E:1:00ff3a1", "E:1:+0ff3a", "E:1:00ff3a:", "E:1:é0ff3"] {
            assert_eq!(Cursor::parse(text), Err(Error::Tag), "{text:?}");
        }
        for text in [":1", "a b:1", "é:1", "a\n:1"] {
            assert!(matches!(Cursor::parse(text), Err(Error::Stream(_))), "{text:?}");
        }
        assert_eq!(Cursor::parse("E:1,E:2"), Err(Error::Twice));
        assert_eq!(Cursor::parse(&"E:1,".repeat(2000)), Err(Error::TooLong));
    }

    #[test]
    fn a_tag_stays_the_same_for_ever_and_tells_streams_apart_that_were_made_at_about_the_same_time() {
        let made_ns = 1_795_387_156_000_000_000;
        assert_eq!(Tag::of(made_ns).to_string(), "3a371e");
        let tags: std::collections::HashSet<String> = (0..500).map(|ns| Tag::of(made_ns + ns).to_string()).collect();
        assert!(tags.len() >= 499, "{}", tags.len());
    }

    proptest! {
        #[test]
        fn parsing_is_total(text in "\\PC*") {
            let _ = Cursor::parse(&text);
        }

        #[test]
        fn text_and_cursor_are_one_to_one(
            places in proptest::collection::btree_map(
                "[A-Za-z0-9_-]{1,64}", (0..=SEQUENCE_MAX, proptest::option::of(any::<u64>())), 1..8
            )
        ) {
            let mut cursor = Cursor::default();
            for (name, (sequence, identity)) in places {
                cursor.set(StreamName::parse(&name).unwrap(), Seen { sequence, tag: identity.map(Tag::of) });
            }
            let text = cursor.to_string();
            prop_assert_eq!(&Cursor::parse(&text).unwrap(), &cursor);
            prop_assert!(!text.contains(['\n', '\r', '\0']));
        }
    }
}
