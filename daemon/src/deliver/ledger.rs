//! What one subscription knows of one stream: which events are on record, which are in hand, and whether it reads live,
//! is held, or catches up. Pure state: no I/O, no clock.
//!
//! The rules (`docs/architecture.md` explains them):
//!
//! 1. A live event is skipped only if it is on record, in hand, or still ahead of the reader; an older one that comes
//!    back is taken.
//! 2. An event that is skipped because the reader will come to it is acked only after the position is durable.
//! 3. The position moves only past what is on record; after rejoining it stays until all that the reader took is on
//!    record.
//! 4. An ordered subscription's position is its oldest event not on record, also one taken live: after a crash its reader
//!    brings that one first, whenever JetStream sends it again. An event that it has no room for is never handed back to
//!    JetStream, which would send later ones before it: the reader steps back to it.

use std::collections::BTreeMap;

use smallvec::SmallVec;

use crate::domain::{AckShare, RangeSet, StreamName};

/// Of how many events that are on record by halves a position tells the parts. More are not in hand at a time save where an
/// order by key lets many wait; those beyond it are known for as long as the log's tail tells of them.
pub const PARTLY_MAX: usize = 256;

/// The acknowledgements that a step set free.
pub type Shares = SmallVec<[AckShare; 1]>;

/// Who brought an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The live tail.
    Live,
    /// The subscription's own reader.
    Reader,
}

/// What becomes of an event that the live tail offers.
#[derive(Debug)]
pub enum Offer {
    /// It is the subscription's to work on.
    Taken,
    /// It is on record, or a durable position lies before it: it can be acked.
    Settled(AckShare),
    /// The ledger keeps the acknowledgement until the event is on record, or the position durable.
    Kept,
    /// There is no room.
    Full(AckShare),
    /// It came back, there is no room, and the reader has passed it: JetStream must send it again later. Never in an
    /// ordered subscription.
    Refused(AckShare),
}

#[derive(Debug)]
struct InHand {
    source: Source,
    shares: Shares,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    /// The next sequence that the reader reads.
    cursor: u64,
    /// The highest live event that was skipped: the reader must pass it before the subscription reads live again.
    skipped: u64,
    /// There may be events above `skipped` that nobody offered: the reader must also have come to the stream's end.
    to_end: bool,
}

/// One subscription's state in one stream.
#[derive(Debug)]
pub struct Ledger {
    stream: StreamName,
    /// The subscription keeps an order: rule 4 holds.
    ordered: bool,
    /// The stream forgets what is acked, so that no reader could come to it: the ledger is never held, and an event is in
    /// hand until it is on record.
    forgetful: bool,
    /// Done with: on record, or dropped by a filter.
    done: RangeSet,
    /// Events with several parts of which some, not all, are on record.
    partial: BTreeMap<u64, RangeSet>,
    in_hand: BTreeMap<u64, InHand>,
    held: Option<Held>,
    /// The highest event that the live tail offered.
    offered: u64,
    /// The position that the store confirmed last.
    stored: Option<u64>,
    /// The change that the store was handed and has not answered. There is never more than one, so that it is always
    /// known what the store may hold.
    on_its_way: Option<Option<u64>>,
    /// The store may hold what it confirmed last or what it failed to write: the position is to be written again.
    doubtful: bool,
    /// The position is to be written again although it has not moved: more is done above it, or acknowledgements wait.
    resave: bool,
    /// Whatever becomes of the change on its way, the store holds a position at or below this; `u64::MAX` when it may
    /// hold none.
    covered_from: u64,
    /// The cursor went back: what the reader has read ahead no longer follows on it.
    rewound: bool,
    /// Acknowledgements that wait for the position to be durable.
    gated: Vec<(u64, AckShare)>,
}

/// A change of the position that the store is to make durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PositionChange {
    /// Write this position, with what is done at or above it.
    Save {
        /// The next event to read.
        sequence: u64,
        /// What is on record at or above it.
        done_above: RangeSet,
        /// Of events at or above it of which not all parts are on record, those that are; of [`PARTLY_MAX`] events at
        /// most.
        partly_above: BTreeMap<u64, RangeSet>,
    },
    /// Remove it: the subscription reads live, and all that its reader took is on record.
    Remove,
}

