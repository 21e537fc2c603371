//! The daemon at work, and the order in which it stops.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use super::reload::{Reloader, Watch};
use super::{App, Error, parts};
use crate::config::{self, Config};
use crate::deliver::{Token, lane};
use crate::pipeline::Shared;
use crate::pipeline::feed::Feed;
use crate::pipeline::subscriptions::{StreamLink, Subscriptions};
use crate::plugin::Host;
use crate::store::Recorder;
use crate::stream::Hub;
use crate::telemetry;
use crate::telemetry::health::Condition;

/// How often the parts are asked how they are.
const HEALTH_INTERVAL: Duration = Duration::from_millis(500);
/// How much longer than the drain time the stop may take before it goes on without whoever is late.
const STOP_MARGIN: Duration = Duration::from_secs(2);

/// What is stopped one after the other, each by its own token.
#[derive(Default)]
struct Stops {
    ingest: CancellationToken,
    /// The API and the SSE streams.
    front: CancellationToken,
    workers: CancellationToken,
    acks: CancellationToken,
}

pub(super) async fn run(app: App, reloader: Option<Reloader>, stop: CancellationToken) -> Result<(), Error> {
    let App { config, metrics, health, store, nats, host, client, specs, streams, recovered, hub, server, routes } =
        app;
    let store_metrics = metrics.store();
    let gauges = store_metrics.clone();
    let (recorder, writer) = Recorder::start(store.clone(), move |tokens: Vec<Token>, result| {
        let durable = result.is_ok();
        store_metrics.changes.inc_by(tokens.len() as u64);
        if durable {
            store_metrics.flushes.inc()
        } else {
            store_metrics.failures.inc()
        };
        if let Err(error) = result {
            error!(error = %telemetry::chain(&error), "the store cannot write, nothing is acked until it can");
        }
        lane::completed(tokens, durable);
    })?;
    let pipeline = parts::pipeline(&config);
    let shared = Shared {
        client,
        recorder: recorder.clone(),
        store: store.clone(),
        nats: nats.clone(),
        readers: Arc::new(Semaphore::new(pipeline.readers_max)),
        background: TaskTracker::new(),
        config: Arc::new(pipeline.clone()),
    };
    let stops = Stops::default();
    let (room, workers) = (Arc::new(Notify::new()), TaskTracker::new());
    let mut subscriptions = Subscriptions::new(
        shared.clone(),
        metrics.clone(),
        Arc::clone(&routes),
        Arc::clone(&room),
        workers.clone(),
        stops.workers.clone(),
    );
    let (feeds, acks) = (TaskTracker::new(), TaskTracker::new());
    let mut links = Vec::new();
    let mut ready = Vec::new();
    for stream in streams {
        let (retarget, asked) = mpsc::channel(1);
        links.push(StreamLink {
            name: stream.name.clone(),
            delivered_before: stream.live.delivered_before(),
            retarget,
        });
        acks.spawn(stream.live.acks().run(stops.acks.clone()));
        ready.push(Feed {
            metrics: metrics.stream(stream.name.as_str()),
            live: stream.live,
            routes: Arc::clone(&routes),
            room: Arc::clone(&room),
            hold_after: pipeline.hold_after,
            keeps_acked: stream.keeps_acked,
            recorder: recorder.clone(),
            retarget: asked,
        });
    }
    subscriptions.start(links, specs, recovered).await?;
    for feed in ready {
        feeds.spawn(feed.run(stops.ingest.clone()));
    }
    let front = TaskTracker::new();
    front.spawn(hub.clone().run(stops.front.clone()));
    let mut serving = front.spawn(server.run(stops.front.clone()));
    info!("running");

    let mut watch = Watch::new(reloader)?;
    let mut running_config = config;
    let mut health_check = tokio::time::interval(HEALTH_INTERVAL);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            loaded = watch.next() => {
                let parts = Reloaded { host: &host, hub: &hub, subscriptions: &mut subscriptions };
                reload(loaded, &mut running_config, parts).await;
            }
            served = &mut serving => {
                if let Ok(Err(error)) = served {
                    error!(error = %telemetry::chain(&error), "the api has ended, stopping");
                }
                break;
            }
            _ = health_check.tick() => {
                let connected = nats.is_connected();
                health.set("nats", if connected { Condition::Ready } else { Condition::Failing("not connected".into()) });
                health.set("store", Condition::of(&store.writable()));
                gauges.dead_letters.set(i64::try_from(store.totals().dead).unwrap_or(i64::MAX));
                gauges.bytes.set(store.size_on_disk().map_or(0, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX)));
            }
        }
    }

    // The order of the stop: take nothing more in; end the streams; let attempts end or park them; make it durable; ack
    // it; leave.
    info!("stopping");
    let patience = pipeline.drain_timeout + STOP_MARGIN;
    stops.ingest.cancel();
    stops.front.cancel();
    ended("feeds", &feeds, STOP_MARGIN).await;
    stops.workers.cancel();
    ended("workers", &workers, patience).await;
    ended("api", &front, patience).await;
    ended("readers", &shared.background, STOP_MARGIN).await;
    drop((subscriptions, shared));
    recorder.close();
    let joined = tokio::task::spawn_blocking(move || writer.join()).await;
    if !matches!(joined, Ok(Ok(()))) {
        error!("the store's writer did not end well");
    }
    for lane in &routes.load().lanes {
        lane.let_go();
    }
    stops.acks.cancel();
    ended("acks", &acks, STOP_MARGIN).await;
    nats.flush().await;
    info!("stopped");
    Ok(())
}

/// Waits for the tasks of one stage to end, but not for ever.
async fn ended(stage: &'static str, tasks: &TaskTracker, patience: Duration) {
    tasks.close();
    if tokio::time::timeout(patience, tasks.wait()).await.is_err() {
        error!(stage, left = tasks.len(), "did not end in time");
    }
}

/// What a reload works on.
struct Reloaded<'a> {
    host: &'a Host,
    hub: &'a Hub,
    subscriptions: &'a mut Subscriptions,
}

/// Puts a configuration that was read again into effect, as far as that goes without a restart. A broken one changes
/// nothing.
async fn reload(loaded: Result<Config, config::Error>, running: &mut Config, parts: Reloaded<'_>) {
    let new = match loaded {
        Ok(new) => new,
        Err(error) => return refuse(&error),
    };
    for section in config::restart_needed(running, &new) {
        warn!(section, "this section has changed and is read only at start, restart the daemon to put it into effect");
    }
    let (compiler, checked) = (parts.host.clone(), new.clone());
    let prepared = tokio::task::spawn_blocking(move || super::parts::prepare(&compiler, &checked)).await;
    let prepared = match prepared {
        Ok(Ok(prepared)) => prepared,
        Ok(Err(error)) => return refuse(&error),
        Err(panic) => return error!(%panic, "the configuration was not reloaded"),
    };
    if let Err(error) = parts.subscriptions.update(prepared.webhooks).await {
        return error!(error = %telemetry::chain(&error), "the configuration was not reloaded");
    }
    parts.hub.update(prepared.named);
    info!(subscriptions = new.subscriptions.len(), "configuration reloaded");
    *running = new;
}

fn refuse(error: &config::Error) {
    for problem in &error.problems {
        error!(%problem, "the changed configuration is refused, the running one stays");
    }
}
