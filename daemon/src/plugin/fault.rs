//! What a plugin did wrong while it ran.

use std::fmt;

/// One failure of a plugin, with its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The plugin.
    pub plugin: Box<str>,
    /// What happened.
    pub kind: FaultKind,
}

/// What a plugin did wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FaultKind {
    /// It trapped: a panic, an overflow of the stack, an access out of bounds.
    Trap {
        /// The trap, in words.
        reason: Box<str>,
    },
    /// It used up its time, in milliseconds.
    Deadline {
        /// The limit that it reached.
        limit_ms: u64,
    },
    /// It wanted more memory than it may have.
    Memory {
        /// The limit, in bytes.
        bytes_max: usize,
    },
    /// It wanted a table of more entries than it may have.
    Table {
        /// The limit.
        entries_max: usize,
    },
    /// It gave too much, or something that cannot be delivered.
    Output {
        /// What is wrong with the output.
        reason: Box<str>,
    },
    /// It said itself that it could not work on the event.
    Reported {
        /// What it said, cut when long.
        message: Box<str>,
    },
    /// No instance of it could be made.
    Instantiate {
        /// Why not.
        reason: Box<str>,
    },
    /// It was not called: it has done nothing but fail, and is set aside for a while.
    Quarantined {
        /// How many faults in a row it had.
        faults: u32,
    },
}

impl Fault {
    /// A stable word for metrics and records.
    pub fn kind_str(&self) -> &'static str {
        self.kind.as_str()
    }
}

impl FaultKind {
    /// A stable word for metrics and records.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Trap { .. } => "trap",
            Self::Deadline { .. } => "deadline",
            Self::Memory { .. } => "memory",
            Self::Table { .. } => "table",
            Self::Output { .. } => "output",
            Self::Reported { .. } => "reported",
            Self::Instantiate { .. } => "instantiate",
            Self::Quarantined { .. } => "quarantined",
        }
    }

    pub(super) fn of(self, plugin: &str) -> Fault {
        Fault { plugin: plugin.into(), kind: self }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Trap { reason } => write!(f, "trapped: {reason}"),
            Self::Deadline { limit_ms } => write!(f, "used up its {limit_ms} ms"),
            Self::Memory { bytes_max } => write!(f, "wanted more than {bytes_max} bytes of memory"),
            Self::Table { entries_max } => write!(f, "wanted a table of more than {entries_max} entries"),
            Self::Output { reason } => write!(f, "gave an output that is refused: {reason}"),
            Self::Reported { message } => write!(f, "failed: {message}"),
            Self::Instantiate { reason } => write!(f, "could not be instantiated: {reason}"),
            Self::Quarantined { faults } => write!(f, "is set aside for a while, after {faults} faults in a row"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the plugin `{}` {}", self.plugin, self.kind)
    }
}

impl std::error::Error for Fault {}

/// The first `bytes_max` bytes of a text, cut between characters.
pub(super) fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}
