//! Links between pages: the heading that one leads to. Whether the file is there, `tidy` looks for all documents.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use regex::Regex;

use super::pages::Page;

/// One link, or one picture.
pub(super) struct Link {
    pub(super) target: String,
    anchor: Option<String>,
}

/// The links of a text that stay in the repository.
pub(super) fn of(text: &str) -> Vec<Link> {
    let link = Regex::new(r"\]\(([^)\s]+)\)").expect("a pattern");
    let prose = without_code(text);
    let hits = link.captures_iter(&prose).map(|hit| hit[1].to_owned());
    let inside = hits.filter(|target| !target.contains("://") && !target.starts_with("mailto:"));
    inside
        .map(|target| match target.split_once('#') {
            Some((target, anchor)) => Link { target: target.to_owned(), anchor: Some(anchor.to_owned()) },
            None => Link { target, anchor: None },
        })
        .collect()
}

/// What is wrong with a link of a page.
pub(super) fn flaw(page: &Page, link: &Link, pages: &[Page]) -> Option<String> {
    let folder = Path::new(&page.path).parent().expect("a page lies somewhere");
    let path = match link.target.as_str() {
        "" => PathBuf::from(&page.path),
        target => joined(folder, target),
    };
    let anchor = link.anchor.as_ref()?;
    let Some(linked) = pages.iter().find(|page| Path::new(&page.path) == path) else {
        return Some(format!("{}: {} is no page, and has no headings", page.path, path.display()));
    };
    let is_there = headings(&linked.text).contains(anchor);
    (!is_there).then(|| format!("{}: {} has no heading #{anchor}", page.path, linked.path))
}

/// A path from a folder, without `..`.
fn joined(folder: &Path, target: &str) -> PathBuf {
    folder.join(target).components().fold(PathBuf::new(), |mut path, part| {
        match part {
            Component::ParentDir => drop(path.pop()),
            part => path.push(part),
        }
        path
    })
}

/// The anchors of a page, as GitHub and mdBook both make them of its headings.
fn headings(text: &str) -> Vec<String> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let prose = without_blocks(text);
    let headings = prose.lines().filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    let slug = |heading: &str| {
        let heading = heading.to_lowercase();
        let letters = heading.chars().filter_map(|letter| match letter {
            ' ' => Some('-'),
            letter if letter.is_alphanumeric() || matches!(letter, '-' | '_') => Some(letter),
            _ => None,
        });
        letters.collect::<String>()
    };
    let anchors = headings.map(|heading| {
        let slug = slug(heading);
        let before = seen.entry(slug.clone()).or_default();
        *before += 1;
        if *before == 1 { slug } else { format!("{slug}-{}", *before - 1) }
    });
    anchors.collect()
}

/// The text without fenced blocks.
fn without_blocks(text: &str) -> String {
    let mut is_code = false;
    let outside = text.lines().filter(|line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    });
    outside.collect::<Vec<_>>().join("\n")
}

/// The text without fenced blocks and without what stands between backticks.
fn without_code(text: &str) -> String {
    Regex::new("`[^`\n]*`").expect("a pattern").replace_all(&without_blocks(text), "`code`").into_owned()
}
