//! A delivery: one event (or one output of its transforms) for one subscription, and how it ends.

use std::fmt;

use bytes::Bytes;
use sha2::{Digest, Sha256};

use crate::domain::event::{Header, Position};
use crate::domain::subscription::SubscriptionId;

/// Names a delivery: a pure function of subscription, stream, sequence and part, so that the same delivery has the same
/// id after any crash or replay. Its text is the request's `webhook-id`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeliveryId([u8; 16]);

/// A text that is not a delivery id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a delivery id is `msg_` and 32 hexadecimal digits")]
pub struct DeliveryIdError;

impl DeliveryId {
    /// The id of the `part`-th output (0 is the first) for that subscription of the event at that position.
    pub fn derive(subscription: &SubscriptionId, position: &Position, part: u32) -> Self {
        let mut hash = Sha256::new();
        hash.update(subscription.as_str());
        hash.update([0]);
        hash.update(position.stream.as_str());
        hash.update([0]);
        hash.update(position.sequence.to_be_bytes());
        hash.update(part.to_be_bytes());
        let digest: [u8; 32] = hash.finalize().into();
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        Self(id)
    }

    /// The id with those bytes, as a store kept them.
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// The id's bytes.
    pub fn bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Parses the text form.
    ///
    /// # Errors
    /// When the text is not `msg_` and 32 hexadecimal digits.
    pub fn parse(text: &str) -> Result<Self, DeliveryIdError> {
        let digits = text.strip_prefix("msg_").ok_or(DeliveryIdError)?;
        let mut id = [0; 16];
        hex::decode_to_slice(digits, &mut id).map_err(|_| DeliveryIdError)?;
        Ok(Self(id))
    }
}

impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0; 32];
        hex::encode_to_slice(self.0, &mut text).map_err(|_| fmt::Error)?;
        write!(f, "msg_{}", std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
    }
}

impl fmt::Debug for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Whose fault a failed attempt was, and thereby what it may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FailureClass {
    /// The connection could not be made, or broke.
    Network,
    /// The receiver did not answer in time.
    Timeout,
    /// The receiver answered with a status that is not 2xx.
    Status,
    /// The receiver answered 410 Gone: it wants no more.
    Gone,
    /// The address policy refuses where the URL leads.
    AddressRefused,
    /// A plugin failed.
    Plugin,
    /// The message could not be understood as an event.
    Undecodable,
    /// The daemon itself could not carry out the attempt: never held against the receiver.
    Internal,
}

impl FailureClass {
    /// A stable word for records, metrics and the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Network => "network",
            Self::Timeout => "timeout",
            Self::Status => "status",
            Self::Gone => "gone",
            Self::AddressRefused => "address_refused",
            Self::Plugin => "plugin",
            Self::Undecodable => "undecodable",
            Self::Internal => "internal",
        }
    }
}

/// What a receiver answered besides its status, as far as it is kept: bounded, and without the values that it was sent in
/// confidence.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Response {
    /// Its headers: a bounded few.
    pub headers: Vec<Header>,
    /// The beginning of its body, as it came: neither decompressed nor decoded.
    pub body: Bytes,
    /// The body went on, or broke off, after what is kept.
    pub truncated: bool,
}

impl Response {
    /// How many bytes it takes to keep it.
    pub fn size_bytes(&self) -> usize {
        self.headers.iter().map(|h| h.name.len() + h.value.len()).sum::<usize>() + self.body.len()
    }
}

/// Why an attempt failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Whose fault it was.
    pub class: FailureClass,
    /// The receiver's status, when it answered.
    pub status: Option<u16>,
    /// What happened, for a person; no secrets.
    pub message: Box<str>,
    /// The shortest time in milliseconds that the receiver asked to be left alone (`Retry-After`, capped).
    pub retry_after_ms: Option<u64>,
    /// What the receiver answered, when it did and its endpoint keeps answers.
    pub response: Option<Box<Response>>,
}

/// How one attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The receiver took it (2xx).
    Delivered {
        /// The receiver's status.
        status: u16,
        /// What it answered, when its endpoint keeps answers.
        response: Option<Box<Response>>,
    },
    /// It may work later.
    Retry(Failure),
    /// It will never work.
    Final(Failure),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::event::StreamName;

    #[test]
    fn an_id_is_a_pure_function_and_survives_its_text() {
        let subscription = SubscriptionId::parse("big-orders").expect("valid");
        let position = Position { stream: StreamName::parse("EVENTS").expect("valid"), sequence: 42 };
        let id = DeliveryId::derive(&subscription, &position, 0);
        assert_eq!(id.to_string(), "msg_d38d82911d77590c338db2660e83fc67");
        assert_eq!(DeliveryId::parse(&id.to_string()), Ok(id));
        assert_ne!(DeliveryId::derive(&subscription, &position, 1), id);
        assert!(DeliveryId::parse("msg_12").is_err());
    }
}
