//! API keys: what is kept of each, which is not the key itself.
//!
//! | key | value |
//! |---|---|
//! | `B` `k` id | an API key: its digest, whose it is and what it may do |
//! | `B` `u` id | when it was used last |

use super::keys::{self, kind};
use super::wire::{Reader, Writer};
use super::{Error, Store, codec};
use crate::domain::{Owner, Scopes};

/// The most API keys at a time.
pub const API_KEYS_MAX: usize = 1_000;
/// The version of the layout.
const VERSION: u8 = 1;

/// What is kept of an API key.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey {
    /// What it is called by: letters, digits and `_`.
    pub id: Box<str>,
    /// What it is called for people.
    pub label: Box<str>,
    /// The SHA-256 of its text, which has more entropy than anybody can try.
    pub digest: [u8; 32],
    /// What its text begins with, to know it by.
    pub prefix: Box<str>,
    /// What it may do.
    pub scopes: Scopes,
    /// Whose things alone it opens; without one all.
    pub owner: Option<Owner>,
    /// The patterns of the event types that it opens.
    pub types: Vec<Box<str>>,
    /// When it was made, in milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// When it ends, in milliseconds since the Unix epoch.
    pub expires_ms: Option<u64>,
}

impl std::fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiKey").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Store {
    /// Records an API key; durable when it returns. Blocks.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put_api_key(&self, api_key: &ApiKey) -> Result<(), Error> {
        self.write_directly(|_, _, batch| {
            batch.insert(of(b'k', &api_key.id), write(api_key));
            Ok(())
        })
    }

    /// Forgets an API key; durable when it returns. Blocks.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn remove_api_key(&self, id: &str) -> Result<(), Error> {
        self.write_directly(|_, _, batch| {
            batch.remove(of(b'k', id));
            batch.remove(of(b'u', id));
            Ok(())
        })
    }

    /// Records when an API key was used last, unless it is no more. Blocks.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put_api_key_use(&self, id: &str, used_ms: u64) -> Result<(), Error> {
        self.write_directly(|engine, _, batch| {
            if engine.state.contains_key(of(b'k', id)).map_err(Error::read)? {
                batch.insert(of(b'u', id), codec::write_number(used_ms));
            }
            Ok(())
        })
    }

    /// All API keys, each with the time of its last use, in the order of their ids.
    ///
    /// # Errors
    /// When one cannot be read.
    pub fn api_keys(&self) -> Result<Vec<(ApiKey, Option<u64>)>, Error> {
        let engine = self.engine()?;
        let mut all = Vec::new();
        for pair in engine.state.scan_prefix([kind::API_KEY, b'k']) {
            let (_, record) = pair.map_err(Error::read)?;
            let api_key = read(&record).ok_or(Error::Record { what: "API key" })?;
            let used = engine.state.get(of(b'u', &api_key.id)).map_err(Error::read)?;
            let used_ms = used.map(|record| codec::read_number("API key use", &record)).transpose()?;
            all.push((api_key, used_ms));
        }
        Ok(all)
    }
}

fn of(part: u8, id: &str) -> Vec<u8> {
    let mut key = keys::of_text(kind::API_KEY, "");
    key.push(part);
    key.extend_from_slice(id.as_bytes());
    key
}

fn write(api_key: &ApiKey) -> Vec<u8> {
    let mut w = Writer::record(VERSION, 256);
    w.text(&api_key.id);
    w.text(&api_key.label);
    w.0.extend_from_slice(&api_key.digest);
    w.text(&api_key.prefix);
    w.0.push(api_key.scopes.bits());
    w.option(api_key.owner.as_ref(), |w, owner| w.text(owner.as_str()));
    w.number(api_key.types.len() as u64);
    api_key.types.iter().for_each(|pattern| w.text(pattern));
    w.number(api_key.created_ms);
    w.option(api_key.expires_ms, Writer::number);
    w.0
}

fn read(record: &[u8]) -> Option<ApiKey> {
    let (_, mut r) = Reader::record(record, VERSION)?;
    let (id, label) = (r.boxed()?, r.boxed()?);
    let digest = r.take(32)?.try_into().ok()?;
    let (prefix, scopes) = (r.boxed()?, Scopes::from_bits(r.byte()?)?);
    let owner = r.option(|r| Owner::parse(r.text()?).ok())?;
    let mut types = Vec::new();
    for _ in 0..r.number()? {
        types.push(r.boxed()?);
    }
    let (created_ms, expires_ms) = (r.number()?, r.option(Reader::number)?);
    r.is_empty().then_some(ApiKey { id, label, digest, prefix, scopes, owner, types, created_ms, expires_ms })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_1_has_these_bytes() {
        let api_key = ApiKey {
            id: "key_1".into(),
            label: "ci".into(),
            digest: [7; 32],
            prefix: "slk_ab".into(),
            scopes: Scopes::OWNER,
            owner: Some(Owner::parse("acme").expect("an owner")),
            types: vec!["a.*".into()],
            created_ms: 300,
            expires_ms: Some(1),
        };
        let bytes = write(&api_key);
        let digest = "07".repeat(32);
        let golden = format!("01056b65795f31026369{digest}06736c6b5f616207010461636d650103612e2aac020101");
        assert_eq!(hex::encode(&bytes), golden);
        assert_eq!(read(&bytes), Some(api_key.clone()));
        assert_eq!((read(&bytes[..20]), read(&[2]), read(&[&bytes[..], &[0]].concat())), (None, None, None));
        assert!(!format!("{api_key:?}").contains('7'));
    }
}
