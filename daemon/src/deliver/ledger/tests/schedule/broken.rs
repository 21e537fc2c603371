//! The rules that a schedule can break, to see that somebody notices.

/// A rule that a driver can break.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Broken {
    /// Skipped events are acked before the position is durable.
    GateSkips,
    /// The position moves past what is not on record.
    PositionFollowsRecords,
    /// The position is removed at rejoin, though the reader's events are not on record.
    KeepPositionUntilRecorded,
    /// A live event is skipped although the reader has passed it.
    AheadOnly,
    /// What the reader has read ahead is used although the cursor went back.
    DropWhatWasReadAhead,
    /// One that comes to the live tail later reads no further than what was offered.
    ReadToEnd,
    /// A stop does not wait for the last position.
    StopWaitsForPosition,
    /// The ledger of an ordered subscription does not know of the order.
    PositionIsOldest,
    /// An ordered subscription begins with the live tail, although the daemon before had older events in hand.
    BeginsHeld,
    /// An ordered subscription reads on live although something was lost on its way.
    LossHolds,
    /// What is parked does not keep its key busy after a start.
    ParkedBlocks,
    /// The next event of a key begins before the record of the one before is durable.
    WaitsForRecord,
    /// The place of a replay moves past what is not on record.
    PlaceFollowsRecords,
    /// A replay that goes on does not look at what was marked after its place.
    MarksAreRead,
    /// A replay takes what the subscription will come to by itself.
    LeavesWhatComes,
}

impl Broken {
    pub(super) const ALL: [Self; 15] = [
        Self::GateSkips,
        Self::PositionFollowsRecords,
        Self::KeepPositionUntilRecorded,
        Self::AheadOnly,
        Self::DropWhatWasReadAhead,
        Self::ReadToEnd,
        Self::StopWaitsForPosition,
        Self::PositionIsOldest,
        Self::BeginsHeld,
        Self::LossHolds,
        Self::ParkedBlocks,
        Self::WaitsForRecord,
        Self::PlaceFollowsRecords,
        Self::MarksAreRead,
        Self::LeavesWhatComes,
    ];
}
