//! Which event types somebody may have to do with: a union of patterns, and whether another pattern lies within it.

use super::owner::Owner;
use super::subject::{Error as SubjectError, Pattern};

/// The most patterns of one allow-list.
pub const ALLOWED_PATTERNS_MAX: usize = 64;
/// What stands for the owner in a pattern that is written for many.
pub const OWNER_PLACEHOLDER: &str = "{sub}";

/// Why an allow-list cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// More than [`ALLOWED_PATTERNS_MAX`].
    #[error("there are more than {ALLOWED_PATTERNS_MAX} patterns")]
    Count,
    /// One is no pattern.
    #[error("{text:?} is not a pattern of event types: {source}")]
    Pattern {
        /// As it is written.
        text: Box<str>,
        /// Why not.
        source: SubjectError,
    },
    /// The placeholder is only a part of a token.
    #[error("{text:?} has {OWNER_PLACEHOLDER} in a token with other letters: it must be a whole token")]
    Placeholder {
        /// As it is written.
        text: Box<str>,
    },
    /// The owner would change the shape of a pattern.
    #[error("the owner cannot stand in {text:?}: it has a dot, a wildcard or white space")]
    Owner {
        /// As it is written.
        text: Box<str>,
    },
    /// The placeholder stands where nobody owns anything.
    #[error("{text:?} asks for an owner, and there is none")]
    NoOwner {
        /// As it is written.
        text: Box<str>,
    },
}

/// The event types that somebody may publish, listen to and subscribe to: all that one of the patterns matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowList(Box<[Pattern]>);

impl AllowList {
    /// Every type.
    pub fn everything() -> Self {
        Self([Pattern::parse(">").expect("a wildcard alone is a pattern")].into())
    }

    /// The list of those patterns.
    pub fn new(patterns: Vec<Pattern>) -> Self {
        Self(patterns.into())
    }

    /// The list that is written as `texts`, with `owner` in the place of each `{sub}`.
    ///
    /// # Errors
    /// When there are too many, one is no pattern, or the owner cannot stand in one without changing its shape.
    pub fn of<'a>(texts: impl IntoIterator<Item = &'a str>, owner: Option<&Owner>) -> Result<Self, Error> {
        let mut patterns = Vec::new();
        for text in texts {
            if patterns.len() == ALLOWED_PATTERNS_MAX {
                return Err(Error::Count);
            }
            patterns.push(fill(text, owner)?);
        }
        Ok(Self(patterns.into()))
    }

    /// The patterns.
    pub fn patterns(&self) -> &[Pattern] {
        &self.0
    }

    /// Is that type allowed?
    pub fn allows(&self, kind: &str) -> bool {
        self.0.iter().any(|pattern| pattern.matches(kind))
    }

    /// Is every type that matches `asked` allowed? Exact, also when only several patterns together hold it.
    ///
    /// A token can be any text, and no pattern names them all: what `*` stands for is covered only by `*` or `>`. So of the
    /// types of one length, a single pattern must hold all that `asked` matches. A `>` at the end of `asked` matches many
    /// lengths, and different patterns may hold different ones; beyond the longest pattern all lengths are alike.
    pub fn contains(&self, asked: &Pattern) -> bool {
        let tokens: Vec<&str> = asked.tokens().collect();
        let Some((&">", fixed)) = tokens.split_last() else {
            return self.0.iter().any(|pattern| pattern.contains(asked));
        };
        let longest = self.0.iter().map(|pattern| pattern.tokens().count()).max().unwrap_or(0);
        let mut slice: Vec<&str> = fixed.to_vec();
        (fixed.len() + 1..=longest.max(fixed.len()) + 1).all(|length| {
            slice.resize(length, "*");
            self.0.iter().any(|pattern| holds(pattern, &slice))
        })
    }
}

/// Does the pattern match every type that those tokens, of which none is `>`, do?
fn holds(pattern: &Pattern, tokens: &[&str]) -> bool {
    let (mut own, mut asked) = (pattern.tokens(), tokens.iter());
    loop {
        match (own.next(), asked.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(_)) => {}
            (Some(a), Some(b)) if a == *b => {}
            _ => return false,
        }
    }
}

/// Checks a text that may hold the placeholder, for whatever owner.
///
/// # Errors
/// When it is no pattern, or the placeholder stands in a part of a token.
pub fn check(text: &str) -> Result<(), Error> {
    let example = Owner::parse("owner").expect("a plain word");
    fill(text, Some(&example)).map(drop)
}

