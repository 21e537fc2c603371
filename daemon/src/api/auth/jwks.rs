//! The keys that tokens are verified with: a secret, a public key in a file, or a set of keys (JWKS, RFC 7517) in a file or
//! at a URL. A file is read again when it changes. A set at a URL is kept, and fetched again when it is old, or when a token
//! names a key that is not in it; when that fails, the keys that are there stay.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use parking_lot::Mutex;
use serde::Deserialize as _;
use serde_json::Value;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::api::watched::Watched;
use crate::telemetry::chain;

/// After how long a set at a URL is fetched again, so that a key that was taken out of it does not stay valid.
const JWKS_AGE_MAX: Duration = Duration::from_secs(600);
/// How long it is not fetched again, whatever tokens name: nobody can make the daemon fetch more often.
const JWKS_FETCH_INTERVAL: Duration = Duration::from_secs(10);
/// The most keys of a set that are looked at.
const JWKS_KEYS_MAX: usize = 64;
/// The largest file or answer that is read, in bytes.
pub const JWKS_BYTES_MAX: usize = 256 << 10;

/// Fetches a set of keys from where it is published.
pub trait Fetch: Send + Sync + 'static {
    /// The text of the set: at most [`JWKS_BYTES_MAX`], within some seconds.
    fn fetch(&self) -> BoxFuture<'_, Result<Bytes, Box<dyn std::error::Error + Send + Sync>>>;
}

/// Where the keys come from.
#[derive(Clone)]
pub enum Source {
    /// A secret that the issuer shares: HS256.
    Secret(Box<[u8]>),
    /// A file with one public key in PEM: RS256, ES256 or EdDSA, as the key is.
    PublicKeyFile(PathBuf),
    /// A file with a set of keys.
    JwksFile(PathBuf),
    /// A URL with a set of keys.
    JwksUrl(Arc<dyn Fetch>),
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read the keys of tokens from {}", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The file or answer is too large.
    #[error("the keys of tokens are more than {JWKS_BYTES_MAX} bytes")]
    TooLarge,
    /// The file holds no public key that can be used.
    #[error("no public key in PEM for RS256 (2048 bits or more), ES256 or EdDSA (Ed25519)")]
    Pem,
    /// It holds a private key.
    #[error("it is a private key: give the public one")]
    Private,
    /// The text is no set of keys.
    #[error("not a set of keys: it must be JSON with a list `keys` (RFC 7517)")]
    Set,
    /// None of the keys can be used.
    #[error("none of the keys is one for RS256, ES256 or EdDSA signatures")]
    NoKeys,
    /// The set cannot be fetched.
    #[error("the keys of tokens cannot be fetched")]
    Fetch(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It could not be fetched lately.
    #[error("the keys of tokens could not be fetched just now")]
    Lately,
}

/// One key, for one algorithm.
pub(super) struct Key {
    /// What tokens name it by.
    pub(super) id: Option<Box<str>>,
    /// The only algorithm that it verifies.
    pub(super) algorithm: Algorithm,
    pub(super) key: DecodingKey,
}

/// Some keys.
pub(super) struct KeySet(Vec<Key>);

impl KeySet {
    /// The keys that may have signed a token with such a head: those of the algorithm, and of that name where both have one.
    pub(super) fn candidates(&self, algorithm: Algorithm, id: Option<&str>) -> impl Iterator<Item = &Key> {
        self.0.iter().filter(move |key| {
            let named = key.id.as_deref().zip(id).is_none_or(|(own, asked)| own == asked);
            named && key.algorithm == algorithm
        })
    }
}

/// The keys, as they are now.
pub(super) struct Keys {
    source: Source,
    loaded: Mutex<Loaded>,
    /// Held by the one who fetches.
    fetching: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Loaded {
    keys: Option<Arc<KeySet>>,
    /// When the URL was last asked, with success or without.
    looked: Option<Instant>,
    file: Option<Watched>,
}

impl Keys {
    /// The keys of a source. Those of a URL are fetched when they are first wanted.
    ///
    /// # Errors
    /// When a file cannot be read or holds no key.
    pub(super) fn load(source: Source) -> Result<Self, Error> {
        let keys = Self { source, loaded: Mutex::default(), fetching: tokio::sync::Mutex::default() };
        if let Some(file) = keys.file() {
            let mut loaded = keys.loaded.lock();
            loaded.file = Some(Watched::new([file.clone()]));
            loaded.keys = Some(Arc::new(keys.read(file)?));
        } else if let Source::Secret(secret) = &keys.source {
            let key = Key { id: None, algorithm: Algorithm::HS256, key: DecodingKey::from_secret(secret) };
            keys.loaded.lock().keys = Some(Arc::new(KeySet(vec![key])));
        }
        Ok(keys)
    }

