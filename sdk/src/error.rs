//! The error that a plugin answers with: one line for whoever wrote the configuration or looks after the subscription.

use std::fmt;

/// What went wrong, as one line of text.
///
/// `?` turns any `std::error::Error` into it, with the chain of its sources joined by `: `. It is not itself a
/// `std::error::Error`, because that would forbid the conversion.
pub struct Error {
    message: String,
}

impl Error {
    /// An error with this message: lower-case, without a full stop, saying what was expected and what was found.
    pub fn new(message: impl fmt::Display) -> Self {
        Self { message: message.to_string() }
    }

    /// Puts what was being done before what went wrong: `context: message`.
    #[must_use]
    pub fn context(self, context: impl fmt::Display) -> Self {
        Self { message: format!("{context}: {}", self.message) }
    }
}

impl<E: std::error::Error> From<E> for Error {
    fn from(error: E) -> Self {
        let mut message = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            let cause_text = cause.to_string();
            // Some errors already print their source; saying it twice helps nobody.
            if !message.ends_with(&cause_text) {
                message.push_str(": ");
                message.push_str(&cause_text);
            }
            source = cause.source();
        }
        Self { message }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.message, f)
    }
}

/// Adds what was being done to the error of a `Result`, or gives a missing `Option` its message.
pub trait Context<T> {
    /// Puts `context` before the error's message.
    ///
    /// # Errors
    /// The error it was called on, or for `None` the context itself.
    fn context(self, context: impl fmt::Display) -> Result<T, Error>;
}

impl<T, E: Into<Error>> Context<T> for Result<T, E> {
    fn context(self, context: impl fmt::Display) -> Result<T, Error> {
        self.map_err(|error| error.into().context(context))
    }
}

impl<T> Context<T> for Option<T> {
    fn context(self, context: impl fmt::Display) -> Result<T, Error> {
        self.ok_or_else(|| Error::new(context))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<u8, Error> {
        Ok(text.parse::<u8>()?)
    }

    #[test]
    fn takes_any_standard_error_and_adds_context() {
        let error = parse("x").context("reading the limit").unwrap_err();
        assert_eq!(error.to_string(), "reading the limit: invalid digit found in string");
        assert_eq!(None::<u8>.context("no limit").unwrap_err().to_string(), "no limit");
    }

    #[test]
    fn joins_the_chain_of_sources() {
        #[derive(Debug)]
        struct Outer(std::num::ParseIntError);
        impl fmt::Display for Outer {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("reading the limit")
            }
        }
        impl std::error::Error for Outer {
            fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
                Some(&self.0)
            }
        }
        let outer = Outer("x".parse::<u8>().unwrap_err());
        assert_eq!(Error::from(outer).to_string(), "reading the limit: invalid digit found in string");
    }
}
