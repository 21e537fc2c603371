//! `sluiced deliveries`: what became of events, over the API of a running daemon.

use clap::{Args, Subcommand};

use super::events::{Page, paged};
use super::remote::{Ask, Remote, escaped, fields};

/// Deliveries, and whom to ask.
#[derive(Debug, Args)]
pub struct DeliveriesArgs {
    #[command(flatten)]
    remote: Remote,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List deliveries, newest first.
    List {
        /// Only those of this webhook: its id, or the name of a subscription of the file.
        #[arg(long, value_name = "ID")]
        webhook: Option<String>,
        /// pending, delivered, failed or dropped.
        #[arg(long)]
        status: Option<String>,
        /// Only those of this event: its id, or STREAM:SEQUENCE.
        #[arg(long, value_name = "EVENT")]
        event: Option<String>,
        #[command(flatten)]
        page: Page,
    },
    /// Show one, with its attempts.
    Get {
        /// Its id, which is the `webhook-id` of its requests.
        id: String,
    },
    /// Send one again.
    Retry {
        /// Its id.
        id: String,
    },
}

const COLUMNS: [(&str, &str); 7] = [
    ("ID", "/id"),
    ("STATUS", "/status"),
    ("WEBHOOK", "/webhook"),
    ("EVENT", "/event_id"),
    ("TYPE", "/type"),
    ("ATTEMPTS", "/attempts"),
    ("UPDATED AT", "/updated_at"),
];

/// Carries it out.
///
/// # Errors
/// When the daemon cannot be asked, or refuses.
pub fn run(args: &DeliveriesArgs) -> anyhow::Result<()> {
    let remote = &args.remote;
    match &args.command {
        Command::List { webhook, status, event, page } => {
            let ask = Ask::get("/deliveries").with("webhook", webhook.as_ref()).with("status", status.as_ref());
            remote.ask(&page.of(ask.with("event", event.as_ref())), |answer| paged(answer, "deliveries", &COLUMNS))
        }
        Command::Get { id } => remote.ask(&Ask::get(format!("/deliveries/{}", escaped(id))), fields),
        Command::Retry { id } => remote.ask(&Ask::post(format!("/deliveries/{}/retry", escaped(id))), fields),
    }
}
