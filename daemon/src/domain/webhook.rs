//! What a webhook's request looks like, and what its answer's status means.

use std::fmt;

/// How a request carries the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BodyFormat {
    /// The body is the event's data, byte for byte.
    #[default]
    Raw,
    /// A JSON object with `id`, `type`, `time` and the data.
    Envelope,
    /// CloudEvents 1.0 in binary mode: the body is the data, the attributes are `ce-` headers.
    CloudEventsBinary,
    /// CloudEvents 1.0 in structured mode: a JSON object with the attributes and the data.
    CloudEventsStructured,
}

impl BodyFormat {
    /// Is it one of the two modes of CloudEvents, which own the `ce-` headers?
    pub fn is_cloudevents(self) -> bool {
        matches!(self, Self::CloudEventsBinary | Self::CloudEventsStructured)
    }
}

/// What the key of a [`BodySignature`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum BodyKey {
    /// The secret's bytes, as for the signature of Standard Webhooks.
    #[default]
    Bytes,
    /// The secret's text: `whsec_` and padded base64.
    Text,
}

/// A second signature for receivers that expect the older style: a header with `sha256=` and the hexadecimal HMAC-SHA256
/// of the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BodySignature {
    /// The header's name.
    pub header: Box<str>,
    /// What the key is.
    pub key: BodyKey,
}

/// A private ed25519 key: the 32 bytes that all of it follows from. It has neither readable `Debug` output nor `Display`,
/// so that it cannot reach a log.
#[derive(Clone, PartialEq, Eq)]
pub struct Ed25519Key([u8; 32]);

impl Ed25519Key {
    /// The key that follows from those bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Ed25519Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ed25519Key(…)")
    }
}

/// What every request of an endpoint looks like, besides its URL and headers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequestShape {
    /// How it carries the event.
    pub format: BodyFormat,
    /// The `source` of its CloudEvents; without one it is made of the stream's name.
    pub cloudevents_source: Option<Box<str>>,
    /// A second signature, in the older style.
    pub body_signature: Option<BodySignature>,
    /// Signs each request as `v1a` too.
    pub ed25519_key: Option<Ed25519Key>,
}

/// What an endpoint's answers mean, and how much of them is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnswerRules {
    /// Which statuses are tried again and which fail at once, where that is not the usual.
    pub statuses: StatusRules,
    /// How much of an answer's body is kept, in bytes; 0 keeps neither body nor headers.
    pub capture_bytes_max: usize,
}

impl Default for AnswerRules {
    fn default() -> Self {
        Self { statuses: StatusRules::default(), capture_bytes_max: 1_024 }
    }
}

/// The most entries of one list of statuses.
pub const STATUS_ENTRIES_MAX: usize = 32;

/// The statuses that a rule can be about: all that are neither success nor on the way to it.
const RULED: std::ops::RangeInclusive<u16> = 300..=599;
const GONE: u16 = 410;

/// Some statuses, from `first` to `last`: written `409`, `400-404` or `5xx`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Statuses {
    first: u16,
    last: u16,
}

/// A text that does not say which statuses are meant, or means some that no rule can be about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StatusError {
    /// It is none of the three forms.
    #[error("{0:?} is not a status: write one such as \"409\", \"400-404\" or \"5xx\"")]
    Form(Box<str>),
    /// It holds statuses outside of 300 to 599.
    #[error(
        "{0:?} holds statuses outside of 300 to 599: 2xx is always success, and what lies beyond is always tried again"
    )]
    Outside(Box<str>),
    /// It is 410 alone.
    #[error("410 Gone always ends the delivery and disables the subscription")]
    Gone,
    /// There are more than [`STATUS_ENTRIES_MAX`].
    #[error("there are more than {STATUS_ENTRIES_MAX} entries")]
    Count,
    /// Both lists claim the same statuses, and neither entry is a part of the other.
    #[error(
        "{0} overlaps {1} of the other list, and neither is a part of the other: it would not be clear which counts"
    )]
    Overlap(Statuses, Statuses),
}

impl Statuses {
    /// Parses one entry.
    ///
    /// # Errors
    /// When it is none of the three forms, or a rule cannot be about it.
    pub fn parse(text: &str) -> Result<Self, StatusError> {
        let form = || StatusError::Form(text.into());
        let number = |part: &str| match part.as_bytes() {
            [b'1'..=b'9', b'0'..=b'9', b'0'..=b'9'] => part.parse::<u16>().map_err(|_| form()),
            _ => Err(form()),
        };
        let (first, last) = match (text.as_bytes(), text.split_once('-')) {
            ([class @ b'1'..=b'9', b'x' | b'X', b'x' | b'X'], _) => {
                let first = u16::from(class - b'0') * 100;
                (first, first + 99)
            }
            (_, Some((first, last))) => (number(first)?, number(last)?),
            _ => (number(text)?, number(text)?),
        };
        if first > last {
            return Err(form());
        }
        if !RULED.contains(&first) || !RULED.contains(&last) {
            return Err(StatusError::Outside(text.into()));
        }
        if first == GONE && last == GONE { Err(StatusError::Gone) } else { Ok(Self { first, last }) }
    }

    fn contains(self, status: u16) -> bool {
        (self.first..=self.last).contains(&status)
    }

