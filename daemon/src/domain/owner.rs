//! An owner: the tenant whose a subscription is.

use std::fmt;
use std::sync::Arc;

/// The longest owner, in characters.
pub const OWNER_CHARS_MAX: usize = 128;

/// Whose a subscription is: the `sub` of a token, or a name that the operator gave. Whoever has none is the operator, who
/// sees everything.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner(Arc<str>);

/// A text that is not an owner.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an owner is 1 to {OWNER_CHARS_MAX} printable characters, with no space at either end")]
pub struct OwnerError;

impl Owner {
    /// Parses an owner.
    ///
    /// # Errors
    /// When the text is empty or too long, holds a control character, or has white space at an end.
    pub fn parse(text: &str) -> Result<Self, OwnerError> {
        let printable = !text.chars().any(char::is_control) && text.trim() == text;
        if !printable || text.is_empty() || text.chars().count() > OWNER_CHARS_MAX {
            return Err(OwnerError);
        }
        Ok(Self(text.into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The text as one token of a pattern, when it can stand there: it has neither a dot nor a wildcard nor white space, so
    /// that it makes no pattern wider or longer than it was written.
    pub fn token(&self) -> Option<&str> {
        let splits = |c: char| matches!(c, '.' | '*' | '>') || c.is_whitespace();
        (!self.0.chars().any(splits)).then_some(&self.0)
    }
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_a_printable_text() {
        for good in ["a", "acme", "auth0|507f1f77", "Jörg Müller", "a.b", &"x".repeat(OWNER_CHARS_MAX)] {
            assert_eq!(Owner::parse(good).map(|owner| owner.to_string()), Ok(good.to_owned()));
        }
        for bad in ["", " ", " a", "a ", "a\nb", "a\0", &"x".repeat(OWNER_CHARS_MAX + 1)] {
            assert_eq!(Owner::parse(bad), Err(OwnerError), "{bad:?}");
        }
    }

    #[test]
    fn only_what_is_one_token_stands_in_a_pattern() {
        let token = |text: &str| Owner::parse(text).expect("an owner").token().map(ToOwned::to_owned);
        assert_eq!(token("auth0|507"), Some("auth0|507".to_owned()));
        for bad in ["a.b", "*", ">", "a>", "a b", "a\u{2003}b", "x*"] {
            assert_eq!(token(bad), None, "{bad:?}");
        }
    }
}
