//! The master key, and what is sealed under it: XChaCha20-Poly1305 with a random nonce for each record.
//!
//! A sealed record is `version ‖ nonce (24 bytes) ‖ ciphertext and tag`. What it is of, and for which subscription, is
//! bound to it as associated data: a record that was copied to another subscription's key does not open there.

use std::fmt;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};

use crate::domain::SubscriptionId;

/// The length of a master key in bytes.
pub const MASTER_KEY_BYTES: usize = 32;
/// The version that every sealed record is written with.
const SEALED_VERSION: u8 = 1;
/// The length of a nonce in bytes.
const NONCE_BYTES: usize = 24;
/// What the associated data of every sealed record begin with.
const CONTEXT: &[u8] = b"sluiced sealed record\0";

/// Padding is left out by some tools, and means nothing.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Overwrites bytes that are of no more use. It cannot reach copies that the compiler or the system made.
pub(super) fn wipe(bytes: &mut [u8]) {
    bytes.fill(0);
    // Seen by somebody, as far as the compiler knows: the zeros are really written.
    std::hint::black_box(bytes);
}

/// The key that all secrets in the store are sealed under. It has neither `Debug` output of its bytes nor `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct MasterKey([u8; MASTER_KEY_BYTES]);

/// A text that is not a master key. It never shows the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a master key is the base64 text of {MASTER_KEY_BYTES} bytes: make one with `sluiced secrets key`")]
pub struct MasterKeyError;

impl MasterKey {
    /// A new random key.
    pub fn generate() -> Self {
        let mut bytes = [0; MASTER_KEY_BYTES];
        rand::fill(&mut bytes);
        Self(bytes)
    }

    /// Reads a key from its text, the base64 of its bytes; white space around it does not count.
    ///
    /// # Errors
    /// When it is not base64, or not of 32 bytes.
    pub fn parse(text: &str) -> Result<Self, MasterKeyError> {
        let mut bytes = BASE64.decode(text.trim()).map_err(|_| MasterKeyError)?;
        let key = bytes.as_slice().try_into().map(Self).map_err(|_| MasterKeyError);
        wipe(&mut bytes);
        key
    }

    /// The text of the key, for its owner.
    pub fn text(&self) -> String {
        BASE64.encode(self.0)
    }
}

impl Drop for MasterKey {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MasterKey(…)")
    }
}

/// What a sealed record is of: one of another purpose does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The check of the master key itself.
    KeyCheck,
    /// A subscription's signing secrets.
    SigningSecrets,
    /// A subscription's definition, with what it holds of credentials.
    Definition,
    /// What was answered when a webhook was made, for who asks the same again.
    Answer,
}

impl Purpose {
    /// Its byte in keys and associated data.
    pub(super) fn byte(self) -> u8 {
        match self {
            Self::KeyCheck => 0,
            Self::SigningSecrets => 1,
            Self::Definition => 2,
            Self::Answer => 3,
        }
    }

    /// The purpose of that byte.
    pub(super) fn of(byte: u8) -> Option<Self> {
        [Self::KeyCheck, Self::SigningSecrets, Self::Definition, Self::Answer]
            .into_iter()
            .find(|purpose| purpose.byte() == byte)
    }
}

/// An opened record's bytes, overwritten when they are dropped.
pub struct Opened(Vec<u8>);

impl Opened {
    /// The bytes that were sealed.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        wipe(&mut self.0);
    }
}

/// Seals and opens records under one master key.
pub struct Keyring(XChaCha20Poly1305);

impl Keyring {
    /// A keyring with that key.
    pub fn new(key: &MasterKey) -> Self {
        Self(XChaCha20Poly1305::new((&key.0).into()))
    }

    /// Seals bytes for that purpose and subscription, with a new random nonce.
    pub fn seal(&self, purpose: Purpose, subscription: Option<&SubscriptionId>, plain: &[u8]) -> Vec<u8> {
        let mut nonce = [0; NONCE_BYTES];
        rand::fill(&mut nonce);
        self.seal_with(nonce, purpose, subscription, plain)
    }

    /// Opens what was sealed for that purpose and subscription; `None` when it was not, was sealed under another key, or
    /// is damaged.
    pub fn open(&self, purpose: Purpose, subscription: Option<&SubscriptionId>, sealed: &[u8]) -> Option<Opened> {
        let (version, rest) = sealed.split_first()?;
        let (nonce, ciphertext) = rest.split_at_checked(NONCE_BYTES)?;
        if *version != SEALED_VERSION {
            return None;
        }
        let payload = Payload { msg: ciphertext, aad: &bound_to(purpose, subscription) };
        self.0.decrypt(XNonce::from_slice(nonce), payload).ok().map(Opened)
    }