/// Where an event stands in a ledger, for people who ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is being worked on, or waits in the lane's queue.
    InHand,
    /// It is done with: on record, or dropped by a filter.
    Done,
    /// The subscription is held, and its reader will come to it.
    Ahead,
    /// The live tail has not come to it.
    NotOffered,
    /// It is done with, and so long ago that the ledger has forgotten it.
    Past,
}

impl Ledger {
    /// A ledger that reads live; everything up to `offered` was offered to a daemon before this one.
    pub fn live(stream: StreamName, offered: u64) -> Self {
        Self {
            stream,
            ordered: false,
            forgetful: false,
            done: RangeSet::new(),
            partial: BTreeMap::new(),
            in_hand: BTreeMap::new(),
            held: None,
            offered,
            stored: None,
            on_its_way: None,
            doubtful: false,
            resave: false,
            covered_from: u64::MAX,
            rewound: false,
            gated: Vec::new(),
        }
    }

    /// A ledger that is held at a position in the store.
    pub fn held_at(stream: StreamName, position: u64, done_above: RangeSet, offered: u64) -> Self {
        let mut ledger = Self::live(stream, offered);
        ledger.done = done_above;
        ledger.held = Some(Held { cursor: position, skipped: offered, to_end: false });
        ledger.stored = Some(position);
        ledger.covered_from = position;
        ledger
    }

    /// The same, knowing which parts were on record of events that are not done.
    #[must_use]
    pub fn with_parts(self, partial: BTreeMap<u64, RangeSet>) -> Self {
        Self { partial, ..self }
    }

    /// The stream.
    pub fn stream(&self) -> &StreamName {
        &self.stream
    }

    /// Does its subscription keep an order?
    pub fn set_ordered(&mut self, ordered: bool) {
        self.ordered = ordered;
    }

    /// Its stream forgets what is acked.
    pub fn set_forgetful(&mut self) {
        self.forgetful = true;
    }

    /// Does its stream forget what is acked?
    pub fn is_forgetful(&self) -> bool {
        self.forgetful
    }

    /// Is it held, or catching up?
    pub fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// Is there a position in the store, or one to be written?
    pub fn has_position(&self) -> bool {
        self.held.is_some() || self.stored.is_some() || self.on_its_way.is_some() || self.doubtful
    }

    /// Does the store know all that it has to know of the position?
    pub fn is_position_settled(&self) -> bool {
        self.on_its_way.is_none() && !self.position_is_due()
    }

    /// How many separate ranges of events are done above the position: what a position in the store has to tell.
    pub fn spread(&self) -> usize {
        let Some(position) = self.position() else { return 0 };
        self.done.iter().rev().take_while(|(_, last)| *last >= position).count()
    }

    /// Where the reader is to read on, when held.
    pub fn cursor(&self) -> Option<u64> {
        self.held.map(|held| held.cursor)
    }

    /// The highest event that the reader must pass, when held.
    pub fn target(&self) -> u64 {
        self.held.map_or(self.offered, |held| held.skipped)
    }

    /// How many events wait, when the stream's last one is `end`: what is in hand, and while it is held at most what lies
    /// from its position to the end.
    pub fn waiting(&self, end: u64) -> u64 {
        match self.position().filter(|_| self.is_held()) {
            Some(position) => (end + 1).saturating_sub(position),
            None => self.in_hand.len() as u64,
        }
    }

    /// Is it held although its reader has passed everything that was skipped?
    pub fn is_at_end(&self) -> bool {
        self.held.is_some_and(|held| held.cursor > held.skipped && !held.to_end)
    }

    /// Where an event stands.
    pub fn standing(&self, sequence: u64) -> Standing {
        if self.in_hand.contains_key(&sequence) {
            Standing::InHand
        } else if self.done.contains(sequence) {
            Standing::Done
        } else if self.held.is_some_and(|held| sequence >= held.cursor) {
            Standing::Ahead
        } else if sequence > self.offered {
            Standing::NotOffered
        } else {
            Standing::Past
        }
    }

    /// Is that part of that event on record?
    pub fn is_recorded(&self, sequence: u64, part: u32) -> bool {
        self.done.contains(sequence) || self.partial.get(&sequence).is_some_and(|parts| parts.contains(part.into()))
    }

    /// Is that event done with?
    pub fn is_done(&self, sequence: u64) -> bool {
        self.done.contains(sequence)
    }

