//! The receiver's server: reads a request whole, records it, then answers as it was told.

use std::convert::Infallible;
use std::future::pending;
use std::io::{self, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::{Behaviour, Received, Reply, Shared};

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// What a [`Behaviour::Flood`] sends at a time.
const FLOOD_CHUNK: &[u8] = &[b'x'; 64 * 1024];

/// Accepts and serves connections until it is dropped.
pub(super) async fn serve(shared: &Arc<Shared>, listener: &TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted.expect("a bound listener accepts");
                shared.state.lock().counts.connections += 1;
                connections.spawn(connection(Arc::clone(shared), stream));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Serves one connection. Its errors are those that the behaviour asks for, or the client's going away.
async fn connection(shared: Arc<Shared>, stream: tokio::net::TcpStream) {
    let Ok(stream) = stream.into_std() else { return };
    let Ok(handle) = stream.try_clone() else { return };
    let Ok(stream) = tokio::net::TcpStream::from_std(stream) else { return };
    drop(stream.set_nodelay(true));
    let service = service_fn(|request| answer(&shared, &handle, request));
    let mut http = hyper::server::conn::http1::Builder::new();
    drop(http.timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await);
}

async fn answer(shared: &Shared, socket: &TcpStream, request: Request<Incoming>) -> io::Result<Response<Body>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let verified = shared.verifier.as_ref().map(|verifier| verifier.verify(&body, &head.headers).is_ok());
    let received = Received { path: head.uri.to_string(), headers: head.headers, body, at: Instant::now(), verified };
    let (behaviour, _in_flight) = record(shared, &received);
    match behaviour {
        Behaviour::Ok => Ok(whole(Reply::default())),
        Behaviour::Status(status) => Ok(whole(Reply::status(status))),
        Behaviour::FailTimes { .. } => unreachable!("resolved by `Behaviour::at`"),
        Behaviour::Hang => pending().await,
        Behaviour::HangBody => Ok(streamed(stream::once(async { Bytes::from_static(b"{") }).chain(stream::pending()))),
        Behaviour::Reset => Err(reset(socket)),
        Behaviour::Says(bytes) => Err(say(socket, &bytes)),
        Behaviour::Redirect => Ok(whole(Reply::status(302).header("location", "/redirected"))),
        Behaviour::Slow(time) => {
            sleep(time).await;
            Ok(whole(Reply::default()))
        }
        Behaviour::Dribble(interval) => Ok(streamed(dribble(interval))),
        Behaviour::Flood(bytes) => Ok(streamed(flood(bytes))),
        Behaviour::Custom(answer) => {
            let reply = answer(&received);
            sleep(reply.delay).await;
            Ok(whole(reply))
        }
    }
}

/// Counts the request in, records it where that is wanted, and tells what it meets.
fn record<'a>(shared: &'a Shared, received: &Received) -> (Behaviour, InFlight<'a>) {
    let mut state = shared.state.lock();
    let behaviour = state.behaviour.at(state.since_set);
    state.since_set += 1;
    state.counts.requests += 1;
    state.counts.unverified += u64::from(received.verified == Some(false));
    state.counts.in_flight += 1;
    state.counts.in_flight_max = state.counts.in_flight_max.max(state.counts.in_flight);
    if shared.recording {
        state.received.push(received.clone());
    }
    (behaviour, InFlight(shared))
}

/// Counts the request out when it is answered, or when its client gave up.
struct InFlight<'a>(&'a Shared);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.state.lock().counts.in_flight -= 1;
    }
}

/// Makes the connection end with a reset once it is dropped: the option belongs to the socket that both handles share.
fn reset(socket: &TcpStream) -> io::Error {
    let set = || tokio::net::TcpStream::from_std(socket.try_clone()?)?.set_zero_linger();
    set().err().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into())
}

/// Writes around the HTTP server, which closes the connection at the error that this returns. What a test says fits into
/// the socket's buffer.
fn say(mut socket: &TcpStream, bytes: &[u8]) -> io::Error {
    let wrote = socket.write_all(bytes);
    wrote.err().unwrap_or_else(|| io::ErrorKind::ConnectionAborted.into())
}

fn whole(reply: Reply) -> Response<Body> {
    let mut response = Response::builder().status(if reply.status == 0 { 200 } else { reply.status });
    for (name, value) in reply.headers {
        response = response.header(name, value);
    }
    response.body(Full::new(reply.body).boxed_unsync()).expect("a test's status and headers are valid")
}

fn streamed(chunks: impl futures_util::Stream<Item = Bytes> + Send + 'static) -> Response<Body> {
    let frames = chunks.map(|chunk| Ok::<_, Infallible>(Frame::data(chunk)));
    Response::new(StreamBody::new(frames).boxed_unsync())
}

fn dribble(interval: Duration) -> impl futures_util::Stream<Item = Bytes> {
    stream::repeat(()).then(move |()| async move {
        sleep(interval).await;
        Bytes::from_static(b".")
    })
}

fn flood(bytes: u64) -> impl futures_util::Stream<Item = Bytes> {
    stream::unfold(bytes, |left| async move {
        let size = left.min(FLOOD_CHUNK.len() as u64);
        let chunk = Bytes::from_static(&FLOOD_CHUNK[..usize::try_from(size).expect("a chunk is small")]);
        (left > 0).then_some((chunk, left - size))
    })
}
