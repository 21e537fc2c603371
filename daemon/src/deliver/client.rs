//! The HTTP client: one for all endpoints, and one more for each different way of doing TLS that endpoints ask for.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use parking_lot::Mutex;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use crate::deliver::address::Policy;
use crate::deliver::attempt::Config;
use crate::deliver::connect::{Connector, Timed};
use crate::deliver::connections::Connections;
use crate::deliver::prepared::Prepared;
use crate::deliver::proxy::Proxy;
use crate::deliver::resolve::Resolver;
use crate::deliver::tls::{Own, System};
use crate::telemetry::metrics::ClientMetrics;

/// The largest head of a response that is read, in bytes.
const RESPONSE_HEAD_BYTES_MAX: usize = 64 * 1024;

/// How often an HTTP/2 receiver with requests under way is asked whether it is still there, and how long it may take to
/// say so. The requests of an endpoint share a connection, and would all time out on one that is dead.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// An HTTP client with its idle connections. All clients share the resolver and the bound on connections.
pub(super) type Http = legacy::Client<Timed<HttpsConnector<Connector>>, Full<Bytes>>;

/// The clients.
pub(super) struct Clients {
    connector: Connector,
    builder: legacy::Builder,
    config: Config,
    system: System,
    http: Http,
    /// Those of endpoints with TLS settings of their own, by what the settings hold. They live as long as an endpoint
    /// has them.
    own: Mutex<HashMap<[u8; 32], Weak<Http>>>,
}

impl Clients {
    /// # Errors
    /// When TLS cannot be set up.
    pub(super) fn new(config: &Config, metrics: &ClientMetrics) -> Result<Self, rustls::Error> {
        let policy = Policy::new(config.allow_cidrs.iter().copied()).denying_ports(config.deny_ports.iter().copied());
        let connector = Connector::new(
            policy,
            Resolver::new(&config.dns_servers),
            Connections::new(config.connections_max, metrics.clone()),
            config.proxy.clone().map(Proxy::new),
            config.connect_timeout_max,
        );
        let system = System::load();
        let builder = builder(config);
        let http = client(&builder, &connector, config, system.client_config(None)?);
        Ok(Self { connector, builder, config: config.clone(), system, http, own: Mutex::default() })
    }

    /// The client with the system's TLS.
    pub(super) fn plain(&self) -> &Http {
        &self.http
    }

    /// The client for an endpoint.
    ///
    /// # Errors
    /// When the endpoint's own TLS cannot be set up.
    pub(super) fn of<'a>(&'a self, target: &'a Prepared) -> Result<&'a Http, rustls::Error> {
        let Some(own) = &target.tls else { return Ok(&self.http) };
        if let Some(http) = target.own_client.get() {
            return Ok(http);
        }
        let http = self.own(own)?;
        Ok(target.own_client.get_or_init(|| http))
    }

    fn own(&self, own: &Own) -> Result<Arc<Http>, rustls::Error> {
        let mut clients = self.own.lock();
        if let Some(http) = clients.get(&own.digest()).and_then(Weak::upgrade) {
            return Ok(http);
        }
        let tls = self.system.client_config(Some(own))?;
        let http = Arc::new(client(&self.builder, &self.connector, &self.config, tls));
        clients.retain(|_, http| http.strong_count() > 0);
        clients.insert(own.digest(), Arc::downgrade(&http));
        Ok(http)
    }
}

fn builder(config: &Config) -> legacy::Builder {
    let mut builder = legacy::Client::builder(TokioExecutor::new());
    builder
        .pool_timer(TokioTimer::new())
        .timer(TokioTimer::new())
        .pool_max_idle_per_host(config.idle_connections_per_host_max)
        .pool_idle_timeout(config.idle_timeout)
        .http2_keep_alive_interval(PING_INTERVAL)
        .http2_keep_alive_timeout(PING_TIMEOUT)
        .http1_max_buf_size(RESPONSE_HEAD_BYTES_MAX)
        // Only the status matters: a receiver with one odd header has still answered.
        .http1_ignore_invalid_headers_in_responses(true);
    builder
}

fn client(builder: &legacy::Builder, connector: &Connector, config: &Config, tls: ClientConfig) -> Http {
    let secure = HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .with_server_name_resolver(server_name)
        .enable_all_versions()
        .wrap_connector(connector.clone());
    builder.build(Timed { inner: secure, max: config.connect_timeout_max })
}

/// The name that the receiver's certificate must be for: the URL's host, without the dot of a fully qualified one.
fn server_name(uri: &http::Uri) -> Result<ServerName<'static>, rustls::pki_types::InvalidDnsNameError> {
    let host = uri.host().unwrap_or_default();
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    ServerName::try_from(host.strip_suffix('.').unwrap_or(host).to_owned())
}
