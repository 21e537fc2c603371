//! What the daemon tells of itself: logs, metrics, and the one place where real time is read.

pub mod clock;
