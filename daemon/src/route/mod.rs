//! From event types to subscriptions: a trie of patterns, built once and never changed, so that matching costs what
//! matches and not how many there are.

use std::collections::HashMap;

use crate::domain::Pattern;

#[derive(Debug, Default)]
struct Node {
    literal: HashMap<Box<str>, usize>,
    star: Option<usize>,
    /// Subscriptions whose pattern ends here.
    here: Vec<u32>,
    /// Subscriptions whose pattern has `>` here.
    rest: Vec<u32>,
}

/// An immutable table from patterns to small numbers (indices of the caller's own).
#[derive(Debug)]
pub struct Table {
    nodes: Vec<Node>,
}

impl Default for Table {
    fn default() -> Self {
        Self::new([])
    }
}

impl Table {
    /// Builds the table of those patterns.
    pub fn new<'a>(entries: impl IntoIterator<Item = (&'a Pattern, u32)>) -> Self {
        let mut table = Self { nodes: vec![Node::default()] };
        for (pattern, target) in entries {
            table.insert(pattern, target);
        }
        table
    }

    /// Puts the targets of every pattern that matches into `found`, each once, in ascending order.
    pub fn matches(&self, subject: &str, found: &mut Vec<u32>) {
        found.clear();
        self.walk(0, Some(subject), found);
        found.sort_unstable();
        found.dedup();
    }

    fn insert(&mut self, pattern: &Pattern, target: u32) {
        let mut at = 0;
        for token in pattern.tokens() {
            if token == ">" {
                self.nodes[at].rest.push(target);
                return;
            }
            let next = if token == "*" { self.nodes[at].star } else { self.nodes[at].literal.get(token).copied() };
            at = next.unwrap_or_else(|| self.add_child(at, token));
        }
        self.nodes[at].here.push(target);
    }

    fn add_child(&mut self, at: usize, token: &str) -> usize {
        let new = self.nodes.len();
        self.nodes.push(Node::default());
        if token == "*" {
            self.nodes[at].star = Some(new);
        } else {
            self.nodes[at].literal.insert(token.into(), new);
        }
        new
    }

    fn walk(&self, at: usize, rest: Option<&str>, found: &mut Vec<u32>) {
        let node = &self.nodes[at];
        let Some(rest) = rest else {
            found.extend_from_slice(&node.here);
            return;
        };
        found.extend_from_slice(&node.rest);
        let (token, rest) = match rest.split_once('.') {
            Some((token, rest)) => (token, Some(rest)),
            None => (rest, None),
        };
        if let Some(&next) = node.literal.get(token) {
            self.walk(next, rest, found);
        }
        if let Some(next) = node.star {
            self.walk(next, rest, found);
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
    }
}