    /// Has the subscription been through that event, so that it will not come to it by itself?
    pub fn has_passed(&self, sequence: u64) -> bool {
        let before = self.held.map_or(self.offered + 1, |held| held.cursor);
        self.done.contains(sequence) || (sequence < before && !self.in_hand.contains_key(&sequence))
    }

    /// Where another ledger could go on: the next sequence to read, and what is done at or above it.
    pub fn place(&self) -> (u64, RangeSet) {
        let next = self.position().unwrap_or(self.offered + 1);
        let mut done_above = self.done.clone();
        done_above.remove_below(next);
        (next, done_above)
    }

    /// Everything up to `sequence` is before the subscription's time: it counts as done.
    pub fn begin_after(&mut self, sequence: u64) {
        self.done.insert_range(1, sequence);
    }

    /// Takes over what a daemon before this one recorded.
    pub fn recover(&mut self, sequence: u64, part: u32, parts: u32) {
        // The log is read only above the ack floor, which may soon pass this event: the position takes it over.
        self.resave = true;
        self.mark(sequence, part, parts);
    }

    /// The live tail offers an event.
    pub fn offer(&mut self, sequence: u64, share: AckShare, room: bool) -> Offer {
        if !room && self.held.is_none() && !self.is_known(sequence) {
            return Offer::Full(share);
        }
        self.offered = self.offered.max(sequence);
        if self.done.contains(sequence) {
            return Offer::Settled(share);
        }
        match self.in_hand.get_mut(&sequence) {
            Some(InHand { source: Source::Live, shares }) => {
                shares.push(share);
                return Offer::Kept;
            }
            // The position stays before it until it is on record.
            Some(InHand { source: Source::Reader, .. }) => return self.cover(sequence, share),
            None => {}
        }
        if let Some(held) = &mut self.held {
            if sequence >= held.cursor {
                held.skipped = held.skipped.max(sequence);
                return self.cover(sequence, share);
            }
            if !room && self.ordered {
                held.cursor = sequence;
                self.rewound = true;
                return self.cover(sequence, share);
            }
            if !room {
                return Offer::Refused(share);
            }
        }
        self.in_hand.insert(sequence, InHand { source: Source::Live, shares: smallvec::smallvec![share] });
        Offer::Taken
    }

    /// The position stands for this event, or will: its acknowledgement need not wait for more than that.
    fn cover(&mut self, sequence: u64, share: AckShare) -> Offer {
        if sequence >= self.covered_from {
            return Offer::Settled(share);
        }
        self.gated.push((sequence, share));
        Offer::Kept
    }

    /// An event in hand will wait for long. From now on it is as if the reader had brought it: the position stays before it
    /// until it is on record, and its acknowledgements wait only for that position.
    pub fn defer(&mut self, sequence: u64) {
        let Some(in_hand) = self.in_hand.get_mut(&sequence).filter(|_| !self.forgetful) else { return };
        in_hand.source = Source::Reader;
        let shares = std::mem::take(&mut in_hand.shares);
        self.resave |= !shares.is_empty();
        self.gated.extend(shares.into_iter().map(|share| (sequence, share)));
    }

    /// How many events of the live tail are in hand: each keeps its acknowledgement waiting.
    pub fn live_in_hand(&self) -> usize {
        self.in_hand.values().filter(|in_hand| in_hand.source == Source::Live).count()
    }

    /// Defers everything that was taken live.
    pub fn defer_all(&mut self) {
        let live = self.in_hand.iter().filter(|(_, in_hand)| in_hand.source == Source::Live).map(|(s, _)| *s);
        live.collect::<Vec<_>>().into_iter().for_each(|sequence| self.defer(sequence));
    }

    /// Holds the subscription where the live tail stands, or at the oldest event of `queued` that it gives back unworked.
    pub fn hold(&mut self, queued: impl IntoIterator<Item = u64>) {
        if self.forgetful {
            return;
        }
        let mut cursor = self.offered + 1;
        for sequence in queued {
            cursor = cursor.min(sequence);
            self.gate(sequence);
        }
        let skipped = self.held.map_or(self.offered, |held| held.skipped.max(self.offered));
        let cursor = self.held.map_or(cursor, |held| held.cursor.min(cursor));
        let to_end = self.reads_to_end();
        self.held = Some(Held { cursor, skipped, to_end });
        self.rewound = true;
    }

