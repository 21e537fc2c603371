//! The layers of a configuration, laid over each other: defaults < file < environment < flags.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use figment::providers::{Format, Serialized, Toml};
use figment::value::{Dict, Value};
use figment::{Figment, Profile, Provider};
use toml_edit::ImDocument;

use super::Overrides;
use super::places::{KeyPath, Places, line_at};
use super::problem::{Error, Place, Problem, Source};

/// The compiled-in defaults, which are also the documentation of every key.
pub(super) const DEFAULTS: &str = include_str!("../../../config/default.toml");

/// The table of defaults for webhooks.
pub(super) const DELIVERY: &str = "delivery";

const ENV_PREFIX: &str = "SLUICED_";

/// What all layers say together.
pub(super) struct Layers {
    /// The values in effect, not checked yet.
    pub(super) values: Dict,
    /// Where they were given.
    pub(super) places: Places,
    /// Once they are settled: the definitions of the file's webhooks by their names, as JSON, without what is secret.
    pub(super) of_file: BTreeMap<Box<str>, Box<str>>,
}

impl fmt::Debug for Layers {
    /// Shows nothing: the values and the file's text hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Layers(…)")
    }
}

impl Layers {
    /// Reads the file and lays it, the variables and the flags over the defaults. The file is read once, so that lines and
    /// values agree, and only under the very name given (`Toml::file` would also look in the folders above).
    pub(super) fn read(
        file: Option<&Path>,
        env: impl Iterator<Item = (String, String)>,
        overrides: Overrides,
    ) -> Result<Self, Error> {
        let mut places = Places::default();
        let mut figment = Figment::from(Toml::string(DEFAULTS));
        let defaults = merged(&figment)?;
        if let Some(path) = file {
            let text =
                std::fs::read_to_string(path).map_err(|e| unreadable(path, None, format!("cannot be read: {e}")))?;
            let document = ImDocument::parse(text.clone()).map_err(|e| not_toml(path, &text, &e))?;
            figment = figment.merge(Toml::string(document.raw()));
            places.set_file(path, document);
        }
        for (name, text) in env {
            let Some(steps) = env_steps(&name) else { continue };
            let value = env_value(&steps, text, &defaults);
            figment = figment.merge(Serialized::default(&steps.join("."), value));
            let path = steps.iter().fold(KeyPath::default(), |path, step| path.key(step));
            places.set_named(path, Source::Env(name));
        }
        for (key, flag, value) in overrides.values() {
            figment = figment.merge(Serialized::default(key, value));
            let path = key.split('.').fold(KeyPath::default(), |path, step| path.key(step));
            places.set_named(path, Source::Flag(flag));
        }
        Ok(Self { values: merged(&figment)?, places, of_file: BTreeMap::new() })
    }

    /// What definitions that come later are read by, with what is shown of those of the file.
    pub(super) fn settled(&self, of_file: BTreeMap<Box<str>, Box<str>>) -> Self {
        let delivery = self.values.get_key_value(DELIVERY);
        let values = delivery.map(|(key, value)| (key.clone(), value.clone())).into_iter().collect();
        Self { values, places: Places::default(), of_file }
    }
}

fn merged(figment: &Figment) -> Result<Dict, Error> {
    let place = Place { source: Source::Defaults, key: String::new() };
    let mut profiles = figment.data().map_err(|e| Problem { place, reason: e.to_string() })?;
    Ok(profiles.remove(&Profile::Default).unwrap_or_default())
}

/// The key that a variable names, or `None` for a variable that is not ours: without `__` only the top-level key is, since
/// Kubernetes sets `SLUICED_PORT`, `SLUICED_SERVICE_HOST` and the like for a service of that name.
fn env_steps(name: &str) -> Option<Vec<String>> {
    let key = name.strip_prefix(ENV_PREFIX)?.to_ascii_lowercase();
    (key.contains("__") || key == "data_dir").then(|| key.split("__").map(str::to_owned).collect())
}

/// A variable's value: a text as it stands, unless the key's default is something else. So a key of digits stays a text.
fn env_value(steps: &[String], text: String, defaults: &Dict) -> Value {
    let (last, tables) = steps.split_last().expect("a split text has at least one part");
    let table = tables.iter().try_fold(defaults, |table, step| table.get(step).and_then(Value::as_dict));
    match table.and_then(|table| table.get(last)) {
        None | Some(Value::String(..)) => Value::from(text),
        Some(_) => text.parse().unwrap_or_else(|never: std::convert::Infallible| match never {}),
    }
}

fn not_toml(path: &Path, text: &str, error: &toml_edit::TomlError) -> Error {
    // The error's `Display` quotes the line, which may hold a secret; its message does not.
    let line = error.span().map(|span| line_at(text, span.start));
    unreadable(path, line, format!("not valid TOML: {}", error.message().trim().replace('\n', ", ")))
}

fn unreadable(path: &Path, line: Option<usize>, reason: String) -> Error {
    let place = Place { source: Source::File { path: path.to_owned(), line }, key: String::new() };
    Problem { place, reason }.into()
}
