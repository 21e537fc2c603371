//! The daemon at work, and the order in which it stops.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use super::dead_letters::Publisher;
use super::manager::{LOOK_INTERVAL, Manager};
use super::nats::OpenStream;
use super::reload::{Reloader, Watch};
use super::reloading::Reloading;
use super::{App, Error, file_size, parts, plugins, retention};
use crate::config::DeadLetterSubject;
use crate::deliver::{Token, lane};
use crate::ingest::{Nats, live};
use crate::pipeline::announce::Announcer;
use crate::pipeline::feed::{Feed, Routes};
use crate::pipeline::jobs::Jobs;
use crate::pipeline::readers::Readers;
use crate::pipeline::subscriptions::{StreamLink, Subscriptions};
use crate::pipeline::{Shared, announce, lag};
use crate::store::{self, Recorder, Store};
use crate::telemetry;
use crate::telemetry::health::{Condition, Health};
use crate::telemetry::metrics::{StoreMetrics, StreamMetrics};

/// How often the parts are asked how they are.
/// The name under which readiness says that a stream waits for parked deliveries,
const OVERFLOW: &str = "overflow";
/// and how many of their subscriptions it names.
const OVERFLOW_NAMED_MAX: usize = 10;
/// How much longer than the drain time the stop may take before it goes on without whoever is late.
const STOP_MARGIN: Duration = Duration::from_secs(2);

/// What is stopped one after the other, each by its own token.
#[derive(Default)]
struct Stops {
    ingest: CancellationToken,
    /// The API, the SSE streams, and what is done about dead letters.
    front: CancellationToken,
    workers: CancellationToken,
    jobs: CancellationToken,
    acks: CancellationToken,
    /// The publisher of operational events.
    announcer: CancellationToken,
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
    announcer: TaskTracker,
    reload: TaskTracker,
    broker: TaskTracker,
}

/// Why the daemon has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was told to.
    Stopped,
    /// A stream was deleted and made anew: only a start tells what is known of the old one from what concerns the new one.
    StreamReplaced,
    /// The API has ended by itself, which it never should: a fault, after which everything else was stopped in order.
    ApiBroken,
}

/// The daemon at work.
struct Running {
    health: Health,
    gauges: StoreMetrics,
    store: Store,
    nats: Nats,
    /// How the streams' live tails are.
    tails: Vec<live::Status>,
    routes: Arc<ArcSwap<Routes>>,
    shared: Shared,
    recorder: Recorder<Token>,
    writer: JoinHandle<()>,
    stops: Stops,
    tasks: Tasks,
    serving: tokio::task::JoinHandle<()>,
}

pub(super) async fn run(app: App, reloader: Option<Reloader>, stop: CancellationToken) -> Result<Ended, Error> {
    let watch = Watch::new(reloader)?;
    let published_to = app.config.load().dead_letters.publish_subject.clone();
    let manager = app.manager.clone();
    let mut running = start(app, watch, manager.clone()).await?;
    running.look_after_store(published_to);
    info!("running");
    let mut health_check = tokio::time::interval(LOOK_INTERVAL);
    let tails = running.tails.clone();
    let mut replaced: FuturesUnordered<_> = tails.iter().map(live::Status::replaced).collect();
    let mut ended = Ended::Stopped;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(()) = replaced.next() => {
                warn!("a stream was made anew, stopping to start again");
                ended = Ended::StreamReplaced;
                break;
            }
            _ = &mut running.serving => {
                error!("the api has ended by itself, stopping");
                ended = Ended::ApiBroken;
                break;
            }
            _ = health_check.tick() => {
                running.look_after();
                manager.look_at(&running.health);
            }
        }
    }
    // One that starts again stays the process that the service manager looks after.
    if ended != Ended::StreamReplaced {
        manager.stopping();
    }
    running.stop().await;
    Ok(ended)
}

