//! The command line: one file a subcommand.
//!
//! Exit codes: 0 for success, 64 for a wrong command line or a configuration that cannot be used, 69 when a running daemon
//! that is asked does not answer or cannot, 77 when it does not let the asker in, 1 for everything else.

pub mod backup;
pub mod check;
pub mod completions;
pub mod config_reference;
pub mod deliveries;
pub mod dev;
pub mod events;
pub mod explain;
pub mod health;
pub mod keys;
pub mod listen;
pub mod man;
pub mod openapi;
mod passing;
pub mod plugin;
pub mod portal;
pub mod remote;
pub mod run;
pub mod secret;
pub mod secrets;
pub mod tail;
pub mod webhooks;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{self, Config, Overrides};

/// The exit code of a wrong command line or configuration (`EX_USAGE` of sysexits.h).
pub const EXIT_USAGE: u8 = 64;
/// The exit code of a failed start.
pub const EXIT_FAILURE: u8 = 1;

/// An event router daemon: NATS JetStream in, WebAssembly filters and transforms, signed webhooks and Server-Sent Events out.
#[derive(Debug, Parser)]
#[command(name = "sluiced", version, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon until SIGTERM or SIGINT.
    Run(ConfigArgs),
    /// Check a configuration without running it: needs no broker, no data directory and no network.
    Check(ConfigArgs),
    /// See it work: a nats-server, the daemon, a receiver and sample events, for a look around.
    Dev(dev::DevArgs),
    /// Copy the store to a new directory, while the daemon runs or not. The master key is not part of it.
    Backup(backup::BackupArgs),
    /// Make a store of a backup, where there is none yet.
    Restore(backup::RestoreArgs),
    /// Write the store's file anew, without the space that is not used, while no daemon runs.
    Compact(ConfigArgs),
    /// Where is my event? What each subscription made of it, and what became of its deliveries: asks a running daemon.
    Explain(explain::ExplainArgs),
    /// Is the daemon ready? Exit code 69 and what it waits for when it is not.
    Health(health::HealthArgs),
    /// Webhooks: list, get, create, update, delete, test, rotate-secret, enable, disable, deliveries, replay.
    Webhooks(webhooks::WebhooksArgs),
    /// Events: list, get, publish, stats.
    Events(events::EventsArgs),
    /// What became of events: list, get, retry.
    Deliveries(deliveries::DeliveriesArgs),
    /// API keys: list, create, revoke.
    Keys(keys::KeysArgs),
    /// A link that opens the web console as an owner, once.
    PortalLink(portal::PortalArgs),
    /// Publish an event: `sluiced send orders.created '{"amount": 120}'`.
    Send(events::SendArgs),
    /// Print events as they come; after an interruption it goes on after the last one.
    Tail(tail::TailArgs),
    /// Receive webhooks on this machine: print them, check their signatures, answer any status.
    Listen(listen::ListenArgs),
    /// Print what a shell completes the command line with.
    Completions(completions::CompletionsArgs),
    /// Write manual pages to a directory.
    Man(man::ManArgs),
    /// Print the description of the API: OpenAPI 3.1, as a running daemon serves it at /api/v1/openapi.json.
    Openapi,
    /// Print every key of the configuration, with its type, default, bounds and variable, as Markdown.
    ConfigReference,
    /// For authors of plugins: make a project, build it, test it, look into it, measure it.
    #[command(subcommand)]
    Plugin(plugin::PluginCommand),
    /// Make a new signing secret for a webhook, or a pair of keys.
    Secret(secret::SecretArgs),
    /// The master key that the store's secrets are sealed under.
    #[command(subcommand)]
    Secrets(secrets::SecretsCommand),
}

/// Which configuration: a file, and what flags set over it.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// The configuration file (TOML).
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The data directory; over `data_dir`.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// Where to listen; over `server.listen`.
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<String>,
    /// error, warn, info, debug or trace; over `log.level`.
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Print the configuration in effect, without its secrets, and end.
    #[arg(long)]
    dump_config: bool,
}

impl ConfigArgs {
    /// Loads the configuration that the arguments and the environment name; also for a reload.
    ///
    /// # Errors
    /// With every problem found.
    pub fn load(&self) -> Result<Config, config::Error> {
        let overrides = Overrides {
            data_dir: self.data_dir.clone(),
            listen: self.listen.clone(),
            log_level: self.log_level.clone(),
        };
        config::load(Some(&self.config), environment(), overrides)
    }
}

/// The whole program: reads the command line, carries it out, and says with what code to end.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(wrong) => {
            let code = if wrong.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS };
            // When not even the explanation can be written, the code still says it.
            let _ = wrong.print();
            return code;
        }
    };
    match carry_out(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            let code = match error.downcast_ref::<remote::Failure>() {
                Some(failure) => failure.exit_code(),
                None if error.is::<config::Error>() => EXIT_USAGE,
                None => EXIT_FAILURE,
            };
            ExitCode::from(code)
        }
    }
}

fn carry_out(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Run(args) | Command::Check(args) if args.dump_config => write_out(&args.load()?.dump()),
        Command::Run(args) => run::run(args),
        Command::Check(args) => check::run(&args),
        Command::Dev(args) => dev::run(&args),
        Command::Backup(args) => backup::backup(&args),
        Command::Restore(args) => backup::restore(&args),
        Command::Compact(args) => backup::compact(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Health(args) => health::run(&args),
        Command::Openapi => openapi::run(),
        Command::ConfigReference => config_reference::run(),
        Command::Webhooks(args) => webhooks::run(&args),
        Command::Events(args) => events::run(&args),
        Command::Deliveries(args) => deliveries::run(&args),
        Command::Keys(args) => keys::run(&args),
        Command::PortalLink(args) => portal::run(&args),
        Command::Send(args) => events::send(&args),
        Command::Tail(args) => tail::run(&args),
        Command::Listen(args) => listen::run(&args),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
        Command::Plugin(command) => plugin::run(&command),
        Command::Secret(args) => secret::run(&args),
        Command::Secrets(command) => secrets::run(&command),
    }
}

/// The environment; a value that is not UTF-8 is taken with replacement characters, which its key then refuses.
fn environment() -> impl Iterator<Item = (String, String)> {
    let text = |text: OsString| text.to_string_lossy().into_owned();
    std::env::vars_os().map(move |(name, value)| (text(name), text(value)))
}

/// Writes to standard output; an error where `println!` would panic, on a closed pipe for one.
fn write_out(text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;

    std::io::stdout().lock().write_all(text.as_bytes())?;
    Ok(())
}
