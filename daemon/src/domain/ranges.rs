//! A set of stream sequences, kept as ranges: dense histories cost one entry.

use std::collections::BTreeMap;

/// A set of `u64` kept as disjoint, non-adjacent, inclusive ranges.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RangeSet {
    /// First → last of each range.
    ranges: BTreeMap<u64, u64>,
}

impl RangeSet {
    /// An empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Is `n` in the set?
    pub fn contains(&self, n: u64) -> bool {
        self.ranges.range(..=n).next_back().is_some_and(|(_, last)| *last >= n)
    }

    /// Puts `n` in the set; false when it was there already.
    pub fn insert(&mut self, n: u64) -> bool {
        self.insert_range(n, n)
    }

    /// Puts all of `first..=last` in the set; false when all of them were there already.
    pub fn insert_range(&mut self, mut first: u64, mut last: u64) -> bool {
        assert!(first <= last, "a range runs upwards");
        if let Some((&start, &end)) = self.ranges.range(..=first).next_back() {
            if end >= last {
                return false;
            }
            if end >= first.saturating_sub(1) {
                first = start;
            }
        }
        while let Some((&start, &end)) = self.ranges.range(first..).next() {
            if start > last.saturating_add(1) {
                break;
            }
            last = last.max(end);
            self.ranges.remove(&start);
        }
        self.ranges.insert(first, last);
        true
    }

    /// Drops everything below `floor`.
    pub fn remove_below(&mut self, floor: u64) {
        while let Some((&start, &end)) = self.ranges.iter().next() {
            if start >= floor {
                break;
            }
            self.ranges.remove(&start);
            if end >= floor {
                self.ranges.insert(floor, end);
                break;
            }
        }
    }

    /// The ranges in order, both ends included.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (u64, u64)> + '_ {
        self.ranges.iter().map(|(first, last)| (*first, *last))
    }

    /// How many ranges there are: the cost of keeping the set.
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Is the set empty?
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    proptest! {
        #[test]
        fn behaves_as_a_plain_set(inserts in proptest::collection::vec((0u64..60, 0u64..6), 0..40), floor in 0u64..60) {
            let mut set = RangeSet::new();
            let mut plain = BTreeSet::new();
            for (first, more) in inserts {
                let mut new = false;
                for n in first..=first + more {
                    new |= plain.insert(n);
                }
                prop_assert_eq!(set.insert_range(first, first + more), new);
            }
            set.remove_below(floor);
            plain.retain(|n| *n >= floor);
            for n in 0..70 {
                prop_assert_eq!(set.contains(n), plain.contains(&n), "{}", n);
            }
            let spans: Vec<_> = set.iter().collect();
            prop_assert!(spans.windows(2).all(|w| w[0].1 + 1 < w[1].0), "ranges are merged");
        }
    }
}
