//! The `v1a` signatures of Standard Webhooks 1.0: ed25519 over `id.timestamp.body`, for receivers that shall be able to
//! verify and not to sign.
//!
//! A private key is `whsk_` and the base64 text of 64 bytes: the seed, and the public key that follows from it. The seed
//! alone is taken too. A public key is `whpk_` and the base64 text of its 32 bytes.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};

use crate::deliver::signing::{LENIENT, Signed, Unverified, check_time};
use crate::domain::Ed25519Key;

/// What the text of a private key begins with.
const PRIVATE_PREFIX: &str = "whsk_";
/// What the text of a public key begins with.
const PUBLIC_PREFIX: &str = "whpk_";
/// What each signature begins with.
const VERSION: &str = "v1a,";
/// The length in bytes of one signature: its version, and 64 bytes in base64.
pub(super) const SIGNATURE_BYTES: usize = VERSION.len() + 88;

/// Why a text is not a key. It never shows the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The prefix is missing.
    #[error("a private key begins with `{PRIVATE_PREFIX}`, a public one with `{PUBLIC_PREFIX}`")]
    Prefix,
    /// What follows the prefix is not base64.
    #[error("a key is its prefix and base64")]
    Base64,
    /// Too short or too long.
    #[error("a private key has 64 bytes (or the first 32 of them), a public one 32")]
    Length,
    /// The two halves of a private key do not belong together, or the public one is not on the curve.
    #[error("it is not an ed25519 key: its parts do not belong together")]
    Key,
}

/// Reads a private key from its text.
///
/// # Errors
/// When it is not `whsk_` and the base64 text of a key.
pub fn parse_private(text: &str) -> Result<Ed25519Key, Error> {
    let bytes = decoded(text, PRIVATE_PREFIX)?;
    if let Ok(seed) = <[u8; 32]>::try_from(&*bytes) {
        return Ok(Ed25519Key::new(seed));
    }
    let pair = <[u8; 64]>::try_from(&*bytes).map_err(|_| Error::Length)?;
    let key = SigningKey::from_keypair_bytes(&pair).map_err(|_| Error::Key)?;
    Ok(Ed25519Key::new(key.to_bytes()))
}

/// A key that verifies what its private half signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// The public half of a private key.
    pub fn of(key: &Ed25519Key) -> Self {
        Self(SigningKey::from_bytes(key.bytes()).verifying_key())
    }

    /// Reads one from its text.
    ///
    /// # Errors
    /// When it is not `whpk_` and the base64 text of a key.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let bytes = decoded(text, PUBLIC_PREFIX)?;
        let bytes = <[u8; 32]>::try_from(&*bytes).map_err(|_| Error::Length)?;
        VerifyingKey::from_bytes(&bytes).map(Self).map_err(|_| Error::Key)
    }

    /// Its text, for receivers.
    pub fn text(&self) -> String {
        format!("{PUBLIC_PREFIX}{}", STANDARD.encode(self.0.as_bytes()))
    }

    /// Verifies a message: the time is within `tolerance_s` seconds of `now_s` (seconds since the Unix epoch), and one of
    /// the `v1a` signatures is of this key. Signatures of other versions are passed over.
    ///
    /// # Errors
    /// When the message must not be believed.
    pub fn verify(&self, signed: &Signed<'_>, now_s: u64, tolerance_s: u64) -> Result<(), Unverified> {
        check_time(signed, now_s, tolerance_s)?;
        let message = [signed.id.as_bytes(), b".", signed.timestamp.as_bytes(), b".", signed.body].concat();
        let decoded = signed.signatures.split(' ').filter_map(|one| STANDARD.decode(one.strip_prefix(VERSION)?).ok());
        let mut signatures = decoded.filter_map(|bytes| Signature::from_slice(&bytes).ok());
        let matches = signatures.any(|signature| self.0.verify_strict(&message, &signature).is_ok());
        if matches { Ok(()) } else { Err(Unverified::Signature) }
    }
}

/// A new key of random bytes, and its text for the configuration.
pub fn generate() -> (Ed25519Key, String) {
    let mut seed = [0; 32];
    rand::fill(&mut seed);
    let pair = SigningKey::from_bytes(&seed).to_keypair_bytes();
    (Ed25519Key::new(seed), format!("{PRIVATE_PREFIX}{}", STANDARD.encode(pair)))
}

/// Signs with one private key.
#[derive(Clone)]
pub(super) struct Signer(SigningKey);

impl Signer {
    pub(super) fn new(key: &Ed25519Key) -> Self {
        Self(SigningKey::from_bytes(key.bytes()))
    }

    /// One signature of `parts`, one after the other, as it stands in `webhook-signature`.
    pub(super) fn sign(&self, parts: &[&[u8]]) -> String {
        let signature = self.0.sign(&parts.concat());
        let mut text = String::with_capacity(SIGNATURE_BYTES);
        text.push_str(VERSION);
        STANDARD.encode_string(signature.to_bytes(), &mut text);
        text
    }
}

fn decoded(text: &str, prefix: &str) -> Result<Vec<u8>, Error> {
    LENIENT.decode(text.strip_prefix(prefix).ok_or(Error::Prefix)?).map_err(|_| Error::Base64)
}

#[cfg(test)]
mod tests;
