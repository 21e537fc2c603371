//! From event types to subscriptions: a trie of patterns, so that matching costs what matches and not how many there are.
//! Tables share what they have in common: one more pattern costs what its own tokens do.

use std::collections::HashMap;
use std::sync::Arc;

use crate::domain::Pattern;

#[derive(Debug, Clone, Default)]
struct Node {
    literal: HashMap<Arc<str>, Arc<Node>>,
    star: Option<Arc<Node>>,
    /// Subscriptions whose pattern ends here.
    here: Vec<u32>,
    /// Subscriptions whose pattern has `>` here.
    rest: Vec<u32>,
}

/// A table from patterns to small numbers (indices of the caller's own). Cloning shares it: what is put into one clone the
/// others do not have.
#[derive(Debug, Clone, Default)]
pub struct Table {
    root: Arc<Node>,
}

impl Table {
    /// Builds the table of those patterns.
    pub fn new<'a>(entries: impl IntoIterator<Item = (&'a Pattern, u32)>) -> Self {
        let mut table = Self::default();
        for (pattern, target) in entries {
            table.insert(pattern, target);
        }
        table
    }

    /// Puts the targets of every pattern that matches into `found`, each once, in ascending order.
    pub fn matches(&self, subject: &str, found: &mut Vec<u32>) {
        found.clear();
        self.root.walk(Some(subject), found);
        found.sort_unstable();
        found.dedup();
    }

    /// Puts one more pattern in.
    pub fn insert(&mut self, pattern: &Pattern, target: u32) {
        // A node that another table has too is copied, and no other.
        let mut at = Arc::make_mut(&mut self.root);
        for token in pattern.tokens() {
            let next = match token {
                ">" => return at.rest.push(target),
                "*" => at.star.get_or_insert_default(),
                // Looked up first: nearly all tokens are there already, and a new one takes a text of its own.
                token if at.literal.contains_key(token) => at.literal.get_mut(token).expect("it was seen just now"),
                token => at.literal.entry(token.into()).or_default(),
            };
            at = Arc::make_mut(next);
        }
        at.here.push(target);
    }
}

impl Node {
    fn walk(&self, rest: Option<&str>, found: &mut Vec<u32>) {
        let Some(rest) = rest else {
            found.extend_from_slice(&self.here);
            return;
        };
        found.extend_from_slice(&self.rest);
        let (token, rest) = match rest.split_once('.') {
            Some((token, rest)) => (token, Some(rest)),
            None => (rest, None),
        };
        if let Some(next) = self.literal.get(token) {
            next.walk(rest, found);
        }
        if let Some(next) = &self.star {
            next.walk(rest, found);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn token(wild: bool) -> impl Strategy<Value = String> {
        if wild { "a|b|c|dd|\\*" } else { "a|b|c|dd" }.prop_map(|t| t)
    }

    fn pattern() -> impl Strategy<Value = Pattern> {
        (proptest::collection::vec(token(true), 0..4), any::<bool>()).prop_map(|(mut tokens, rest)| {
            if rest || tokens.is_empty() {
                tokens.push(">".into());
            }
            Pattern::parse(&tokens.join(".")).expect("made to be valid")
        })
    }

    fn subject() -> impl Strategy<Value = String> {
        proptest::collection::vec(token(false), 1..5).prop_map(|tokens| tokens.join("."))
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]
        #[test]
        fn finds_what_a_naive_matcher_finds(
            entries in proptest::collection::vec((pattern(), 0u32..6), 0..30),
            subject in subject(),
        ) {
            let table = Table::new(entries.iter().map(|(p, t)| (p, *t)));
            let mut found = Vec::new();
            table.matches(&subject, &mut found);
            let mut naive: Vec<u32> = entries.iter().filter(|(p, _)| p.matches(&subject)).map(|(_, t)| *t).collect();
            naive.sort_unstable();
            naive.dedup();
            prop_assert_eq!(found, naive);
        }

        #[test]
        fn what_one_table_gets_the_one_that_it_was_made_of_has_not(
            before in proptest::collection::vec((pattern(), 0u32..6), 0..20),
            added in proptest::collection::vec((pattern(), 6u32..9), 0..5),
            subject in subject(),
        ) {
            let matches = |table: &Table| {
                let mut found = Vec::new();
                table.matches(&subject, &mut found);
                found
            };
            let table = Table::new(before.iter().map(|(p, t)| (p, *t)));
            let (alone, mut more) = (matches(&table), table.clone());
            added.iter().for_each(|(pattern, target)| more.insert(pattern, *target));
            let whole = Table::new(before.iter().chain(&added).map(|(p, t)| (p, *t)));
            prop_assert_eq!((matches(&table), matches(&more)), (alone, matches(&whole)));
        }
    }
}
