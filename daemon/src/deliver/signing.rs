//! Signatures as Standard Webhooks 1.0 has them: `v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body` (`v1a` is in
//! [`super::ed25519`]); and the older style, a header with the HMAC of the body alone.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};
use base64::Engine;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use bytes::BytesMut;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use smallvec::SmallVec;

use crate::domain::{BodyKey, WebhookSecret};

/// What the text of a secret begins with.
const PREFIX: &str = "whsec_";
/// The length in bytes of a generated secret.
const GENERATED_BYTES: usize = 32;
/// The length in bytes of one signature: `v1,` and 32 bytes in base64.
const SIGNATURE_BYTES: usize = 3 + 44;

/// Padding is left out by some tools that make secrets, and means nothing.
pub(super) const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why a text is not a signing secret. It never shows the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The prefix is missing.
    #[error("a signing secret begins with `{PREFIX}`")]
    Prefix,
    /// What follows the prefix is not base64.
    #[error("a signing secret is `{PREFIX}` and base64")]
    Base64,
    /// Too short or too long.
    #[error("a signing secret has 24 to 64 bytes")]
    Length,
}

/// Reads a secret from its text, `whsec_` and base64.
///
/// # Errors
/// When the prefix is missing, the rest is not base64, or there are fewer than 24 or more than 64 bytes.
pub fn parse_secret(text: &str) -> Result<WebhookSecret, Error> {
    let encoded = text.strip_prefix(PREFIX).ok_or(Error::Prefix)?;
    let bytes = LENIENT.decode(encoded).map_err(|_| Error::Base64)?;
    WebhookSecret::new(bytes).ok_or(Error::Length)
}

/// A new secret of 32 random bytes, and its text for the owner of the endpoint.
pub fn generate() -> (WebhookSecret, String) {
    let mut bytes = [0; GENERATED_BYTES];
    rand::fill(&mut bytes);
    let secret = WebhookSecret::new(bytes).expect("32 bytes are within 24 to 64");
    let text = text_of(&secret);
    (secret, text)
}

/// A secret's text, for the owner of the endpoint and nobody else.
pub fn text_of(secret: &WebhookSecret) -> String {
    format!("{PREFIX}{}", STANDARD.encode(secret.bytes()))
}

/// The beginning of a secret's text, which may be shown: 24 bits of at least 192.
pub fn preview(secret: &WebhookSecret) -> String {
    format!("{PREFIX}{}…", STANDARD.encode(&secret.bytes()[..3]))
}

/// Signs with one secret, or with several while one takes the place of another. The keyed state is computed once.
#[derive(Clone)]
pub struct Signer {
    /// The newest secret first.
    secrets: SmallVec<[Keyed; 1]>,
    /// Keyed by the text of the newest secret, for bodies.
    text: Option<Box<Hmac<Sha256>>>,
}

/// A secret, ready to sign with.
#[derive(Clone)]
struct Keyed {
    mac: Hmac<Sha256>,
    /// From this time on, in milliseconds since the Unix epoch, it is not signed with any more.
    until_ms: u64,
}