    fn width(self) -> u16 {
        self.last - self.first
    }

    /// Do they share a status without one of the two being a part of the other? The same statuses twice count too.
    fn clashes(self, other: Self) -> bool {
        let overlap = self.first <= other.last && other.first <= self.last;
        let within = |a: Self, b: Self| a != b && b.first <= a.first && a.last <= b.last;
        overlap && !within(self, other) && !within(other, self)
    }
}

impl fmt::Display for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.first, self.last) {
            (first, last) if first == last => write!(f, "{first}"),
            (first, last) if first.is_multiple_of(100) && last == first + 99 => write!(f, "{}xx", first / 100),
            (first, last) => write!(f, "{first}-{last}"),
        }
    }
}

/// Which statuses are tried again and which fail at once. Of two entries that hold a status the narrower one counts, so
/// that an exception can stand beside its rule: `5xx` is tried again, `501` fails.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StatusRules {
    retry: Vec<Statuses>,
    fail: Vec<Statuses>,
}

impl StatusRules {
    /// The rules of two lists.
    ///
    /// # Errors
    /// When a list is too long, or an entry of one overlaps one of the other and neither is the narrower.
    pub fn new(retry: Vec<Statuses>, fail: Vec<Statuses>) -> Result<Self, StatusError> {
        if retry.len() > STATUS_ENTRIES_MAX || fail.len() > STATUS_ENTRIES_MAX {
            return Err(StatusError::Count);
        }
        let pairs = retry.iter().flat_map(|retry| fail.iter().map(move |fail| (*retry, *fail)));
        match pairs.into_iter().find(|(retry, fail)| retry.clashes(*fail)) {
            Some((retry, fail)) => Err(StatusError::Overlap(retry, fail)),
            None => Ok(Self { retry, fail }),
        }
    }

    /// Is a status worth another attempt? `None` when no rule is about it: success, 410 and whatever is not listed.
    pub fn retries(&self, status: u16) -> Option<bool> {
        if status == GONE {
            return None;
        }
        let narrowest = |list: &[Statuses]| list.iter().filter(|s| s.contains(status)).map(|s| s.width()).min();
        match (narrowest(&self.retry), narrowest(&self.fail)) {
            (None, None) => None,
            (Some(_), None) => Some(true),
            (None, Some(_)) => Some(false),
            (Some(retry), Some(fail)) => Some(retry < fail),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn list(entries: &[&str]) -> Vec<Statuses> {
        entries.iter().map(|text| Statuses::parse(text).expect(text)).collect()
    }

    #[test]
    fn reads_three_forms_and_nothing_else() {
        for (text, expected) in [
            ("409", Some((409, 409))),
            ("5xx", Some((500, 599))),
            ("3XX", Some((300, 399))),
            ("400-404", Some((400, 404))),
            ("404-404", Some((404, 404))),
            ("404-400", None),
            ("", None),
            ("4x", None),
            ("4xx-5xx", None),
            ("0404", None),
            ("+40", None),
            ("400 - 404", None),
            ("x", None),
        ] {
            match expected {
                Some((first, last)) => assert_eq!(Statuses::parse(text), Ok(Statuses { first, last }), "{text}"),
                None => assert_eq!(Statuses::parse(text), Err(StatusError::Form(text.into())), "{text}"),
            }
        }
        for text in ["200", "2xx", "299-301", "100", "600", "599-600", "9xx"] {
            assert_eq!(Statuses::parse(text), Err(StatusError::Outside(text.into())), "{text}");
        }
        assert_eq!(Statuses::parse("410"), Err(StatusError::Gone));
    }

    #[test]
    fn the_narrower_entry_counts() {
        let rules = StatusRules::new(list(&["409", "5xx"]), list(&["501", "400-404"])).expect("no clash");
        for (status, expected) in [
            (409, Some(true)),
            (501, Some(false)),
            (500, Some(true)),
            (404, Some(false)),
            (405, None),
            (200, None),
            (302, None),
        ] {
            assert_eq!(rules.retries(status), expected, "{status}");
        }
        let all = StatusRules::new(list(&["4xx"]), Vec::new()).expect("one list");
        assert_eq!((all.retries(410), all.retries(411)), (None, Some(true)), "410 is what it always is");
    }

    #[test]
    fn what_is_not_clear_is_refused() {
        for (retry, fail, why) in
            [("409", "409", "409 overlaps 409"), ("400-410", "405-420", "400-410 overlaps 405-420")]
        {
            let error = StatusRules::new(list(&[retry]), list(&[fail])).expect_err("a clash").to_string();
            assert!(error.starts_with(why), "{error}");
        }
        assert_eq!(StatusRules::new(list(&["409"; STATUS_ENTRIES_MAX + 1]), Vec::new()), Err(StatusError::Count));
    }

    #[test]
    fn a_private_key_is_not_shown() {
        assert_eq!(format!("{:?}", Ed25519Key::new([7; 32])), "Ed25519Key(…)");
    }

    proptest! {
        #[test]
        fn no_text_panics_and_what_is_read_survives_its_text(text in "[0-9xX-]{0,8}|.{0,8}") {
            if let Ok(statuses) = Statuses::parse(&text) {
                prop_assert_eq!(Statuses::parse(&statuses.to_string()), Ok(statuses));
            }
        }
    }
}
