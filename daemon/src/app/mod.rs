//! The composition root: a valid configuration in, bound sockets and wired parts out, then run.
//!
//! [`App::build`] opens the store, loads the plugins, binds the listener and connects to NATS, for which it waits as long as
//! that takes; nothing is delivered yet.
//! [`App::run`] starts the work, reloads subscriptions, and stops in a written order.

mod answers;
mod dead_letters;
mod descriptors;
mod file_size;
mod gate;
mod jobs;
pub mod managed;
mod manager;
mod master_key;
mod nats;
mod parts;
mod plugins;
mod registry;
mod reload;
mod reloading;
mod retention;
mod running;
mod spans;
mod testing;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::info;

pub use master_key::{MasterKeyFileError, master_key_of, read_master_key, write_master_key};
pub use parts::{check_endpoints, check_plugins, plugin_cache_dir, plugin_limits, reading, store_config};
pub use reload::Reloader;
pub use running::Ended;

use self::managed::Managed;
use self::manager::Manager;
use self::nats::OpenStream;
use self::plugins::{Catalogue, Serve};
use self::registry::{Ask, Registry};

use crate::api::events::clients::Clients;
use crate::api::events::tickets::Tickets;
use crate::api::keys::ApiKeys;
use crate::api::subscriptions::{self, Access, Lanes};
use crate::api::{self, Gate, Server, trace, webhooks};
use crate::config::{self, Config};
use crate::deliver::attempt;
use crate::deliver::health::{self, Decision, Resume};
use crate::deliver::{Lane, Secrets};
use crate::domain::SubscriptionId;
use crate::ingest::{self, Nats};
use crate::pipeline::control::Control;
use crate::pipeline::feed::Routes;
use crate::pipeline::{self, Spec};
use crate::plugin::{self, Host};
use crate::store::{self, Recovered, Store};
use crate::stream::{Hub, Named};
use crate::telemetry;
use crate::telemetry::health::{Condition, Health};
use crate::telemetry::metrics::Metrics;
use crate::telemetry::spans::Spans;

