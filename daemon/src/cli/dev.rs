//! `sluiced dev`: see the daemon at work. A nats-server, the daemon, a receiver and sample events, all real and all in one
//! process but the server; everything that is told went the way that it goes in earnest.

mod account;
mod log;
mod receiver;
mod samples;
mod setup;
mod watch;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use tokio_util::sync::CancellationToken;

use self::account::Account;
use self::receiver::{Counts, Receiver};
use self::setup::{Root, Values};
use self::watch::Watcher;
use super::run::{into_cli_error, stop_on_signals};
use crate::app::managed::{self, Managed};
use crate::app::{App, Reloader};
use crate::config::{self, Config, Overrides};
use crate::deliver::signing;
use crate::ingest::{self, Nats, StreamConfig};

/// The variable that names the nats-server to run.
const NATS_SERVER: &str = "SLUICED_NATS_SERVER";

/// What to demonstrate, where, and for how long.
#[derive(Debug, Args)]
pub struct DevArgs {
    /// Keep all data in this directory. Without it they are in a temporary one, which is removed at the end.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// End after so many seconds of sample events; without it, at Ctrl-C.
    #[arg(long = "for", value_name = "SECONDS")]
    seconds: Option<u64>,
}

/// Shows the daemon at work until a signal or the end of the time given.
///
/// # Errors
/// When a part cannot be had or started.
pub fn run(args: &DevArgs) -> anyhow::Result<()> {
    let root = Root::make(args.data_dir.as_deref())?;
    let stop = CancellationToken::new();
    let (account, writer) = Account::start(stop.clone())?;
    log::start(&root.log_file(), account.clone())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        let signals = stop_on_signals(stop.clone())?;
        tokio::select! {
            result = Box::pin(show(args, &root, &account, &stop)) => result,
            () = signals => unreachable!("the signals' task ends the process or nothing"),
        }
    });
    // Connections and what else is left of the tasks end with the runtime, before the directory goes.
    drop(runtime);
    account.end(writer);
    result
}

/// The parts that are up before the daemon is.
struct Stage {
    nats: Managed,
    receiver: Receiver,
    config: Config,
}

async fn show(args: &DevArgs, root: &Root, account: &Account, stop: &CancellationToken) -> anyhow::Result<()> {
    account.text("starting nats-server and the daemon; plugins are compiled when they are new\n".to_owned());
    let built = async {
        let stage = stage(root, account).await?;
        let app = App::build(stage.config.clone()).await.map_err(into_cli_error)?;
        let publisher = Nats::connect(publisher(&stage.config, stage.nats.url())).await?;
        anyhow::Ok((stage, app, publisher))
    };
    let (stage, app, publisher) = tokio::select! {
        built = Box::pin(built) => built?,
        () = stop.cancelled() => return Ok(()),
    };
    let key = stage.config.auth.admin_key.as_ref().map_or("", |key| key.expose());
    account.text(introduction(root, app.address(), stage.receiver.address()?, stage.nats.url(), key));

    let watcher = Watcher::new(app.address(), key, account.clone());
    let (file, loaded) = (root.config_file(), root.config_file());
    let reloader = Reloader { file, load: Box::new(move || load(&loaded)) };
    // Taken down one after the other: the samples, the daemon, what the daemon still needs while it stops.
    let supplies = CancellationToken::new();
    let daemon = async {
        let result = Box::pin(app.run(Some(reloader), stop.clone())).await;
        stop.cancel();
        supplies.cancel();
        result
    };
    let watching = async {
        tokio::select! {
            _ = futures_util::future::join(watcher.listen("wallboard"), watcher.count()) => {}
            () = stop.cancelled() => {}
        }
    };
    let time = async {
        let Some(seconds) = args.seconds else { return };
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(seconds)) => stop.cancel(),
            () = stop.cancelled() => {}
        }
    };
    let playing = async {
        tokio::select! {
            ready = watcher.ready() => ready.inspect_err(|_| stop.cancel())?,
            () = stop.cancelled() => return anyhow::Ok(0),
        }
        Ok(tokio::join!(samples::publish(publisher, account, stop), watching, time).0)
    };
    let (result, counts, (), published) =
        tokio::join!(daemon, stage.receiver.run(supplies.clone()), stage.nats.run(supplies.clone()), playing);
    result.map_err(into_cli_error)?;
    account.text(closing(published?, counts));
    Ok(())
}

