//! The keys of the state tree, and the names of the log's trees. The table stands in the module's own page.

use crate::domain::{DeliveryId, StreamName, SubscriptionId};

/// What a key of the state tree is of: its first byte.
pub(super) mod kind {
    pub(in crate::store) const DEAD_BY_TIME: u8 = b'A';
    pub(in crate::store) const API_KEY: u8 = b'B';
    pub(in crate::store) const COUNTS: u8 = b'C';
    pub(in crate::store) const DEAD: u8 = b'D';
    pub(in crate::store) const DEAD_BY_REASON: u8 = b'F';
    pub(in crate::store) const EVENT_TYPE: u8 = b'E';
    pub(in crate::store) const HELD: u8 = b'H';
    pub(in crate::store) const BY_ID: u8 = b'I';
    pub(in crate::store) const JOB: u8 = b'J';
    pub(in crate::store) const CHECKPOINT: u8 = b'K';
    pub(in crate::store) const PARKED: u8 = b'P';
    pub(in crate::store) const REGISTRATION: u8 = b'R';
    pub(in crate::store) const STREAM: u8 = b'S';
    pub(in crate::store) const UNPUBLISHED: u8 = b'U';
    pub(in crate::store) const VOID: u8 = b'V';
    pub(in crate::store) const PLUGIN: u8 = b'W';
    pub(in crate::store) const SEALED: u8 = b'X';
    pub(in crate::store) const AUDIT: u8 = b'Y';
}

/// The key of the format's version.
pub(super) const META_FORMAT: &[u8] = b"Mformat";
/// The key of what only the right master key opens.
pub(super) const META_KEY_CHECK: &[u8] = b"Mkeycheck";
/// The key of what only the next master key opens, while sealed records are brought under it.
pub(super) const META_REKEY: &[u8] = b"Mrekey";
/// The key that is written to find out whether writing works.
pub(super) const META_PROBE: &[u8] = b"Mprobe";

/// `kind ‖ length of the id ‖ id`: no subscription's keys begin with another's.
pub(super) fn of_subscription(kind: u8, subscription: &SubscriptionId) -> Vec<u8> {
    let id = subscription.as_str().as_bytes();
    let mut key = Vec::with_capacity(2 + id.len() + 24);
    key.push(kind);
    key.push(id.len() as u8);
    key.extend_from_slice(id);
    key
}

/// `kind ‖ length of the id ‖ id ‖ time (big-endian) ‖ delivery id`: in order of time.
pub(super) fn timed(kind: u8, subscription: &SubscriptionId, at_ms: u64, delivery: &DeliveryId) -> Vec<u8> {
    let mut key = of_subscription(kind, subscription);
    key.extend_from_slice(&at_ms.to_be_bytes());
    key.extend_from_slice(delivery.bytes());
    key
}

/// The first key at or after a time.
pub(super) fn from_time(kind: u8, subscription: &SubscriptionId, at_ms: u64) -> Vec<u8> {
    let mut key = of_subscription(kind, subscription);
    key.extend_from_slice(&at_ms.to_be_bytes());
    key
}

/// Time and delivery of a [`timed`] key.
pub(super) fn parse_timed(key: &[u8]) -> Option<(u64, DeliveryId)> {
    let (rest, id) = key.split_last_chunk::<16>()?;
    let (_, at) = rest.split_last_chunk::<8>()?;
    Some((u64::from_be_bytes(*at), DeliveryId::from_bytes(*id)))
}

/// `kind ‖ time (big-endian) ‖ delivery id`: in order of time, over all subscriptions.
pub(super) fn anywhere(kind: u8, at_ms: u64, delivery: &DeliveryId) -> Vec<u8> {
    let mut key = Vec::with_capacity(25);
    key.push(kind);
    key.extend_from_slice(&at_ms.to_be_bytes());
    key.extend_from_slice(delivery.bytes());
    key
}

/// `F ‖ length of the id ‖ id ‖ length of the class ‖ class ‖ status (big-endian, 0 is none)`: what a subscription's dead
/// letters with one reason begin with.
pub(super) fn of_reason(subscription: &SubscriptionId, class: &str, status: Option<u16>) -> Vec<u8> {
    let mut key = of_class(subscription, class);
    key.extend_from_slice(&status.unwrap_or(0).to_be_bytes());
    key
}

