//! A source file with a second view of it in which comments and literals are blank.

use std::fs;
use std::path::Path;

use sluiced_tests::paths::workspace;

/// One file. `code` and `product` have the length of `text`, so that offsets are the same.
pub(super) struct Source {
    /// Relative to the workspace.
    pub(super) path: String,
    pub(super) text: String,
    /// Without comments, strings and characters.
    pub(super) code: String,
    /// `code` without modules that are compiled for tests only.
    pub(super) product: String,
}

impl Source {
    pub(super) fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let relative = path.strip_prefix(workspace()).expect("it lies in the workspace");
        Self::new(&relative.to_string_lossy(), text)
    }

    pub(super) fn new(path: &str, text: String) -> Self {
        let code = if path.ends_with(".rs") { blank_literals(&text) } else { text.clone() };
        let product = if is_test_file(path) { String::new() } else { blank_tests(&code) };
        Self { path: path.to_owned(), text, code, product }
    }

    /// A finding at a byte offset.
    pub(super) fn at(&self, offset: usize, what: &str) -> String {
        format!("{}:{}: {what}", self.path, self.line(offset))
    }

    /// The line of a byte offset, from 1.
    pub(super) fn line(&self, offset: usize) -> usize {
        self.text.as_bytes()[..offset].iter().filter(|byte| **byte == b'\n').count() + 1
    }

    /// Modules from the crate's root down to this file: `route/trie.rs` is `route`, `trie`.
    pub(super) fn module(&self) -> Vec<&str> {
        let inner = self.path.split_once("src/").map_or("", |(_, inner)| inner).trim_end_matches(".rs");
        let inner = inner.trim_end_matches("/mod");
        inner.split('/').filter(|part| *part != "lib").collect()
    }
}

/// The offset just past the bracket that closes the one at `open`; the end when it is not closed.
pub(super) fn closing(code: &str, open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return at + 1;
        }
    }
    code.len()
}

fn is_test_file(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.contains("/tests/")
}

fn blank_tests(code: &str) -> String {
    let mut product = code.to_owned();
    for (start, attribute) in code.match_indices("#[cfg(test)]") {
        let after = start + attribute.len();
        let end = code[after..].find(['{', ';']).map_or(code.len(), |at| after + at);
        blank(&mut product, start, closing(code, end));
    }
    product
}

/// Replaces everything but line ends by spaces.
fn blank(text: &mut String, start: usize, end: usize) {
    let spaces: String = text[start..end].bytes().map(|byte| if byte == b'\n' { '\n' } else { ' ' }).collect();
    text.replace_range(start..end, &spaces);
}

fn blank_literals(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = text.to_owned();
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_end(text, at);
        if end > at {
            blank(&mut code, at, end);
        }
        at = end.max(at + 1);
    }
    code
}

/// The end of the comment or literal that starts at an offset; the offset itself when none does.
fn literal_end(text: &str, at: usize) -> usize {
    let bytes = text.as_bytes();
    let rest = &bytes[at..];
    let find = |what: &str, from: usize| memchr(bytes, what.as_bytes(), from).unwrap_or(bytes.len());
    let after_name = at > 0 && (bytes[at - 1].is_ascii_alphanumeric() || bytes[at - 1] == b'_');
    match rest {
        [b'/', b'/', ..] => find("\n", at),
        [b'/', b'*', ..] => (find("*/", at) + 2).min(bytes.len()),
        [b'r', b'"' | b'#', ..] if !after_name || bytes[at - 1] == b'b' => {
            let hashes = rest[1..].iter().take_while(|byte| **byte == b'#').count();
            if rest.get(1 + hashes) != Some(&b'"') {
                return at;
            }
            let close = format!("\"{}", "#".repeat(hashes));
            (find(&close, at + 2 + hashes) + close.len()).min(bytes.len())
        }
        [b'"', ..] => escaped_end(bytes, at, b'"'),
        [b'\'', b'\\', ..] => escaped_end(bytes, at, b'\''),
        [b'\'', ..] => {
            // A character is one `char` and a quote; otherwise it is a lifetime.
            let mut chars = text[at + 1..].char_indices();
            match (chars.next(), chars.next()) {
                (Some(_), Some((next, '\''))) => at + 1 + next + 1,
                _ => at,
            }
        }
        _ => at,
    }
}

fn escaped_end(bytes: &[u8], open: usize, quote: u8) -> usize {
    let mut at = open + 1;
    while at < bytes.len() && bytes[at] != quote {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

fn memchr(bytes: &[u8], what: &[u8], from: usize) -> Option<usize> {
    bytes.get(from..)?.windows(what.len()).position(|window| window == what).map(|at| from + at)
}
