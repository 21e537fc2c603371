//! Event fixtures: a pair of files, `NAME.in.json` with a configuration and an event, and `NAME.out.json` with what the
//! plugin must make of them. The format is documented in `sdk/FIXTURES.md`. The daemon's `sluiced plugin test` runs the same
//! fixtures on the component.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::{Event, Header, Output, Verdict};

/// What goes wrong with a fixture.
#[derive(Debug)]
pub enum FixtureError {
    /// A file or the folder cannot be read.
    Read(PathBuf, std::io::Error),
    /// A file cannot be written.
    Write(PathBuf, std::io::Error),
    /// A file is not a fixture.
    Parse(PathBuf, serde_json::Error),
    /// A payload is not base64.
    Base64(PathBuf, base64::DecodeError),
    /// There is no expectation yet; blessing writes it.
    Missing(PathBuf),
    /// The folder holds no fixtures.
    Empty(PathBuf),
    /// What came out is not what is expected; both are shown.
    Mismatch {
        /// The file with the expectation.
        path: PathBuf,
        /// What it says.
        expected: String,
        /// What the plugin made.
        actual: String,
    },
}

impl fmt::Display for FixtureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Read(path, _) => write!(f, "reading {}", path.display()),
            Self::Write(path, _) => write!(f, "writing {}", path.display()),
            Self::Parse(path, _) => write!(f, "{} is not a fixture", path.display()),
            Self::Base64(path, _) => write!(f, "{} has a payload that is not base64", path.display()),
            Self::Missing(path) => write!(
                f,
                "there is no {}: run the tests with BLESS=1, or `sluiced plugin test --bless`, to write it",
                path.display()
            ),
            Self::Empty(path) => write!(f, "there is no *.in.json in {}", path.display()),
            Self::Mismatch { path, expected, actual } => {
                write!(f, "{}\n--- expected\n{expected}\n--- actual\n{actual}", path.display())
            }
        }
    }
}

impl std::error::Error for FixtureError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Read(_, source) | Self::Write(_, source) => Some(source),
            Self::Parse(_, source) => Some(source),
            Self::Base64(_, source) => Some(source),
            Self::Missing(_) | Self::Empty(_) | Self::Mismatch { .. } => None,
        }
    }
}

/// As what a fixture runs the plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Through `filter.keep`.
    Filter,
    /// Through `transform.apply`.
    Transform,
}

/// What a plugin made of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A filter's verdict.
    Verdict(Verdict),
    /// A transform's outputs.
    Outputs(Vec<Output>),
    /// The error, of the configuration or of the event.
    Error(String),
}

/// One fixture.
#[derive(Clone, Debug)]
pub struct Fixture {
    /// The file's name without `.in.json`.
    pub name: String,
    /// As what the plugin runs.
    pub role: Role,
    /// The plugin's configuration, a JSON text.
    pub config: String,
    /// The event.
    pub event: Event,
    out_path: PathBuf,
}

impl Fixture {
    /// Reads every fixture of a folder, in the order of their names.
    ///
    /// # Errors
    /// The folder or a file cannot be read, a file is not a fixture, or there is none.
    pub fn load_all(folder: &Path) -> Result<Vec<Self>, FixtureError> {
        let read_error = |error| FixtureError::Read(folder.to_owned(), error);
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(read_error)? {
            let path = entry.map_err(read_error)?.path();
            if path.to_string_lossy().ends_with(IN_SUFFIX) {
                paths.push(path);
            }
        }
        if paths.is_empty() {
            return Err(FixtureError::Empty(folder.to_owned()));
        }
        paths.sort();
        paths.iter().map(|path| Self::load(path)).collect()
    }

    /// Reads one fixture, given its `NAME.in.json`.
    ///
    /// # Errors
    /// The file cannot be read or is not a fixture.
    pub fn load(path: &Path) -> Result<Self, FixtureError> {
        let text = std::fs::read_to_string(path).map_err(|error| FixtureError::Read(path.to_owned(), error))?;
        let input: Input = serde_json::from_str(&text).map_err(|error| FixtureError::Parse(path.to_owned(), error))?;
        let file_name = path.file_name().unwrap_or_default().to_string_lossy();
        let name = file_name.strip_suffix(IN_SUFFIX).unwrap_or(&file_name).to_owned();
        let event = input.event.into_event().map_err(|error| FixtureError::Base64(path.to_owned(), error))?;
        let out_path = path.with_file_name(format!("{name}.out.json"));
        Ok(Self { name, role: input.role, config: input.config.get().to_owned(), event, out_path })
    }

