//! Signatures as Standard Webhooks 1.0 has them: `v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`, with `v1a`
//! of [`super::ed25519`] beside it; and the older style, a header with the HMAC of the body alone.

use base64::Engine;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use bytes::BytesMut;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use smallvec::SmallVec;

use crate::deliver::ed25519;
use crate::domain::{BodyKey, Ed25519Key, WebhookSecret};

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
    let text = format!("{PREFIX}{}", STANDARD.encode(bytes));
    let secret = WebhookSecret::new(bytes).expect("32 bytes are within 24 to 64");
    (secret, text)
}

/// The text of a secret, with padding.
fn text_of(secret: &WebhookSecret) -> String {
    format!("{PREFIX}{}", STANDARD.encode(secret.bytes()))
}

/// Signs with one secret, or with several while one takes the place of another, and perhaps with a private key. The keyed
/// state is computed once.
#[derive(Clone)]
pub struct Signer {
    keyed: SmallVec<[Hmac<Sha256>; 1]>,
    ed25519: Option<Box<ed25519::Signer>>,
}

impl Signer {
    /// A signer that makes one signature for each secret.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a WebhookSecret>) -> Self {
        Self { keyed: secrets.into_iter().map(|secret| keyed(secret.bytes())).collect(), ed25519: None }
    }

    /// The same, with a `v1a` signature after the others when there is a key for it.
    #[must_use]
    pub fn and_ed25519(self, key: Option<&Ed25519Key>) -> Self {
        Self { ed25519: key.map(|key| Box::new(ed25519::Signer::new(key))), ..self }
    }

    /// The value of `webhook-signature` for a message of that id, sent at that time in seconds since the Unix epoch.
    pub fn sign(&self, id: &str, timestamp_s: u64, body: &[u8]) -> String {
        let mut out = BytesMut::with_capacity(self.len());
        self.sign_into(id.as_bytes(), timestamp_s.to_string().as_bytes(), body, &mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    /// How many bytes the signatures have in all.
    pub(super) fn len(&self) -> usize {
        let of_key = if self.ed25519.is_some() { ed25519::SIGNATURE_BYTES + 1 } else { 0 };
        self.keyed.len() * (SIGNATURE_BYTES + 1) + of_key
    }

    /// Appends the value of `webhook-signature` to `out`: the signatures, a space between each two.
    pub(super) fn sign_into(&self, id: &[u8], timestamp_s: &[u8], body: &[u8], out: &mut BytesMut) {
        let parts = [id, b".", timestamp_s, b".", body];
        for (n, keyed) in self.keyed.iter().enumerate() {
            let mut mac = keyed.clone();
            for part in parts {
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
        if let Some(signer) = &self.ed25519 {
            if !self.keyed.is_empty() {
                out.extend_from_slice(b" ");
            }
            out.extend_from_slice(signer.sign(&parts).as_bytes());
        }
    }
}

/// Signs bodies in the older style: `sha256=` and the hexadecimal HMAC-SHA256 of the body.
#[derive(Clone)]
pub struct BodySigner(Hmac<Sha256>);

impl BodySigner {
    /// A signer with one secret: there is room for one value only, so it is the newest.
    pub fn new(secret: &WebhookSecret, key: BodyKey) -> Self {
        Self(match key {
            BodyKey::Bytes => keyed(secret.bytes()),
            BodyKey::Text => keyed(text_of(secret).as_bytes()),
        })
    }

    /// The header's value for a body.
    pub fn sign(&self, body: &[u8]) -> String {
        let mut mac = self.0.clone();
        mac.update(body);
        format!("sha256={}", hex::encode(mac.finalize().into_bytes()))
    }
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::new_from_slice(key).expect("HMAC takes a key of any length")
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