    /// An ordered subscription that is not held begins with what was offered to the daemon before this one above `acked`: its
    /// reader brings that, before anything of the live tail.
    pub fn begin_above(&mut self, acked: u64) {
        if self.ordered && !self.forgetful && self.held.is_none() && acked < self.offered {
            self.held = Some(Held { cursor: acked + 1, skipped: self.offered, to_end: false });
            self.rewound = true;
        }
    }

    /// Not all that is in the stream was offered, because the subscription, or its event types, came to the live tail
    /// later: where it is held, its reader must have come to the end of the stream before it reads live. Only a page that
    /// was asked for after this, and after the live tail knows of the subscription, shows the end.
    pub fn read_to_end(&mut self) {
        if let Some(held) = &mut self.held {
            held.to_end = true;
        }
    }

    /// The reader came to an event. True when the subscription is to work on it; false when it is done or in hand.
    pub fn read(&mut self, sequence: u64) -> bool {
        self.read_through(sequence);
        if self.is_known(sequence) {
            return false;
        }
        self.in_hand.insert(sequence, InHand { source: Source::Reader, shares: Shares::new() });
        true
    }

    /// The reader found nothing more up to `sequence`.
    pub fn read_through(&mut self, sequence: u64) {
        if let Some(held) = &mut self.held {
            held.cursor = held.cursor.max(sequence + 1);
        }
    }

    /// Everything from the cursor up to `sequence` is passed over, because it is so wished: it counts as done.
    pub fn skip_through(&mut self, sequence: u64) {
        let Some(held) = self.held.as_mut().filter(|held| held.cursor <= sequence) else { return };
        self.done.insert_range(held.cursor, sequence);
        held.cursor = sequence + 1;
        self.rewound = true;
    }

    /// The reader came to the end of what the stream has; all that was skipped up to `sequence` was in it.
    pub fn came_to_end(&mut self, sequence: u64) {
        self.read_through(sequence);
        if let Some(held) = &mut self.held {
            held.to_end = false;
        }
    }

    /// An event that could not be worked on goes back: the reader will come to it again.
    pub fn step_back(&mut self, sequence: u64) {
        self.gate(sequence);
        let skipped = self.held.map_or(self.offered, |held| held.skipped).max(sequence);
        let cursor = self.held.map_or(sequence, |held| held.cursor.min(sequence));
        let to_end = self.reads_to_end();
        self.held = Some(Held { cursor, skipped, to_end });
        self.rewound = true;
    }

    /// The reader is to read from the cursor again, because it asks for other events from now on.
    pub fn reread(&mut self) {
        self.rewound = true;
    }

    /// True once after the cursor went back, by whomever: then what the reader has read ahead must be dropped, because
    /// going on with it would pass events that it has not brought.
    pub fn take_rewound(&mut self) -> bool {
        std::mem::take(&mut self.rewound)
    }

    /// Reads live again if the reader has passed everything that was skipped. True when it does now.
    pub fn try_rejoin(&mut self) -> bool {
        let rejoins = self.is_at_end();
        if rejoins {
            self.held = None;
        }
        rejoins
    }

    /// An event is done with and needs no record: a filter dropped it. Returns what can be acked.
    pub fn settle(&mut self, sequence: u64) -> Shares {
        self.partial.remove(&sequence);
        self.done.insert(sequence);
        self.release(sequence)
    }

    /// One part of an event is durably on record. Returns what can be acked: something only with the last part.
    pub fn recorded(&mut self, sequence: u64, part: u32, parts: u32) -> Shares {
        self.resave = true;
        if self.mark(sequence, part, parts) { self.release(sequence) } else { Shares::new() }
    }

    /// What the store is to be told of the position, if anything; call it after each step. While the store has not
    /// answered the last change there is none: what changes in the meantime goes with the next one.
    pub fn position_change(&mut self) -> Option<PositionChange> {
        if self.on_its_way.is_some() || !self.position_is_due() {
            return None;
        }
        let wanted = self.position();
        self.resave = false;
        self.on_its_way = Some(wanted);
        self.covered_from = self.covered_from.max(wanted.unwrap_or(u64::MAX));
        let Some(sequence) = wanted else { return Some(PositionChange::Remove) };
        let mut done_above = self.done.clone();
        done_above.remove_below(sequence);
        let partly = self.partial.range(sequence..).take(PARTLY_MAX);
        let partly_above = partly.map(|(sequence, parts)| (*sequence, parts.clone())).collect();
        Some(PositionChange::Save { sequence, done_above, partly_above })
    }

