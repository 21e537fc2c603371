//! The pages of the guides, and the fenced blocks in them.

use std::fs;
use std::path::Path;

use sluiced_tests::paths::workspace;

/// One page.
#[derive(Debug)]
pub(super) struct Page {
    /// Its path in the repository.
    pub(super) path: String,
    pub(super) text: String,
    pub(super) blocks: Vec<Block>,
}

/// One fenced block.
#[derive(Debug)]
pub(super) struct Block {
    /// What stands behind its fence.
    pub(super) language: String,
    pub(super) text: String,
    /// The line of its fence, counted from 1.
    pub(super) line: usize,
    /// Does it follow the block before it, with nothing but an empty line between?
    pub(super) follows: bool,
}

/// All pages: the README, the guides, and what the guides send one to.
pub(super) fn all() -> Vec<Page> {
    let mut paths = vec!["README.md".to_owned(), "sdk/FIXTURES.md".to_owned()];
    below("docs", &mut paths);
    below("plugins", &mut paths);
    paths.sort();
    paths.into_iter().map(read).collect()
}

fn below(folder: &str, paths: &mut Vec<String>) {
    for entry in fs::read_dir(workspace().join(folder)).unwrap_or_else(|error| panic!("{folder}: {error}")) {
        let entry = entry.expect("an entry");
        let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
        if path.ends_with("node_modules") {
            continue;
        }
        if entry.path().is_dir() {
            below(&path, paths);
        } else if Path::new(&path).extension().is_some_and(|extension| extension == "md") {
            paths.push(path);
        }
    }
}

fn read(path: String) -> Page {
    let text = fs::read_to_string(workspace().join(&path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    let blocks = blocks(&text);
    Page { path, text, blocks }
}

fn blocks(text: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut open: Option<Block> = None;
    let mut follows = false;
    for (at, line) in text.lines().enumerate() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            open = match open.take() {
                Some(block) => {
                    blocks.push(block);
                    follows = true;
                    None
                }
                None => Some(Block { language: language.to_owned(), text: String::new(), line: at + 1, follows }),
            };
        } else if let Some(block) = &mut open {
            block.text += line;
            block.text.push('\n');
        } else {
            follows &= line.trim().is_empty();
        }
    }
    assert!(open.is_none(), "a block has no end: {open:?}");
    blocks
}