impl Signer {
    /// A signer that makes one signature for each secret, of which the newest comes first.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a WebhookSecret>) -> Self {
        Self::ending(secrets.into_iter().map(|secret| (secret, u64::MAX)))
    }

    /// A signer that makes one signature for each secret until that time, in milliseconds since the Unix epoch.
    pub fn ending<'a>(secrets: impl IntoIterator<Item = (&'a WebhookSecret, u64)>) -> Self {
        let mut secrets = secrets.into_iter().peekable();
        let text = secrets.peek().map(|(newest, _)| Box::new(keyed(text_of(newest).as_bytes())));
        let secrets = secrets.map(|(secret, until_ms)| Keyed { mac: keyed(secret.bytes()), until_ms });
        Self { secrets: secrets.collect(), text }
    }

    /// The value of `webhook-signature` for a message of that id, sent at that time in seconds since the Unix epoch.
    pub fn sign(&self, id: &str, timestamp_s: u64, body: &[u8]) -> String {
        let mut out = BytesMut::with_capacity(self.len());
        let now_ms = timestamp_s.saturating_mul(1_000);
        self.sign_into(id.as_bytes(), timestamp_s.to_string().as_bytes(), now_ms, body, &mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    /// How many bytes the signatures have in all.
    pub(super) fn len(&self) -> usize {
        self.secrets.len() * (SIGNATURE_BYTES + 1)
    }

    /// Appends the value of `webhook-signature` to `out`: the signatures of the secrets that are valid at `now_ms`, a
    /// space between each two.
    pub(super) fn sign_into(&self, id: &[u8], timestamp_s: &[u8], now_ms: u64, body: &[u8], out: &mut BytesMut) {
        let valid = self.secrets.iter().filter(|keyed| now_ms < keyed.until_ms);
        for (n, keyed) in valid.enumerate() {
            let mut mac = keyed.mac.clone();
            for part in [id, b".", timestamp_s, b".", body] {
                mac.update(part);
            }
            let mut encoded = [0; SIGNATURE_BYTES - 3];
            let written = STANDARD.encode_slice(mac.finalize().into_bytes(), &mut encoded);
            debug_assert_eq!(written, Ok(encoded.len()), "32 bytes are 44 in base64");
            if n > 0 {
                out.extend_from_slice(b" ");
            }
            out.extend_from_slice(b"v1,");
            out.extend_from_slice(&encoded);
        }
    }

    /// A body's signature in the older style: `sha256=` and the hexadecimal HMAC-SHA256 of the body. There is room for one
    /// value only, so it is the newest secret's. `None` without any secret.
    pub fn sign_body(&self, key: BodyKey, body: &[u8]) -> Option<String> {
        let mut mac = match key {
            BodyKey::Bytes => self.secrets.first()?.mac.clone(),
            BodyKey::Text => self.text.as_deref()?.clone(),
        };
        mac.update(body);
        Some(format!("sha256={}", hex::encode(mac.finalize().into_bytes())))
    }
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes a key of any length")
}

/// What an endpoint signs with at the moment: a handle that can be given another [`Signer`] between two requests.
/// Cloning shares it.
#[derive(Clone)]
pub struct Signing(Arc<ArcSwap<Signer>>);

impl Signing {
    /// A handle that holds this signer.
    pub fn of(signer: Signer) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(signer)))
    }

    /// Signs with another one from the next request on.
    pub fn put(&self, signer: Signer) {
        self.0.store(Arc::new(signer));
    }

    /// The signer at the moment.
    pub(super) fn load(&self) -> Guard<Arc<Signer>> {
        self.0.load()
    }
}

/// What a receiver was sent: the body and the three headers that belong to it.
#[derive(Debug, Clone, Copy)]
pub struct Signed<'a> {
    /// `webhook-id`
    pub id: &'a str,
    /// `webhook-timestamp`
    pub timestamp: &'a str,
    /// `webhook-signature`
    pub signatures: &'a str,
    /// The body, as it came in.
    pub body: &'a [u8],
}

/// Why a message must not be believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unverified {
    /// `webhook-timestamp` is not a number of seconds.
    #[error("webhook-timestamp is not a number of seconds")]
    Timestamp,
    /// It was sent too long ago: perhaps somebody sends it again.
    #[error("the message is too old")]
    Old,
    /// It says that it was sent in the future.
    #[error("the message is from the future")]
    Future,
    /// No signature is of this secret, this message and these headers.
    #[error("no signature matches")]
    Signature,
}

/// Verifies a message as Standard Webhooks 1.0 asks of a receiver: the time is within `tolerance_s` seconds of `now_s`
/// (seconds since the Unix epoch), and one of the signatures matches. Signatures of other versions are passed over. The
/// comparison takes the same time wherever two signatures differ.
///
/// # Errors
/// When the message must not be believed.
pub fn verify(secret: &WebhookSecret, signed: &Signed<'_>, now_s: u64, tolerance_s: u64) -> Result<(), Unverified> {
    check_time(signed, now_s, tolerance_s)?;
    let mut mac = keyed(secret.bytes());
    for part in [signed.id.as_bytes(), b".", signed.timestamp.as_bytes(), b".", signed.body] {
        mac.update(part);
    }
    let decoded = signed.signatures.split(' ').filter_map(|one| STANDARD.decode(one.strip_prefix("v1,")?).ok());
    let matches = decoded.into_iter().any(|signature| mac.clone().verify_slice(&signature).is_ok());
    if matches { Ok(()) } else { Err(Unverified::Signature) }
}

/// Was it sent within `tolerance_s` seconds of now?
pub(super) fn check_time(signed: &Signed<'_>, now_s: u64, tolerance_s: u64) -> Result<(), Unverified> {
    let timestamp_s: u64 = signed.timestamp.parse().map_err(|_| Unverified::Timestamp)?;
    if timestamp_s.saturating_add(tolerance_s) < now_s {
        return Err(Unverified::Old);
    }
    if timestamp_s > now_s.saturating_add(tolerance_s) {
        return Err(Unverified::Future);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
