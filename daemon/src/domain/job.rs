//! Jobs: replays of history and redrives of dead letters, each for one subscription.

use std::fmt;

use crate::domain::{Begin, StreamName, SubscriptionId};

/// How many deliveries a job begins a second when nothing is said.
pub const RATE_DEFAULT: u32 = 50;
/// The most deliveries that a job may begin a second.
pub const RATE_MAX: u32 = 10_000;

/// Names a job. Later ones are greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(u64);

impl JobId {
    /// The id of a job that begins at that time, in milliseconds since the Unix epoch; `draw` tells apart what begins in the
    /// same millisecond.
    pub fn new(at_ms: u64, draw: u16) -> Self {
        Self(at_ms << 16 | u64::from(draw))
    }

    /// The id with that number.
    pub fn from_number(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    pub fn number(self) -> u64 {
        self.0
    }

    /// Reads what [`fmt::Display`] writes: 16 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.len() == 16 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        digits.then(|| u64::from_str_radix(text, 16).ok()).flatten().map(Self)
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A job that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewJob {
    /// The subscription that it is to work for.
    pub subscription: SubscriptionId,
    /// What it is to do.
    pub task: NewTask,
    /// How many deliveries it may begin a second: from 1 to [`RATE_MAX`].
    pub rate: u32,
    /// It is to count, and to deliver nothing.
    pub dry_run: bool,
}

/// What a job is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NewTask {
    /// Deliver a stretch of a stream's history again.
    Replay {
        /// The stream; none where there is only one.
        stream: Option<StreamName>,
        /// The first event.
        from: Begin,
        /// The last event: a sequence, or the last one before a time.
        to: Begin,
    },
    /// Send dead letters again.
    Redrive {
        /// Only those whose last answer had this status.
        status: Option<u16>,
        /// Only those of this failure class.
        class: Option<Box<str>>,
        /// Only those given up at that time or later, in milliseconds since the Unix epoch.
        since_ms: Option<u64>,
        /// Only those given up before that time, in milliseconds since the Unix epoch.
        until_ms: Option<u64>,
    },
}

/// What somebody wants of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// That it rests.
    Pause,
    /// That it goes on.
    Resume,
    /// That it ends.
    Cancel,
}

/// How a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JobState {
    /// At work, or waiting for its endpoint.
    Running,
    /// It goes on when it is resumed.
    Paused,
    /// It has come to its end.
    Done,
    /// It was ended early.
    Cancelled,
    /// It cannot go on.
    Failed,
}

impl JobState {
    /// The word for it, in records and in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Done => "done",
            Self::Cancelled => "cancelled",
            Self::Failed => "failed",
        }
    }

    /// The state after a wish; none when it is over already.
    pub fn after(self, wish: Wish) -> Option<Self> {
        match wish {
            _ if self.is_over() => None,
            Wish::Pause => Some(Self::Paused),
            Wish::Resume => Some(Self::Running),
            Wish::Cancel => Some(Self::Cancelled),
        }
    }

    /// Will nothing more come of it?
    pub fn is_over(self) -> bool {
        matches!(self, Self::Done | Self::Cancelled | Self::Failed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_in_the_order_of_time_and_survive_their_text() {
        let (first, second) = (JobId::new(1_795_332_645_678, 65_535), JobId::new(1_795_332_645_679, 0));
        assert!(first < second);
        assert_eq!(JobId::parse(&first.to_string()), Some(first));
        for bad in ["", "1", "00000000000000000", "000000000000000G", "000000000000000A", "+00000000000000f"] {
            assert_eq!(JobId::parse(bad), None, "{bad}");
        }
    }
}
