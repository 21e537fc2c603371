//! `sluiced plugin test`: a plugin's event fixtures, run in the daemon's own engine under its limits.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use sluiced_sdk::Verdict;
use sluiced_sdk::test::{Fixture, FixtureError, Outcome};
use tokio::time::Instant;

use super::lab::{Lab, LimitArgs, Prepared, outcome};
use super::table::{aligned, ms, shortened, size};
use super::{diff, dry_run, project, records};
use crate::cli::write_out;
use crate::plugin::Fault;

/// The longest verdict that a row shows, in characters.
const VERDICT_CHARS_MAX: usize = 60;

/// Which plugin, and which fixtures.
#[derive(Debug, Args)]
pub struct TestArgs {
    /// A plugin's project, or its component (a .wasm file).
    #[arg(value_name = "DIR|FILE", default_value = ".")]
    plugin: PathBuf,
    /// The folder of the fixtures; else `fixtures` in the project, or beside the component.
    #[arg(long, value_name = "DIR")]
    fixtures: Option<PathBuf>,
    /// Only the fixtures whose names contain this.
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
    /// Write what comes out as what is expected from now on. Read the difference before you commit it.
    #[arg(long)]
    bless: bool,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    stream: dry_run::StreamArgs,
}

/// One fixture, run.
struct Case {
    name: String,
    /// What the plugin made, on one line.
    verdict: String,
    /// How long the call took and what memory the instance then had; none when the configuration was refused.
    cost: Option<(Duration, usize)>,
    result: Result<(), Failure>,
}

/// How a fixture ended when the plugin did what the contract allows.
enum Played {
    /// The plugin made something of it, at a cost where it came to a call.
    Made(Outcome, Option<(Duration, usize)>),
    /// The schema refused the configuration, in its words, where the fixture expects the plugin to refuse it in its own:
    /// natively, in the author's tests, there is no schema before the plugin.
    RefusedBySchema(String),
}

/// Why a case failed.
enum Failure {
    /// What came out is not what is expected.
    Fixture(FixtureError),
    /// The plugin ended in a fault that no fixture can expect, at that cost.
    Fault(Fault, (Duration, usize)),
    /// It cannot be used as the fixture says.
    Unusable(anyhow::Error),
}

/// Runs the fixtures and prints a table.
///
/// # Errors
/// When there is nothing to run, or a fixture fails.
pub(super) fn run(args: &TestArgs) -> anyhow::Result<()> {
    if args.stream.is_given() {
        let component = project::component(&args.plugin)?;
        let lab = Lab::open(&component, args.limits.limits()?)?;
        return dry_run::run(&args.stream, args.limits.config(), &lab);
    }
    let (component, folder) = project::component_and_fixtures(&args.plugin, args.fixtures.as_deref())?;
    let fixtures = chosen(&folder, args.only.as_deref())?;
    let lab = Lab::open(&component, args.limits.limits()?)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let cases: Vec<Case> = fixtures.iter().map(|fixture| runtime.block_on(case(&lab, fixture, args.bless))).collect();
    let failed = cases.iter().filter(|case| case.result.is_err()).count();
    write_out(&told(&lab, &component, &cases))?;
    if failed > 0 {
        bail!("{failed} of {} fixtures failed", cases.len());
    }
    Ok(())
}

/// The fixtures of a folder, or those of them that are asked for.
///
/// # Errors
/// When there is none, or one of them cannot be read.
pub(super) fn chosen(folder: &Path, only: Option<&str>) -> anyhow::Result<Vec<Fixture>> {
    let mut fixtures = Fixture::load_all(folder)?;
    if let Some(text) = only {
        fixtures.retain(|fixture| fixture.name.contains(text));
        if fixtures.is_empty() {
            bail!("no fixture in {} has {text:?} in its name", folder.display());
        }
    }
    Ok(fixtures)
}

