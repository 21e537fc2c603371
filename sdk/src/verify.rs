//! For receivers of webhooks: was that request sent by whoever has the secret, just now, and as it came? With the feature
//! `verify`.
//!
//! Requests are signed as [Standard Webhooks](https://www.standardwebhooks.com/) 1.0 has it, by sluiced and by others. A
//! [`Verifier`] has one key or several, and judges a request by three of its headers and its body:
//!
//! ```
//! use sluiced_sdk::verify::{Error, Verifier};
//!
//! // Made once: a secret, or the new and the old one while they change, with a space between.
//! let verifier = Verifier::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")?;
//!
//! // For each request: the headers as the HTTP library has them, the body before anything has parsed it.
//! let headers = [
//!     ("webhook-id", "msg_p5jXN8AQM9LWM0D4loKWxJek"),
//!     ("webhook-timestamp", "1614265330"),
//!     ("webhook-signature", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
//! ];
//! let header = |name: &str| headers.iter().find(|(own, _)| *own == name).map(|(_, value)| *value);
//! let refused = verifier.verify(header, br#"{"test": 2432232314}"#).expect_err("it was sent in 2021");
//! assert!(matches!(refused, Error::Old { .. }));
//!
//! // Tests say what time it is.
//! let at = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_614_265_335);
//! let verified = verifier.verify_at(header, br#"{"test": 2432232314}"#, at).expect("it is right");
//! assert_eq!(verified.id, "msg_p5jXN8AQM9LWM0D4loKWxJek");
//! # Ok::<(), sluiced_sdk::verify::KeyError>(())
//! ```
//!
//! Answer 2xx to what was verified and is done, and 400 to what was not. Whoever has seen a request can send it again while
//! its time is right, and so does a sender that has not seen the answer: remember [`Verified::id`] in the same transaction
//! as what the event does, and answer a known one with 2xx too. `docs/receiving.md` of sluiced's repository is the guide, and
//! `examples/receive.rs` a whole receiver.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use ed25519_dalek::{Signature, VerifyingKey};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// The header with the delivery's id.
pub const ID: &str = "webhook-id";
/// The header with the time of the attempt, in seconds since the Unix epoch.
pub const TIMESTAMP: &str = "webhook-timestamp";
/// The header with the signatures.
pub const SIGNATURE: &str = "webhook-signature";
/// How far a request's time may be from now, unless [`Verifier::tolerance`] says otherwise.
pub const TOLERANCE: Duration = Duration::from_secs(300);
/// The signatures of one request that are looked at, from the first on. A sender makes one for each of its keys.
pub const SIGNATURES_MAX: usize = 16;

/// What the text of a shared secret begins with.
const SECRET_PREFIX: &str = "whsec_";
/// What the text of a public key begins with.
const PUBLIC_PREFIX: &str = "whpk_";
/// What the text of a private key begins with.
const PRIVATE_PREFIX: &str = "whsk_";
/// The fewest and the most bytes of a shared secret.
const SECRET_BYTES: std::ops::RangeInclusive<usize> = 24..=64;

/// Padding is left out by some tools that make secrets, and means nothing.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Verifies requests with one key or several. It has no state: it does not see that a request comes a second time.
#[derive(Clone)]
pub struct Verifier {
    keys: Vec<Key>,
    tolerance: Duration,
}

#[derive(Clone)]
enum Key {
    /// Of `v1` signatures: the keyed state, which is computed once.
    Secret(Hmac<Sha256>),
    /// Of `v1a` signatures.
    Public(VerifyingKey),
}

/// A request that was verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verified<'a> {
    /// The delivery: the same for each attempt, so that one that was taken already is recognised by it.
    pub id: &'a str,
    /// When this attempt was made, in seconds since the Unix epoch.
    pub timestamp_s: u64,
}

/// Why a text is not a key. It never shows the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyError {
    /// There is none in the text.
    None,
    /// It begins with neither prefix.
    Prefix,
    /// It is the key that signs, which belongs to the sender alone.
    Private,
    /// What follows the prefix is not base64.
    Base64,
    /// A secret has fewer than 24 or more than 64 bytes, or a public key other than 32.
    Length,
    /// The bytes are no ed25519 key.
    Key,
}