    fn seal_with(
        &self,
        nonce: [u8; NONCE_BYTES],
        purpose: Purpose,
        subscription: Option<&SubscriptionId>,
        plain: &[u8],
    ) -> Vec<u8> {
        let payload = Payload { msg: plain, aad: &bound_to(purpose, subscription) };
        let ciphertext = self.0.encrypt(XNonce::from_slice(&nonce), payload);
        let ciphertext = ciphertext.expect("the cipher refuses only what is longer than 256 GiB");
        let mut sealed = Vec::with_capacity(1 + NONCE_BYTES + ciphertext.len());
        sealed.push(SEALED_VERSION);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(&ciphertext);
        sealed
    }
}

/// The associated data: no two different (purpose, subscription) have the same.
fn bound_to(purpose: Purpose, subscription: Option<&SubscriptionId>) -> Vec<u8> {
    let mut bound = Vec::with_capacity(CONTEXT.len() + 2 + 64);
    bound.extend_from_slice(CONTEXT);
    bound.extend_from_slice(&[SEALED_VERSION, purpose.byte()]);
    if let Some(subscription) = subscription {
        bound.extend_from_slice(subscription.as_str().as_bytes());
    }
    bound
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keyring(byte: u8) -> Keyring {
        Keyring::new(&MasterKey([byte; MASTER_KEY_BYTES]))
    }

    fn sub(name: &str) -> SubscriptionId {
        SubscriptionId::parse(name).expect("a name")
    }

    #[test]
    fn version_1_has_these_bytes() {
        let (crm, nonce) = (sub("crm"), std::array::from_fn(|n| n as u8));
        let sealed = keyring(7).seal_with(nonce, Purpose::SigningSecrets, Some(&crm), b"hush");
        let golden = "01000102030405060708090a0b0c0d0e0f1011121314151617c062d8ed407aa9a80193806e8ac28253c811c73e";
        assert_eq!(hex::encode(&sealed), golden);
        let opened = keyring(7).open(Purpose::SigningSecrets, Some(&crm), &sealed).expect("opens");
        assert_eq!(opened.bytes(), b"hush");
    }

    #[test]
    fn a_master_key_is_the_base64_of_32_bytes() {
        let key = MasterKey::generate();
        assert!(MasterKey::parse(&format!(" {}\n", key.text())) == Ok(key.clone()));
        assert!(MasterKey::parse(key.text().trim_end_matches('=')) == Ok(key.clone()));
        for wrong in ["", "hush", &key.text()[4..], &format!("{}AAAA", key.text())] {
            assert_eq!(MasterKey::parse(wrong), Err(MasterKeyError), "{wrong}");
        }
        assert_eq!(format!("{key:?}"), "MasterKey(…)");
        assert!(key != MasterKey::generate());
    }

    #[test]
    fn a_record_opens_only_for_what_it_was_sealed_for() {
        let sealed = keyring(1).seal(Purpose::SigningSecrets, Some(&sub("a")), b"hush");
        for (key, purpose, subscription) in [
            (2, Purpose::SigningSecrets, Some(sub("a"))),
            (1, Purpose::Definition, Some(sub("a"))),
            (1, Purpose::SigningSecrets, Some(sub("b"))),
            (1, Purpose::SigningSecrets, Some(sub("a.b"))),
            (1, Purpose::SigningSecrets, None),
        ] {
            assert!(
                keyring(key).open(purpose, subscription.as_ref(), &sealed).is_none(),
                "{purpose:?} {subscription:?}"
            );
        }
        assert_ne!(sealed, keyring(1).seal(Purpose::SigningSecrets, Some(&sub("a")), b"hush"), "a nonce is used once");
    }

    proptest! {
        #[test]
        fn what_was_sealed_opens_and_nothing_that_was_changed(
            plain in proptest::collection::vec(any::<u8>(), 0..200), at in any::<prop::sample::Index>(), flip in 1u8..,
        ) {
            let (keyring, crm) = (keyring(3), sub("crm"));
            let sealed = keyring.seal(Purpose::SigningSecrets, Some(&crm), &plain);
            let opened = keyring.open(Purpose::SigningSecrets, Some(&crm), &sealed);
            prop_assert_eq!(opened.as_ref().map(Opened::bytes), Some(plain.as_slice()));
            let mut changed = sealed.clone();
            *at.get_mut(&mut changed) ^= flip;
            prop_assert!(keyring.open(Purpose::SigningSecrets, Some(&crm), &changed).is_none());
            let cut = &sealed[..at.index(sealed.len())];
            prop_assert!(keyring.open(Purpose::SigningSecrets, Some(&crm), cut).is_none());
        }
    }
}
