//! `sluiced plugin bench`: what a plugin costs, measured on its fixtures.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::{Value, json};
use sluiced_sdk::test::{Fixture, Role};
use tokio::time::Instant;

use super::lab::{Lab, LimitArgs, Prepared};
use super::table::{aligned, size};
use super::{project, records, test};
use crate::cli::write_out;
use crate::domain::Event;
use crate::plugin::{Chain, Limits, Passed};

/// The calls between two looks at the clock.
const BATCH: u64 = 20;
/// The calls before measuring begins.
const WARM_UP: u64 = 200;
/// Clock ticks a second in `/proc/self/stat`: `USER_HZ`, fixed by the kernel's interface.
const TICKS_PER_SECOND: f64 = 100.0;

/// Which plugin, and for how long.
#[derive(Debug, Args)]
pub struct BenchArgs {
    /// A plugin's component (a .wasm file), or its project.
    #[arg(value_name = "FILE|DIR")]
    plugin: PathBuf,
    /// The folder of the fixtures; else `fixtures` in the project, or beside the component.
    #[arg(long, value_name = "DIR")]
    fixtures: Option<PathBuf>,
    /// Only the fixtures whose names contain this.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Measure each fixture for so many seconds, warm and again fresh.
    #[arg(long, value_name = "SECONDS", default_value_t = 2.0)]
    seconds: f64,
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    limits: LimitArgs,
}

/// One fixture, measured.
struct Figures {
    name: String,
    payload_bytes: usize,
    warm: Cost,
    fresh: Cost,
    memory_bytes: usize,
}

/// What one event costs, in microseconds.
struct Cost {
    /// Of all threads of this process, in user and kernel mode.
    cpu_us: f64,
    /// By the clock on the wall.
    wall_us: f64,
}

/// Measures every fixture that does not end in an error.
///
/// # Errors
/// When there is nothing to measure.
pub(super) fn run(args: &BenchArgs) -> anyhow::Result<()> {
    let (component, folder) = project::component_and_fixtures(&args.plugin, args.fixtures.as_deref())?;
    let fixtures = test::chosen(&folder, args.only.as_deref())?;
    let time = Duration::try_from_secs_f64(args.seconds).context("--seconds is not a length of time")?;
    let limits = args.limits.limits()?;
    let warm = Lab::open(&component, limits.clone())?;
    let fresh = Lab::open(&component, Limits { calls_per_instance_max: 1, ..limits })?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let mut measured = Vec::new();
    for fixture in &fixtures {
        measured.extend(runtime.block_on(figures(&warm, &fresh, fixture, time))?);
    }
    if measured.is_empty() {
        bail!("every fixture in {} ends in an error: there is nothing to measure", folder.display());
    }
    write_out(&if args.json { as_json(&warm, &measured) } else { told(&warm, &component, &measured) })
}

/// The figures of one fixture, `None` when it ends in an error.
async fn figures(warm: &Lab, fresh: &Lab, fixture: &Fixture, time: Duration) -> anyhow::Result<Option<Figures>> {
    let event = records::event(&fixture.event)?;
    let (Prepared::Ready(warm), Prepared::Ready(fresh)) = (warm.prepare(fixture)?, fresh.prepare(fixture)?) else {
        return Ok(None);
    };
    if matches!(warm.run(&event).await.passed, Passed::Faulted { .. }) {
        return Ok(None);
    }
    let warm_cost = cost(&warm, &event, time).await;
    let fresh_cost = cost(&fresh, &event, time).await;
    Ok(Some(Figures {
        name: match fixture.role {
            Role::Filter => format!("{} (filter)", fixture.name),
            Role::Transform => format!("{} (transform)", fixture.name),
        },
        payload_bytes: event.data.len(),
        warm: warm_cost,
        fresh: fresh_cost,
        memory_bytes: warm.memory_bytes(),
    }))
}

/// The cost of one event, measured for so long.
async fn cost(chain: &Chain, event: &Event, time: Duration) -> Cost {
    let warming = Instant::now();
    for _ in 0..WARM_UP {
        chain.run(event).await;
        if warming.elapsed() > time {
            break;
        }
    }
    let (started, cpu_before, mut calls) = (Instant::now(), cpu_seconds(), 0);
    while started.elapsed() < time || calls == 0 {
        for _ in 0..BATCH {
            chain.run(event).await;
        }
        calls += BATCH;
    }
    let each_us = |seconds: f64| seconds * 1_000_000.0 / calls as f64;
    Cost { cpu_us: each_us(cpu_seconds() - cpu_before), wall_us: each_us(started.elapsed().as_secs_f64()) }
}

/// The CPU time of this process so far, in seconds, in steps of 10 ms.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field is the name in parentheses and may hold spaces: utime and stime are 12 and 13 after it.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).map(|field| field.parse().unwrap_or(0)).sum();
    ticks as f64 / TICKS_PER_SECOND
}

fn as_json(lab: &Lab, measured: &[Figures]) -> String {
    let cost = |cost: &Cost| json!({ "cpu_us": cost.cpu_us, "wall_us": cost.wall_us });
    let fixture = |figures: &Figures| {
        json!({
            "fixture": figures.name,
            "payload_bytes": figures.payload_bytes,
            "warm": cost(&figures.warm),
            "fresh": cost(&figures.fresh),
            "memory_bytes": figures.memory_bytes,
        })
    };
    let description = lab.plugin().description();
    let fixtures: Vec<Value> = measured.iter().map(fixture).collect();
    let release = !cfg!(debug_assertions);
    let all =
        json!({ "name": description.name, "version": description.version, "release": release, "fixtures": fixtures });
    format!("{all:#}\n")
}

fn told(lab: &Lab, component: &Path, measured: &[Figures]) -> String {
    let description = lab.plugin().description();
    let head = ["fixture", "payload", "warm CPU", "wall", "fresh CPU", "wall", "memory"].map(str::to_owned);
    let us = |us: f64| format!("{us:.1} µs");
    let row = |figures: &Figures| {
        [
            figures.name.clone(),
            size(figures.payload_bytes as u64),
            us(figures.warm.cpu_us),
            us(figures.warm.wall_us),
            us(figures.fresh.cpu_us),
            us(figures.fresh.wall_us),
            size(figures.memory_bytes as u64),
        ]
    };
    let rows: Vec<_> = std::iter::once(head).chain(measured.iter().map(row)).collect();
    let build = if cfg!(debug_assertions) { "; a debug build of sluiced: its own share is far too large" } else { "" };
    let title = format!("{} {} ({}){build}", description.name, description.version, component.display());
    format!("{title}\n{}\n", aligned(&rows).join("\n"))
}
