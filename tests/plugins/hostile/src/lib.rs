//! `hostile`: a filter and a transform that misbehave as their configuration says, for the tests of the host's limits.

use std::env;
use std::fs;
use std::hint::black_box;
use std::net::{TcpListener, TcpStream, ToSocketAddrs as _, UdpSocket};

use schemars::JsonSchema;
use serde::Deserialize;
use sluiced_sdk::{Error, Event, Filter, Output, Plugin, Transform, Verdict};

/// What to do wrong, and when.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What to do.
    #[serde(rename = "do")]
    misdeed: Misdeed,
    /// Only for events of this type; to all others it behaves: keeps them, and passes them on as they are.
    when_type: Option<String>,
    /// The size of "big-output" and "log-flood", in bytes and lines, the number of outputs of "many-outputs", the number
    /// of rounds of "slow", and the port of loopback that "reach" tries. Default 64 MiB for "big-output", else 100,000.
    amount: Option<usize>,
}

/// The ways to misbehave.
#[derive(Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Misdeed {
    /// Nothing: behaves to every event.
    Nothing,
    /// Never returns.
    Loop,
    /// Takes memory without end.
    Allocate,
    /// Panics, which traps.
    Trap,
    /// Calls itself until the stack is full.
    Recurse,
    /// Answers with one output of `amount` bytes, or a reason of that length.
    BigOutput,
    /// Answers with `amount` outputs of one byte.
    ManyOutputs,
    /// Answers with an error.
    Error,
    /// Answers with an error of `amount` bytes.
    BigError,
    /// Answers with headers that no HTTP request can carry.
    BadHeaders,
    /// Logs `amount` lines, then behaves.
    LogFlood,
    /// Sleeps for an hour: no time of its own passes, and no slice is ever used up.
    Sleep,
    /// Tries every way out of the sandbox, and fails with what it found: files, sockets, names, environment, arguments.
    Reach,
    /// Computes for `amount` thousand rounds, then behaves.
    Slow,
    /// Counts its calls and reports the count: shows whether an instance is fresh.
    Count,
    /// Never returns from `configure`.
    LoopInConfigure,
    /// Panics in `configure`.
    TrapInConfigure,
    /// Refuses its configuration.
    RefuseConfig,
}

/// The plugin.
pub struct Hostile {
    config: Config,
    calls: u64,
}

impl Plugin for Hostile {
    type Config = Config;

    const SUMMARY: &'static str = "Misbehaves on purpose.";

    fn new(config: Config) -> Result<Self, Error> {
        match config.misdeed {
            Misdeed::LoopInConfigure => forever(),
            Misdeed::TrapInConfigure => panic!("trapped in configure, as asked"),
            Misdeed::RefuseConfig => Err(Error::new("refused, as asked")),
            _ => Ok(Self { config, calls: 0 }),
        }
    }
}

impl Filter for Hostile {
    fn keep(&mut self, event: &Event) -> Result<Verdict, Error> {
        match self.misbehave(event)? {
            Answer::Behave => Ok(Verdict::Keep),
            Answer::Text(text) => Ok(Verdict::Drop(Some(text))),
            Answer::Many(_) | Answer::BadHeaders => Ok(Verdict::Keep),
        }
    }
}

impl Transform for Hostile {
    fn apply(&mut self, event: Event) -> Result<Vec<Output>, Error> {
        Ok(match self.misbehave(&event)? {
            Answer::Behave => vec![Output::bytes(event.data)],
            Answer::Text(text) => vec![Output::bytes(text)],
            Answer::Many(count) => vec![Output::bytes("x"); count],
            Answer::BadHeaders => vec![
                Output::bytes("x")
                    .header("bad name\r\n", "v")
                    .header("x-bad-value", "a\r\nx-injected: 1")
                    .header("", ""),
            ],
        })
    }
}

sluiced_sdk::export!(filter + transform: Hostile);

/// What is left to say for a plugin that has returned at all.
enum Answer {
    Behave,
    Text(String),
    Many(usize),
    BadHeaders,
}

impl Hostile {
    fn misbehave(&mut self, event: &Event) -> Result<Answer, Error> {
        self.calls += 1;
        if self.config.when_type.as_ref().is_some_and(|when_type| *when_type != event.type_) {
            return Ok(Answer::Behave);
        }
        let amount = self.config.amount;
        match self.config.misdeed {
            Misdeed::Loop => forever(),
            Misdeed::Allocate => allocate(),
            Misdeed::Trap => panic!("trapped, as asked"),
            Misdeed::Recurse => return Ok(Answer::Text(recurse(1).to_string())),
            Misdeed::BigOutput => return Ok(Answer::Text("x".repeat(amount.unwrap_or(BIG_BYTES)))),
            Misdeed::ManyOutputs => return Ok(Answer::Many(amount.unwrap_or(MANY))),
            Misdeed::Error => return Err(Error::new("an error, as asked")),
            Misdeed::BigError => return Err(Error::new("x".repeat(amount.unwrap_or(MANY)))),
            Misdeed::BadHeaders => return Ok(Answer::BadHeaders),
            Misdeed::LogFlood => (0..amount.unwrap_or(MANY)).for_each(|i| sluiced_sdk::warn!("line {i}")),
            Misdeed::Sleep => std::thread::sleep(std::time::Duration::from_secs(3_600)),
            Misdeed::Reach => return Err(reach(amount.unwrap_or(0))),
            Misdeed::Slow => {
                (0..amount.unwrap_or(MANY).saturating_mul(1000)).for_each(|i| {
                    black_box(i);
                });
            }
            Misdeed::Count => return Ok(Answer::Text(self.calls.to_string())),
            Misdeed::Nothing | Misdeed::LoopInConfigure | Misdeed::TrapInConfigure | Misdeed::RefuseConfig => {}
        }
        Ok(Answer::Behave)
    }
}

const BIG_BYTES: usize = 64 * 1024 * 1024;
const MANY: usize = 100_000;

fn forever() -> ! {
    loop {
        black_box(0);
    }
}

/// What it could reach of the world, as an error; "nothing" in a sandbox without a hole.
fn reach(port: usize) -> Error {
    let port = u16::try_from(port).unwrap_or_default();
    let mut reached = Vec::new();
    let mut tried = |what: &str, found: bool| {
        if found {
            reached.push(what.to_owned());
        }
    };
    tried("a file", fs::read("/etc/hostname").is_ok());
    tried("a folder", fs::read_dir("/").is_ok() || fs::read_dir(".").is_ok());
    tried("a new file", fs::write("/tmp/hostile", b"x").is_ok() || fs::write("hostile", b"x").is_ok());
    tried("a connection", TcpStream::connect(("127.0.0.1", port)).is_ok());
    tried("a port", TcpListener::bind("127.0.0.1:0").is_ok());
    tried("a datagram", UdpSocket::bind("127.0.0.1:0").is_ok_and(|udp| udp.send_to(b"x", ("127.0.0.1", port)).is_ok()));
    tried("a name", ("localhost", port).to_socket_addrs().is_ok());
    tried("the environment", env::vars().next().is_some());
    tried("arguments", env::args().next().is_some());
    if reached.is_empty() { Error::new("nothing") } else { Error::new(reached.join(", ")) }
}

fn allocate() -> ! {
    let mut hoard = Vec::new();
    loop {
        hoard.push(black_box(vec![1_u8; 1024 * 1024]));
        black_box(&hoard);
    }
}

#[inline(never)]
#[expect(unconditional_recursion, reason = "that is its misdeed")]
fn recurse(depth: u64) -> u64 {
    black_box(recurse(black_box(depth + 1)) + 1)
}
