//! One look-up: the hosts file, then the name servers.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use parking_lot::Mutex;

/// How long one name server is waited for. It is asked twice, and both end within the default connect timeout.
const SERVER_TIMEOUT_MAX: Duration = Duration::from_secs(2);
/// How often the servers are asked before a look-up fails.
const TRIES: usize = 2;
/// The most questions that are open to one name server over one connection.
const QUESTIONS_MAX: usize = 512;
/// How long it holds that a name has no addresses, when the answer does not say.
const NOTHING_AGE: Duration = Duration::from_secs(1);
/// What the system's resolver is made from.
const SYSTEM_FILES: [&str; 2] = ["/etc/resolv.conf", "/etc/hosts"];

/// What a look-up found.
pub(super) struct Found {
    /// The addresses; none when the name has none.
    pub(super) addresses: io::Result<Vec<IpAddr>>,
    /// How long that holds.
    pub(super) valid_for: Duration,
}

/// Looks names up. It reads the system's files again when they have changed.
pub(super) struct Dns {
    servers: Vec<SocketAddr>,
    current: Mutex<Option<Current>>,
}

struct Current {
    resolver: Arc<TokioResolver>,
    stamps: Stamps,
}

type Stamps = [Option<SystemTime>; SYSTEM_FILES.len()];

impl Dns {
    /// Asks those servers, or the system's when there are none.
    pub(super) fn new(servers: &[SocketAddr]) -> Self {
        Self { servers: servers.to_vec(), current: Mutex::default() }
    }

    /// Looks up every address of `host`, of both families.
    pub(super) async fn look(self: Arc<Self>, host: String) -> Found {
        let looked = match self.resolver() {
            Ok(resolver) => resolver.lookup_ip(host.as_str()).await,
            Err(error) => Err(error),
        };
        match looked {
            Ok(found) => {
                let valid_until = tokio::time::Instant::from_std(found.valid_until());
                let valid_for = valid_until.saturating_duration_since(tokio::time::Instant::now());
                Found { addresses: Ok(found.iter().collect()), valid_for }
            }
            Err(error) => failed(error),
        }
    }

    fn resolver(&self) -> Result<Arc<TokioResolver>, NetError> {
        let stamps = SYSTEM_FILES.map(|file| std::fs::metadata(file).and_then(|file| file.modified()).ok());
        let mut current = self.current.lock();
        match &*current {
            Some(known) if known.stamps == stamps => Ok(Arc::clone(&known.resolver)),
            _ => {
                let resolver = Arc::new(build(&self.servers)?);
                *current = Some(Current { resolver: Arc::clone(&resolver), stamps });
                Ok(resolver)
            }
        }
    }
}

fn build(servers: &[SocketAddr]) -> Result<TokioResolver, NetError> {
    let (config, mut options) = if servers.is_empty() { system() } else { (of(servers), ResolverOpts::default()) };
    // All addresses of a name are judged, so all are asked for.
    options.ip_strategy = LookupIpStrategy::Ipv6AndIpv4;
    options.use_hosts_file = ResolveHosts::Always;
    options.timeout = options.timeout.min(SERVER_TIMEOUT_MAX);
    options.attempts = TRIES;
    options.max_active_requests = QUESTIONS_MAX;
    // Answers are kept by the resolver above, which judges them.
    options.cache_size = 0;
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    *builder.options_mut() = options;
    builder.build()
}

/// The system's name servers and options. Without any it is a server on this machine, as for the C library.
fn system() -> (ResolverConfig, ResolverOpts) {
    hickory_resolver::system_conf::read_system_conf().unwrap_or_else(|error| {
        tracing::warn!(%error, "no name servers in /etc/resolv.conf, asking 127.0.0.1");
        (of(&[SocketAddr::from((Ipv4Addr::LOCALHOST, 53))]), ResolverOpts::default())
    })
}

fn of(servers: &[SocketAddr]) -> ResolverConfig {
    let server = |address: &SocketAddr| {
        let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
            connection.port = address.port();
            connection
        });
        NameServerConfig::new(address.ip(), true, connections.to_vec())
    };
    ResolverConfig::from_parts(None, Vec::new(), servers.iter().map(server).collect())
}

/// A name without addresses is an answer; everything else is a failure.
fn failed(error: NetError) -> Found {
    let valid_for = |ttl: Option<u32>| ttl.map_or(NOTHING_AGE, |seconds| Duration::from_secs(seconds.into()));
    match error {
        NetError::Dns(DnsError::NoRecordsFound(nothing)) => {
            Found { addresses: Ok(Vec::new()), valid_for: valid_for(nothing.negative_ttl) }
        }
        error => Found { addresses: Err(as_io(error)), valid_for: Duration::ZERO },
    }
}

/// The failure as the system's error, where one is at the bottom of it.
fn as_io(error: NetError) -> io::Error {
    match error {
        NetError::Io(io) => io.raw_os_error().map_or_else(|| io.kind().into(), io::Error::from_raw_os_error),
        NetError::Timeout => io::ErrorKind::TimedOut.into(),
        error => io::Error::other(error),
    }
}
