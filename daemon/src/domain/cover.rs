//! A small set of disjoint patterns that covers given ones.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::subject::{Pattern, hull};

/// The smallest set of patterns with no two overlapping that covers all of `patterns`, of at most `max`, which must not be 0.
/// Where it would take more, patterns that begin alike give way to the narrowest one that contains them all, those with the
/// most tokens in common first: it then also matches what none of `patterns` does.
pub fn cover_of_at_most(max: usize, patterns: impl IntoIterator<Item = Pattern>) -> Vec<Pattern> {
    let mut all = cover(patterns);
    while all.len() > max {
        all = cover(widened(max, &all));
    }
    all
}

/// The smallest set of patterns with no two overlapping that covers all of `patterns`: what a JetStream consumer takes as
/// its filter subjects, which must not overlap. Patterns that overlap without one containing the other are merged into
/// the narrowest pattern that contains both.
///
/// Each pattern is looked for in a tree of tokens: ten thousand subscriptions with a type each take no ten thousand times
/// ten thousand comparisons.
fn cover(patterns: impl IntoIterator<Item = Pattern>) -> Vec<Pattern> {
    let mut cover = Node::default();
    for pattern in patterns {
        let mut merged = pattern;
        loop {
            let tokens: Vec<&str> = merged.tokens().collect();
            let Some(other) = cover.overlapping(&tokens).cloned() else { break };
            cover.remove(&other.tokens().collect::<Vec<_>>());
            merged = hull(&other, &merged);
        }
        let tokens: Vec<Box<str>> = merged.tokens().map(Into::into).collect();
        cover.insert(&tokens, merged);
    }
    let mut all = Vec::new();
    cover.collect(&mut all);
    all.sort();
    all
}

/// The same in order, with fewer patterns.
fn widened(max: usize, all: &[Pattern]) -> Vec<Pattern> {
    // Those that begin with the same tokens stand side by side.
    let depth = all.windows(2).map(|pair| beginning(&pair[0], &pair[1])).max().unwrap_or(0);
    let mut alike: Vec<&[Pattern]> = all.chunk_by(|a, b| beginning(a, b) >= depth).collect();
    alike.sort_by_key(|group| Reverse(group.len()));
    let mut left = all.len();
    let mut wide = Vec::new();
    for group in alike {
        match group {
            [first, rest @ ..] if left > max => {
                left -= rest.len();
                wide.push(rest.iter().fold(first.clone(), |all, one| hull(&all, one)));
            }
            group => wide.extend_from_slice(group),
        }
    }
    wide
}

/// How many tokens two patterns begin with alike, and then go on both.
fn beginning(a: &Pattern, b: &Pattern) -> usize {
    let (a, b): (Vec<&str>, Vec<&str>) = (a.tokens().collect(), b.tokens().collect());
    let alike = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
    alike.min(a.len().min(b.len()) - 1)
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

    #[test]
    fn a_cover_that_would_be_too_large_is_wider_where_patterns_begin_alike() {
        let texts = |max, set: &[&str]| -> Vec<String> {
            cover_of_at_most(max, set.iter().map(|t| pattern(t))).iter().map(ToString::to_string).collect()
        };
        assert_eq!(texts(3, &["e.a", "e.b", "f"]), ["e.a", "e.b", "f"]);
        assert_eq!(texts(2, &["e.a", "e.b", "f"]), ["e.*", "f"]);
        assert_eq!(texts(2, &["e.a.x", "e.b.x", "e.c.x", "f.a", "f.b.c"]), ["e.*.x", "f.>"]);
        assert_eq!(texts(3, &["e.a.x", "e.a.y", "e.b", "f"]), ["e.a.*", "e.b", "f"]);
        assert_eq!(texts(1, &["e", "e.a", "f.b"]), [">"]);
        let many: Vec<String> = (0..10_000).map(|number| format!("events.tenant{number}.orders")).collect();
        assert_eq!(texts(256, &many.iter().map(String::as_str).collect::<Vec<_>>()), ["events.*.orders"]);
    }

    proptest! {
        #[test]
        fn a_bounded_cover_matches_all_that_its_parts_match(
            max in 1..4_usize,
            set in proptest::collection::vec(tokens(true), 1..12),
            s in tokens(false),
        ) {
            let parts: Vec<Pattern> = set.iter().map(|t| pattern(t)).collect();
            let cover = cover_of_at_most(max, parts.clone());
            prop_assert!(cover.len() <= max);
            prop_assert!(!parts.iter().any(|p| p.matches(&s)) || cover.iter().filter(|p| p.matches(&s)).count() == 1);
            for (at, one) in cover.iter().enumerate() {
                prop_assert!(cover[at + 1..].iter().all(|other| !one.overlaps(other)), "{:?}", cover);
            }
        }

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
