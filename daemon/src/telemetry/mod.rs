//! What the daemon tells of itself: logs, metrics, spans, and the one place where real time is read.

pub mod clock;
pub mod health;
pub mod log;
pub mod metrics;
pub mod spans;

use std::error::Error;

/// An error with all its sources in one line, for a log field. What was said already is not said again: some errors have the
/// text of their source in their own.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Told(&'static str, #[source] Option<Box<Told>>);

    #[test]
    fn a_chain_says_each_thing_once() {
        let cause = Told("refused (os error 111)", None);
        let error = Told("connect: refused (os error 111)", Some(cause.into()));
        let error = Told("no answer", Some(error.into()));
        assert_eq!(chain(&error), "no answer: connect: refused (os error 111)");
    }
}
