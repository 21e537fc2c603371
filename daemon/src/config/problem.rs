//! What is wrong with a configuration, and where.

use std::fmt;
use std::path::PathBuf;

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A configuration file.
    File {
        /// The file, as it was named.
        path: PathBuf,
        /// The line, 1 is the first; `None` when the file does not mention the key or cannot be read.
        line: Option<usize>,
    },
    /// An environment variable of that name.
    Env(String),
    /// A command-line flag, such as `--listen`.
    Flag(&'static str),
    /// The compiled-in defaults, where no file was named.
    Defaults,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, line: Some(line) } => write!(f, "{}:{line}", path.display()),
            Self::File { path, line: None } => write!(f, "{}", path.display()),
            Self::Env(name) => write!(f, "env {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
            Self::Defaults => f.write_str("defaults"),
        }
    }
}

/// A value's place: where it comes from, and its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Where the value comes from.
    pub source: Source,
    /// The path of its key, such as `subscription[1].webhook.url`; empty for the file as a whole.
    pub key: String,
}

/// One thing that is wrong. Its `Display` is one line: `sluiced.toml:12: subscription[0].types[1]: reason`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// What is wrong and what would be right; one line, without the value of any secret.
    pub reason: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place.source)?;
        if !self.place.key.is_empty() {
            write!(f, "{}: ", self.place.key)?;
        }
        f.write_str(&self.reason)
    }
}

/// A configuration that cannot be used: all that is wrong with it, one line each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", lines(problems))]
pub struct Error {
    /// At least one problem: those of the file by line, then those of variables and flags.
    pub problems: Vec<Problem>,
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        Self { problems: vec![problem] }
    }
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
