//! From the path of a key to the place where it was given: a line of the file, a variable, a flag.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml_edit::{ImDocument, Key};

use super::problem::{Place, Source};

/// One step down to a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

/// The path of a key, such as `subscription[1].webhook.url`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct KeyPath(Vec<Step>);

impl KeyPath {
    /// The path of a top-level key.
    pub(super) fn top(key: &str) -> Self {
        Self::default().key(key)
    }

    /// The path of a key in the table at this path.
    pub(super) fn key(&self, key: &str) -> Self {
        self.step(Step::Key(key.to_owned()))
    }

    /// The path of an element of the list at this path; 0 is the first.
    pub(super) fn index(&self, index: usize) -> Self {
        self.step(Step::Index(index))
    }

    fn step(&self, step: Step) -> Self {
        let mut steps = self.0.clone();
        steps.push(step);
        Self(steps)
    }

    fn starts_with(&self, other: &Self) -> bool {
        self.0.starts_with(&other.0)
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, step) in self.0.iter().enumerate() {
            match step {
                Step::Key(key) if at == 0 => write!(f, "{}", Key::new(key))?,
                Step::Key(key) => write!(f, ".{}", Key::new(key))?,
                Step::Index(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

/// Where every value of the layers over the defaults was given.
#[derive(Default)]
pub(super) struct Places {
    file: Option<(PathBuf, ImDocument<String>)>,
    /// Keys given in the environment or by a flag; the last one of a key is in effect.
    named: Vec<(KeyPath, Source)>,
}

impl Places {
    pub(super) fn set_file(&mut self, path: &Path, document: ImDocument<String>) {
        self.file = Some((path.to_owned(), document));
    }

    pub(super) fn set_named(&mut self, key: KeyPath, source: Source) {
        self.named.push((key, source));
    }

    /// The place of a key, or of the nearest table around it where the key itself is not given.
    pub(super) fn find(&self, path: &KeyPath) -> Place {
        let (in_file, line) = self.in_file(path);
        let around = || self.named.iter().rev().find(|(key, _)| path.starts_with(key));
        // A table that only a variable mentions has no line: the variable is its place.
        let within = || self.named.iter().find(|(key, _)| !in_file && key.starts_with(path));
        let source = match (around().or_else(within), &self.file) {
            (Some((_, source)), _) => source.clone(),
            (None, Some((file, _))) => Source::File { path: file.clone(), line },
            (None, None) => Source::Defaults,
        };
        Place { source, key: path.to_string() }
    }

    /// Is the key given anywhere over the defaults?
    pub(super) fn given(&self, path: &KeyPath) -> bool {
        self.named.iter().any(|(key, _)| path.starts_with(key)) || self.in_file(path).0
    }

    /// The folder that a relative path at that key is relative to; empty for the working directory.
    pub(super) fn folder(&self, path: &KeyPath) -> &Path {
        let named = self.named.iter().any(|(key, _)| path.starts_with(key));
        let file = self.file.as_ref().filter(|_| !named);
        file.and_then(|(file, _)| file.parent()).unwrap_or(Path::new(""))
    }

    /// Is the key in the file, and in which line is it or the nearest table around it?
    fn in_file(&self, path: &KeyPath) -> (bool, Option<usize>) {
        let Some((_, document)) = &self.file else { return (false, None) };
        let (found, span) = nearest(document, path);
        (found, span.map(|span| line_at(document.raw(), span.start)))
    }
}

/// The number of the line in which the byte at `offset` stands; 1 is the first.
pub(super) fn line_at(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

/// Walks down to the key at `path`: was it found, and the span of the last step that was.
fn nearest(document: &ImDocument<String>, path: &KeyPath) -> (bool, Option<Range<usize>>) {
    let mut item = document.as_item();
    let mut span = None;
    for step in &path.0 {
        let (next, key) = match step {
            Step::Key(key) => (item.get(key.as_str()), item.as_table_like().and_then(|table| table.key(key))),
            Step::Index(index) => (item.get(*index), None),
        };
        let Some(next) = next else { return (false, span) };
        span = key.and_then(Key::span).or_else(|| next.span()).or(span);
        item = next;
    }
    (true, span)
}
