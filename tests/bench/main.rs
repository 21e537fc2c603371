//! `sluiced-bench`: what the daemon costs, measured on this machine on real parts.
//!
//! Each case starts what it needs on loopback, measures, and ends it again. What is measured is always a process of its
//! own: the receiver and the bare loop are this executable, run again. Figures are printed, never asserted: a target that
//! is missed is a finding, not a failure.

use anyhow::Result;
use clap::{Args, Parser, Subcommand, ValueEnum};

mod api;
mod backlog;
mod bare;
mod child;
mod clock;
mod console;
mod dead;
mod idle;
mod instructions;
mod latency;
mod load;
mod machine;
mod many;
mod neighbour;
mod page;
mod plugins;
mod receiver;
mod report;
mod routing;
mod setup;
mod slow;
mod sse;
mod start;
mod stats;
mod svg;
mod throughput;

use machine::Machine;
use report::Report;

/// Events of a case of throughput, unless `--events` says otherwise.
const EVENTS: u64 = 20_000;
const ROUNDS: u32 = 3;
/// The largest size of `routing`, unless `--subscriptions` says otherwise.
const SUBSCRIPTIONS: u64 = 10_000;

#[derive(Parser)]
#[command(name = "sluiced-bench", about = "Measures sluiced on this machine; without a CASE, four of them")]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    options: Options,
}

/// The cases, the report on them, and the parts that cases start as processes of their own.
#[derive(Subcommand)]
enum Command {
    #[command(flatten)]
    Case(Case),
    /// Run cases, all without one, and make docs/performance.md of their figures
    Report(page::Arguments),
    /// The receiver of the other cases
    #[command(hide = true)]
    Receiver,
    /// The bare loop of the cases
    #[command(hide = true)]
    Bare(bare::Arguments),
    /// The clients of the case `sse`
    #[command(hide = true)]
    Fleet(sse::Arguments),
}

#[derive(Subcommand, ValueEnum, Clone, Copy)]
enum Case {
    /// Deliveries and CPU of the daemon with filter, transform and records (b) beside a bare loop (a)
    Main,
    /// The same without a plugin
    Plain,
    /// The same with a filter only
    Filter,
    /// A filter that drops 99 of 100 events, beside a loop that pulls and acks
    Drop,
    /// Bodies of 64 KB
    Large,
    /// Each event to 1, 5 and 20 subscriptions
    Fanout,
    /// As `main`, with 100,000 queued events
    Burst,
    /// Ten endpoints, half of which fail
    Failing,
    /// A thousand endpoints evenly
    Even,
    /// Latency at 200 events/s, of the bare loop and of the daemon
    Latency,
    /// 10, 1,000 and 10,000 subscriptions of which 10 match; 100,000 with --subscriptions 100000
    Routing,
    /// 100,000 queued events for a receiver that takes a second a request
    Slow,
    /// 100,000 parked deliveries, and their going out
    Backlog,
    /// Latency of a healthy endpoint, alone and beside one that never answers
    Neighbour,
    /// Latency of 4,500 live endpoints, alone and beside 500 dead ones
    Many,
    /// Latency of healthy subscriptions, alone and beside others whose plugins loop or are slow
    Plugins,
    /// Event streams: idle clients, 1,000 and 5,000 with events, one that is slow, a restart; beside nchan where it is installed
    Sse,
    /// What the daemon spends on a page of the web console while 10,000 events a second flow, and how the page feels
    Console,
    /// Memory at rest, with three plugins and two subscriptions
    Idle,
    /// Time from exec to ready, with a warm plugin cache
    Start,
    /// A million events beside a thousand dead endpoints: what the store grows by, and their coming back
    Dead,
    /// What the management API takes for an answer, at 10,000 webhooks and a million deliveries
    Api,
    /// Instructions of the daemon for one delivery, counted by callgrind
    Instructions,
}

