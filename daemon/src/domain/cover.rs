//! The smallest set of disjoint patterns that covers given ones.

use std::collections::BTreeMap;

use super::subject::{Pattern, join};

/// The smallest set of patterns with no two overlapping that covers all of `patterns`: what a JetStream consumer takes as
/// its filter subjects, which must not overlap. Patterns that overlap without one containing the other are merged into
/// the narrowest pattern that contains both.
///
/// Each pattern is looked for in a tree of tokens: ten thousand subscriptions with a type each take no ten thousand times
/// ten thousand comparisons.
pub fn cover(patterns: impl IntoIterator<Item = Pattern>) -> Vec<Pattern> {
    let mut cover = Node::default();
    for pattern in patterns {
        let mut merged = pattern;
        loop {
            let tokens: Vec<&str> = merged.tokens().collect();
            let Some(other) = cover.overlapping(&tokens).cloned() else { break };
            cover.remove(&other.tokens().collect::<Vec<_>>());
            merged = join(&other, &merged);
        }
        let tokens: Vec<Box<str>> = merged.tokens().map(Into::into).collect();
        cover.insert(&tokens, merged);
    }
    let mut all = Vec::new();
    cover.collect(&mut all);
    all.sort();
    all
}

/// The patterns that begin with the same tokens. A node that is not the root has a pattern, here or below.
#[derive(Default)]
struct Node {
    /// The pattern that ends here.
    pattern: Option<Pattern>,
    children: BTreeMap<Box<str>, Node>,
}

impl Node {
    fn insert(&mut self, tokens: &[Box<str>], pattern: Pattern) {
        match tokens.split_first() {
            None => self.pattern = Some(pattern),
            Some((first, rest)) => self.children.entry(first.clone()).or_default().insert(rest, pattern),
        }
    }

    fn remove(&mut self, tokens: &[&str]) {
        let Some((first, rest)) = tokens.split_first() else {
            self.pattern = None;
            return;
        };
        if let Some(child) = self.children.get_mut(*first) {
            child.remove(rest);
            if child.pattern.is_none() && child.children.is_empty() {
                self.children.remove(*first);
            }
        }
    }

    /// A pattern here or below that overlaps the one with those further tokens.
    fn overlapping(&self, tokens: &[&str]) -> Option<&Pattern> {
        let Some((first, rest)) = tokens.split_first() else { return self.pattern.as_ref() };
        if let Some(tail) = self.children.get(">") {
            return tail.pattern.as_ref();
        }
        match *first {
            ">" => self.children.values().find_map(Self::any),
            "*" => self.children.values().find_map(|child| child.overlapping(rest)),
            token => [token, "*"].iter().find_map(|token| self.children.get(*token)?.overlapping(rest)),
        }
    }

    /// Some pattern here or below.
    fn any(&self) -> Option<&Pattern> {
        self.pattern.as_ref().or_else(|| self.children.values().find_map(Self::any))
    }

    fn collect(self, all: &mut Vec<Pattern>) {
        all.extend(self.pattern);
        self.children.into_values().for_each(|child| child.collect(all));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::subject::tests::{pattern, tokens};
    use super::*;

    #[test]
    fn covers_are_small_and_disjoint() {
        let texts = |set: &[&str]| -> Vec<String> {
            cover(set.iter().map(|t| pattern(t))).iter().map(ToString::to_string).collect()
        };
        assert_eq!(texts(&["a.b", "a.*", "c.>"]), ["a.*", "c.>"]);
        assert_eq!(texts(&["a.*", "*.b"]), ["*.*"]);
        assert_eq!(texts(&["a.b", "c.d"]), ["a.b", "c.d"]);
        assert_eq!(texts(&["a.b", "a.b.c", "a", "a.>"]), ["a", "a.>"]);
        assert_eq!(texts(&[">", "a.b"]), [">"]);
    }

    proptest! {
        #[test]
        fn a_cover_matches_all_that_its_parts_match(set in proptest::collection::vec(tokens(true), 1..8), s in tokens(false)) {
            let parts: Vec<Pattern> = set.iter().map(|t| pattern(t)).collect();
            let cover = cover(parts.clone());
            if parts.iter().any(|p| p.matches(&s)) {
                prop_assert_eq!(cover.iter().filter(|p| p.matches(&s)).count(), 1);
            }
            for (at, one) in cover.iter().enumerate() {
                prop_assert!(cover[at + 1..].iter().all(|other| !one.overlaps(other)), "{:?}", cover);
                prop_assert!(parts.iter().any(|part| one.contains(part)), "{} covers nothing", one);
            }
        }
    }
}