/// Why a request must not be believed. It is for the log: the sender learns nothing from it but the status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// One of the three headers is missing.
    Missing {
        /// Its name.
        header: &'static str,
    },
    /// `webhook-id` is empty or has a full stop, which would let it be taken for id and time.
    Id,
    /// `webhook-timestamp` is not a number of seconds.
    Timestamp,
    /// It was sent too long ago: somebody sends it again, or the clocks differ.
    Old {
        /// How long ago, in seconds.
        age_s: u64,
    },
    /// It says that it was sent in the future: the clocks differ.
    Future {
        /// How far, in seconds.
        ahead_s: u64,
    },
    /// None of the signatures is of a kind that there is a key for: `v1` needs a secret, `v1a` a public key.
    Unsigned,
    /// No signature matches: it was made with another key, or of another id, time or body than these.
    Mismatch,
}

impl Verifier {
    /// A verifier with these keys, with spaces between: secrets (`whsec_…`), of which requests have a `v1` signature, and
    /// public keys (`whpk_…`), for `v1a`. One key that matches is enough, so that a sender can change from one to the other.
    ///
    /// # Errors
    /// When there is none, or one of them is no such key.
    pub fn new(keys: &str) -> Result<Self, KeyError> {
        let keys = keys.split_whitespace().map(Key::parse).collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() { Err(KeyError::None) } else { Ok(Self { keys, tolerance: TOLERANCE }) }
    }

    /// Takes requests whose time is as far from now as this, in both directions.
    #[must_use]
    pub fn tolerance(mut self, tolerance: Duration) -> Self {
        self.tolerance = tolerance;
        self
    }

    /// Verifies a request: `header` gives the value of a header by its name, in lower case; `body` is what came, byte for
    /// byte. The comparison takes the same time wherever two signatures differ.
    ///
    /// # Errors
    /// When the request must not be believed. Answer 400 and do nothing.
    pub fn verify<'a>(&self, header: impl Fn(&str) -> Option<&'a str>, body: &[u8]) -> Result<Verified<'a>, Error> {
        #[expect(clippy::disallowed_methods, reason = "a receiver has no other clock; `verify_at` is there for tests")]
        let now = SystemTime::now();
        self.verify_at(header, body, now)
    }

    /// The same at a time that the caller names.
    ///
    /// # Errors
    /// When the request must not be believed.
    pub fn verify_at<'a>(
        &self,
        header: impl Fn(&str) -> Option<&'a str>,
        body: &[u8],
        now: SystemTime,
    ) -> Result<Verified<'a>, Error> {
        let value = |name| header(name).ok_or(Error::Missing { header: name });
        let (id, timestamp, signatures) = (value(ID)?, value(TIMESTAMP)?, value(SIGNATURE)?);
        if id.is_empty() || id.contains('.') {
            return Err(Error::Id);
        }
        let timestamp_s = self.check_time(timestamp, now)?;
        let signed = [id.as_bytes(), b".", timestamp.as_bytes(), b".", body];
        let signatures: Vec<_> = signatures.split(' ').take(SIGNATURES_MAX).filter_map(Signed::parse).collect();
        if !self.keys.iter().any(|key| signatures.iter().any(|signature| signature.is_for(key))) {
            return Err(Error::Unsigned);
        }
        let matches = self.keys.iter().any(|key| key.made_one_of(&signatures, &signed));
        if matches { Ok(Verified { id, timestamp_s }) } else { Err(Error::Mismatch) }
    }

    fn check_time(&self, timestamp: &str, now: SystemTime) -> Result<u64, Error> {
        // `parse` takes a sign too, which no sender writes.
        let digits = timestamp.bytes().all(|byte| byte.is_ascii_digit());
        let timestamp_s: u64 = timestamp.parse().ok().filter(|_| digits).ok_or(Error::Timestamp)?;
        let now_s = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let tolerance_s = self.tolerance.as_secs();
        let (age_s, ahead_s) = (now_s.saturating_sub(timestamp_s), timestamp_s.saturating_sub(now_s));
        match () {
            () if age_s > tolerance_s => Err(Error::Old { age_s }),
            () if ahead_s > tolerance_s => Err(Error::Future { ahead_s }),
            () => Ok(timestamp_s),
        }
    }
}

