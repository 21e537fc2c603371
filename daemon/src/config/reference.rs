//! Every key of the configuration as a page: what `config/default.toml` says of it, and its type, bounds and environment
//! variable as the code has them. `docs/configuration.md` is this page; a test compares.

use std::fmt::Write as _;

use figment::error::Kind;
use figment::value::{Dict, Value};
use serde::Deserialize;

use super::valid::bounds;
use super::{layers, raw, shape};

const HEAD: &str = "# The configuration, key by key

<!-- Made by `sluiced config-reference` of config/default.toml and the code: change it there. -->
";

/// The keys of `[delivery]` that are read at start. The others are what a webhook has that says nothing else, and change
/// with a reload, as it does.
pub(super) const DELIVERY_AT_START: [&str; 11] = [
    "allow_cidrs",
    "deny_ports",
    "dns_servers",
    "proxy",
    "proxy_user",
    "proxy_password",
    "connections_max",
    "retry_after_max",
    "hold_after",
    "max_readers",
    "max_overflow",
];

/// A table as the code reads it.
pub(super) struct Table {
    pub(super) name: &'static str,
    /// How it is headed, `""` at the top.
    header: &'static str,
    /// Its keys; one that the code learns is one here.
    pub(super) keys: &'static [&'static str],
    wanted: fn(&str) -> &'static str,
}

impl Table {
    fn of<T: for<'de> Deserialize<'de>>(name: &'static str, header: &'static str) -> Self {
        Self { name, header, keys: keys_of::<T>(), wanted: type_of::<T> }
    }

    /// Is there one for each element of a list? Such a table can only stand in a file.
    fn is_listed(&self) -> bool {
        self.header.starts_with("[[") || self.name.contains('.')
    }

    fn full(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    /// Does the key take effect when the configuration is read again?
    fn is_reloaded(&self, key: &str) -> bool {
        match self.name {
            "event_type" | "subscription" | "subscription.webhook" => true,
            "delivery" => !DELIVERY_AT_START.contains(&key),
            _ => false,
        }
    }
}

/// All tables, in the order of the file.
pub(super) fn tables() -> Vec<Table> {
    vec![
        Table { name: "", header: "", keys: &["data_dir"], wanted: |_| "text" },
        Table::of::<raw::Server>("server", "[server]"),
        Table::of::<raw::Auth>("auth", "[auth]"),
        Table::of::<raw::Secrets>("secrets", "[secrets]"),
        Table::of::<raw::Limits>("limits", "[limits]"),
        Table::of::<raw::Nats>("nats", "[nats]"),
        Table::of::<raw::Stream>("stream", "[[stream]]"),
        Table::of::<raw::EventType>("event_type", "[[event_type]]"),
        Table::of::<raw::Plugins>("plugins", "[plugins]"),
        Table::of::<raw::Delivery>("delivery", "[delivery]"),
        Table::of::<raw::OperationalEvents>("operational_events", "[operational_events]"),
        Table::of::<raw::Store>("store", "[store]"),
        Table::of::<raw::DeadLetters>("dead_letters", "[dead_letters]"),
        Table::of::<raw::Log>("log", "[log]"),
        Table::of::<raw::Traces>("traces", "[traces]"),
        Table::of::<raw::Subscription>("subscription", "[[subscription]]"),
        Table::of::<raw::Webhook>("subscription.webhook", "[subscription.webhook]"),
    ]
}

/// The keys of a raw table, as serde names them when it meets one that it does not know.
fn keys_of<T: for<'de> Deserialize<'de>>() -> &'static [&'static str] {
    match refused::<T>("zzz", true.into()) {
        Some(Kind::UnknownField(_, known)) => known,
        _ => &[],
    }
}

/// What a key of a raw table takes, as serde says when it is given something else.
fn type_of<T: for<'de> Deserialize<'de>>(key: &str) -> &'static str {
    let expected = |value: Value| match refused::<T>(key, value) {
        Some(Kind::InvalidType(_, expected)) => Some(expected),
        _ => None,
    };
    match expected(true.into()).or_else(|| expected(1.into())).as_deref().map(shape::wanted) {
        Some("a text in quotes") => "text",
        Some("a whole number") => "whole number",
        Some("a number") => "number",
        Some("true or false") => "true or false",
        Some("a list") => "list",
        Some("a table") => "table",
        _ => "any value",
    }
}

/// Why serde does not read a raw table of that one key.
fn refused<T: for<'de> Deserialize<'de>>(key: &str, value: Value) -> Option<Kind> {
    let table = Value::from(Dict::from([(key.to_owned(), value)]));
    T::deserialize(&table).err().map(|error| error.kind)
}

/// What the file with the defaults says of one table.
pub(super) struct Section {
    /// What stands above its header.
    intro: Vec<String>,
    pub(super) entries: Vec<Entry>,
}

/// Keys that stand below one comment.
pub(super) struct Entry {
    comment: Vec<String>,
    pub(super) keys: Vec<Key>,
}

/// One key as it stands in the file with the defaults.
pub(super) struct Key {
    pub(super) name: String,
    /// Its default, or where it has none what it could be.
    value: String,
    has_default: bool,
}

