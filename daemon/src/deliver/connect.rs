//! Making a connection: the name to addresses, each judged, then TCP or a tunnel through the proxy.
//!
//! The HTTP client asks the connector for a URL's host and gets a connection to exactly one of the addresses that were
//! judged. TLS goes over it outside, under the URL's own name.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http::Uri;
use http::uri::Scheme;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tower::Service;

use crate::deliver::address::Policy;
use crate::deliver::connections::{Connection, Connections};
use crate::deliver::proxy::Proxy;
use crate::deliver::resolve::Resolver;

/// How long an address is waited for before the next one of the same name is tried beside it (RFC 8305). A name with many
/// addresses gives each an equal part of the connect time when that is less.
const NEXT_ADDRESS_DELAY: Duration = Duration::from_millis(250);

tokio::task_local! {
    static TIMEOUT: Duration;
}

/// A connection was not made in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no connection within {0:?}")]
pub(super) struct TimedOut(pub(super) Duration);

/// Runs `request` such that a connection made for it takes no longer than `timeout`, name look-up and TLS included. The
/// HTTP client itself knows only one bound for all.
pub(super) async fn within<F: Future>(timeout: Duration, request: F) -> F::Output {
    TIMEOUT.scope(timeout, request).await
}

type BoxError = Box<dyn Error + Send + Sync>;
type Connecting<T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send>>;

/// A connector with the bound of the request that it connects for, and at most `max`.
#[derive(Debug, Clone)]
pub(super) struct Timed<S> {
    pub(super) inner: S,
    pub(super) max: Duration,
}

impl<S> Service<Uri> for Timed<S>
where
    S: Service<Uri, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Connecting<S::Response>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, destination: Uri) -> Self::Future {
        // Read here, in the request's own task: the client may finish the connection in another one.
        let timeout = timeout(self.max);
        let connecting = self.inner.call(destination);
        Box::pin(async move { tokio::time::timeout(timeout, connecting).await.map_err(|_| TimedOut(timeout))? })
    }
}

/// What the request that is being connected for allows, at most `max`.
fn timeout(max: Duration) -> Duration {
    TIMEOUT.try_with(|timeout| *timeout).map_or(max, |timeout| timeout.min(max))
}

/// Makes connections to vetted addresses. Clones share their parts.
#[derive(Clone)]
pub(super) struct Connector(Arc<Parts>);

struct Parts {
    policy: Policy,
    resolver: Resolver,
    connections: Connections,
    proxy: Option<Proxy>,
    timeout_max: Duration,
}

impl Connector {
    pub(super) fn new(
        policy: Policy,
        resolver: Resolver,
        connections: Connections,
        proxy: Option<Proxy>,
        timeout_max: Duration,
    ) -> Self {
        Self(Arc::new(Parts { policy, resolver, connections, proxy, timeout_max }))
    }
}

impl Service<Uri> for Connector {
    type Response = Connection;
    type Error = BoxError;
    type Future = Connecting<Connection>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, destination: Uri) -> Self::Future {
        // It is no later than the bound around it, so that whoever waits for a permit is told so.
        let deadline = Instant::now() + timeout(self.0.timeout_max);
        let parts = Arc::clone(&self.0);
        Box::pin(async move { parts.connect(&destination, deadline).await })
    }
}

impl Parts {
    async fn connect(&self, destination: &Uri, deadline: Instant) -> Result<Connection, BoxError> {
        let host = destination.host().ok_or(io::ErrorKind::InvalidInput).map_err(io::Error::from)?;
        let default_port = if destination.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 };
        let port = destination.port_u16().unwrap_or(default_port);
        self.policy.permits_port(port)?;
        let addresses = self.resolver.vetted(host, port, &self.policy).await?;
        let permit = self.connections.permit(deadline).await?;
        let stream = match &self.proxy {
            None => dial(&addresses, deadline).await?,
            Some(proxy) => self.through(proxy, &addresses, deadline).await?,
        };
        // Requests are written whole; waiting for more to send would only delay them.
        stream.set_nodelay(true)?;
        Ok(permit.opened(stream))
    }

    /// A tunnel to the first address that the proxy reaches, each with an equal part of the time that is left.
    async fn through(&self, proxy: &Proxy, to: &[SocketAddr], deadline: Instant) -> Result<TcpStream, BoxError> {
        let at = proxy.addresses(&self.resolver).await?;
        let mut failed = None;
        for (index, address) in to.iter().enumerate() {
            let now = Instant::now();
            let part = deadline.saturating_duration_since(now) / (to.len() - index) as u32;
            let tunnel = async { proxy.tunnel(proxy.dialled(dial(&at, now + part).await)?, *address).await };
            match tokio::time::timeout(part, tunnel).await {
                Ok(Ok(stream)) => return Ok(stream),
                // The proxy itself fails, or refuses us: it will not do better for the next address.
                Ok(Err(error)) if error.is_ours() => return Err(error.into()),
                Ok(Err(error)) => failed = Some(error.into()),
                Err(_) => failed = Some(io::Error::from(io::ErrorKind::TimedOut).into()),
            }
        }
        Err(failed.unwrap_or_else(|| io::Error::from(io::ErrorKind::AddrNotAvailable).into()))
    }
}

/// A connection to whichever address answers first. Each is tried when the one before has failed or has not answered for a
/// while, and goes on beside the next (RFC 8305). It goes on until all have failed: the bound on connecting is around it.
async fn dial(addresses: &[SocketAddr], deadline: Instant) -> io::Result<TcpStream> {
    let part = deadline.saturating_duration_since(Instant::now()) / addresses.len().max(1) as u32;
    let delay = part.min(NEXT_ADDRESS_DELAY);
    let mut left = addresses.iter();
    let mut dialling = FuturesUnordered::new();
    let mut failed: Option<io::Error> = None;
    loop {
        let next = left.next().copied();
        match next {
            Some(address) => dialling.push(TcpStream::connect(address)),
            None if dialling.is_empty() => break,
            None => {}
        }
        tokio::select! {
            biased;
            Some(dialled) = dialling.next() => match dialled {
                Ok(stream) => return Ok(stream),
                // A network that this machine does not have tells less of the receiver than any other failure.
                Err(error) if failed.is_none() || !is_unreachable(&error) => failed = Some(error),
                Err(_) => {}
            },
            () = tokio::time::sleep(delay), if next.is_some() => {}
        }
    }
    Err(failed.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into()))
}

fn is_unreachable(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable)
}

#[cfg(test)]
mod tests;