    /// The keys of now.
    ///
    /// # Errors
    /// When none have been fetched yet, and none can be.
    pub(super) async fn current(&self) -> Result<Arc<KeySet>, Error> {
        match &self.source {
            Source::Secret(_) => {}
            Source::PublicKeyFile(_) | Source::JwksFile(_) => self.look(),
            Source::JwksUrl(fetch) => {
                let (there, old) = {
                    let loaded = self.loaded.lock();
                    (loaded.keys.clone(), loaded.looked.is_none_or(|looked| looked.elapsed() >= JWKS_AGE_MAX))
                };
                match there {
                    None => return self.fetch(fetch.as_ref(), None).await,
                    // One refreshes it; the others go on with what is there.
                    Some(there) if old && self.fetching.try_lock().is_ok() => {
                        return Ok(self.fetch(fetch.as_ref(), Some(&there)).await.unwrap_or(there));
                    }
                    Some(_) => {}
                }
            }
        }
        self.loaded.lock().keys.clone().ok_or(Error::NoKeys)
    }

    /// Other keys than those, when a token's is not among them and the source may have it.
    pub(super) async fn newer(&self, than: &Arc<KeySet>) -> Option<Arc<KeySet>> {
        let Source::JwksUrl(fetch) = &self.source else { return None };
        self.fetch(fetch.as_ref(), Some(than)).await.ok().filter(|keys| !Arc::ptr_eq(keys, than))
    }

    /// Fetches the set, unless somebody else has just done it: then what that one got.
    async fn fetch(&self, from: &dyn Fetch, than: Option<&Arc<KeySet>>) -> Result<Arc<KeySet>, Error> {
        let _fetching = self.fetching.lock().await;
        {
            let mut loaded = self.loaded.lock();
            let other = loaded.keys.as_ref().filter(|keys| than.is_none_or(|than| !Arc::ptr_eq(keys, than)));
            if let Some(keys) = other {
                return Ok(Arc::clone(keys));
            }
            if loaded.looked.is_some_and(|looked| looked.elapsed() < JWKS_FETCH_INTERVAL) {
                return Err(Error::Lately);
            }
            loaded.looked = Some(Instant::now());
        }
        let fetched = from.fetch().await.map_err(Error::Fetch).and_then(|text| set(&text, false));
        match fetched {
            Ok(keys) => {
                let (keys, count) = (Arc::new(KeySet(keys)), self.count());
                info!(before = count, "the keys of tokens were fetched");
                self.loaded.lock().keys = Some(Arc::clone(&keys));
                Ok(keys)
            }
            Err(error) => {
                warn!(error = %chain(&error), "the keys of tokens cannot be fetched, those that are there stay");
                Err(error)
            }
        }
    }

    fn count(&self) -> usize {
        self.loaded.lock().keys.as_ref().map_or(0, |keys| keys.0.len())
    }

    fn file(&self) -> Option<&PathBuf> {
        match &self.source {
            Source::PublicKeyFile(file) | Source::JwksFile(file) => Some(file),
            Source::Secret(_) | Source::JwksUrl(_) => None,
        }
    }

