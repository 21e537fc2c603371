//! `sluiced portal-link`: a link that opens the web console as an owner, over the API of a running daemon.

use clap::Args;
use serde_json::json;

use super::remote::{Ask, Remote, plain};

/// Whose link, and whom to ask.
#[derive(Debug, Args)]
pub struct PortalArgs {
    #[command(flatten)]
    remote: Remote,
    /// Whose things the console is to show.
    owner: String,
    /// An event type or pattern that the owner may see; may be given several times.
    #[arg(long = "type", value_name = "PATTERN")]
    types: Vec<String>,
    /// How long the link can be opened: 15m when nothing is said, 24h at most.
    #[arg(long, value_name = "DURATION")]
    valid_for: Option<String>,
    /// Where people reach the console; without it the address that is asked.
    #[arg(long, value_name = "URL")]
    public_url: Option<String>,
}

/// Carries it out.
///
/// # Errors
/// When the daemon cannot be asked, or refuses.
pub fn run(args: &PortalArgs) -> anyhow::Result<()> {
    let mut body = json!({ "owner": args.owner });
    if !args.types.is_empty() {
        body["types"] = json!(args.types);
    }
    if let Some(valid_for) = &args.valid_for {
        body["valid_for"] = json!(valid_for);
    }
    let base = match &args.public_url {
        Some(url) => url.trim_end_matches('/').to_owned(),
        None => args.remote.base()?,
    };
    args.remote.ask(&Ask::post("/portal-links").body(body), |answer| {
        let text = |key: &str| plain(answer[key].as_str().unwrap_or_default());
        format!("{base}{}\nopens once, until {}\n", text("path"), text("expires_at"))
    })
}
