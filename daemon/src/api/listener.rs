//! The connections: plain HTTP or TLS, HTTP/1.1 or HTTP/2, each in a task of its own until it ends or is told to.

use std::convert::Infallible;
use std::fmt::Display;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::response::Response;
use futures_util::FutureExt as _;
use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::outlet;
use super::tls::Acceptor;
use crate::stream::Connection;

/// How long one who connects may take for the TLS handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the head of a request may take to arrive, and a connection may be idle, with HTTP/1.1.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// How often the other side of an HTTP/2 connection is asked whether it is there,
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// and how long it may take to say so.
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// The most requests at a time on one HTTP/2 connection.
const STREAMS_MAX: u32 = 256;
/// How long to wait when nothing can be accepted, which is most often for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);
/// The type of a TLS record that begins a handshake (RFC 8446, section 5.1).
const HANDSHAKE_RECORD: u8 = 22;
/// What one hears who speaks plain HTTP where TLS is spoken.
const SPEAK_TLS: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\nconnection: close\r\n\r\n\
    This port speaks HTTPS: write https:// in the URL.\n";

/// A bound address, and how to speak with those who connect.
pub(super) struct Listener {
    tcp: TcpListener,
    tls: Option<Acceptor>,
    http: Builder<TokioExecutor>,
}

impl Listener {
    /// Takes connections of `tcp`; with TLS, when there is an acceptor.
    pub(super) fn new(tcp: TcpListener, tls: Option<Acceptor>) -> Self {
        Self { tcp, tls, http: http() }
    }

    /// Serves until `closing`; then takes nothing more, lets the requests under way end, and returns when all have.
    pub(super) async fn serve(self, router: Router, closing: CancellationToken) {
        let Self { tcp, tls, http } = self;
        let connections = TaskTracker::new();
        let shared = Arc::new(Shared { tls, http, router, closing, connections: connections.clone() });
        loop {
            let accepted = tokio::select! {
                accepted = tcp.accept() => accepted,
                () = shared.closing.cancelled() => break,
            };
            match accepted {
                Ok((stream, from)) => drop(connections.spawn(Arc::clone(&shared).carry(stream, from))),
                // Of one connection, which is gone.
                Err(error) if is_of_connection(&error) => debug!(%error, "a connection was not to be had"),
                Err(error) => {
                    warn!(%error, "cannot accept connections for a moment");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(tcp);
        connections.close();
        connections.wait().await;
    }
}

/// How HTTP is spoken.
fn http() -> Builder<TokioExecutor> {
    let mut http = Builder::new(TokioExecutor::new());
    http.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    http.http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .max_concurrent_streams(STREAMS_MAX);
    http
}

fn is_of_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};

    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// What all connections share.
struct Shared {
    tls: Option<Acceptor>,
    http: Builder<TokioExecutor>,
    router: Router,
    closing: CancellationToken,
    connections: TaskTracker,
}

impl Shared {
    /// Carries one connection to its end.
    async fn carry(self: Arc<Self>, stream: TcpStream, from: SocketAddr) {
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, "could not turn delays off");
        }
        let Some(tls) = &self.tls else { return self.converse(stream, from).await };
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, shake_hands(tls, stream)).await {
            Ok(Ok(Some(stream))) => self.converse(stream, from).await,
            Ok(Ok(None)) => {}
            Ok(Err(error)) => debug!(%from, %error, "no TLS handshake"),
            Err(_) => debug!(%from, "the TLS handshake took too long"),
        }
    }

    /// Has a server answer the requests of a connection, until it ends or an event stream takes it.
    async fn converse<I: AsyncRead + AsyncWrite + Unpin + Send + 'static>(self: Arc<Self>, io: I, from: SocketAddr) {
        let own = Connection::default();
        let (io, desk, mut handover) = outlet::lend(io);
        let (router, shown) = (self.router.clone(), own.clone());
        let service = service_fn(move |request: Request<Incoming>| {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(ConnectInfo(from));
            request.extensions_mut().insert(shown.clone());
            desk.clone().answer(router.clone(), request).map(Ok::<_, Infallible>)
        });
        let stream = {
            let mut connection = pin!(self.http.serve_connection(TokioIo::new(io), service));
            let conversation = async {
                tokio::select! {
                    ended = connection.as_mut() => ended,
                    () = self.closing.cancelled() => {
                        connection.as_mut().graceful_shutdown();
                        connection.await
                    }
                }
            };
            tokio::select! {
                ended = unless_cut(conversation, &own, from) => return ended,
                stream = handover.answered() => stream,
            }
        };
        if let Some(io) = handover.socket() {
            // In a task of its own, which is a small one.
            drop(self.connections.spawn(carry_stream(io, stream, own, from)));
        }
    }
}

async fn carry_stream<I>(io: I, stream: Response, own: Connection, from: SocketAddr)
where
    I: AsyncRead + AsyncWrite + Unpin + Send,
{
    unless_cut(outlet::send(io, stream, own.clone()), &own, from).await;
}

/// Goes on with what a connection carries until it ends, or is to end.
async fn unless_cut<E: Display>(carried: impl Future<Output = Result<(), E>>, own: &Connection, from: SocketAddr) {
    tokio::select! {
        ended = carried => {
            if let Err(error) = ended {
                debug!(%from, %error, "a connection broke off");
            }
        }
        () = poll_fn(|context| own.poll_cut(context)) => debug!(%from, "a connection was cut: its client reads nothing"),
    }
}

/// Shakes hands; whoever speaks plain HTTP is told, and gets `None`.
async fn shake_hands(tls: &Acceptor, mut stream: TcpStream) -> io::Result<Option<super::tls::Stream>> {
    let mut first = [0];
    if stream.peek(&mut first).await? == 0 {
        return Ok(None);
    }
    if first[0] != HANDSHAKE_RECORD && first[0].is_ascii_uppercase() {
        stream.write_all(SPEAK_TLS).await?;
        stream.shutdown().await?;
        return Ok(None);
    }
    tls.accept(stream).await.map(Some)
}

#[cfg(test)]
mod tests;
