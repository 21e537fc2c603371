//! What the figures were measured on, and how busy it was with other work.

use std::fmt;
use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sluiced_tests::paths::{nats_server_binary, sluiced_binary};
use tokio::time::sleep;

/// How long other work is watched before each case.
const WATCH: Duration = Duration::from_secs(1);

/// One machine.
pub(crate) struct Machine {
    pub(crate) cores: usize,
    cpu: String,
    kernel: String,
    load: String,
    versions: [String; 2],
}

impl Machine {
    pub(crate) fn read() -> Result<Self> {
        let cpus = fs::read_to_string("/proc/cpuinfo")?;
        let model =
            cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map(|(_, name)| name);
        let load = fs::read_to_string("/proc/loadavg")?;
        Ok(Self {
            cores: std::thread::available_parallelism()?.get(),
            cpu: model.unwrap_or("unknown CPU").trim().to_owned(),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            load: load.split_whitespace().take(3).collect::<Vec<_>>().join(" "),
            versions: [
                version(&mut Command::new(sluiced_binary()))?,
                version(&mut Command::new(nats_server_binary()))?,
            ],
        })
    }

    pub(crate) fn json(&self) -> Value {
        let Self { cores, cpu, kernel, load, versions } = self;
        json!({ "cores": cores, "cpu": cpu, "kernel": kernel, "load_before": load, "versions": versions, "build": build() })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cores, cpu, kernel, load, versions } = self;
        write!(f, "{cores} cores, {cpu}, Linux {kernel}, load {load}; {}; {} build", versions.join(", "), build())
    }
}

/// How many cores other work keeps busy right now. The bench itself does nothing meanwhile.
pub(crate) async fn busy_cores() -> Result<f64> {
    let before = ticks()?;
    sleep(WATCH).await;
    let after = ticks()?;
    let cores = std::thread::available_parallelism()?.get() as f64;
    let share = (after.0 - before.0) / (after.1 - before.1).max(1.0);
    Ok(share * cores)
}

/// Busy ticks and all ticks of all cores since boot.
fn ticks() -> Result<(f64, f64)> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().context("/proc/stat is not empty")?;
    // user, nice, system, idle, iowait, irq, softirq, steal; the guest columns after them are parts of user and nice.
    let ticks: Vec<f64> = line.split_whitespace().skip(1).take(8).filter_map(|field| field.parse().ok()).collect();
    let all: f64 = ticks.iter().sum();
    Ok((all - ticks.iter().skip(3).take(2).sum::<f64>(), all))
}

fn version(program: &mut Command) -> Result<String> {
    let output = program.arg("--version").output().with_context(|| format!("cannot start {program:?}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().replace(": v", " "))
}

fn build() -> &'static str {
    if cfg!(debug_assertions) { "debug" } else { "release" }
}