impl Key {
    fn parse(text: &str) -> Result<Self, KeyError> {
        if text.starts_with(PRIVATE_PREFIX) {
            return Err(KeyError::Private);
        }
        let decoded = |encoded| LENIENT.decode(encoded).map_err(|_| KeyError::Base64);
        if let Some(encoded) = text.strip_prefix(PUBLIC_PREFIX) {
            let bytes = <[u8; 32]>::try_from(decoded(encoded)?).map_err(|_| KeyError::Length)?;
            return VerifyingKey::from_bytes(&bytes).map(Self::Public).map_err(|_| KeyError::Key);
        }
        let bytes = decoded(text.strip_prefix(SECRET_PREFIX).ok_or(KeyError::Prefix)?)?;
        if !SECRET_BYTES.contains(&bytes.len()) {
            return Err(KeyError::Length);
        }
        Ok(Self::Secret(Hmac::new_from_slice(&bytes).expect("HMAC takes a key of any length")))
    }

    /// Did this key make one of the signatures of what is signed, whose parts follow one another?
    fn made_one_of(&self, signatures: &[Signed], signed: &[&[u8]]) -> bool {
        match self {
            Self::Secret(keyed) => {
                let mut mac = keyed.clone();
                signed.iter().for_each(|part| mac.update(part));
                let made = |one: &Signed| matches!(one, Signed::V1(tag) if mac.clone().verify_slice(tag).is_ok());
                signatures.iter().any(made)
            }
            Self::Public(key) => {
                let message = signed.concat();
                let made = |one: &Signed| matches!(one, Signed::V1a(tag) if key.verify_strict(&message, tag).is_ok());
                signatures.iter().any(made)
            }
        }
    }
}

/// One signature of a request.
enum Signed {
    V1(Vec<u8>),
    V1a(Signature),
}

impl Signed {
    /// `None` for one of another version, and for one that cannot be right.
    fn parse(text: &str) -> Option<Self> {
        let (version, encoded) = text.split_once(',')?;
        let bytes = STANDARD.decode(encoded).ok()?;
        match version {
            "v1" => Some(Self::V1(bytes)),
            "v1a" => Signature::from_slice(&bytes).ok().map(Self::V1a),
            _ => None,
        }
    }

    fn is_for(&self, key: &Key) -> bool {
        matches!((self, key), (Self::V1(_), Key::Secret(_)) | (Self::V1a(_), Key::Public(_)))
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Keys are never shown.
        f.debug_struct("Verifier").field("tolerance", &self.tolerance).finish_non_exhaustive()
    }
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "there is no key: give a secret (`whsec_…`) or a public key (`whpk_…`)",
            Self::Prefix => "a key begins with `whsec_` (a secret) or `whpk_` (a public key)",
            Self::Private => {
                "that is a private key, which belongs to the sender: a receiver has the public one (`whpk_…`)"
            }
            Self::Base64 => "a key is its prefix and base64",
            Self::Length => "a secret has 24 to 64 bytes, a public key 32",
            Self::Key => "the bytes of the public key are no ed25519 key",
        })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { header } => write!(f, "the header `{header}` is missing"),
            Self::Id => write!(f, "`{ID}` is empty or has a full stop"),
            Self::Timestamp => write!(f, "`{TIMESTAMP}` is not a number of seconds"),
            Self::Old { age_s } => write!(f, "it was sent {age_s} s ago: it is sent again, or a clock is wrong"),
            Self::Future { ahead_s } => write!(f, "it was sent {ahead_s} s in the future: a clock is wrong"),
            Self::Unsigned => write!(f, "`{SIGNATURE}` has no signature of a kind that there is a key for"),
            Self::Mismatch => f.write_str("no signature matches: another key, or not the body that was sent"),
        }
    }
}

impl std::error::Error for KeyError {}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests;
