//! NATS subjects and wildcard patterns, also used for event types: dot-separated tokens, `*` for one token, `>` for the
//! rest.

use std::fmt;

/// The longest subject or pattern accepted, in bytes.
pub const SUBJECT_BYTES_MAX: usize = 512;

/// Why a text is not a subject or pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No text at all.
    #[error("it is empty")]
    Empty,
    /// Longer than [`SUBJECT_BYTES_MAX`].
    #[error("it is longer than {SUBJECT_BYTES_MAX} bytes")]
    TooLong,
    /// Two dots in a row, or a dot at an end.
    #[error("it has an empty token (a dot at an end, or two in a row)")]
    EmptyToken,
    /// White space or a control character.
    #[error("it contains white space or a control character")]
    Whitespace,
    /// A wildcard in a place where none may stand.
    #[error("a wildcard must be a whole token, `>` only the last one")]
    Wildcard,
}

fn check_tokens(text: &str, wildcards: bool) -> Result<(), Error> {
    if text.is_empty() {
        return Err(Error::Empty);
    }
    if text.len() > SUBJECT_BYTES_MAX {
        return Err(Error::TooLong);
    }
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(Error::Whitespace);
    }
    let mut tokens = text.split('.').peekable();
    while let Some(token) = tokens.next() {
        let last = tokens.peek().is_none();
        match token {
            "" => return Err(Error::EmptyToken),
            "*" if wildcards => {}
            ">" if wildcards && last => {}
            _ if token.contains(['*', '>']) => return Err(Error::Wildcard),
            _ => {}
        }
    }
    Ok(())
}

/// A concrete NATS subject or event type: no wildcards.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subject(Box<str>);

impl Subject {
    /// Parses a subject.
    ///
    /// # Errors
    /// When the text is not a valid subject without wildcards.
    pub fn parse(text: &str) -> Result<Self, Error> {
        check_tokens(text, false)?;
        Ok(Self(text.into()))
    }

    /// The text of the subject.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A subject pattern: `*` matches one token, a final `>` matches one token or more.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pattern(Box<str>);

impl Pattern {
    /// Parses a pattern.
    ///
    /// # Errors
    /// When the text is not a valid subject or wildcard pattern.
    pub fn parse(text: &str) -> Result<Self, Error> {
        check_tokens(text, true)?;
        Ok(Self(text.into()))
    }

    /// The text of the pattern.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The tokens in order.
    pub fn tokens(&self) -> impl Iterator<Item = &str> {
        self.0.split('.')
    }

    /// Does a concrete subject match this pattern?
    pub fn matches(&self, subject: &str) -> bool {
        let mut pattern = self.tokens();
        let mut tokens = subject.split('.');
        loop {
            match (pattern.next(), tokens.next()) {
                (Some(">"), Some(_)) | (None, None) => return true,
                (Some("*"), Some(_)) => {}
                (Some(p), Some(t)) if p == t => {}
                _ => return false,
            }
        }
    }

    /// Does every subject that `other` matches also match this pattern?
    pub fn contains(&self, other: &Pattern) -> bool {
        let mut own = self.tokens();
        let mut others = other.tokens();
        loop {
            match (own.next(), others.next()) {
                (Some(">"), Some(_)) | (None, None) => return true,
                (Some("*"), Some(token)) if token != ">" => {}
                (Some(a), Some(b)) if a == b => {}
                _ => return false,
            }
        }
    }

    /// Is there a subject that both patterns match?
    pub fn overlaps(&self, other: &Pattern) -> bool {
        let mut own = self.tokens();
        let mut others = other.tokens();
        loop {
            match (own.next(), others.next()) {
                (Some(">"), Some(_)) | (Some(_), Some(">")) | (None, None) => return true,
                (Some("*"), Some(_)) | (Some(_), Some("*")) => {}
                (Some(a), Some(b)) if a == b => {}
                _ => return false,
            }
        }
    }

    /// The pattern with `prefix` put before it: how a pattern over event types becomes one over subjects.
    ///
    /// # Errors
    /// When the result is not a valid pattern.
    pub fn prefixed(&self, prefix: &str) -> Result<Pattern, Error> {
        Pattern::parse(&format!("{prefix}{}", self.0))
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The narrowest pattern that contains both of two patterns.
pub(super) fn hull(a: &Pattern, b: &Pattern) -> Pattern {
    let mut out = Vec::new();
    let (mut left, mut right) = (a.tokens().peekable(), b.tokens().peekable());
    while let (Some(x), Some(y)) = (left.next(), right.next()) {
        // A `>` takes one token or more, so it also has to stand for the last one of a pattern that ends before the other.
        if x == ">" || y == ">" || left.peek().is_some() != right.peek().is_some() {
            out.push(">");
            break;
        }
        out.push(if x == y { x } else { "*" });
    }
    Pattern(out.join(".").into())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(in crate::domain) fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).expect(text)
    }

    /// A subject of a few tokens, or a pattern.
    pub(in crate::domain) fn tokens(wild: bool) -> impl Strategy<Value = String> {
        let token = if wild { "a|b|c|\\*" } else { "a|b|c" };
        (proptest::collection::vec(token, 1..4), any::<bool>()).prop_map(move |(mut parts, rest)| {
            if wild && rest {
                parts.push(">".into());
            }
            parts.join(".")
        })
    }

    #[test]
    fn refuses_what_is_no_subject() {
        assert_eq!(Pattern::parse(""), Err(Error::Empty));
        assert_eq!(Pattern::parse("a..b"), Err(Error::EmptyToken));
        assert_eq!(Pattern::parse(".a"), Err(Error::EmptyToken));
        assert_eq!(Pattern::parse("a b"), Err(Error::Whitespace));
        assert_eq!(Pattern::parse("a.>.b"), Err(Error::Wildcard));
        assert_eq!(Pattern::parse("a*.b"), Err(Error::Wildcard));
        assert_eq!(Subject::parse("a.*"), Err(Error::Wildcard));
        assert_eq!(Pattern::parse(&"a".repeat(600)), Err(Error::TooLong));
    }

    proptest! {
        #[test]
        fn containment_and_overlap_agree_with_matching(a in tokens(true), b in tokens(true), s in tokens(false)) {
            let (a, b) = (pattern(&a), pattern(&b));
            if a.contains(&b) && b.matches(&s) {
                prop_assert!(a.matches(&s));
            }
            if a.matches(&s) && b.matches(&s) {
                prop_assert!(a.overlaps(&b));
            }
        }
    }
}
