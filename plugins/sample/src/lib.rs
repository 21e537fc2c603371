//! `sample`: keeps a share of the events, always the same ones for the same key.
//!
//! The key is hashed, so that the share is even whatever the keys look like, and every subscription with the same salt
//! keeps the same keys: all events of one customer, or none.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use sluiced_sdk::{Context, Error, Event, Filter, Headers, Plugin, Verdict};

/// What a subscription says about this plugin.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// How many of a hundred keys are kept, from 0 to 100; fractions are allowed.
    #[schemars(range(min = 0.0, max = 100.0))]
    pub percent: f64,
    /// A JSON pointer (RFC 6901) to the key in the payload, for example "/customer/id".
    pub pointer: Option<String>,
    /// The header that holds the key.
    pub header: Option<String>,
    /// A text that is hashed with the key: another salt keeps other keys.
    #[serde(default)]
    pub salt: String,
}

/// Where the key of an event is found.
enum Key {
    /// The event's id: each event is drawn for itself.
    Id,
    Pointer(String),
    Header(String),
}

/// Keeps the keys whose hash lies below the threshold.
pub struct Sample {
    key: Key,
    /// The hash as it stands once the salt is in it.
    salted: Sha256,
    /// Hashes below it are kept; 2^64 keeps all.
    threshold: u128,
    percent: f64,
}

impl Plugin for Sample {
    type Config = Config;

    const SUMMARY: &'static str = "Keeps a share of the events, always the same ones for the same key.";
    const NEEDS_HEADERS: Headers = Headers::All;

    fn new(config: Config) -> Result<Self, Error> {
        if !(0.0..=100.0).contains(&config.percent) {
            return Err(Error::new("`percent` must be from 0 to 100"));
        }
        let key = match (config.pointer, config.header) {
            (None, None) => Key::Id,
            (Some(pointer), None) if pointer.starts_with('/') => Key::Pointer(pointer),
            (Some(_), None) => return Err(Error::new("`pointer` must begin with `/`, for example \"/customer/id\"")),
            (None, Some(header)) if !header.is_empty() => Key::Header(header),
            (None, Some(_)) => return Err(Error::new("`header` is empty: name the header that holds the key")),
            (Some(_), Some(_)) => return Err(Error::new("the key is in one place: remove `pointer` or `header`")),
        };
        let mut salted = Sha256::new();
        salted.update(config.salt.as_bytes());
        salted.update([0]);
        let threshold = (config.percent / 100.0 * HASHES as f64) as u128;
        Ok(Self { key, salted, threshold, percent: config.percent })
    }
}

/// How many different hashes there are.
const HASHES: u128 = 1 << 64;

impl Filter for Sample {
    fn keep(&mut self, event: &Event) -> Result<Verdict, Error> {
        let hash = match &self.key {
            Key::Id => self.hash(event.id.as_bytes()),
            Key::Header(name) => self.hash(event.header(name).unwrap_or_default().as_bytes()),
            Key::Pointer(pointer) => {
                let payload: Value = event.json()?;
                let key = payload.pointer(pointer).context(format!("the payload has nothing at {pointer}"))?;
                match key {
                    Value::String(text) => self.hash(text.as_bytes()),
                    other => self.hash(other.to_string().as_bytes()),
                }
            }
        };
        if hash < self.threshold {
            return Ok(Verdict::Keep);
        }
        Ok(Verdict::drop_because(format!("not among the {} % that are kept", self.percent)))
    }
}

impl Sample {
    fn hash(&self, key: &[u8]) -> u128 {
        let mut hash = self.salted.clone();
        hash.update(key);
        let digest = hash.finalize();
        digest.iter().take(8).fold(0, |number, byte| number << 8 | u128::from(*byte))
    }
}

sluiced_sdk::export!(filter: Sample);

#[cfg(test)]
mod tests;
