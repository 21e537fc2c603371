//! `sluiced plugin test --stream`: a plugin on real events of a stream, of which nothing is delivered and nothing is acked.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use sluiced_sdk::test::Role;
use tokio::time::Instant;

use super::lab::Lab;
use super::table::{aligned, ms, shortened, size};
use crate::app;
use crate::cli::{environment, write_out};
use crate::config::{self, Overrides};
use crate::domain::{Event, Pattern, Position, StreamName};
use crate::ingest::{Nats, Reader};
use crate::plugin::{Chain, Passed, Plugin};
use crate::telemetry::clock;

/// The events that are asked for at a time.
const PAGE_EVENTS: usize = 256;
/// The rows of a list: reasons, faults, the slowest, the largest.
const ROWS_MAX: usize = 10;
/// The distinct reasons that are kept; further ones are counted together.
const REASONS_MAX: usize = 1_000;
/// The longest reason that is shown, in characters.
const REASON_CHARS_MAX: usize = 80;

/// Which events, and how the plugin is used.
#[derive(Debug, Args)]
pub(super) struct StreamArgs {
    /// Run the plugin on events of this stream instead of fixtures. Needs --config; nothing is delivered.
    #[arg(long, value_name = "NAME", requires = "config")]
    stream: Option<String>,
    /// Where to begin: so long ago (1h), at a time (2026-11-22T07:30:00Z), or at a sequence.
    #[arg(long, value_name = "WHEN", default_value = "1h", requires = "stream")]
    from: String,
    /// At most so many events.
    #[arg(long, value_name = "EVENTS", default_value_t = 1_000, requires = "stream")]
    count: usize,
    /// Only events of these types, with wildcards: orders.*,payments.>
    #[arg(long, value_name = "TYPES", default_value = ">", value_delimiter = ',', requires = "stream")]
    types: Vec<String>,
    /// The plugin's configuration: JSON, or a file of it as @FILE.
    #[arg(long, value_name = "JSON|@FILE", default_value = "{}", requires = "stream")]
    with: String,
    /// As what the plugin is used, where it can be both.
    #[arg(long = "as", value_name = "ROLE", value_enum, requires = "stream")]
    role: Option<As>,
    /// Print the result as JSON.
    #[arg(long, requires = "stream")]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum As {
    Filter,
    Transform,
}

impl StreamArgs {
    /// Are real events asked for?
    pub(super) fn is_given(&self) -> bool {
        self.stream.is_some()
    }
}

/// What became of all events.
#[derive(Debug, Default)]
struct Account {
    first: Option<Position>,
    last: Option<Position>,
    kept: u64,
    outputs: u64,
    dropped: u64,
    faulted: u64,
    undecodable: u64,
    drops: Reasons,
    faults: Reasons,
    /// The running time of each event, with its place.
    times: Vec<(Duration, Position)>,
    /// What each event became, in bytes, with its place.
    sizes: Vec<(usize, Position)>,
    memory_bytes_max: usize,
}

/// Why events did not go on: how often, and one of them.
#[derive(Debug, Default)]
struct Reasons(BTreeMap<String, (u64, Option<Position>)>);

/// Reads the events, runs the plugin on each, and prints what became of them.
///
/// # Errors
/// When the stream cannot be read, or the plugin cannot be used with that configuration.
pub(super) fn run(args: &StreamArgs, config: Option<&Path>, lab: &Lab) -> anyhow::Result<()> {
    let name = args.stream.as_deref().context("--stream is missing")?;
    let stream = StreamName::parse(name)?;
    let file = config.context("--stream needs --config, the daemon's configuration")?;
    let config = config::load(Some(file), environment(), Overrides::default())?;
    let Some(nats) = app::reading(&config, &stream) else {
        bail!("{} has no stream {stream}", file.display());
    };
    if config.nats.managed {
        bail!("{} lets the daemon run its own NATS server, on a port of its own: set `nats.url` to it", file.display());
    }
    let types: Vec<Pattern> = args.types.iter().map(|text| Pattern::parse(text)).collect::<Result<_, _>>()?;
    let role = role(args.role, lab.plugin())?;
    let chain = lab.chain(role, &settings(&args.with)?)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let account = runtime.block_on(async {
        let nats = Nats::connect(nats).await?;
        let from = begin(&nats, &stream, &args.from).await?;
        let source = nats.stream(&stream).expect("it is the one that was asked for").clone();
        let (mut reader, gap) = Reader::open(nats, source, &types, from).await?;
        if let Some(gap) = gap.filter(|gap| gap.from > 1) {
            eprintln!("{stream} begins at {}: what was before is gone", gap.available);
        }
        let account = read(&mut reader, &chain, args.count).await;
        reader.close().await;
        account
    })?;
    write_out(&if args.json { account.as_json() } else { account.told(&stream) })
}