/// Reads the file with the defaults as a text for people, table by table in the order of `tables`.
pub(super) fn sections(tables: &[Table]) -> Vec<Section> {
    let mut sections = vec![Section { intro: Vec::new(), entries: Vec::new() }];
    let mut pending: Vec<String> = Vec::new();
    // In the tables that are comments as a whole, each line has one more `#`.
    let mut is_sample = false;
    for line in layers::DEFAULTS.lines() {
        let next = tables.get(sections.len()).map_or("", |table| table.header);
        let inner = line.strip_prefix("# ").unwrap_or(line);
        if inner == next || line == next {
            is_sample = line != next;
            sections.push(Section { intro: std::mem::take(&mut pending), entries: Vec::new() });
            continue;
        }
        let line = if is_sample { inner.trim_end_matches('#') } else { line };
        let keys = tables[sections.len() - 1].keys;
        let section = sections.last_mut().expect("there is one from the start");
        if let Some(key) = key_of(line, keys, is_sample) {
            place(section, key, std::mem::take(&mut pending));
        } else {
            pending.push(line.trim_start_matches('#').strip_prefix(' ').unwrap_or_default().to_owned());
        }
    }
    sections
}

/// The key that a line sets, or shows how to set.
fn key_of(line: &str, keys: &[&str], is_sample: bool) -> Option<Key> {
    let commented = line.strip_prefix("# ");
    let (name, value) = commented.unwrap_or(line).split_once(" = ")?;
    let has_default = commented.is_none() && !is_sample;
    keys.contains(&name).then(|| Key { name: name.to_owned(), value: value.to_owned(), has_default })
}

/// Puts a key below its comment, or beside the one before it when it has none. What stands a paragraph above the comment
/// is about the whole table.
fn place(section: &mut Section, key: Key, mut above: Vec<String>) {
    let from = above.iter().rposition(String::is_empty).map_or(0, |blank| blank + 1);
    let comment = above.split_off(from);
    section.intro.append(&mut above);
    match section.entries.last_mut() {
        Some(entry) if comment.is_empty() => entry.keys.push(key),
        _ => section.entries.push(Entry { comment, keys: vec![key] }),
    }
}

/// The page, as Markdown.
pub fn reference() -> String {
    let tables = tables();
    let mut page = HEAD.to_owned();
    for (table, section) in tables.iter().zip(sections(&tables)) {
        if !table.name.is_empty() {
            add(&mut page, format_args!("\n## {}\n", table.header));
        }
        prose(&mut page, &section.intro);
        if table.name.is_empty() {
            page.push_str("\n## At the top\n");
        }
        page.push_str(
            "\n| key | type | default | bounds | variable | a change takes effect |\n|---|---|---|---|---|---|\n",
        );
        for key in section.entries.iter().flat_map(|entry| &entry.keys) {
            row(&mut page, table, key);
        }
        for entry in &section.entries {
            let names: Vec<_> = entry.keys.iter().map(|key| key.name.as_str()).collect();
            add(&mut page, format_args!("\n### {}\n", names.join(", ")));
            prose(&mut page, &entry.comment);
            samples(&mut page, entry);
        }
    }
    while page.contains("\n\n\n") {
        page = page.replace("\n\n\n", "\n\n");
    }
    page
}

fn row(page: &mut String, table: &Table, key: &Key) {
    let name = key.name.as_str();
    let full = table.full(name);
    let mut kind = (table.wanted)(name);
    if kind == "text" && humantime::parse_duration(key.value.trim_matches('"')).is_ok() {
        kind = "duration";
    }
    let default = if key.has_default { format!("`{}`", key.value) } else { String::new() };
    // A webhook's own keys are checked as those of [delivery].
    let stated = [full.clone(), full.replace("subscription.webhook", layers::DELIVERY)];
    let bounds = bounds::stated().into_iter().find(|(key, _)| stated.iter().any(|full| full == key));
    let bounds = bounds.map(|(_, bounds)| bounds).unwrap_or_default();
    let variable = match table.is_listed() {
        true => String::new(),
        false => format!("`SLUICED_{}`", full.to_ascii_uppercase().replace('.', "__")),
    };
    let effect = if table.is_reloaded(name) { "at a reload" } else { "at the next start" };
    add(page, format_args!("| `{name}` | {kind} | {default} | {bounds} | {variable} | {effect} |\n"));
}

/// How keys without a default are written.
fn samples(page: &mut String, entry: &Entry) {
    let written = entry.keys.iter().filter(|key| !key.has_default && key.value != "\"\"");
    let written: Vec<_> = written.map(|key| format!("`{} = {}`", key.name, key.value)).collect();
    if !written.is_empty() {
        add(page, format_args!("\nFor example {}.\n", written.join(", ")));
    }
}

/// Comments as paragraphs. A line that is indented is one of a list when it has two columns, and stands as it is otherwise.
fn prose(page: &mut String, comment: &[String]) {
    let mut before = "";
    for line in comment {
        let indented = line.strip_prefix("  ").map(str::trim);
        let is_item = indented.is_some_and(|line| line.contains("  ") && !line.contains('<'));
        if is_item != before.starts_with("  ") || before.is_empty() {
            page.push('\n');
        }
        match indented {
            Some(line) if is_item => {
                let (name, meaning) = line.split_once("  ").expect("it has two columns");
                add(page, format_args!("- `{name}`: {}\n", escaped(meaning.trim())));
            }
            Some(line) => add(page, format_args!("```text\n{line}\n```\n")),
            None if line.is_empty() => {}
            None => add(page, format_args!("{}\n", escaped(line))),
        }
        before = line;
    }
}

/// A text whose letters mean nothing to Markdown, but for the backticks.
fn escaped(text: &str) -> String {
    let mut is_code = false;
    text.chars().fold(String::new(), |mut escaped, letter| {
        is_code ^= letter == '`';
        if !is_code && matches!(letter, '*' | '<' | '[') {
            escaped.push('\\');
        }
        escaped.push(letter);
        escaped
    })
}

fn add(page: &mut String, text: std::fmt::Arguments<'_>) {
    page.write_fmt(text).expect("a String takes all that is written");
}
