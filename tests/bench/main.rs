//! `sluiced-bench`: what the daemon costs, measured on this machine on real parts.
//!
//! Each case starts what it needs on loopback, measures, and ends it again. What is measured is always a process of its
//! own: the receiver and the bare loop are this executable, run again. Figures are printed, never asserted: a target that
//! is missed is a finding, not a failure.

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

mod bare;
mod child;
mod clock;
mod dead;
mod idle;
mod machine;
mod many;
mod neighbour;
mod plugins;
mod receiver;
mod report;
mod setup;
mod start;
mod stats;
mod throughput;

use machine::Machine;
use report::Report;

#[derive(Parser)]
#[command(name = "sluiced-bench", about = "Measures sluiced on this machine; without a CASE, all of them")]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    options: Options,
}

/// The cases, and the parts that cases start as processes of their own.
#[derive(Subcommand)]
enum Command {
    /// Deliveries and CPU of the daemon with filter, transform and records (b) beside a bare loop (a)
    Main,
    /// Latency of a healthy endpoint, alone and beside one that never answers
    Neighbour,
    /// A million events beside a thousand dead endpoints: what the store grows by, and their coming back
    Dead,
    /// Latency of 4,500 live endpoints, alone and beside 500 dead ones
    Many,
    /// Latency of healthy subscriptions, alone and beside others whose plugins loop or are slow
    Plugins,
    /// Memory at rest, with three plugins and two subscriptions
    Idle,
    /// Time from exec to ready, with a warm plugin cache
    Start,
    /// The receiver of the other cases
    #[command(hide = true)]
    Receiver,
    /// The bare loop of the case `main`
    #[command(hide = true)]
    Bare(bare::Arguments),
}

#[derive(Args, Clone, Copy)]
struct Options {
    /// Write one JSON object instead of tables
    #[arg(long, global = true)]
    json: bool,
    /// Events in each round of `main`
    #[arg(long, global = true, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(100..=1_000_000))]
    events: u64,
    /// Rounds of `main`, `neighbour`, `many` and `plugins`; the median counts
    #[arg(long, global = true, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=50))]
    rounds: u32,
    /// Threads of the bare loop's runtime; the daemon's data plane has one
    #[arg(long, global = true, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=2))]
    threads: u32,
}

fn main() -> Result<()> {
    let Arguments { command, options } = Arguments::parse();
    match command {
        Some(Command::Receiver) => runtime(1)?.block_on(receiver::serve()),
        Some(Command::Bare(arguments)) => runtime(options.threads)?.block_on(bare::run(arguments)),
        Some(case) => runtime(1)?.block_on(measure(&[case], options)),
        None => {
            let all = [Command::Main, Command::Neighbour, Command::Idle, Command::Start];
            runtime(1)?.block_on(measure(&all, options))
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
async fn measure(cases: &[Command], options: Options) -> Result<()> {
    let machine = Machine::read()?;
    if !options.json {
        println!("{machine}\n");
    }
    let mut reports = Vec::new();
    for case in cases {
        let busy_cores = machine::busy_cores().await?;
        let report = run(case, options).await?.on(&machine, busy_cores);
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

async fn run(case: &Command, options: Options) -> Result<Report> {
    match case {
        Command::Main => throughput::run(options).await,
        Command::Neighbour => neighbour::run(options.rounds).await,
        Command::Dead => dead::run().await,
        Command::Many => many::run(options.rounds).await,
        Command::Plugins => plugins::run(options.rounds).await,
        Command::Idle => idle::run().await,
        Command::Start => start::run().await,
        Command::Receiver | Command::Bare(_) => unreachable!("the parts are no cases"),
    }
}

/// Says on standard error what goes on: the figures alone go to standard output.
fn say(line: &str) {
    eprintln!("bench: {line}");
}
