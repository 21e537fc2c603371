//! `report`: runs cases, each as a process of its own, keeps their figures in `docs/performance/figures.json`, and makes
//! the tables of `docs/performance.md` and the pictures beside it from all that are kept.

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum as _;
use serde_json::{Value, json};
use sluiced_tests::paths::workspace;

use crate::svg::{self, Line, Pair};
use crate::{Case, Options, say};

const PAGE: &str = "docs/performance.md";
const FOLDER: &str = "docs/performance";
const FIGURES: &str = "figures.json";
const BEGIN: &str = "<!-- bench:begin -->\n";
const END: &str = "<!-- bench:end -->";
/// The picture of the CPU time of all cases that have a bare loop beside them.
const OVERVIEW: &str = "overview";

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The cases to run; all of them without one
    cases: Vec<Case>,
    /// Run none: make the page and the pictures from the figures that are kept
    #[arg(long, conflicts_with = "cases")]
    page_only: bool,
}

/// Runs the cases one after the other; one that fails is told of at the end, after the page is made.
pub(crate) fn run(arguments: &Arguments, options: Options) -> Result<()> {
    let mut figures = read_figures()?;
    let mut failed = Vec::new();
    let all = if arguments.page_only { &[][..] } else { Case::value_variants() };
    let cases = if arguments.cases.is_empty() { all } else { &arguments.cases };
    for case in cases {
        say(&format!("report: {}", name(*case)));
        match measure(*case, options) {
            Ok(found) => keep(&mut figures, found),
            Err(error) => {
                say(&format!("report: {} failed: {error:#}", name(*case)));
                failed.push(name(*case));
            }
        }
        // After each: what was measured is not lost when a later one is interrupted.
        write_all(&figures)?;
    }
    write_all(&figures)?;
    ensure!(failed.is_empty(), "these cases failed, and keep their figures of before: {}", failed.join(", "));
    Ok(())
}

fn name(case: Case) -> String {
    case.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// One case by this executable, with the command that a reader would give.
fn measure(case: Case, options: Options) -> Result<Value> {
    let Options { events, rounds, threads, subscriptions, .. } = options;
    let given = [
        ("--events", events, crate::EVENTS),
        ("--rounds", rounds.into(), crate::ROUNDS.into()),
        ("--threads", threads.into(), 1),
        ("--subscriptions", subscriptions, crate::SUBSCRIPTIONS),
    ];
    let given = given.into_iter().filter(|(_, value, default)| value != default);
    let args: Vec<String> = given.flat_map(|(option, value, _)| [option.to_owned(), value.to_string()]).collect();
    let case = name(case);
    let mut command = Command::new(std::env::current_exe()?);
    command.arg(&case).arg("--json").args(&args).stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output().context("cannot start sluiced-bench")?;
    ensure!(output.status.success(), "it ended with {}", output.status);
    let mut told: Value = serde_json::from_slice(&output.stdout).context("its output is not JSON")?;
    let mut found = told["cases"][0].take();
    ensure!(found.is_object(), "its output has no case");
    found["command"] = format!("cargo xtask bench {case} {}", args.join(" ")).trim_end().into();
    Ok(found)
}

/// Puts a case in the place of its figures of before; the order is that of the cases.
fn keep(figures: &mut Vec<Value>, found: Value) {
    figures.retain(|case| case["case"] != found["case"]);
    figures.push(found);
    let order: Vec<String> = Case::value_variants().iter().map(|case| name(*case)).collect();
    figures.sort_by_key(|figure| order.iter().position(|case| figure["case"] == case.as_str()));
}

fn folder() -> PathBuf {
    workspace().join(FOLDER)
}

fn read_figures() -> Result<Vec<Value>> {
    let path = folder().join(FIGURES);
    if !path.exists() {
        return Ok(Vec::new());
    }
    let mut kept: Value =
        serde_json::from_slice(&fs::read(&path)?).with_context(|| format!("in {}", path.display()))?;
    match kept["cases"].take() {
        Value::Array(cases) => Ok(cases),
        _ => bail!("{} has no cases", path.display()),
    }
}

/// The figures, the pictures and the page.
fn write_all(figures: &[Value]) -> Result<()> {
    fs::create_dir_all(folder())?;
    let text = serde_json::to_string_pretty(&json!({ "cases": figures }))? + "\n";
    fs::write(folder().join(FIGURES), text)?;
    let bars = overview(figures);
    if !bars.is_empty() {
        let picture = svg::pairs("CPU per delivery (drop: per event)", "us", &bars);
        fs::write(folder().join(format!("{OVERVIEW}.svg")), picture)?;
    }
    for curve in figures.iter().flat_map(|case| list(&case["curves"])) {
        let lines: Vec<Line> = list(&curve["lines"]).iter().map(line).collect();
        let picture = svg::lines(text_of(&curve["title"]), text_of(&curve["size"]), text_of(&curve["unit"]), &lines);
        fs::write(folder().join(format!("{}.svg", text_of(&curve["name"]))), picture)?;
    }
    let path = workspace().join(PAGE);
    let page = fs::read_to_string(&path).with_context(|| format!("reading {PAGE}"))?;
    let (before, rest) = page.split_once(BEGIN).with_context(|| format!("{PAGE} has no {BEGIN:?}"))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("{PAGE} has no {END:?}"))?;
    fs::write(path, [before, BEGIN, &tables(figures, !bars.is_empty())?, END, after].concat())?;
    Ok(())
}