async fn case(lab: &Lab, fixture: &Fixture, bless: bool) -> Case {
    let (verdict, cost, result) = match played(lab, fixture).await {
        Ok(Played::Made(outcome, cost)) => {
            let checked = if bless { fixture.bless(&outcome) } else { fixture.check(&outcome) };
            (in_short(&outcome), cost, checked.map_err(Failure::Fixture))
        }
        Ok(Played::RefusedBySchema(message)) => (shortened(&message, VERDICT_CHARS_MAX), None, Ok(())),
        Err(Failure::Fault(fault, cost)) => {
            (format!("fault: {}", fault.kind_str()), Some(cost), Err(Failure::Fault(fault, cost)))
        }
        Err(failure) => (String::new(), None, Err(failure)),
    };
    Case { name: fixture.name.clone(), verdict, cost, result }
}

/// What the plugin makes of a fixture, and what that cost.
async fn played(lab: &Lab, fixture: &Fixture) -> Result<Played, Failure> {
    let chain = match lab.prepare(fixture).map_err(Failure::Unusable)? {
        Prepared::Ready(chain) => chain,
        Prepared::Refused { message, by_schema: true } if fixture.expects_error() => {
            return Ok(Played::RefusedBySchema(message));
        }
        Prepared::Refused { message, .. } => return Ok(Played::Made(Outcome::Error(message), None)),
    };
    let event = records::event(&fixture.event).map_err(Failure::Unusable)?;
    let started = Instant::now();
    let ran = chain.run(&event).await;
    let took = started.elapsed();
    let cost = (took, chain.memory_bytes());
    let outcome = outcome(fixture.role, ran.passed).map_err(|fault| Failure::Fault(fault, cost))?;
    Ok(Played::Made(outcome, Some(cost)))
}

/// What came out, on one line.
fn in_short(outcome: &Outcome) -> String {
    let told = match outcome {
        Outcome::Verdict(Verdict::Keep) => "keep".to_owned(),
        Outcome::Verdict(Verdict::Drop(None)) => "drop".to_owned(),
        Outcome::Verdict(Verdict::Drop(Some(reason))) => format!("drop: {reason}"),
        Outcome::Error(error) => format!("error: {error}"),
        Outcome::Outputs(outputs) if outputs.is_empty() => "no output".to_owned(),
        Outcome::Outputs(outputs) => {
            let bytes: usize = outputs.iter().map(|output| output.data.len()).sum();
            let plural = if outputs.len() == 1 { "" } else { "s" };
            format!("{} output{plural}, {bytes} bytes", outputs.len())
        }
    };
    shortened(&told, VERDICT_CHARS_MAX)
}

fn told(lab: &Lab, component: &Path, cases: &[Case]) -> String {
    let description = lab.plugin().description();
    let mut text = format!("{} {} ({})\n", description.name, description.version, component.display());
    let row = |case: &Case| {
        let mark = if case.result.is_ok() { "ok" } else { "FAILED" };
        let cost = case.cost.map(|(took, memory)| (ms(took), size(memory as u64)));
        let (took, memory) = cost.unwrap_or_else(|| ("-".to_owned(), "-".to_owned()));
        [mark.to_owned(), case.name.clone(), took, memory, case.verdict.clone()]
    };
    let rows: Vec<_> = cases.iter().map(row).collect();
    for (line, case) in aligned(&rows).into_iter().zip(cases) {
        text += &format!("  {line}\n");
        if let Err(failure) = &case.result {
            failure.lines().iter().for_each(|line| text += &format!("      {line}\n"));
        }
    }
    let failed = cases.iter().filter(|case| case.result.is_err()).count();
    text + &format!("{} passed, {failed} failed\n", cases.len() - failed)
}

impl Failure {
    /// What went wrong, line by line.
    fn lines(&self) -> Vec<String> {
        match self {
            Self::Fixture(FixtureError::Mismatch { path, expected, actual }) => {
                let head = format!("{}: - expected, + what came out", path.display());
                std::iter::once(head).chain(diff::lines(expected, actual)).collect()
            }
            Self::Fixture(error) => vec![crate::telemetry::chain(error)],
            Self::Fault(fault, _) => vec![fault.to_string()],
            Self::Unusable(error) => vec![format!("{error:#}")],
        }
    }
}
