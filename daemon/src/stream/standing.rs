//! Where a client stands, for those who ask beside it: its bytes are made only when it takes them, so it cannot say so itself.

use std::sync::Arc;

use smallvec::SmallVec;

use super::Cursor;
use super::cursor::{Seen, Tag};
use super::group::Group;

/// How a client gets its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pace {
    /// From memory, as they come.
    Live,
    /// From history.
    CatchingUp,
    /// It is to have history, and waits for its turn to have it read.
    Waiting,
}

/// Where a client stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// How far it is in every stream that it sees.
    pub cursor: Cursor,
    /// How it gets its events; over several streams, the slowest way.
    pub pace: Pace,
    /// How many sequences it is behind what the live tails have read, over all streams; 0 when nothing that it wants is
    /// before it.
    pub lag_events: u64,
}

/// A client that one can ask for. It says something as long as the client is there.
#[derive(Clone)]
pub struct Watched(pub(super) SmallVec<[(Arc<Group>, usize); 1]>);

/// Where a client stands in one stream.
pub(super) struct Step {
    pub(super) next: u64,
    pub(super) tag: Tag,
    pub(super) pace: Pace,
    pub(super) lag_events: u64,
}

impl Watched {
    /// Where the client stands now; `None` when it has gone.
    pub fn look(&self) -> Option<Standing> {
        let mut standing = Standing { cursor: Cursor::default(), pace: Pace::Live, lag_events: 0 };
        for (group, number) in &self.0 {
            let step = group.step(*number)?;
            standing.cursor.set(group.stream().clone(), Seen::before(step.next, step.tag));
            standing.pace = standing.pace.max(step.pace);
            standing.lag_events += step.lag_events;
        }
        Some(standing)
    }
}