/// The role that is meant.
fn role(given: Option<As>, plugin: &Plugin) -> anyhow::Result<Role> {
    match (given, plugin.is_filter(), plugin.is_transform()) {
        (Some(As::Filter), ..) | (None, true, false) => Ok(Role::Filter),
        (Some(As::Transform), ..) | (None, false, _) => Ok(Role::Transform),
        (None, true, true) => {
            bail!("`{}` is a filter and a transform: say --as filter or --as transform", plugin.name())
        }
    }
}

/// The plugin's configuration, a JSON text.
fn settings(given: &str) -> anyhow::Result<String> {
    match given.strip_prefix('@') {
        Some(file) => {
            let file = PathBuf::from(file);
            std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))
        }
        None => Ok(given.to_owned()),
    }
}

/// The sequence to begin at.
async fn begin(nats: &Nats, stream: &StreamName, from: &str) -> anyhow::Result<u64> {
    if let Ok(sequence) = from.parse() {
        return Ok(sequence);
    }
    let at_ms = match (humantime::parse_duration(from), clock::parse_rfc3339(from)) {
        (Ok(ago), _) => clock::now_ms().saturating_sub(u64::try_from(ago.as_millis()).unwrap_or(u64::MAX)),
        (_, Some(at_ms)) => at_ms,
        _ => bail!("--from {from}: give a length of time (1h), a time (2026-11-22T07:30:00Z), or a sequence"),
    };
    Ok(nats.sequence_at(stream, at_ms).await?)
}

/// Runs the plugin on up to so many events.
async fn read(reader: &mut Reader, chain: &Chain, count: usize) -> anyhow::Result<Account> {
    let mut account = Account::default();
    let mut left = count;
    while left > 0 {
        let page = reader.page(left.min(PAGE_EVENTS)).await?;
        left = left.saturating_sub(page.events.len());
        for event in &page.events {
            account.take(chain, event).await;
        }
        if page.at_end {
            break;
        }
    }
    Ok(account)
}

impl Account {
    async fn take(&mut self, chain: &Chain, event: &Event) {
        let at = &event.position;
        self.first.get_or_insert_with(|| at.clone());
        self.last = Some(at.clone());
        if event.undecodable.is_some() {
            self.undecodable += 1;
            return;
        }
        let started = Instant::now();
        let ran = chain.run(event).await;
        self.times.push((started.elapsed(), at.clone()));
        self.memory_bytes_max = self.memory_bytes_max.max(chain.memory_bytes());
        match ran.passed {
            Passed::Kept(outputs) => {
                self.kept += 1;
                self.outputs += outputs.len() as u64;
                self.sizes.push((outputs.iter().map(|output| output.data.len()).sum(), at.clone()));
            }
            Passed::Dropped { reason, .. } => {
                self.dropped += 1;
                self.drops.count(reason.as_deref().unwrap_or("no reason given"), at);
            }
            Passed::Faulted { fault, .. } => {
                self.faulted += 1;
                self.faults.count(&fault.kind.to_string(), at);
            }
        }
    }

    fn times_sorted(&self) -> Vec<Duration> {
        let mut times: Vec<Duration> = self.times.iter().map(|(time, _)| *time).collect();
        times.sort();
        times
    }

    fn told(&self, stream: &StreamName) -> String {
        let (Some(first), Some(last)) = (&self.first, &self.last) else {
            return format!("{stream} has no such events there\n");
        };
        let ran = self.times.len() as u64;
        let all = ran + self.undecodable;
        let mut text =
            format!("{all} events of {stream}, {} to {}; nothing is delivered\n\n", first.sequence, last.sequence);
        let share = |n: u64| format!("{:.1} %", n as f64 * 100.0 / all as f64);
        let mut rows = vec![
            ["kept".to_owned(), self.kept.to_string(), share(self.kept), format!("{} outputs", self.outputs)],
            ["dropped".to_owned(), self.dropped.to_string(), share(self.dropped), String::new()],
            ["faulted".to_owned(), self.faulted.to_string(), share(self.faulted), String::new()],
        ];
        if self.undecodable > 0 {
            let note = "not understood, the plugin did not see them".to_owned();
            rows.push(["undecodable".to_owned(), self.undecodable.to_string(), share(self.undecodable), note]);
        }
        text += &lines(&aligned(&rows));
        text += &section("drops by reason (numbers are #)", &self.drops.rows());
        text += &section("faults", &self.faults.rows());
        text += &section("slowest", &largest(&self.times, |time| ms(*time)));
        text += &section("largest", &largest(&self.sizes, |bytes| size(*bytes as u64)));
        let times = self.times_sorted();
        let memory = size(self.memory_bytes_max as u64);
        match (times.get(times.len() / 2), times.get(times.len().saturating_sub(1) * 99 / 100)) {
            (Some(median), Some(p99)) => {
                text + &format!("\ntime: median {}, 99 % {}; memory: {memory}\n", ms(*median), ms(*p99))
            }
            _ => text,
        }
    }

