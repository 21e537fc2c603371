//! `redact`: removes, masks or hashes what stands at given places of a JSON payload.
//!
//! The payload is rewritten while it is read: what is not on the way to a redacted place is copied as it stands, with its
//! digits, escapes and order of keys. Every occurrence of a repeated key is redacted, so that no receiver can find what
//! another parser would have hidden.

mod pointer;
mod rewrite;

use hmac::{Hmac, KeyInit as _};
use schemars::JsonSchema;
use serde::Deserialize;
use sha2::Sha256;
use sluiced_sdk::{Context, Error, Event, Output, Plugin, Transform};

use crate::pointer::Node;
use crate::rewrite::Redaction;

/// What a subscription says about this plugin.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// JSON pointers (RFC 6901) to what must not be delivered, for example "/card/number". A `*` stands for every key of
    /// an object and for every item of an array: "/items/*/secret". What is not there is no error.
    #[schemars(length(min = 1))]
    pub pointers: Vec<String>,
    /// What becomes of it.
    #[serde(default)]
    pub mode: Mode,
    /// What stands in its place with mode "mask". Default "***".
    pub mask: Option<String>,
    /// The secret key of mode "hash", at least 16 bytes of text. The same key gives equal hashes for equal values.
    pub key: Option<String>,
}

/// What becomes of what a pointer points at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// It is replaced by the mask, so that a receiver sees that something was there.
    #[default]
    Mask,
    /// It is left out, with its key. Items after a removed item of an array move up.
    Remove,
    /// It is replaced by "hmac-sha256:" and the HMAC-SHA256 in hexadecimal, so that equal values can be recognised.
    Hash,
}

/// The pointers as a tree, and what to do at its leaves.
pub struct Redact {
    tree: Node,
    redaction: Redaction,
}

impl Plugin for Redact {
    type Config = Config;

    const SUMMARY: &'static str = "Removes, masks or hashes parts of a JSON payload.";

    fn new(config: Config) -> Result<Self, Error> {
        if config.pointers.is_empty() {
            return Err(Error::new("`pointers` is empty: name at least one place, for example \"/card/number\""));
        }
        let mut tree = Node::default();
        for pointer in &config.pointers {
            tree.insert(pointer).context("`pointers`")?;
        }
        if config.mask.is_some() && config.mode != Mode::Mask {
            return Err(Error::new("`mask` is only for mode \"mask\""));
        }
        if config.key.is_some() && config.mode != Mode::Hash {
            return Err(Error::new("`key` is only for mode \"hash\""));
        }
        let redaction = match config.mode {
            Mode::Remove => Redaction::Remove,
            Mode::Mask => Redaction::Mask(serde_json::to_vec(config.mask.as_deref().unwrap_or("***"))?),
            Mode::Hash => Redaction::Hash(hash_key(config.key.as_deref())?),
        };
        Ok(Self { tree, redaction })
    }
}

impl Transform for Redact {
    fn apply(&mut self, event: Event) -> Result<Vec<Output>, Error> {
        let data = rewrite::payload(&event.data, &self.tree, &self.redaction)
            .map_err(|error| Error::from(error).context("the payload is not JSON"))?;
        Ok(vec![Output::bytes(data)])
    }
}

sluiced_sdk::export!(transform: Redact);

fn hash_key(key: Option<&str>) -> Result<Hmac<Sha256>, Error> {
    let key = key.context("mode \"hash\" needs a `key`")?;
    // Whoever can guess the key can find every short value, such as a card's number, by trying.
    if key.len() < KEY_BYTES_MIN {
        return Err(Error::new(format!("`key` is too short: use at least {KEY_BYTES_MIN} bytes, made at random")));
    }
    Ok(Hmac::new_from_slice(key.as_bytes())?)
}

const KEY_BYTES_MIN: usize = 16;

#[cfg(test)]
mod tests;
