//! One step at a time: what runs, how long it took, and the command line of the one that failed.

use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How often a bounded command is asked whether it has ended.
const POLL: Duration = Duration::from_millis(50);

/// Says something that is neither a step nor its output.
pub(crate) fn say(line: &str) {
    eprintln!("xtask: {line}");
}

/// Runs one step with its output shown.
///
/// # Errors
/// Names the step and its command line when the command cannot be started or fails.
pub(crate) fn step(name: &str, command: &mut Command) -> Result<()> {
    let started = now();
    last_step(name, command)?;
    say(&format!("{name}: ok, {:.1} s", started.elapsed().as_secs_f64()));
    Ok(())
}

/// Runs a step whose own closing lines are to be the last, when it succeeds.
///
/// # Errors
/// As [`step`].
pub(crate) fn last_step(name: &str, command: &mut Command) -> Result<()> {
    say(&format!("{name} ..."));
    let status = command.status().with_context(|| format!("{name}: cannot start {}", line_of(command)))?;
    if !status.success() {
        bail!("{name} failed ({status}): {}", line_of(command));
    }
    Ok(())
}

/// The standard output of a command that succeeds, `None` when it is absent or fails. For asking a tool its version.
pub(crate) fn ask(command: &mut Command) -> Option<String> {
    let output = command.stderr(Stdio::null()).stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Runs a command that is ended after `time_max`, and tells whether it succeeded within it. For what needs a network.
pub(crate) fn succeeds_within(time_max: Duration, command: &mut Command) -> Result<bool> {
    let started = now();
    let Ok(mut child) = command.stdin(Stdio::null()).spawn() else { return Ok(false) };
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status.success());
        }
        if started.elapsed() > time_max {
            child.kill()?;
            child.wait()?;
            return Ok(false);
        }
        thread::sleep(POLL);
    }
}

/// A command as a person would type it.
pub(crate) fn line_of(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

#[expect(clippy::disallowed_methods, reason = "xtask has no asynchronous runtime and no clock to pause")]
fn now() -> Instant {
    Instant::now()
}
