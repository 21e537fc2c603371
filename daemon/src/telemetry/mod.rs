//! What the daemon tells of itself: logs, metrics, spans, and the one place where real time is read.

pub mod clock;
pub mod health;
pub mod log;
pub mod metrics;
pub mod spans;

use std::error::Error;

/// An error with all its sources in one line, for a log field.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
