//! A part that runs as a process of its own, most often this executable with other arguments: one JSON value a line each way.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

const END_TIMEOUT: Duration = Duration::from_secs(10);

/// A running part. It ends when its standard input does, so also with the parent; it is killed on drop.
pub(crate) struct Child {
    process: tokio::process::Child,
    id: u32,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Child {
    /// Starts this executable with `args`.
    pub(crate) fn start(args: &[&str]) -> Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(args);
        Self::run(command)
    }

    /// Starts another program that talks in lines.
    pub(crate) fn run(mut command: Command) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let id = process.id().context("it has just been started")?;
        let stdin = process.stdin.take().context("its input is piped")?;
        let stdout = process.stdout.take().context("its output is piped")?;
        Ok(Self { process, id, stdin, lines: BufReader::new(stdout).lines() })
    }

    /// The process id.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// Sends one line.
    pub(crate) async fn send(&mut self, message: &Value) -> Result<()> {
        self.stdin.write_all(format!("{message}\n").as_bytes()).await.context("a part does not listen")
    }

    /// Waits for its next line. Nothing is lost when it is not waited for to the end.
    pub(crate) async fn next(&mut self) -> Result<Value> {
        let line = self.lines.next_line().await?.context("a part ended before its time")?;
        serde_json::from_str(&line).with_context(|| format!("not a part's line: {line}"))
    }

    /// Asks it to end, and waits until it has.
    pub(crate) async fn end(mut self) -> Result<()> {
        drop(self.stdin);
        timeout(END_TIMEOUT, self.process.wait()).await.context("a part does not end")??;
        Ok(())
    }
}
