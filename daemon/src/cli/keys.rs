//! `sluiced keys`: API keys, over the API of a running daemon.

use clap::{Args, Subcommand};
use http::Method;
use serde_json::{Value, json};

use super::remote::{Ask, Remote, escaped, fields, rows};

/// API keys, and whom to ask.
#[derive(Debug, Args)]
pub struct KeysArgs {
    #[command(flatten)]
    remote: Remote,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the keys, without their texts.
    List,
    /// Make one. Its text is printed, for the only time.
    Create {
        /// What it is called.
        name: String,
        /// What it may do: read, write, publish, admin; may be given several times.
        #[arg(long = "scope", value_name = "SCOPE")]
        scopes: Vec<String>,
        /// Whose things alone it opens.
        #[arg(long)]
        owner: Option<String>,
        /// An event type or pattern that it may have to do with; may be given several times.
        #[arg(long = "type", value_name = "PATTERN")]
        types: Vec<String>,
        /// When it ends (RFC 3339).
        #[arg(long, value_name = "TIME")]
        expires_at: Option<String>,
    },
    /// End one at once.
    Revoke {
        /// Its id.
        id: String,
    },
}

const COLUMNS: [(&str, &str); 7] = [
    ("ID", "/id"),
    ("NAME", "/name"),
    ("KEY", "/prefix"),
    ("SCOPES", "/scopes"),
    ("OWNER", "/owner"),
    ("EXPIRES AT", "/expires_at"),
    ("LAST USED AT", "/last_used_at"),
];

/// Carries it out.
///
/// # Errors
/// When the daemon cannot be asked, or refuses.
pub fn run(args: &KeysArgs) -> anyhow::Result<()> {
    let remote = &args.remote;
    match &args.command {
        Command::List => remote.ask(&Ask::get("/keys"), |answer| rows(&answer["keys"], &COLUMNS)),
        Command::Create { name, scopes, owner, types, expires_at } => {
            let mut body = json!({ "name": name });
            let lists = [("scopes", scopes), ("types", types)].into_iter().filter(|(_, list)| !list.is_empty());
            let texts = [("owner", owner), ("expires_at", expires_at)].into_iter();
            let texts = texts.filter_map(|(key, text)| Some((key, Value::from(text.as_deref()?))));
            for (key, value) in lists.map(|(key, list)| (key, json!(list))).chain(texts) {
                body[key] = value;
            }
            remote.ask(&Ask::post("/keys").body(body), fields)
        }
        Command::Revoke { id } => {
            let ask = Ask::new(Method::DELETE, format!("/keys/{}", escaped(id)));
            remote.ask(&ask, |_| "revoked\n".to_owned())
        }
    }
}
