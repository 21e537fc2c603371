//! The daemon at work, and the order in which it stops.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use super::registry::{Ask, Kept, Registry};
use super::reload::{Reloader, Watch};
use super::{App, Error, file_size, parts, retention};
use crate::config::{self, Config};
use crate::deliver::{Token, lane};
use crate::ingest::Nats;
use crate::pipeline::Shared;
use crate::pipeline::feed::{Feed, Retarget, Routes};
use crate::pipeline::jobs::Jobs;
use crate::pipeline::readers::Readers;
use crate::pipeline::subscriptions::{self, StreamLink, Subscriptions};
use crate::plugin::Host;
use crate::store::{self, Recorder, Store};
use crate::stream::Hub;
use crate::telemetry::health::{Condition, Health};
use crate::telemetry::metrics::StoreMetrics;
use crate::{api, telemetry};

/// How often the parts are asked how they are.
const HEALTH_INTERVAL: Duration = Duration::from_millis(500);
/// How much longer than the drain time the stop may take before it goes on without whoever is late.
const STOP_MARGIN: Duration = Duration::from_secs(2);

/// What is stopped one after the other, each by its own token.
#[derive(Default)]
struct Stops {
    ingest: CancellationToken,
    /// The API, the SSE streams, and the retention of dead letters.
    front: CancellationToken,
    workers: CancellationToken,
    jobs: CancellationToken,
    acks: CancellationToken,
    /// A nats-server of the daemon's own.
    broker: CancellationToken,
}

/// The tasks of each stage.
#[derive(Default)]
struct Tasks {
    feeds: TaskTracker,
    front: TaskTracker,
    workers: TaskTracker,
    jobs: TaskTracker,
    acks: TaskTracker,
    broker: TaskTracker,
}

/// The daemon at work.
struct Running {
    config: Arc<ArcSwap<Config>>,
    health: Health,
    gauges: StoreMetrics,
    store: Store,
    nats: Nats,
    host: Host,
    hub: Hub,
    routes: Arc<ArcSwap<Routes>>,
    shared: Shared,
    subscriptions: Subscriptions,
    recorder: Recorder<Token>,
    writer: JoinHandle<()>,
    stops: Stops,
    tasks: Tasks,
    serving: tokio::task::JoinHandle<Result<(), api::Error>>,
    asked: mpsc::Receiver<Ask>,
    registry: Registry,
}

pub(super) async fn run(app: App, reloader: Option<Reloader>, stop: CancellationToken) -> Result<(), Error> {
    let mut watch = Watch::new(reloader)?;
    let mut running = start(app).await?;
    running.look_after_dead_letters();
    info!("running");
    let mut health_check = tokio::time::interval(HEALTH_INTERVAL);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            loaded = watch.next() => running.reload(loaded).await,
            Some(ask) = running.asked.recv() => running.carry_out(ask).await,
            served = &mut running.serving => {
                if let Ok(Err(error)) = served {
                    error!(error = %telemetry::chain(&error), "the api has ended, stopping");
                }
                break;
            }
            _ = health_check.tick() => running.look_after(),
        }
    }
    running.stop().await;
    Ok(())
}

/// A stream as the subscriptions see it.
fn link(stream: &super::OpenStream, retarget: mpsc::Sender<Retarget>) -> StreamLink {
    StreamLink {
        name: stream.name.clone(),
        delivered_before: stream.live.delivered_before(),
        acked_before: stream.floor,
        replaced: stream.replaced,
        retarget,
    }
}