/// Starts every part's work.
async fn start(mut app: App, watch: Watch, manager: Manager) -> Result<Running, Error> {
    let (stops, tasks) = (Stops::default(), Tasks::default());
    if let Some(broker) = app.broker.take() {
        tasks.broker.spawn(broker.run(stops.broker.clone()));
    }
    let (recorder, writer) = start_recorder(&app.store, app.metrics.store())?;
    let pipeline = parts::pipeline(&app.config.load());
    let announcer = start_announcer(&app, &tasks, &stops);
    let shared = Shared {
        client: app.client,
        recorder: recorder.clone(),
        store: app.store.clone(),
        secrets: app.secrets,
        nats: app.nats.clone(),
        readers: Readers::new(pipeline.readers_max),
        background: TaskTracker::new(),
        announcer,
        spans: app.spans,
        config: Arc::new(pipeline),
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
    let (mut links, mut feeds, mut tails) = (Vec::new(), Vec::new(), Vec::new());
    for stream in app.streams {
        let (store, metrics) = (app.store.clone(), app.metrics.stream(stream.name.as_str()));
        tails.push(stream.live.status());
        tasks.acks.spawn(stream.live.acks().run(move || store.writable().is_ok(), stops.acks.clone()));
        let (link, feed) = feed(stream, metrics, &shared, &app.routes, &room);
        links.push(link);
        feeds.push(feed);
    }
    subscriptions.start(links, app.specs, &app.idle, app.recovered).await?;
    // It is set here only.
    let _ = app.control.set(subscriptions.control());
    tasks.front.spawn(lag::measure(app.nats.clone(), Arc::clone(&app.routes), stops.front.clone()));
    let (secrets, catalogue) = (shared.secrets.clone(), app.plugins.catalogue.clone());
    let (config, nats, hub, registry) = (app.config, app.nats.clone(), app.hub.clone(), app.registry);
    let (file, audit) = (watch.file().map(|file| file.display().to_string()).unwrap_or_default(), app.store.clone());
    let reloading = Reloading { config, catalogue, secrets, hub, subscriptions, nats, registry, file, audit, manager };
    tasks.reload.spawn(reloading.run(watch, app.asked, stops.ingest.clone()));
    let jobs = Jobs::start(shared.clone(), Arc::clone(&app.routes), tasks.jobs.clone(), stops.jobs.clone())?;
    app.jobs.set(jobs);
    feeds.into_iter().for_each(|feed| drop(tasks.feeds.spawn(feed.run(stops.ingest.clone()))));
    tasks.front.spawn(app.hub.clone().run(stops.front.clone()));
    tasks.front.spawn(plugins::watch(app.plugins, stops.ingest.clone()));
    let serving = tasks.front.spawn(app.server.run(stops.front.clone()));
    app.health.clear("start");
    Ok(Running {
        gauges: app.metrics.store(),
        health: app.health,
        store: app.store,
        nats: app.nats,
        tails,
        routes: app.routes,
        shared,
        recorder,
        writer,
        stops,
        tasks,
        serving,
    })
}

/// A stream's feed, and what the subscriptions know of it.
fn feed(
    stream: OpenStream,
    metrics: StreamMetrics,
    shared: &Shared,
    routes: &Arc<ArcSwap<Routes>>,
    room: &Arc<Notify>,
) -> (StreamLink, Feed) {
    let (retarget, asked) = mpsc::channel(1);
    let link = StreamLink {
        name: stream.name,
        delivered_before: stream.live.delivered_before(),
        acked_before: stream.floor,
        replaced: stream.replaced,
        retarget,
    };
    let feed = Feed {
        metrics,
        live: stream.live,
        routes: Arc::clone(routes),
        room: Arc::clone(room),
        hold_after: shared.config.hold_after,
        spans: shared.spans.clone(),
        recorder: shared.recorder.clone(),
        retarget: asked,
    };
    (link, feed)
}

fn start_announcer(app: &App, tasks: &Tasks, stops: &Stops) -> Announcer {
    let prefix = app.config.load().operational_events.subject_prefix.clone();
    let (announcer, publisher) = announce::channel(prefix, app.nats.clone(), app.metrics.clone());
    if let Some(publisher) = publisher {
        tasks.announcer.spawn(publisher.run(stops.announcer.clone()));
    }
    announcer
}

fn start_recorder(store: &Store, metrics: StoreMetrics) -> Result<(Recorder<Token>, JoinHandle<()>), store::Error> {
    let counted = store.clone();
    Recorder::start(store.clone(), move |tokens: Vec<Token>, result| {
        metrics.changes.inc_by(tokens.len() as u64);
        match &result {
            Ok(()) => drop(metrics.flushes.inc()),
            Err(error) => {
                metrics.failures.inc();
                error!(error = %telemetry::chain(error), "the store cannot write, nothing is acked until it can");
            }
        }
        lane::concluded(tokens, result.is_ok(), &counted);
    })
}

impl Running {
    /// Starts what is done about the store's file and about dead letters beside deliveries.
    fn look_after_store(&self, published_to: Option<DeadLetterSubject>) {
        let (tasks, stop) = (&self.tasks.front, &self.stops.front);
        tasks.spawn(file_size::watch(self.store.clone(), self.gauges.clone(), self.health.clone(), stop.clone()));
        tasks.spawn(retention::run(self.store.clone(), self.gauges.clone(), stop.clone()));
        if let Some(subject) = published_to {
            let (store, nats, metrics) = (self.store.clone(), self.nats.clone(), self.gauges.clone());
            tasks.spawn(Publisher { store, nats, subject, metrics }.run(stop.clone()));
        }
    }

    /// Asks the parts how they are.
    fn look_after(&self) {
        let nats = match (self.nats.is_connected(), self.tails.iter().find_map(live::Status::trouble)) {
            (true, None) => Condition::Ready,
            (true, Some(trouble)) => Condition::Failing(trouble.into()),
            (false, _) => Condition::Failing("not connected".to_owned()),
        };
        self.health.set("nats", nats);
        self.note_overflow();
        self.health.set("store", Condition::of(&self.store.writable()));
        self.gauges.dead_letters.set(i64::try_from(self.store.totals().dead).unwrap_or(i64::MAX));
        let bytes = self.store.size_on_disk().unwrap_or(0);
        self.gauges.bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Says in the readiness answer which subscriptions keep a stream waiting that forgets what is acked.
    fn note_overflow(&self) {
        if !self.nats.streams().iter().any(|stream| self.nats.is_forgetful(&stream.name)) {
            return;
        }
        let routes = self.routes.load();
        let full = routes.lanes.iter().filter(|lane| lane.state().overflow.is_full);
        let names: Vec<&str> = full.map(|lane| lane.id().as_str()).take(OVERFLOW_NAMED_MAX).collect();
        match names.is_empty() {
            true => self.health.clear(OVERFLOW),
            false => {
                let note = format!("as much is parked as may be, the stream waits for: {}", names.join(", "));
                self.health.set(OVERFLOW, Condition::Noted(note));
            }
        }
    }

    /// The order of the stop: take nothing more in; end the streams; let attempts end or park them; make it durable; ack
    /// it; leave.
    async fn stop(self) {
        info!("stopping");
        let (stops, tasks) = (&self.stops, &self.tasks);
        let patience = self.shared.config.drain_timeout + STOP_MARGIN;
        stops.ingest.cancel();
        stops.front.cancel();
        ended("reload", &tasks.reload, STOP_MARGIN).await;
        ended("feeds", &tasks.feeds, STOP_MARGIN).await;
        stops.workers.cancel();
        ended("workers", &tasks.workers, patience).await;
        stops.jobs.cancel();
        ended("jobs", &tasks.jobs, patience).await;
        ended("api", &tasks.front, patience).await;
        stops.announcer.cancel();
        ended("announcer", &tasks.announcer, STOP_MARGIN).await;
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
        let spans = self.shared.spans.clone();
        // It ends by itself within a bound.
        drop(tokio::task::spawn_blocking(move || spans.finish()).await);
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
