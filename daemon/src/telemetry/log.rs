//! Where log lines go: to standard error, for people or for machines.

use std::io::IsTerminal as _;

use tracing::Level;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

/// How a line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// For machines: one JSON object a line.
    Json,
}

/// Libraries whose own lines matter only when something is wrong; a receiver's bad certificate is an attempt's failure and told
/// as such.
const QUIET: &str = "async_nats=warn,hyper=warn,hyper_util=warn,h2=warn,hickory_net=warn,hickory_resolver=warn,\
                     rustls=warn,rustls_platform_verifier=off,sled=warn,wasmtime=warn,cranelift_codegen=warn,notify=warn,\
                     tower_http=warn";

/// Starts logging for the whole process; a second call changes nothing.
pub fn init(format: Format, level: Level) {
    let filter = EnvFilter::new(format!("{},{QUIET}", level.as_str().to_lowercase()));
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    // A process that logs already, as a test may, goes on as it does.
    let _ = match format {
        Format::Text => builder.with_target(false).try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
}