/// Brings up what the daemon needs, and writes its configuration.
async fn stage(root: &Root, account: &Account) -> anyhow::Result<Stage> {
    let plugin_dir = setup::plugin_dir()?;
    let (data_dir, binary) = (root.data_dir(), std::env::var_os(NATS_SERVER).map(PathBuf::from));
    let nats = Managed::start(managed::Config { binary, data_dir: data_dir.clone(), port: None }).await?;
    let (secret, secret_text) = signing::generate();
    let receiver = Receiver::bind(secret, account.clone()).await?;
    let values = Values {
        data_dir: &data_dir,
        plugin_dir: &plugin_dir,
        nats_url: nats.url(),
        receiver_url: &format!("http://{}", receiver.address()?),
        admin_key: &format!("demo-{:032x}", rand::random::<u128>()),
        secret: &secret_text,
    };
    root.write_config(&values.config()?)?;
    let config = load(&root.config_file()).context("the configuration of the demonstration is wrong")?;
    Ok(Stage { nats, receiver, config })
}

/// Reads the file alone: variables that are set for another daemon do not change the demonstration.
fn load(file: &Path) -> Result<Config, config::Error> {
    config::load(Some(file), std::iter::empty(), Overrides::default())
}

/// A connection that publishes as any program would.
fn publisher(config: &Config, url: &str) -> ingest::Config {
    let streams = config.streams.iter().map(|stream| StreamConfig {
        name: stream.name.clone(),
        subjects: stream.subjects.clone(),
        type_prefix: stream.type_prefix.as_str().into(),
        create: stream.create,
    });
    ingest::Config {
        urls: vec![url.to_owned()],
        credentials_file: None,
        token: None,
        user: None,
        ca_file: None,
        consumer_name: "sluiced-dev".to_owned(),
        ack_pending_max: 1,
        ack_wait: Duration::from_secs(30),
        streams: streams.collect(),
    }
}

fn introduction(root: &Root, api: SocketAddr, receiver: SocketAddr, nats: &str, key: &str) -> String {
    let (file, log) = (root.config_file(), root.log_file());
    let (file, log) = (file.display(), log.display());
    format!(
        r#"
sluiced is up: {nats} -> http://{api} -> http://{receiver}

  big-orders  webhook  orders.*    jq: .amount > 100, then redact: /card/number
  chat        webhook  payments.*  render: a chat message; its receiver refuses some at first
  wallboard   SSE      orders.>    everything about orders, live

Try in another terminal:
  follow    curl -N http://{api}/api/v1/streams/wallboard -H "X-API-Key: {key}"
  publish   curl -X POST http://{api}/api/v1/events -H "X-API-Key: {key}" -H "Content-Type: application/json" \
              -d '{{"type": "orders.created", "data": {{"id": "mine", "amount": 500, "card": {{"number": "4111111111111111"}}}}}}'
  or        nats -s {nats} pub events.orders.created '{{"id": "mine", "amount": 500}}'
  count     curl http://{api}/metrics -H "X-API-Key: {key}"
  break     curl -X POST http://{receiver}/fail  503 to everything: retries with the same webhook-id; after five
                                                       failures in a row a subscription is held: its events
                                                       wait in the stream, and now and then one is tried
            curl -X POST http://{receiver}/hang  no answer: the same, each time after 3 s; wallboard goes on
  heal      curl -X POST http://{receiver}/heal  what was held catches up and goes on live
  change    edit {file}
            try `.amount > 800`, or a mistake: it is refused with its line
  log       tail -f {log}

   time    who          event type          what (→ published, ✓ taken, ✗ refused, » streamed, · counted by the daemon)
"#
    )
}

fn closing(published: u64, counts: Counts) -> String {
    let Counts { taken, retried, refused, unverified } = counts;
    format!(
        "\npublished {published}, webhooks taken {taken} (after a retry: {retried}), attempts refused {refused}, \
         signatures that do not verify: {unverified}\n"
    )
}