fn line(line: &Value) -> Line {
    let points = list(&line["points"]).iter();
    let points = points.filter_map(|point| Some((point[0].as_f64()?, point[1].as_f64()?))).collect();
    (text_of(&line["of"]).to_owned(), points)
}

/// The medians of each case that has them of both.
fn overview(figures: &[Value]) -> Vec<Pair> {
    let of = |case: &Value, run: &str| {
        list(&case["rows"]).iter().find(|row| row["run"] == run).and_then(|row| row["cpu_us"].as_f64())
    };
    let pair = |case: &Value| Some((text_of(&case["case"]).to_owned(), [of(case, "a median")?, of(case, "b median")?]));
    figures.iter().filter_map(pair).collect()
}

/// What stands between the marks of the page.
fn tables(figures: &[Value], has_overview: bool) -> Result<String> {
    let mut page = String::new();
    let mut machines: Vec<String> = figures.iter().map(|case| machine(&case["machine"])).collect();
    machines.sort();
    machines.dedup();
    for machine in machines {
        writeln!(page, "- {machine}")?;
    }
    writeln!(page, "\n### Targets\n\n| case | figure | measured | target | |\n|---|---|---|---|---|")?;
    for case in figures {
        for target in list(&case["targets"]) {
            writeln!(page, "| `{}` | {}{} |", text_of(&case["case"]), target_cells(target), busy_mark(case))?;
        }
    }
    if has_overview {
        writeln!(page, "\n![CPU per delivery of the bare loop and of sluiced](performance/{OVERVIEW}.svg)")?;
    }
    for case in figures {
        section(&mut page, case)?;
    }
    Ok(page)
}

fn section(page: &mut String, case: &Value) -> Result<()> {
    writeln!(page, "\n### `{}`\n\n{}.", text_of(&case["case"]), text_of(&case["what"]))?;
    let busy = case["busy_cores_before"].as_f64().unwrap_or(0.0);
    let noise = match case["noisy"].as_bool() {
        Some(true) => format!(", taken on a busy machine: other work kept {busy:.1} cores busy before it"),
        _ => String::new(),
    };
    writeln!(page, "`{}`{noise}.\n", text_of(&case["command"]))?;
    let columns = list(&case["columns"]);
    let heading = |column: &Value| format!(" {}, {} |", text_of(&column["name"]), text_of(&column["unit"]));
    writeln!(page, "| |{}", columns.iter().map(heading).collect::<String>())?;
    writeln!(page, "|---|{}", "---:|".repeat(columns.len()))?;
    for row in list(&case["rows"]) {
        let cell = |column: &Value| {
            let decimals = usize::try_from(column["decimals"].as_u64().unwrap_or(0)).unwrap_or(0);
            row[text_of(&column["key"])].as_f64().map_or(" |".to_owned(), |value| format!(" {value:.decimals$} |"))
        };
        writeln!(page, "| {} |{}", text_of(&row["run"]), columns.iter().map(cell).collect::<String>())?;
    }
    for curve in list(&case["curves"]) {
        writeln!(page, "\n![{}](performance/{}.svg)", text_of(&curve["title"]), text_of(&curve["name"]))?;
    }
    Ok(())
}

/// What, measured, target, and whether it is met, as cells of a row that is still open.
fn target_cells(target: &Value) -> String {
    let (what, unit) = (text_of(&target["what"]), text_of(&target["unit"]));
    let value = target["value"].as_f64().map_or("none".to_owned(), |value| format!("{value:.2}"));
    let limit = match (target["max"].as_f64(), target["min"].as_f64()) {
        (Some(max), _) => format!("≤ {max:.1}"),
        (_, Some(min)) => format!("≥ {min:.1}"),
        _ => String::new(),
    };
    let verdict = if target["met"].as_bool() == Some(true) { "met" } else { "missed" };
    format!("{what} | {value} {unit} | {limit} {unit} | {verdict}")
}

fn busy_mark(case: &Value) -> &'static str {
    if case["noisy"].as_bool() == Some(true) { " (busy machine)" } else { "" }
}

fn machine(machine: &Value) -> String {
    let versions: Vec<&str> = list(&machine["versions"]).iter().map(text_of).collect();
    let [cpu, kernel, build] = ["cpu", "kernel", "build"].map(|key| text_of(&machine[key]));
    format!("{} cores, {cpu}, Linux {kernel}; {}; {build} build", machine["cores"], versions.join(", "))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text_of(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
