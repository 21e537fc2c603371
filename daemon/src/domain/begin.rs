//! Where in a stream a subscription begins that is new.

use crate::domain::event::StreamName;

/// A place in a stream, named before it is looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Begin {
    /// With the next event that is published.
    #[default]
    Now,
    /// With the oldest event that the stream still has.
    All,
    /// With the first event that JetStream stored at that time or later, in milliseconds since the Unix epoch.
    Time(u64),
    /// With that stream sequence.
    Sequence(u64),
}

/// Where a subscription begins in each stream. It has a meaning only while the subscription is new in a stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeliverFrom {
    /// In every stream that is not named.
    pub general: Begin,
    /// In the streams named.
    pub streams: Vec<(StreamName, Begin)>,
}

impl DeliverFrom {
    /// Where it begins in that stream.
    pub fn of(&self, stream: &StreamName) -> Begin {
        self.streams.iter().find(|(name, _)| name == stream).map_or(self.general, |(_, begin)| *begin)
    }
}
