//! `sluiced plugin inspect`: what is this file?

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use serde_json::Value;

use super::lab::{Lab, LimitArgs};
use super::table::{aligned, size};
use crate::api::plugins::described;
use crate::cli::write_out;
use crate::plugin::{HeaderNeeds, Plugin};

/// Which plugin.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// The plugin's component, a .wasm file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print it as JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    limits: LimitArgs,
}

/// Loads the plugin as the daemon would, and prints what it is.
///
/// # Errors
/// The daemon's own words when the file is not a plugin that it would run.
pub(super) fn run(args: &InspectArgs) -> anyhow::Result<()> {
    let lab = Lab::open(&args.file, args.limits.limits()?)?;
    let plugin = lab.plugin();
    let schema: Value = serde_json::from_str(&plugin.description().config_schema)
        .context("the schema in the plugin's description is not JSON")?;
    match args.json {
        true => write_out(&format!("{:#}\n", Value::Object(described(plugin)))),
        false => write_out(&told(plugin, &schema)),
    }
}

fn told(plugin: &Plugin, schema: &Value) -> String {
    let description = plugin.description();
    let row = |name: &str, value: String| [name.to_owned(), value];
    let headers = match &description.needs_headers {
        HeaderNeeds::None => "none".to_owned(),
        HeaderNeeds::All => "all".to_owned(),
        HeaderNeeds::Named(names) => names.join(", "),
    };
    let mut rows = vec![
        row("plugin", format!("{} {}", description.name, description.version)),
        row("summary", description.summary.to_string()),
        row("contract", format!("sluiced:plugin/{}@{}", plugin.world(), plugin.contract_version())),
        row("size", format!("{} ({} bytes)", size(plugin.file_bytes()), plugin.file_bytes())),
        row("sha256", plugin.digest().to_owned()),
        row("reads", format!("payload: {}, headers: {headers}", if description.needs_payload { "yes" } else { "no" })),
    ];
    let mut imports: Vec<&str> = plugin.imports().collect();
    if imports.is_empty() {
        imports.push("nothing");
    }
    for (at, import) in imports.into_iter().enumerate() {
        rows.push(row(if at == 0 { "imports" } else { "" }, import.to_owned()));
    }
    format!("{}\nconfiguration\n{schema:#}\n", aligned(&rows).join("\n"))
}
