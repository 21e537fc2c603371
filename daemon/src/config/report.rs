//! Collects the problems of a configuration, and the checks that every section uses.

use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::places::{KeyPath, Places};
use super::problem::{Error, Problem, Source};
use super::shape;

/// The problems found so far. A check reports what is wrong and answers `None`, so that the others still run.
pub(super) struct Report<'a> {
    places: &'a Places,
    problems: Vec<Problem>,
}

impl<'a> Report<'a> {
    pub(super) fn new(places: &'a Places) -> Self {
        Self { places, problems: Vec::new() }
    }

    /// The value when all is well with it, else all problems: those of the file by line, then those of variables and
    /// flags. Whoever answers `None` has reported why.
    pub(super) fn finish<T>(mut self, value: Option<T>) -> Result<T, Error> {
        self.problems.sort_by_key(|problem| match problem.place.source {
            Source::File { line, .. } => line.unwrap_or_default(),
            _ => usize::MAX,
        });
        match value {
            Some(value) if self.problems.is_empty() => Ok(value),
            _ => Err(Error { problems: self.problems }),
        }
    }

    /// Reports a problem with the value at `at`.
    pub(super) fn problem(&mut self, at: &KeyPath, reason: impl Display) {
        self.problems.push(Problem { place: self.places.find(at), reason: reason.to_string() });
    }

    /// The value, or its error reported as the reason.
    pub(super) fn check<T, E: Display>(&mut self, at: &KeyPath, result: Result<T, E>) -> Option<T> {
        result.map_err(|reason| self.problem(at, reason)).ok()
    }

    /// Is the key given in a file, a variable or a flag?
    pub(super) fn given(&self, at: &KeyPath) -> bool {
        self.places.given(at)
    }

    /// A whole number within bounds, as a `T` that holds all of them.
    pub(super) fn int<T: TryFrom<i64>>(&mut self, at: &KeyPath, n: i64, bounds: &RangeInclusive<i64>) -> Option<T> {
        let inside = bounds.contains(&n).then(|| T::try_from(n).ok()).flatten();
        let (min, max) = (bounds.start(), bounds.end());
        self.check(at, inside.ok_or_else(|| format!("must be from {min} to {max}, not {n}")))
    }

    /// A duration within bounds.
    pub(super) fn duration(&mut self, at: &KeyPath, text: &str, bounds: &RangeInclusive<Duration>) -> Option<Duration> {
        let Ok(duration) = humantime::parse_duration(text) else {
            self.problem(
                at,
                format_args!("{text:?} is not a duration: write one such as \"250ms\", \"5s\" or \"12h\""),
            );
            return None;
        };
        let (min, max) = (short(*bounds.start()), short(*bounds.end()));
        let inside = bounds.contains(&duration).then_some(duration);
        self.check(at, inside.ok_or_else(|| format!("must be from {min} to {max}, not {text:?}")))
    }

    /// One of a set of words.
    pub(super) fn word<T: Copy>(&mut self, at: &KeyPath, text: &str, words: &[(&str, T)]) -> Option<T> {
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
        let hint = shape::nearest(text, &names).map(|near| format!(", did you mean \"{near}\"?")).unwrap_or_default();
        let list = names.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
        self.problem(at, format_args!("must be one of {list}, not {text:?}{hint}"));
        None
    }

    /// A path, relative to the folder of the file that names it.
    pub(super) fn path(&mut self, at: &KeyPath, text: &str) -> Option<PathBuf> {
        let path = (!text.is_empty()).then(|| self.places.folder(at).join(text));
        self.check(at, path.ok_or("must not be empty: name a path"))
    }

    /// A path that may be absent.
    pub(super) fn path_if_any(&mut self, at: &KeyPath, text: Option<&str>) -> Option<Option<PathBuf>> {
        match text {
            None => Some(None),
            Some(text) => self.path(at, text).map(Some),
        }
    }
}

/// A duration in its largest whole unit.
pub(super) fn short(duration: Duration) -> String {
    let ms = duration.as_millis();
    let units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];
    match units.iter().find(|(_, unit)| ms >= *unit && ms.is_multiple_of(*unit)) {
        Some((name, unit)) => format!("{}{name}", ms / unit),
        None if ms == 0 => "0s".to_owned(),
        None => format!("{ms}ms"),
    }
}