    /// Compares what the plugin made with what is expected. JSON payloads are equal when they mean the same, whatever
    /// the order of their keys; all other payloads byte by byte.
    ///
    /// # Errors
    /// There is no expectation, it cannot be read, or it is a different one.
    pub fn check(&self, outcome: &Outcome) -> Result<(), FixtureError> {
        let text = match std::fs::read_to_string(&self.out_path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(FixtureError::Missing(self.out_path.clone()));
            }
            Err(error) => return Err(FixtureError::Read(self.out_path.clone(), error)),
        };
        let expected: Expectation =
            serde_json::from_str(&text).map_err(|error| FixtureError::Parse(self.out_path.clone(), error))?;
        let actual = Expectation::of(outcome, Some(&expected));
        if actual == expected {
            return Ok(());
        }
        Err(FixtureError::Mismatch {
            path: self.out_path.clone(),
            expected: pretty(&expected),
            actual: pretty(&actual),
        })
    }

    /// Is an error expected?
    pub fn expects_error(&self) -> bool {
        let text = std::fs::read_to_string(&self.out_path).unwrap_or_default();
        matches!(serde_json::from_str(&text), Ok(Expectation::Error { .. }))
    }

    /// Writes what the plugin made as what is expected from now on.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn bless(&self, outcome: &Outcome) -> Result<(), FixtureError> {
        if self.check(outcome).is_ok() {
            return Ok(()); // Keeps the form in which its author wrote it.
        }
        std::fs::write(&self.out_path, pretty(&Expectation::of(outcome, None)) + "\n")
            .map_err(|error| FixtureError::Write(self.out_path.clone(), error))
    }
}

const IN_SUFFIX: &str = ".in.json";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Input {
    config: Box<RawValue>,
    #[serde(rename = "as")]
    role: Role,
    event: InputEvent,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct InputEvent {
    #[serde(rename = "type")]
    event_type: String,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    content_type: Option<String>,
    data: Option<Box<RawValue>>,
    text: Option<String>,
    base64: Option<String>,
    id: Option<String>,
    subject: Option<String>,
    stream: Option<String>,
    sequence: Option<u64>,
    time_ms: Option<u64>,
}

impl InputEvent {
    fn into_event(self) -> Result<Event, base64::DecodeError> {
        let data = match (self.data, self.text, self.base64) {
            (Some(data), ..) => data.get().as_bytes().to_vec(),
            (None, Some(text), _) => text.into_bytes(),
            (None, None, Some(base64)) => BASE64.decode(base64)?,
            (None, None, None) => Vec::new(),
        };
        Ok(Event {
            id: self.id.unwrap_or_else(|| "fixture".to_owned()),
            subject: self.subject.unwrap_or_else(|| self.event_type.clone()),
            type_: self.event_type,
            stream: self.stream.unwrap_or_else(|| "FIXTURES".to_owned()),
            sequence: self.sequence.unwrap_or(1),
            time_ms: self.time_ms.unwrap_or(0),
            content_type: self.content_type,
            headers: self.headers.into_iter().map(|(name, value)| Header { name, value }).collect(),
            data,
        })
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, deny_unknown_fields)]
enum Expectation {
    Outputs {
        outputs: Vec<ExpectedOutput>,
    },
    Error {
        error: String,
    },
    Verdict {
        verdict: ExpectedVerdict,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ExpectedVerdict {
    Keep,
    Drop,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ExpectedOutput {
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    event_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    headers: BTreeMap<String, String>,
    #[serde(flatten)]
    payload: Payload,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Payload {
    Data(Value),
    Text(String),
    Base64(String),
}

impl Payload {
    /// The payload in the form of the expectation where that is possible, else in the plainest form.
    fn of(data: &[u8], like: Option<&Self>) -> Self {
        let as_text = || String::from_utf8(data.to_vec()).ok().map(Self::Text);
        let as_json = || serde_json::from_slice(data).ok().map(Self::Data);
        let as_base64 = || Self::Base64(BASE64.encode(data));
        match like {
            Some(Self::Base64(_)) => as_base64(),
            Some(Self::Text(_)) => as_text().unwrap_or_else(as_base64),
            _ => as_json().or_else(as_text).unwrap_or_else(as_base64),
        }
    }
}

impl Expectation {
    fn of(outcome: &Outcome, like: Option<&Self>) -> Self {
        let like_outputs = match like {
            Some(Self::Outputs { outputs }) => outputs.as_slice(),
            _ => &[],
        };
        match outcome {
            Outcome::Verdict(Verdict::Keep) => Self::Verdict { verdict: ExpectedVerdict::Keep, reason: None },
            Outcome::Verdict(Verdict::Drop(reason)) => {
                Self::Verdict { verdict: ExpectedVerdict::Drop, reason: reason.clone() }
            }
            Outcome::Error(error) => Self::Error { error: error.clone() },
            Outcome::Outputs(outputs) => Self::Outputs {
                outputs: outputs
                    .iter()
                    .enumerate()
                    .map(|(i, output)| ExpectedOutput {
                        event_type: output.type_.clone(),
                        content_type: output.content_type.clone(),
                        headers: output.headers.iter().map(|h| (h.name.clone(), h.value.clone())).collect(),
                        payload: Payload::of(&output.data, like_outputs.get(i).map(|like| &like.payload)),
                    })
                    .collect(),
            },
        }
    }
}

fn pretty(expectation: &Expectation) -> String {
    serde_json::to_string_pretty(expectation)
        .expect("an expectation has string keys only, so it can be written as JSON")
}
