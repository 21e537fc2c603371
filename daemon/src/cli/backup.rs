//! `sluiced backup`, `restore` and `compact`: copies of the store, and its file written anew.

use std::path::PathBuf;

use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;
use http::Request;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use url::Url;

use super::{ConfigArgs, write_out};
use crate::app::store_config;
use crate::config::Config;
use crate::store::{Error, Store};

/// The longest answer of the API that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Where to, and of which store.
#[derive(Debug, Args)]
pub struct BackupArgs {
    /// A new directory; with --url the name of one below the running daemon's `store.backup_dir`.
    dir: PathBuf,
    #[command(flatten)]
    config: ConfigArgs,
    /// Ask the daemon that runs there, such as http://127.0.0.1:8080. Without it no daemon may be running.
    #[arg(long, value_name = "URL")]
    url: Option<Url>,
}

/// From where, and to which store.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The backup's directory.
    dir: PathBuf,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Makes a backup.
///
/// # Errors
/// When the store cannot be read, or the backup not be written.
pub fn backup(args: &BackupArgs) -> anyhow::Result<()> {
    let config = args.config.load()?;
    if let Some(url) = &args.url {
        let name = args.dir.to_str().context("a backup's name is text")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let answer = runtime.block_on(ask(url, name, &config))?;
        return write_out(&format!("{answer}\n"));
    }
    let store = match open(&config) {
        Err(error) if matches!(error.downcast_ref(), Some(Error::Locked { .. })) => {
            return Err(error.context("a daemon runs on this store: ask it with --url"));
        }
        opened => opened?,
    };
    let made = store.backup(&args.dir)?;
    let dir = args.dir.display();
    write_out(&format!("{dir}: {} entries, {} bodies; the master key is not in it\n", made.entries, made.bodies))
}

/// Makes a store of a backup.
///
/// # Errors
/// When there is a store already, or the backup is not whole.
pub fn restore(args: &RestoreArgs) -> anyhow::Result<()> {
    let config = args.config.load()?;
    let made = Store::restore(&args.dir, &store_config(&config))?;
    let dir = config.data_dir.display();
    write_out(&format!(
        "{dir}: {} entries and {} bodies are restored; the master key belongs to them, see [secrets]\n",
        made.entries, made.bodies
    ))
}

/// Writes the store's file anew, without the space that is not used.
///
/// # Errors
/// When the store cannot be opened, or the new file not be written.
pub fn compact(args: &ConfigArgs) -> anyhow::Result<()> {
    let config = args.load()?;
    let settings = store_config(&config);
    anyhow::ensure!(settings.dir.exists(), "there is no store in {}", config.data_dir.display());
    let done = Store::compact(&settings)?;
    write_out(&format!(
        "{} bytes before, {} bytes after, {} entries\n",
        done.bytes_before, done.bytes_after, done.entries
    ))
}

fn open(config: &Config) -> anyhow::Result<Store> {
    let settings = store_config(config);
    anyhow::ensure!(settings.dir.exists(), "there is no store in {}", config.data_dir.display());
    Ok(Store::open(settings)?)
}

/// Asks a running daemon for a backup; its answer.
async fn ask(url: &Url, name: &str, config: &Config) -> anyhow::Result<String> {
    anyhow::ensure!(url.scheme() == "http", "the URL begins with http://; for https use curl, see docs/operations.md");
    let to = url.join("/api/v1/backup")?;
    let key = config.auth.admin_key.as_ref().map_or("", |key| key.expose());
    let body = Full::new(Bytes::from(serde_json::json!({ "name": name }).to_string()));
    let request =
        Request::post(to.as_str()).header("x-api-key", key).header("content-type", "application/json").body(body)?;
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let response = client.request(request).await.with_context(|| format!("no answer from {url}"))?;
    let status = response.status();
    let body =
        Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(anyhow::Error::from_boxed)?;
    let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    anyhow::ensure!(status.is_success(), "the daemon refused: {status} {text}");
    Ok(text)
}