/// What a subscription's dead letters of one class begin with.
pub(super) fn of_class(subscription: &SubscriptionId, class: &str) -> Vec<u8> {
    let class = &class.as_bytes()[..class.len().min(CLASS_BYTES_MAX)];
    let mut key = of_subscription(kind::DEAD_BY_REASON, subscription);
    key.push(class.len() as u8);
    key.extend_from_slice(class);
    key
}

/// How much of a class's word stands in a key.
const CLASS_BYTES_MAX: usize = 64;

/// What a key of the index by reason begins with, and the status in it.
pub(super) fn parse_reason(key: &[u8]) -> Option<(&[u8], Option<u16>)> {
    let (reason, _) = key.split_last_chunk::<24>()?;
    let (_, status) = reason.split_last_chunk::<2>()?;
    Some((reason, Some(u16::from_be_bytes(*status)).filter(|status| *status != 0)))
}

/// `I ‖ delivery id`.
pub(super) fn by_id(delivery: &DeliveryId) -> Vec<u8> {
    let mut key = Vec::with_capacity(17);
    key.push(kind::BY_ID);
    key.extend_from_slice(delivery.bytes());
    key
}

/// `H ‖ length of the id ‖ id ‖ stream`.
pub(super) fn held(subscription: &SubscriptionId, stream: &StreamName) -> Vec<u8> {
    let mut key = of_subscription(kind::HELD, subscription);
    key.extend_from_slice(stream.as_str().as_bytes());
    key
}

/// `X ‖ length of the id ‖ id ‖ purpose`.
pub(super) fn sealed(subscription: &SubscriptionId, purpose: u8) -> Vec<u8> {
    let mut key = of_subscription(kind::SEALED, subscription);
    key.push(purpose);
    key
}

/// `kind ‖ stream`.
pub(super) fn of_stream(kind: u8, stream: &StreamName) -> Vec<u8> {
    of_text(kind, stream.as_str())
}

/// `kind ‖ text`.
pub(super) fn of_text(kind: u8, text: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + text.len());
    key.push(kind);
    key.extend_from_slice(text.as_bytes());
    key
}

/// The subscription of a key that begins with one, and what follows it.
pub(super) fn parse_subscription(key: &[u8]) -> Option<(SubscriptionId, &[u8])> {
    let (length, rest) = key.get(1..)?.split_first()?;
    let (id, rest) = rest.split_at_checked(usize::from(*length))?;
    Some((SubscriptionId::parse(std::str::from_utf8(id).ok()?).ok()?, rest))
}

/// A stream's name, as it stands at the end of a key.
pub(super) fn parse_stream(bytes: &[u8]) -> Option<StreamName> {
    StreamName::parse(std::str::from_utf8(bytes).ok()?).ok()
}

/// The name of the log partition that begins with that flush. Names order as flushes do, whatever the clock did.
pub(super) fn partition(first_flush: u64, opened_ms: u64) -> String {
    format!("log-{first_flush:016x}-{opened_ms:016x}")
}

/// The name of the index of that partition.
pub(super) fn index(first_flush: u64, opened_ms: u64) -> String {
    format!("index-{first_flush:016x}-{opened_ms:016x}")
}

/// First flush and opening time of a partition, when the name is one.
pub(super) fn parse_partition(name: &[u8]) -> Option<(u64, u64)> {
    parse_numbers(name, "log-")
}

/// First flush and opening time of the partition that an index is of, when the name is one's.
pub(super) fn parse_index(name: &[u8]) -> Option<(u64, u64)> {
    parse_numbers(name, "index-")
}

fn parse_numbers(name: &[u8], prefix: &str) -> Option<(u64, u64)> {
    let (first, opened) = std::str::from_utf8(name).ok()?.strip_prefix(prefix)?.split_once('-')?;
    Some((u64::from_str_radix(first, 16).ok()?, u64::from_str_radix(opened, 16).ok()?))
}
