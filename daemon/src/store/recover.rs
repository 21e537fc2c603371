//! What is on record when the daemon starts: read from the log's tail.

use std::collections::{BTreeMap, HashMap};

use super::engine::Engine;
use super::keys::{self, kind};
use super::log::{Group, Running};
use super::records::{PositionRecord, Recorded, Recovered};
use super::{Error, codec};
use crate::domain::{StreamName, SubscriptionId};

/// How many of the last flushes are read for held subscriptions whatever the floors say. A subscription that catches up
/// finishes events that were acked long ago; its position follows its records a flush or a few later, and what was
/// recorded in between must be known after a crash.
pub(super) const HELD_FLUSHES: u64 = 1_024;

type Places = BTreeMap<(SubscriptionId, StreamName), Recovered>;

/// Reads the tail of the log and the held positions. The second is how many flushes were read.
pub(super) fn recover(engine: &Engine, floors: &[(StreamName, u64)]) -> Result<(Vec<Recovered>, u64), Error> {
    let mut places = Places::new();
    for (subscription, position) in positions(engine)? {
        let stream = position.position.stream.clone();
        place(&mut places, subscription, stream).position = Some(position);
    }
    let groups = read_tail(engine, floors, &mut places)?;
    let mut recovered: Vec<Recovered> = places.into_values().collect();
    for place in &mut recovered {
        place.recorded.sort_unstable();
        place.recorded.dedup();
    }
    Ok((recovered, groups))
}

fn place(places: &mut Places, subscription: SubscriptionId, stream: StreamName) -> &mut Recovered {
    places.entry((subscription.clone(), stream.clone())).or_insert_with(|| Recovered {
        subscription,
        stream,
        position: None,
        recorded: Vec::new(),
    })
}

/// A stream's floor, and the flush up to which its entries are of an older stream of the same name.
struct Floor {
    sequence: u64,
    void: Option<u64>,
}

/// Reads backwards until a flush says that nothing above the floors can come before it.
fn read_tail(engine: &Engine, floors: &[(StreamName, u64)], places: &mut Places) -> Result<u64, Error> {
    let mut wanted: HashMap<&StreamName, Floor> = HashMap::new();
    for (stream, sequence) in floors {
        wanted.insert(stream, Floor { sequence: *sequence, void: void(engine, stream)? });
    }
    let mut groups = 0;
    let held = places.values().any(|place| place.position.is_some());
    for partition in engine.partitions().iter().rev() {
        for pair in partition.tree.iter().rev() {
            let (key, value) = pair.map_err(Error::read)?;
            let flush = flush_of(&key)?;
            let mut group = Group::read(&value)?;
            groups += 1;
            let done = wanted.iter().all(|(stream, floor)| {
                floor.void.is_some_and(|void| flush <= void)
                    || group.running.iter().find(|(s, _)| s == *stream).is_none_or(|(_, max)| *max <= floor.sequence)
            });
            if done && (!held || groups > HELD_FLUSHES) {
                return Ok(groups);
            }
            read_group(&mut group, flush, &wanted, places)?;
        }
    }
    Ok(groups)
}

fn read_group(
    group: &mut Group<'_>,
    flush: u64,
    wanted: &HashMap<&StreamName, Floor>,
    places: &mut Places,
) -> Result<(), Error> {
    while let Some(mut section) = group.section()? {
        let stream = &group.running[section.stream].0;
        let Some(floor) = wanted.get(stream) else { continue };
        if floor.void.is_some_and(|void| flush <= void) {
            continue;
        }
        let subscription = SubscriptionId::parse(section.subscription).map_err(|_| Error::Record { what: "log" })?;
        while let Some(entry) = section.entry(&subscription, stream)? {
            let sequence = entry.position.sequence;
            let of = (subscription.clone(), stream.clone());
            let held_before = || {
                let position = places.get(&of)?.position.as_ref()?;
                (position.position.sequence <= sequence).then_some(())
            };
            if sequence > floor.sequence || held_before().is_some() {
                let recorded = Recorded { sequence, part: entry.part, parts: entry.parts };
                place(places, of.0, of.1).recorded.push(recorded);
            }
        }
    }
    Ok(())
}

/// The flush number of a log key.
pub(super) fn flush_of(key: &[u8]) -> Result<u64, Error> {
    key.try_into().map(u64::from_be_bytes).map_err(|_| Error::Record { what: "log" })
}

/// Up to which flush a stream's entries are of an older stream of the same name.
pub(super) fn void(engine: &Engine, stream: &StreamName) -> Result<Option<u64>, Error> {
    let record = engine.state.get(keys::of_stream(kind::VOID, stream)).map_err(Error::read)?;
    record.map(|record| codec::read_number("stream", &record)).transpose()
}

/// All held positions.
pub(super) fn positions(engine: &Engine) -> Result<Vec<(SubscriptionId, PositionRecord)>, Error> {
    let mut positions = Vec::new();
    for pair in engine.state.scan_prefix([kind::HELD]) {
        let (key, value) = pair.map_err(Error::read)?;
        let (subscription, stream) = keys::parse_subscription(&key)
            .and_then(|(id, rest)| Some((id, keys::parse_stream(rest)?)))
            .ok_or(Error::Record { what: "position" })?;
        positions.push((subscription, codec::read_position(stream, &value)?));
    }
    Ok(positions)
}

/// The number for the next flush, and the running maxima so far.
pub(super) fn last_flush(engine: &Engine) -> Result<(u64, Running), Error> {
    let mut next = 1;
    for partition in engine.partitions().iter().rev() {
        next = next.max(partition.first_flush);
        if let Some((key, value)) = partition.tree.last().map_err(Error::read)? {
            let running = Group::read(&value)?.running.into_iter().collect();
            return Ok((next.max(flush_of(&key)? + 1), running));
        }
    }
    Ok((next, Running::new()))
}
