//! From merged values to raw tables: unknown keys, missing keys and wrong types, all of them and not only the first.

use figment::error::{Actual, Kind};
use figment::value::{Dict, Value};
use serde::Deserialize;

use super::places::KeyPath;
use super::raw::Table;
use super::report::Report;

/// A key is suggested for another one when at most this many letters differ.
const SUGGESTION_EDITS_MAX: usize = 2;

/// Takes the top-level table `name` out of `values`.
pub(super) fn table<T>(values: &mut Dict, name: &str, report: &mut Report<'_>) -> Option<T>
where
    T: for<'de> Deserialize<'de>,
{
    read::<Table<T>>(values.remove(name)?, &KeyPath::top(name), report).map(|table| table.0)
}

/// Takes the `[[name]]` tables out of `values`, each with its path; `None` stands for one with a problem.
pub(super) fn tables<T>(values: &mut Dict, name: &str, report: &mut Report<'_>) -> Vec<(KeyPath, Option<T>)>
where
    T: for<'de> Deserialize<'de>,
{
    let list = KeyPath::top(name);
    let elements = match values.remove(name) {
        None => Vec::new(),
        Some(Value::Array(_, elements)) => elements,
        Some(other) => {
            let actual = found(&other.to_actual());
            report.problem(&list, format_args!("must be a list of tables, each headed [[{name}]], not {actual}"));
            return vec![(list, None)];
        }
    };
    let read_one = |(i, value)| {
        let path = list.index(i);
        let table = read::<Table<T>>(value, &path, report);
        (path, table.map(|table| table.0))
    };
    elements.into_iter().enumerate().map(read_one).collect()
}

/// Takes a top-level text out of `values`.
pub(super) fn text(values: &mut Dict, name: &str, report: &mut Report<'_>) -> Option<String> {
    read(values.remove(name)?, &KeyPath::top(name), report)
}

/// Reports every key that is left in `values`, after all of `known` have been taken out.
pub(super) fn nothing_left(values: &Dict, known: &[&str], report: &mut Report<'_>) {
    for key in values.keys() {
        report.problem(&KeyPath::top(key), unknown_key(key, known));
    }
}

/// Reads a value, reporting what does not fit its shape. serde stops at the first problem, so what it stumbled over is
/// taken out, and it reads the rest again.
pub(super) fn read<T: for<'de> Deserialize<'de>>(mut value: Value, at: &KeyPath, report: &mut Report<'_>) -> Option<T> {
    let mut removed = Vec::new();
    loop {
        let mut error = match T::deserialize(&value) {
            Ok(read) => return removed.is_empty().then_some(read),
            Err(error) => error,
        };
        if let Kind::MissingField(field) = &error.kind {
            error.path.push(field.to_string());
            if removed.contains(&error.path) {
                return None;
            }
        }
        report.problem(&key_path(at, &value, &error.path), reason(&error.kind));
        if !remove(&mut value, &error.path) {
            return None;
        }
        removed.push(error.path);
    }
}

/// The path of an error inside `value`: figment gives the indices of lists as texts.
fn key_path(at: &KeyPath, value: &Value, steps: &[String]) -> KeyPath {
    let mut value = Some(value);
    let mut path = at.clone();
    for step in steps {
        let index = value.and_then(Value::as_array).and_then(|list| Some((list, step.parse::<usize>().ok()?)));
        (value, path) = match index {
            Some((list, index)) => (list.get(index), path.index(index)),
            None => (value.and_then(Value::as_dict).and_then(|table| table.get(step)), path.key(step)),
        };
    }
    path
}

/// Takes the key at `steps` out of `value`; `false` when there is no such key (an element of a list stays, for its
/// neighbours' indices).
fn remove(value: &mut Value, steps: &[String]) -> bool {
    match (value, steps) {
        (Value::Dict(_, table), [last]) => table.remove(last).is_some(),
        (Value::Dict(_, table), [first, rest @ ..]) => table.get_mut(first).is_some_and(|value| remove(value, rest)),
        (Value::Array(_, list), [first, rest @ ..]) => {
            let element = first.parse::<usize>().ok().and_then(|index| list.get_mut(index));
            element.is_some_and(|value| remove(value, rest))
        }
        _ => false,
    }
}

fn reason(kind: &Kind) -> String {
    match kind {
        Kind::UnknownField(key, known) => unknown_key(key, known),
        Kind::MissingField(_) => "is missing, and has no default".to_owned(),
        Kind::InvalidType(actual, expected) => format!("must be {}, not {}", wanted(expected), found(actual)),
        // The message of serde may quote the value, which may be a secret.
        _ => "does not have the type that this key takes".to_owned(),
    }
}

/// The words for what serde expected.
pub(super) fn wanted(expected: &str) -> &str {
    match expected {
        "a string" => "a text in quotes",
        "i64" => "a whole number",
        "f64" => "a number",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" => "a table",
        other => other,
    }
}

/// The words for what stands there: its type, never its value.
fn found(actual: &Actual) -> &'static str {
    match actual {
        Actual::Bool(_) => "true or false",
        Actual::Unsigned(_) | Actual::Signed(_) => "a whole number",
        Actual::Float(_) => "a number with a fraction",
        Actual::Char(_) | Actual::Str(_) => "a text",
        Actual::Seq => "a list",
        Actual::Map => "a table",
        _ => "another type",
    }
}

/// What to say of a key that does not exist: the nearest one that does, and all of them.
fn unknown_key(key: &str, known: &[&str]) -> String {
    let mut sorted = known.to_vec();
    sorted.sort_unstable();
    let list =
        if sorted.is_empty() { "no keys are known here".into() } else { format!("known here: {}", sorted.join(", ")) };
    match nearest(key, known) {
        Some(near) => format!("unknown key, did you mean `{near}`? ({list})"),
        None => format!("unknown key ({list})"),
    }
}

/// The word of `known` that is nearest to `word`, if one is near.
pub(super) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let near = known.iter().map(|candidate| (edits(word, candidate), *candidate)).min()?;
    (near.0 <= SUGGESTION_EDITS_MAX && near.0 < word.len()).then_some(near.1)
}

/// How many letters must be put in, taken out or replaced to make `b` of `a`.
fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}
