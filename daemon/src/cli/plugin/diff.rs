//! The difference between two texts, line by line.

/// The lines of both texts in order: common ones after two spaces, those of `before` alone after `- `, those of `after` alone
/// after `+ `. For texts of some hundred lines: time and memory grow with the product of both.
pub(super) fn lines(before: &str, after: &str) -> Vec<String> {
    let (old, new): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let common = common_from(&old, &new);
    let (mut at, mut to) = (0, 0);
    let mut told = Vec::new();
    while at < old.len() || to < new.len() {
        if at < old.len() && to < new.len() && old[at] == new[to] {
            told.push(format!("  {}", old[at]));
            (at, to) = (at + 1, to + 1);
        } else if at < old.len() && (to == new.len() || common[at + 1][to] >= common[at][to + 1]) {
            told.push(format!("- {}", old[at]));
            at += 1;
        } else {
            told.push(format!("+ {}", new[to]));
            to += 1;
        }
    }
    told
}

/// How many lines the rests of both texts have in common, at most and in order, from each pair of places on.
fn common_from(old: &[&str], new: &[&str]) -> Vec<Vec<usize>> {
    let mut common = vec![vec![0; new.len() + 1]; old.len() + 1];
    for at in (0..old.len()).rev() {
        for to in (0..new.len()).rev() {
            common[at][to] = match old[at] == new[to] {
                true => common[at + 1][to + 1] + 1,
                false => common[at + 1][to].max(common[at][to + 1]),
            };
        }
    }
    common
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_common_stays_and_what_is_not_is_marked() {
        assert_eq!(lines("a\nb\nc", "a\nx\nc\nd"), ["  a", "- b", "+ x", "  c", "+ d"]);
        assert_eq!(lines("a", "a"), ["  a"]);
        assert_eq!(lines("", "a"), ["+ a"]);
        assert_eq!(lines("a", ""), ["- a"]);
    }
}
