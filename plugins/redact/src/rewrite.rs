//! The rewriting of a payload along the tree of pointers, without building it in memory.

use std::borrow::Cow;
use std::fmt;

use hmac::{Hmac, Mac as _};
use serde::de::{self, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer as _};
use serde_json::value::RawValue;
use sha2::Sha256;

use crate::pointer::{Node, Step, step};

/// What to do with what is redacted.
pub(crate) enum Redaction {
    /// Leave it out.
    Remove,
    /// Put this JSON text in its place.
    Mask(Vec<u8>),
    /// Put its hash under this key in its place.
    Hash(Hmac<Sha256>),
}

/// Rewrites a payload.
///
/// # Errors
/// It is not JSON.
pub(crate) fn payload(data: &[u8], tree: &Node, redaction: &Redaction) -> Result<Vec<u8>, serde_json::Error> {
    let mut out = Vec::with_capacity(data.len() + ROOM_BYTES);
    let container = Container { nodes: &[tree], redaction, out: &mut out };
    let mut reader = serde_json::Deserializer::from_slice(data);
    match data.trim_ascii_start().first() {
        Some(b'{') => reader.deserialize_map(container)?,
        Some(b'[') => reader.deserialize_seq(container)?,
        // There is nothing in it to point at, but it must be JSON all the same.
        _ => out.extend_from_slice(<&RawValue>::deserialize(&mut reader)?.get().as_bytes()),
    }
    reader.end()?;
    Ok(out)
}

/// Room for some hashes beyond the payload's own length, so that most outputs are allocated once.
const ROOM_BYTES: usize = 256;

/// Rewrites an object or an array that lies on the way to a redacted place.
struct Container<'a> {
    nodes: &'a [&'a Node],
    redaction: &'a Redaction,
    out: &'a mut Vec<u8>,
}

impl<'de> Visitor<'de> for Container<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or an array")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        self.out.push(b'{');
        let mut first = true;
        while let Some(Text(key)) = map.next_key()? {
            let value: &RawValue = map.next_value()?;
            let step = step(self.nodes, &key);
            if self.removes(&step) {
                continue;
            }
            separate(self.out, &mut first);
            write_string(self.out, &key).map_err(de::Error::custom)?;
            self.out.push(b':');
            self.value(value.get(), &step).map_err(de::Error::custom)?;
        }
        self.out.push(b'}');
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        self.out.push(b'[');
        let mut first = true;
        let mut index = 0_usize;
        while let Some(value) = seq.next_element::<&RawValue>()? {
            let step = step(self.nodes, &index.to_string());
            index += 1;
            if self.removes(&step) {
                continue;
            }
            separate(self.out, &mut first);
            self.value(value.get(), &step).map_err(de::Error::custom)?;
        }
        self.out.push(b']');
        Ok(())
    }
}

impl Container<'_> {
    fn removes(&self, step: &Step<'_>) -> bool {
        matches!((step, self.redaction), (Step::Redact, Redaction::Remove))
    }

    /// Writes a value as this step wants it. It recurses no deeper than the longest pointer.
    fn value(&mut self, value: &str, step: &Step<'_>) -> Result<(), serde_json::Error> {
        match (step, value.as_bytes().first()) {
            (Step::Into(nodes), Some(b'{')) => {
                serde_json::Deserializer::from_str(value).deserialize_map(self.into(nodes))
            }
            (Step::Into(nodes), Some(b'[')) => {
                serde_json::Deserializer::from_str(value).deserialize_seq(self.into(nodes))
            }
            (Step::Into(_) | Step::Copy, _) => {
                self.out.extend_from_slice(value.as_bytes());
                Ok(())
            }
            (Step::Redact, _) => self.replace(value),
        }
    }

    fn into<'a>(&'a mut self, nodes: &'a [&'a Node]) -> Container<'a> {
        Container { nodes, redaction: self.redaction, out: self.out }
    }

    fn replace(&mut self, value: &str) -> Result<(), serde_json::Error> {
        match self.redaction {
            Redaction::Remove => {} // It was never begun.
            Redaction::Mask(mask) => self.out.extend_from_slice(mask),
            Redaction::Hash(keyed) => {
                let mut mac = keyed.clone();
                // A text is hashed as it reads, so that it is found again however it was escaped.
                match serde_json::from_str::<Text<'_>>(value) {
                    Ok(Text(text)) => mac.update(text.as_bytes()),
                    Err(_) => mac.update(value.as_bytes()),
                }
                self.out.extend_from_slice(b"\"hmac-sha256:");
                self.out.extend_from_slice(hex::encode(mac.finalize().into_bytes()).as_bytes());
                self.out.push(b'"');
            }
        }
        Ok(())
    }
}

/// A text, borrowed from the payload where it has no escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

fn separate(out: &mut Vec<u8>, first: &mut bool) {
    if *first {
        *first = false;
    } else {
        out.push(b',');
    }
}

fn write_string(out: &mut Vec<u8>, text: &str) -> Result<(), serde_json::Error> {
    serde_json::to_writer(out, text)
}