/// Starts every part's work.
async fn start(app: App) -> Result<Running, Error> {
    let (stops, tasks) = (Stops::default(), Tasks::default());
    if let Some(broker) = app.broker {
        tasks.broker.spawn(broker.run(stops.broker.clone()));
    }
    let (recorder, writer) = start_recorder(&app.store, app.metrics.store())?;
    let pipeline = parts::pipeline(&app.config.load());
    let shared = Shared {
        client: app.client,
        recorder: recorder.clone(),
        store: app.store.clone(),
        secrets: app.secrets,
        nats: app.nats.clone(),
        readers: Readers::new(pipeline.readers_max),
        background: TaskTracker::new(),
        config: Arc::new(pipeline.clone()),
    };
    let room = Arc::new(Notify::new());
    let mut subscriptions = Subscriptions::new(
        shared.clone(),
        app.metrics.clone(),
        Arc::clone(&app.routes),
        Arc::clone(&room),
        tasks.workers.clone(),
        stops.workers.clone(),
    );
    let (mut links, mut feeds) = (Vec::new(), Vec::new());
    for stream in app.streams {
        let (retarget, asked) = mpsc::channel(1);
        links.push(link(&stream, retarget));
        tasks.acks.spawn(stream.live.acks().run(stops.acks.clone()));
        feeds.push(Feed {
            metrics: app.metrics.stream(stream.name.as_str()),
            live: stream.live,
            routes: Arc::clone(&app.routes),
            room: Arc::clone(&room),
            hold_after: pipeline.hold_after,
            recorder: recorder.clone(),
            retarget: asked,
        });
    }
    subscriptions.start(links, app.specs, &app.idle, app.recovered).await?;
    let jobs = Jobs::start(shared.clone(), Arc::clone(&app.routes), tasks.jobs.clone(), stops.jobs.clone())?;
    app.jobs.set(jobs);
    for feed in feeds {
        tasks.feeds.spawn(feed.run(stops.ingest.clone()));
    }
    tasks.front.spawn(app.hub.clone().run(stops.front.clone()));
    let looking = file_size::watch(app.store.clone(), app.metrics.store(), app.health.clone(), stops.front.clone());
    tasks.front.spawn(looking);
    let serving = tasks.front.spawn(app.server.run(stops.front.clone()));
    Ok(Running {
        gauges: app.metrics.store(),
        config: app.config,
        health: app.health,
        store: app.store,
        nats: app.nats,
        host: app.host,
        hub: app.hub,
        routes: app.routes,
        shared,
        subscriptions,
        recorder,
        writer,
        stops,
        tasks,
        serving,
        asked: app.asked,
        registry: app.registry,
    })
}

fn start_recorder(store: &Store, metrics: StoreMetrics) -> Result<(Recorder<Token>, JoinHandle<()>), store::Error> {
    Recorder::start(store.clone(), move |tokens: Vec<Token>, result| {
        metrics.changes.inc_by(tokens.len() as u64);
        match &result {
            Ok(()) => drop(metrics.flushes.inc()),
            Err(error) => {
                metrics.failures.inc();
                error!(error = %telemetry::chain(error), "the store cannot write, nothing is acked until it can");
            }
        }
        lane::completed(tokens, result.is_ok());
    })
}

impl Running {
    /// Starts what is done about dead letters beside deliveries.
    fn look_after_dead_letters(&self) {
        let (tasks, stop) = (&self.tasks.front, &self.stops.front);
        tasks.spawn(retention::run(self.store.clone(), self.gauges.clone(), stop.clone()));
    }