fn fill(text: &str, owner: Option<&Owner>) -> Result<Pattern, Error> {
    let told = || -> Box<str> { text.into() };
    let filled = |token| match token {
        OWNER_PLACEHOLDER => {
            let owner = owner.ok_or_else(|| Error::NoOwner { text: told() })?;
            owner.token().ok_or_else(|| Error::Owner { text: told() })
        }
        token if token.contains(OWNER_PLACEHOLDER) => Err(Error::Placeholder { text: told() }),
        token => Ok(token),
    };
    let tokens = text.split('.').map(filled).collect::<Result<Vec<_>, _>>()?;
    Pattern::parse(&tokens.join(".")).map_err(|source| Error::Pattern { text: told(), source })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).expect(text)
    }

    fn list(texts: &[&str]) -> AllowList {
        AllowList::of(texts.iter().copied(), None).expect("patterns")
    }

    #[test]
    fn several_patterns_together_may_hold_one() {
        for (allowed, asked, expected) in [
            (&["a.*", "a.*.>"][..], "a.>", true),
            (&["a.*", "a.*.*", "a.*.*.>"], "a.>", true),
            (&["a.*", "a.*.*.>"], "a.>", false),
            (&["*", "*.>"], ">", true),
            (&["a", "b"], "*", false),
            (&["a.b", "a.*"], "a.*", true),
            (&["a.>"], "a", false),
            (&[">"], ">", true),
            (&[], "a", false),
            (&["a.>"], "a.b.*.>", true),
            (&["*.b.>", "a.b"], "a.>", false),
            (&["a.*.c.>", "a.*", "a.*.*"], "a.>", false),
        ] {
            assert_eq!(list(allowed).contains(&pattern(asked)), expected, "{asked} in {allowed:?}");
        }
    }

    #[test]
    fn the_owner_takes_the_place_of_a_whole_token_and_widens_nothing() {
        let owner = |text: &str| Owner::parse(text).expect("an owner");
        let filled = |text, who: &str| AllowList::of([text], Some(&owner(who)));
        assert_eq!(filled("users.{sub}.>", "u1"), Ok(list(&["users.u1.>"])));
        for who in ["*", ">", "a.b", "a.>", "a b"] {
            assert!(matches!(filled("users.{sub}.>", who), Err(Error::Owner { .. })), "{who}");
        }
        assert!(matches!(filled("users.x{sub}", "u1"), Err(Error::Placeholder { .. })));
        assert!(matches!(AllowList::of(["{sub}"], None), Err(Error::NoOwner { .. })));
        assert!(matches!(check("a..{sub}"), Err(Error::Pattern { .. })));
        assert_eq!((check("users.{sub}"), filled("orders.>", "a.b")), (Ok(()), Ok(list(&["orders.>"]))));
        assert_eq!(AllowList::of(["a"; ALLOWED_PATTERNS_MAX + 1], None), Err(Error::Count));
    }

    fn tokens(letters: &'static str) -> impl Strategy<Value = String> {
        (proptest::collection::vec(letters, 1..4), any::<bool>()).prop_map(|(mut parts, rest)| {
            if rest {
                parts.pop();
                parts.push(">".into());
            }
            parts.join(".")
        })
    }

    /// All types of up to `length` tokens out of `a`, `b` and one that no pattern names.
    fn all_types(length: usize) -> Vec<String> {
        let (mut all, mut last) = (Vec::new(), vec![String::new()]);
        for _ in 0..length {
            last = last
                .iter()
                .flat_map(|start| ["a", "b", "z"].map(|token| format!("{start}.{token}").trim_matches('.').to_owned()))
                .collect();
            all.extend(last.iter().cloned());
        }
        all
    }

    proptest! {
        #[test]
        fn containment_is_what_trying_every_type_says(
            allowed in proptest::collection::vec(tokens("a|b|\\*"), 0..6), asked in tokens("a|b|\\*"),
        ) {
            let list = AllowList::new(allowed.iter().map(|text| pattern(text)).collect());
            let asked = pattern(&asked);
            // No pattern has more than three tokens: what holds for types of four and five holds for longer ones.
            let tried = all_types(5).iter().filter(|kind| asked.matches(kind)).all(|kind| list.allows(kind));
            prop_assert_eq!(list.contains(&asked), tried, "{} in {:?}", asked, list);
        }

        #[test]
        fn no_owner_reaches_beyond_the_pattern_that_was_written(who in "[a-c.*> ]{1,6}|.{1,8}", rest in "[a-c]{1,3}") {
            if let Ok(owner) = Owner::parse(&who)
                && let Ok(list) = AllowList::of(["users.{sub}.>"], Some(&owner))
            {
                let kind = format!("users.{}.{rest}", owner);
                prop_assert!(list.allows(&kind));
                let other = format!("users.other{}.{rest}", owner);
                prop_assert!(!list.allows(&other) && !list.contains(&pattern("users.>")));
            }
        }
    }
}