    /// Reads the file again when it has changed.
    fn look(&self) {
        let Some(file) = self.file() else { return };
        let mut loaded = self.loaded.lock();
        if !loaded.file.as_mut().is_some_and(Watched::have_changed) {
            return;
        }
        match self.read(file) {
            Ok(keys) => {
                info!(file = %file.display(), "the keys of tokens were read again");
                loaded.keys = Some(Arc::new(keys));
            }
            Err(error) => {
                warn!(error = %chain(&error), "the keys of tokens cannot be read, those that are there stay");
            }
        }
    }

    fn read(&self, file: &PathBuf) -> Result<KeySet, Error> {
        let text = std::fs::read(file).map_err(|source| Error::File { file: file.clone(), source })?;
        if text.len() > JWKS_BYTES_MAX {
            return Err(Error::TooLarge);
        }
        match &self.source {
            Source::PublicKeyFile(_) => pem(&text).map(|key| KeySet(vec![key])),
            _ => set(&text, true).map(KeySet),
        }
    }
}

/// The length of an uncompressed point of P-256, in bytes.
const P256_POINT_BYTES: usize = 65;
/// The length of a public key of Ed25519, in bytes.
const ED25519_KEY_BYTES: usize = 32;

/// A public key in PEM: its kind says for which algorithm it is.
fn pem(text: &[u8]) -> Result<Key, Error> {
    if text.windows(11).any(|part| part == b"PRIVATE KEY") {
        return Err(Error::Private);
    }
    let long = |key: &DecodingKey, bytes| key.try_get_as_bytes().is_ok_and(|own| own.len() == bytes);
    let rsa = || Some((Algorithm::RS256, DecodingKey::from_rsa_pem(text).ok()?));
    let ec = || {
        let key = DecodingKey::from_ec_pem(text).ok().filter(|key| long(key, P256_POINT_BYTES))?;
        Some((Algorithm::ES256, key))
    };
    let ed = || {
        let key = DecodingKey::from_ed_pem(text).ok().filter(|key| long(key, ED25519_KEY_BYTES))?;
        Some((Algorithm::EdDSA, key))
    };
    let (algorithm, key) = ec().or_else(ed).or_else(rsa).ok_or(Error::Pem)?;
    Ok(Key { id: None, algorithm, key })
}

/// The keys of a set that can be used. A shared secret counts only in a file: what is published is none.
fn set(text: &[u8], secrets: bool) -> Result<Vec<Key>, Error> {
    let set: Value = serde_json::from_slice(text).map_err(|_| Error::Set)?;
    let listed = set.get("keys").and_then(Value::as_array).ok_or(Error::Set)?;
    let read = |value: &Value| Jwk::deserialize(value).ok().and_then(|jwk| usable(&jwk, secrets));
    let keys: Vec<Key> = listed.iter().take(JWKS_KEYS_MAX).filter_map(read).collect();
    if keys.is_empty() { Err(Error::NoKeys) } else { Ok(keys) }
}

fn usable(jwk: &Jwk, secrets: bool) -> Option<Key> {
    let (algorithm, named) = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => (Algorithm::RS256, KeyAlgorithm::RS256),
        AlgorithmParameters::EllipticCurve(ec) if ec.curve == EllipticCurve::P256 => {
            (Algorithm::ES256, KeyAlgorithm::ES256)
        }
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
            (Algorithm::EdDSA, KeyAlgorithm::EdDSA)
        }
        AlgorithmParameters::OctetKey(_) if secrets => (Algorithm::HS256, KeyAlgorithm::HS256),
        _ => return None,
    };
    let common = &jwk.common;
    let other = common.key_algorithm.is_some_and(|own| own != named);
    let encrypts = common.public_key_use.as_ref().is_some_and(|for_what| *for_what != PublicKeyUse::Signature);
    if other || encrypts {
        return None;
    }
    let key = DecodingKey::from_jwk(jwk).ok()?;
    Some(Key { id: common.key_id.as_deref().map(Into::into), algorithm, key })
}