#[derive(Args, Clone, Copy)]
struct Options {
    /// Write one JSON object instead of tables
    #[arg(long, global = true)]
    json: bool,
    /// Events in each round of the cases of throughput; fewer than the default make the other cases short too
    #[arg(long, global = true, default_value_t = EVENTS, value_parser = clap::value_parser!(u64).range(100..=1_000_000))]
    events: u64,
    /// Rounds of the cases that have them; the median counts
    #[arg(long, global = true, default_value_t = ROUNDS, value_parser = clap::value_parser!(u32).range(1..=50))]
    rounds: u32,
    /// Threads of the bare loop's runtime; the daemon's data plane has one
    #[arg(long, global = true, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=2))]
    threads: u32,
    /// The largest size of `routing`
    #[arg(long, global = true, default_value_t = SUBSCRIPTIONS, value_parser = clap::value_parser!(u64).range(10..=100_000))]
    subscriptions: u64,
    /// Of `instructions`: end with an error when a figure is more than a tenth above the committed one
    #[arg(long, global = true)]
    check: bool,
    /// Of `instructions`: write the figures down as the committed ones
    #[arg(long, global = true, conflicts_with = "check")]
    commit: bool,
}

fn main() -> Result<()> {
    let Arguments { command, options } = Arguments::parse();
    match command {
        Some(Command::Receiver) => runtime(1)?.block_on(receiver::serve()),
        Some(Command::Bare(arguments)) => runtime(options.threads)?.block_on(bare::run(arguments)),
        Some(Command::Fleet(arguments)) => runtime(1)?.block_on(sse::serve(arguments)),
        Some(Command::Report(arguments)) => page::run(&arguments, options),
        Some(Command::Case(case)) => runtime(1)?.block_on(measure(&[case], options)),
        None => {
            let usual = [Case::Main, Case::Neighbour, Case::Idle, Case::Start];
            runtime(1)?.block_on(measure(&usual, options))
        }
    }
}

fn runtime(threads: u32) -> Result<tokio::runtime::Runtime> {
    let mut builder = match threads {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    if threads > 1 {
        builder.worker_threads(threads as usize);
    }
    Ok(builder.enable_all().build()?)
}

/// Runs cases one after the other. Tables are printed as each case ends, JSON at the end.
async fn measure(cases: &[Case], options: Options) -> Result<()> {
    let machine = Machine::read()?;
    if !options.json {
        println!("{machine}\n");
    }
    let mut reports = Vec::new();
    for case in cases {
        let busy_cores = machine::busy_cores().await?;
        let report = run(*case, options).await?.on(&machine, busy_cores);
        if !options.json {
            println!("{report}");
        }
        reports.push(report);
    }
    if options.json {
        println!("{}", report::json(&machine, &reports));
    }
    Ok(())
}

async fn run(case: Case, options: Options) -> Result<Report> {
    match case {
        Case::Api => api::run(options).await,
        Case::Main => throughput::main(options).await,
        Case::Plain => throughput::no_plugin(options).await,
        Case::Filter => throughput::filter(options).await,
        Case::Drop => throughput::drop(options).await,
        Case::Large => throughput::large(options).await,
        Case::Fanout => throughput::fanout(options).await,
        Case::Burst => throughput::burst(options).await,
        Case::Failing => throughput::failing(options).await,
        Case::Even => throughput::even(options).await,
        Case::Latency => latency::run(options).await,
        Case::Routing => routing::run(options).await,
        Case::Slow => slow::run(options).await,
        Case::Backlog => backlog::run(options).await,
        Case::Neighbour => neighbour::run(options.rounds).await,
        Case::Many => many::run(options.rounds).await,
        Case::Plugins => plugins::run(options.rounds).await,
        Case::Sse => sse::run(options).await,
        Case::Console => console::run(options).await,
        Case::Idle => idle::run().await,
        Case::Start => start::run().await,
        Case::Dead => dead::run().await,
        Case::Instructions => instructions::run(options).await,
    }
}

/// Says on standard error what goes on: the figures alone go to standard output.
fn say(line: &str) {
    eprintln!("bench: {line}");
}