    fn as_json(&self) -> String {
        let at = |position: &Option<Position>| position.as_ref().map(|position| position.sequence);
        let reasons = |reasons: &Reasons| -> Vec<Value> {
            let one = |(reason, count, at): (&str, u64, Option<u64>)| json!({ "reason": reason, "events": count, "sequence": at });
            reasons.sorted().into_iter().map(one).collect()
        };
        let times = self.times_sorted();
        let micros = |at: usize| times.get(at).map(|time| time.as_secs_f64() * 1e6);
        let all = json!({
            "first_sequence": at(&self.first), "last_sequence": at(&self.last),
            "kept": self.kept, "outputs": self.outputs, "dropped": self.dropped, "faulted": self.faulted,
            "undecodable": self.undecodable, "drops": reasons(&self.drops), "faults": reasons(&self.faults),
            "median_us": micros(times.len() / 2), "max_us": micros(times.len().saturating_sub(1)),
            "memory_bytes_max": self.memory_bytes_max,
        });
        format!("{all:#}\n")
    }
}

impl Reasons {
    /// Counts a reason; those that differ in their numbers alone are one.
    fn count(&mut self, reason: &str, at: &Position) {
        let mut reason = shortened(&without_numbers(reason), REASON_CHARS_MAX);
        if self.0.len() >= REASONS_MAX && !self.0.contains_key(&reason) {
            reason = "other reasons".to_owned();
        }
        let (count, _) = self.0.entry(reason).or_insert_with(|| (0, Some(at.clone())));
        *count += 1;
    }

    /// The reasons with their counts and an event's sequence, the most frequent first.
    fn sorted(&self) -> Vec<(&str, u64, Option<u64>)> {
        let one = |(reason, (count, at)): (_, &(u64, Option<Position>))| {
            let reason: &String = reason;
            (reason.as_str(), *count, at.as_ref().map(|at| at.sequence))
        };
        let mut all: Vec<_> = self.0.iter().map(one).collect();
        all.sort_by_key(|(_, count, _)| std::cmp::Reverse(*count));
        all
    }

    fn rows(&self) -> Vec<[String; 3]> {
        let row = |(reason, count, at): (&str, u64, Option<u64>)| {
            [count.to_string(), at.map(|at| format!("at {at}")).unwrap_or_default(), reason.to_owned()]
        };
        let mut rows: Vec<_> = self.sorted().into_iter().take(ROWS_MAX).map(row).collect();
        if self.0.len() > ROWS_MAX {
            rows.push([String::new(), String::new(), format!("and {} others", self.0.len() - ROWS_MAX)]);
        }
        rows
    }
}

/// A text with `#` for each number.
fn without_numbers(text: &str) -> String {
    let mut plain = String::new();
    for c in text.chars() {
        match c.is_ascii_digit() || (c == '.' && plain.ends_with('#')) {
            true if plain.ends_with('#') => {}
            true => plain.push('#'),
            false => plain.push(c),
        }
    }
    plain
}

/// The largest of what was measured, with their events' sequences.
fn largest<T: Ord + Clone>(all: &[(T, Position)], told: impl Fn(&T) -> String) -> Vec<[String; 2]> {
    let mut all: Vec<&(T, Position)> = all.iter().collect();
    all.sort_by(|one, other| other.0.cmp(&one.0));
    all.into_iter().take(ROWS_MAX / 2).map(|(value, at)| [told(value), format!("at {}", at.sequence)]).collect()
}

fn section<const COLUMNS: usize>(title: &str, rows: &[[String; COLUMNS]]) -> String {
    if rows.is_empty() { String::new() } else { format!("\n{title}\n{}", lines(&aligned(rows))) }
}

fn lines(rows: &[String]) -> String {
    rows.iter().map(|row| format!("  {row}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_that_differ_in_numbers_are_one() {
        let at = |sequence| Position { stream: StreamName::parse("S").unwrap(), sequence };
        let mut reasons = Reasons::default();
        reasons.count("80.5 is less than 100", &at(1));
        reasons.count("7 is less than 100", &at(2));
        reasons.count("no amount", &at(3));
        assert_eq!(reasons.sorted(), [("# is less than #", 2, Some(1)), ("no amount", 1, Some(3))]);
    }
}