/// Why the daemon did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration names plugins that cannot be used as it says.
    #[error(transparent)]
    Config(#[from] config::Error),
    /// The data directory cannot be used.
    #[error("cannot use the data directory {}", dir.display())]
    DataDir {
        /// The directory.
        dir: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The master key cannot be read or made.
    #[error("the secrets' master key cannot be had")]
    MasterKey(#[from] MasterKeyFileError),
    /// The store cannot be opened, read or written.
    #[error("the store failed")]
    Store(#[from] store::Error),
    /// A nats-server of the daemon's own cannot be had.
    #[error("nats-server cannot be run")]
    Managed(#[from] managed::Error),
    /// NATS cannot be reached or used.
    #[error("nats failed")]
    Ingest(#[from] ingest::Error),
    /// The plugin host cannot be set up.
    #[error("the plugin host failed")]
    Plugin(#[from] plugin::Error),
    /// The HTTP client cannot be set up.
    #[error("the HTTP client failed")]
    Client(#[from] attempt::Error),
    /// The keys that tokens are verified with cannot be used.
    #[error("auth.jwt cannot be used")]
    TokenKeys(#[source] api::auth::jwks::Error),
    /// The API cannot be served.
    #[error("the API cannot be served")]
    Api(#[from] api::Error),
    /// The subscriptions cannot be started.
    #[error("the subscriptions cannot be started")]
    Subscriptions(#[from] pipeline::subscriptions::Error),
    /// What is known of plugins cannot be read.
    #[error("the plugins cannot be loaded")]
    Catalogue(#[source] store::Error),
    /// Spans cannot be sent.
    #[error("traces cannot be recorded")]
    Spans(#[from] telemetry::spans::Error),
    /// The configuration file cannot be watched.
    #[error("cannot watch the configuration file")]
    Watch(#[source] notify::Error),
    /// A signal handler cannot be set up.
    #[error("cannot listen for signals")]
    Signal(#[source] std::io::Error),
}

impl From<plugins::Error> for Error {
    fn from(error: plugins::Error) -> Self {
        match error {
            plugins::Error::Config(error) => Self::Config(error),
            plugins::Error::Store(error) => Self::Catalogue(error),
        }
    }
}

/// The daemon, built and not yet running.
pub struct App {
    config: Arc<ArcSwap<Config>>,
    metrics: Metrics,
    health: Health,
    /// Who is told how it is, from the beginning.
    manager: Manager,
    store: Store,
    nats: Nats,
    client: crate::deliver::Client,
    secrets: Secrets,
    spans: Spans,
    specs: Vec<(SubscriptionId, Spec)>,
    streams: Vec<OpenStream>,
    recovered: Vec<Recovered>,
    hub: Hub,
    server: Server,
    routes: Arc<ArcSwap<Routes>>,
    control: Arc<OnceLock<Control>>,
    jobs: jobs::Handle,
    broker: Option<Managed>,
    /// Changes of the webhooks that are made over the API.
    asked: mpsc::Receiver<Ask>,
    registry: Registry,
    plugins: Serve,
    /// Webhooks that no longer fit the configuration.
    idle: Vec<(SubscriptionId, Box<str>)>,
}

impl App {
    /// Opens, connects, loads and binds.
    ///
    /// # Errors
    /// When a part cannot be had; the error says which and what to do.
    pub async fn build(config: Config) -> Result<Self, Error> {
        let began = Instant::now();
        let descriptors_max = descriptors::raise();
        let metrics = Metrics::new();
        let health = Health::new(["nats", "store", "start"]);
        let manager = Manager::of_environment();
        let store = open_store(&config, &health)?;
        let host = Host::new(parts::plugins(&config))?;
        let spans = spans::spans(&config, &metrics)?;
        let gate = gate::gate(&config, &store, &metrics)?;
        let secrets = Secrets::new(store.clone(), master_key::keyring(&config, &store)?)?;
        let current = Arc::new(ArcSwap::from_pointee(config.clone()));
        let catalogue = Catalogue::open(host, store.clone())?;
        let (registry, asked) = Registry::new(store.clone(), catalogue.clone(), secrets.clone(), Arc::clone(&current))?;
        registry.learn()?;
        let client = crate::deliver::Client::new(&parts::client(&config, descriptors_max), &metrics.client())?;
        let mut server = Server::bind(&parts::api(&config), metrics.clone(), health.clone()).await?;
        announce(&config.data_dir, "listen", &server.local_addr().to_string())?;
        health.set("start", Condition::Failing("loading plugins".to_owned()));
        let preparing = prepare(&catalogue, &registry, &secrets, &config);
        let (parts::Prepared { webhooks: specs, named }, idle) =
            server.answer_during(manager.look_during(&health, preparing)).await?;
        // Before the workers take theirs: they get the memory that this gives back.
        let config = Arc::new(config.settled());
        current.store(Arc::clone(&config));
        health.set("start", Condition::Failing("not started yet".to_owned()));
        let reaching = Box::pin(nats::reach(&config, &store, &specs, &health));
        let nats::Reached { broker, nats, streams } =
            server.answer_during(manager.look_during(&health, reaching)).await?;
        let recovered = store.recover(&nats::floors(&streams))?;
        let hub = Hub::new(nats.clone(), parts::stream(&config), named, &metrics);
        let routes = Arc::new(ArcSwap::from_pointee(Routes::default()));
        let (control, jobs) = (Arc::new(OnceLock::new()), jobs::Handle::default());
        let seen = Running { routes: Arc::clone(&routes), control: Arc::clone(&control), hub: hub.clone() };
        let plugins = Serve {
            catalogue,
            changing: Arc::clone(&registry.changing),
            asks: registry.asks.clone(),
            running: Arc::new(seen),
            compiling: Arc::default(),
            jobs: TaskTracker::new(),
        };
        let mut app = Self {
            config: current,
            metrics,
            health,
            manager,
            store,
            nats,
            client,
            secrets,
            spans,
            specs,
            streams,
            recovered,
            hub,
            server,
            routes,
            control,
            jobs,
            broker,
            asked,
            registry,
            plugins,
            idle,
        };
        app.complete_api(gate)?;
        info!(took_ms = began.elapsed().as_millis() as u64, subscriptions = config.subscriptions.len(), "built");
        Ok(app)
    }

    /// Where the API listens.
    pub fn address(&self) -> SocketAddr {
        self.server.local_addr()
    }

    /// Runs until `stop`, then stops cleanly: everything that was taken is finished, parked or handed back.
    ///
    /// # Errors
    /// When a part cannot be started, or fails for good.
    pub async fn run(self, reloader: Option<Reloader>, stop: CancellationToken) -> Result<Ended, Error> {
        running::run(self, reloader, stop).await
    }
}

/// All subscriptions, ready to run, and those that cannot, with the reason.
async fn prepare(
    catalogue: &Catalogue,
    registry: &Registry,
    secrets: &Secrets,
    config: &Config,
) -> Result<(parts::Prepared, Vec<(SubscriptionId, Box<str>)>), Error> {
    let (catalogue, registry, secrets, config) = (catalogue.clone(), registry.clone(), secrets.clone(), config.clone());
    let prepare = move || -> Result<_, plugins::Error> {
        let plugins::Prepared { mut of_file, of_api, arrivals } = catalogue.prepare(&registry, &secrets, &config)?;
        of_file.webhooks.extend(of_api.specs);
        catalogue.adopt_all(&arrivals);
        Ok((of_file, of_api.idle))
    };
    match tokio::task::spawn_blocking(prepare).await {
        Ok(prepared) => Ok(prepared?),
        Err(ended) => std::panic::resume_unwind(ended.into_panic()),
    }
}

impl App {
    /// Gives the API all its routes.
    fn complete_api(&mut self, (gate, api_keys, tickets): (Gate, ApiKeys, Tickets)) -> Result<(), api::Error> {
        let (config, registry, running) = (self.config.load(), &self.registry, &self.plugins.running);
        let lanes = || Arc::clone(running) as Arc<dyn Lanes>;
        let (store, nats) = (|| self.store.clone(), || self.nats.clone());
        registry.run_on(lanes());
        let jobs: Arc<dyn api::jobs::Jobs> = Arc::new(self.jobs.clone());
        let trials = testing::Trials { routes: Arc::clone(&self.routes), client: self.client.clone() };
        let backups = api::backup::Access { store: store(), dir: config.store.backup_dir.clone() };
        let traced =
            trace::Access { subscriptions: Arc::clone(running) as _, events: Arc::new(nats()), store: store() };
        let deliveries =
            api::deliveries::Access { lanes: lanes(), store: store(), nats: nats(), jobs: Arc::clone(&jobs) };
        let more = subscriptions::routes(Access { lanes: lanes(), store: store() })
            .merge(webhooks::routes(Arc::new(registry.clone())))
            .merge(api::secrets::routes(api::secrets::Access { lanes: lanes(), secrets: self.secrets.clone() }))
            .merge(api::backup::routes(backups))
            .merge(api::jobs::routes(jobs))
            .merge(api::deliveries::routes(deliveries))
            .merge(api::event_types::routes(registry.event_types.clone()))
            .merge(api::testing::routes(api::testing::Access { tester: Arc::new(trials) }))
            .merge(api::events::read::routes(api::events::read::Access { nats: nats() }))
            .merge(api::plugins::routes(api::plugins::Access {
                plugins: Arc::new(self.plugins.clone()),
                events: Arc::new(nats()),
                file_bytes_max: usize::try_from(plugin_limits(&config).file_bytes_max).unwrap_or(usize::MAX),
            }))
            .merge(trace::routes(traced))
            .merge(api::keys::routes(api_keys))
            .merge(api::audit::routes(store()))
            .merge(api::portal::routes(api::portal::Access::new(
                &gate,
                config.auth.default_types.clone(),
                config.auth.owner_scopes,
            )))
            .merge(api::overview::routes(api::overview::Access {
                lanes: lanes(),
                store: store(),
                streams: config.streams.iter().map(|stream| stream.name.to_string()).collect(),
            }))
            .merge(api::info::routes(gate::info(&config, registry.owners.clone())));
        let state = api::State {
            publisher: Arc::new(nats()),
            types: registry.event_types.clone(),
            hub: self.hub.clone(),
            clients: Clients::new(config.server.sse_expiry_notice),
            tickets,
            metrics: self.metrics.clone(),
            health: self.health.clone(),
        };
        self.server.complete(&parts::api(&config), gate.with_owners(registry.owners.clone()), state, more)
    }
}

/// The running subscriptions, as the API sees them.
struct Running {
    routes: Arc<ArcSwap<Routes>>,
    /// Set when the subscriptions are started.
    control: Arc<OnceLock<Control>>,
    hub: Hub,
}

impl Lanes for Running {
    fn lanes(&self) -> Vec<Arc<Lane>> {
        self.routes.load().lanes.clone()
    }

    fn enable(&self, lane: &Arc<Lane>, resume: Resume) -> Decision<()> {
        let (control, lane) = (self.control.get().cloned(), Arc::clone(lane));
        Box::pin(async move { control.ok_or(health::Error::Store)?.enable(&lane, resume).await })
    }

    fn disable(&self, lane: &Arc<Lane>, reason: Box<str>) -> Decision<()> {
        let (control, lane) = (self.control.get().cloned(), Arc::clone(lane));
        Box::pin(async move { control.ok_or(health::Error::Store)?.disable(&lane, reason).await })
    }
}

impl trace::Subscriptions for Running {
    fn subscribed(&self) -> Vec<trace::Subscribed> {
        let routes = self.routes.load();
        let all = routes.lanes.iter().zip(&routes.specs).map(|(lane, spec)| {
            let spec = spec.load();
            trace::Subscribed { lane: Arc::clone(lane), types: spec.types.clone(), chain: Arc::clone(&spec.chain) }
        });
        all.collect()
    }

    fn named(&self) -> Vec<Named> {
        self.hub.definitions()
    }
}

fn open_store(config: &Config, health: &Health) -> Result<Store, Error> {
    make_data_dir(&config.data_dir)?;
    let store = Store::open(store_config(config))?;
    health.set("store", Condition::Ready);
    Ok(store)
}

fn make_data_dir(dir: &Path) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt as _;

    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.map_err(|source| Error::DataDir { dir: dir.to_owned(), source })
}

/// Says where something listens: in the log, and in a file of that name for those who asked for any free port.
fn announce(data_dir: &Path, what: &'static str, address: &str) -> Result<(), Error> {
    info!(what, address, "bound");
    let written = std::fs::write(data_dir.join(what), format!("{address}\n"));
    written.map_err(|source| Error::DataDir { dir: data_dir.to_owned(), source })
}