    /// Asks the parts how they are.
    fn look_after(&self) {
        let nats = match self.nats.is_connected() {
            true => Condition::Ready,
            false => Condition::Failing("not connected".to_owned()),
        };
        self.health.set("nats", nats);
        self.health.set("store", Condition::of(&self.store.writable()));
        self.gauges.dead_letters.set(i64::try_from(self.store.totals().dead).unwrap_or(i64::MAX));
        let bytes = self.store.size_on_disk().unwrap_or(0);
        self.gauges.bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Puts a configuration that was read again into effect, as far as that goes without a restart. A broken one changes
    /// nothing.
    async fn reload(&mut self, loaded: Result<Config, config::Error>) {
        let new = match loaded {
            Ok(new) => new,
            Err(error) => return refuse(&error),
        };
        let old = self.config.load_full();
        for section in config::restart_needed(&old, &new) {
            warn!(
                section,
                "this section has changed and is read only at start, restart the daemon to put it into effect"
            );
        }
        let (compiler, secrets, checked) = (self.host.clone(), self.shared.secrets.clone(), new.clone());
        let prepared = tokio::task::spawn_blocking(move || parts::prepare(&compiler, &secrets, &checked)).await;
        let prepared = match prepared {
            Ok(Ok(prepared)) => prepared,
            Ok(Err(error)) => return refuse(&error),
            Err(panic) => return error!(%panic, "the configuration was not reloaded"),
        };
        // What the API's webhooks take from the file's defaults changes with them.
        let new = Arc::new(new);
        self.config.store(Arc::clone(&new));
        if let Err(error) = self.put_into_effect(prepared, &old).await {
            self.config.store(old);
            return error!(error = %telemetry::chain(&error), "the configuration was not reloaded");
        }
        info!(subscriptions = new.subscriptions.len(), "configuration reloaded");
    }

    async fn put_into_effect(&mut self, prepared: parts::Prepared, old: &Config) -> Result<(), subscriptions::Error> {
        let registry = self.registry.clone();
        let of_api = tokio::task::spawn_blocking(move || registry.prepare_all()).await;
        let gone = old.subscriptions.iter().map(|subscription| &subscription.id);
        let gone = gone.filter(|id| !prepared.webhooks.iter().any(|(other, _)| other == *id)).cloned().collect();
        let mut specs = prepared.webhooks;
        specs.extend(of_api.unwrap_or_else(|_| Ok(Kept::default()))?.specs);
        self.subscriptions.update(specs, gone).await?;
        self.hub.update(prepared.named);
        Ok(())
    }

    /// Carries out a change of the webhooks that are made over the API.
    async fn carry_out(&mut self, ask: Ask) {
        let result = self.subscriptions.update(ask.specs, ask.gone).await;
        // Whoever asked may have gone: the change is in effect all the same.
        let _ = ask.done.send(result);
    }

    /// The order of the stop: take nothing more in; end the streams; let attempts end or park them; make it durable; ack
    /// it; leave.
    async fn stop(self) {
        info!("stopping");
        let (stops, tasks) = (&self.stops, &self.tasks);
        let patience = self.shared.config.drain_timeout + STOP_MARGIN;
        stops.ingest.cancel();
        stops.front.cancel();
        ended("feeds", &tasks.feeds, STOP_MARGIN).await;
        stops.workers.cancel();
        ended("workers", &tasks.workers, patience).await;
        stops.jobs.cancel();
        ended("jobs", &tasks.jobs, patience).await;
        ended("api", &tasks.front, patience).await;
        ended("readers", &self.shared.background, STOP_MARGIN).await;
        self.recorder.close();
        let writer = self.writer;
        if !matches!(tokio::task::spawn_blocking(move || writer.join()).await, Ok(Ok(()))) {
            error!("the store's writer did not end well");
        }
        for lane in &self.routes.load().lanes {
            lane.let_go();
        }
        stops.acks.cancel();
        ended("acks", &tasks.acks, STOP_MARGIN).await;
        self.nats.flush().await;
        stops.broker.cancel();
        ended("nats-server", &tasks.broker, patience).await;
        info!("stopped");
    }
}

/// Waits for the tasks of one stage to end, but not for ever.
async fn ended(stage: &'static str, tasks: &TaskTracker, patience: Duration) {
    tasks.close();
    if tokio::time::timeout(patience, tasks.wait()).await.is_err() {
        error!(stage, left = tasks.len(), "did not end in time");
    }
}

fn refuse(error: &config::Error) {
    for problem in &error.problems {
        error!(%problem, "the changed configuration is refused, the running one stays");
    }
}