    /// The store has made the change durable that it was handed last. Returns what can be acked.
    pub fn position_saved(&mut self) -> Shares {
        let Some(saved) = self.on_its_way.take() else { return Shares::new() };
        self.stored = saved;
        self.doubtful = false;
        self.covered_from = saved.unwrap_or(u64::MAX);
        let mut free = Shares::new();
        let mut waiting = Vec::new();
        for (gated, share) in std::mem::take(&mut self.gated) {
            if self.may_go(gated) {
                free.push(share);
            } else {
                waiting.push((gated, share));
            }
        }
        self.gated = waiting;
        free
    }

    /// The store could not write the change that it was handed last, or not for certain: it is to be handed in again.
    pub fn position_lost(&mut self) {
        self.doubtful |= self.on_its_way.take().is_some();
    }

    /// Nothing at or below `floor` comes again from the live tail: what is known of it can be forgotten.
    pub fn forget_through(&mut self, floor: u64) {
        let keep_from = self.position().map_or(floor + 1, |position| position.min(floor + 1));
        self.done.remove_below(keep_from);
        self.partial = self.partial.split_off(&keep_from);
        // Everything up to the floor that concerns this subscription was offered, also when it was long ago: a reader
        // that began at the last one would look for history that nobody misses.
        self.offered = self.offered.max(floor);
    }

    fn position_is_due(&self) -> bool {
        let wanted = self.position();
        self.doubtful || wanted != self.stored || (self.resave && wanted.is_some())
    }

    fn reads_to_end(&self) -> bool {
        self.held.is_some_and(|held| held.to_end)
    }

    /// May an acknowledgement go that waited for the position?
    fn may_go(&self, sequence: u64) -> bool {
        match self.in_hand.get(&sequence).map(|in_hand| in_hand.source) {
            // The reader does not come to it any more, only its record counts.
            Some(Source::Live) => false,
            // The position stays before it until it is on record.
            Some(Source::Reader) => sequence >= self.covered_from,
            // The reader has passed it and did not bring it: it is gone from the stream, or no longer asked for.
            None if self.held.is_none_or(|held| sequence < held.cursor) => true,
            None => sequence >= self.covered_from,
        }
    }

    /// Takes an event out of hand; its acknowledgements wait for the position.
    fn gate(&mut self, sequence: u64) {
        let Some(in_hand) = self.in_hand.remove(&sequence) else { return };
        self.resave |= !in_hand.shares.is_empty();
        self.gated.extend(in_hand.shares.into_iter().map(|share| (sequence, share)));
    }

    fn is_known(&self, sequence: u64) -> bool {
        self.done.contains(sequence) || self.in_hand.contains_key(&sequence)
    }

    /// The oldest event that the reader has yet to read, or took and has not on record; in an ordered subscription also
    /// one that was taken live.
    fn position(&self) -> Option<u64> {
        let taken = self.in_hand.iter().find(|(_, in_hand)| in_hand.source == Source::Reader).map(|(s, _)| *s);
        let position = taken.into_iter().chain(self.cursor()).min()?;
        let oldest = self.in_hand.keys().next().filter(|_| self.ordered);
        Some(oldest.map_or(position, |oldest| position.min(*oldest)))
    }

    fn mark(&mut self, sequence: u64, part: u32, parts: u32) -> bool {
        if parts > 1 {
            let done = self.partial.entry(sequence).or_default();
            done.insert(part.into());
            // A plugin that was changed may have made more parts of it before: those do not count for the parts of now.
            if (0..u64::from(parts)).any(|part| !done.contains(part)) {
                return false;
            }
        }
        self.partial.remove(&sequence);
        self.done.insert(sequence);
        true
    }

    fn release(&mut self, sequence: u64) -> Shares {
        let mut free = self.in_hand.remove(&sequence).map(|in_hand| in_hand.shares).unwrap_or_default();
        // What waits for the position to cover this event need not wait any more.
        let mut at = 0;
        while at < self.gated.len() {
            if self.gated[at].0 == sequence {
                free.push(self.gated.swap_remove(at).1);
            } else {
                at += 1;
            }
        }
        free
    }
}

#[cfg(test)]
mod tests;
