//! An event stream on an HTTP/1.1 connection of its own.
//!
//! A stream never gives its connection back for another request. So it needs nothing of what an HTTP server keeps to have
//! one, which is two buffers of 8 KiB, and its frames need not pass through them.

use std::future::{pending, poll_fn};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, UNIX_EPOCH};

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use bytes::Buf as _;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, DATE, TRANSFER_ENCODING};
use http::response::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Version};
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::sync::oneshot;
use tower::ServiceExt as _;

use super::document::EVENT_STREAM;
use crate::stream::Connection;
use crate::telemetry::clock;

/// Ends a body that comes in chunks (RFC 9112, section 7.1).
const LAST_CHUNK: &[u8] = b"0\r\n\r\n";
/// What a client sends while it has a stream is thrown away, so many bytes at a time,
const UNASKED_BYTES: usize = 1 << 10;
/// and a stream whose client has sent so many is at its end: reading them costs the others' time.
const UNASKED_BYTES_MAX: usize = 64 << 10;

/// A socket on loan to an HTTP server; it is given back when the server is dropped.
pub(super) struct Loan<I> {
    /// `None` only once it is given back.
    io: Option<I>,
    shared: Arc<Shared<I>>,
}

/// Answers the requests of one connection.
pub(super) struct Desk<I>(Arc<Shared<I>>);

/// A connection that may come to be an event stream's.
pub(super) struct Handover<I> {
    shared: Arc<Shared<I>>,
    answer: oneshot::Receiver<Response>,
}

struct Shared<I> {
    /// The socket, once it is given back.
    io: Mutex<Option<I>>,
    /// Takes the answer that is to have the connection.
    answer: Mutex<Option<oneshot::Sender<Response>>>,
    /// The server has something to send that the socket does not take.
    is_blocked: AtomicBool,
}

/// Lends a socket to a server that answers at the [`Desk`].
pub(super) fn lend<I>(io: I) -> (Loan<I>, Desk<I>, Handover<I>) {
    let (sender, answer) = oneshot::channel();
    let shared =
        Arc::new(Shared { io: Mutex::default(), answer: Mutex::new(Some(sender)), is_blocked: AtomicBool::default() });
    let loan = Loan { io: Some(io), shared: Arc::clone(&shared) };
    (loan, Desk(Arc::clone(&shared)), Handover { shared, answer })
}

impl<I> Clone for Desk<I> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<I> Desk<I> {
    /// The server's answer to a request. There is none, ever, where the answer is an event stream that is to have the
    /// connection. All that the server had to say before must be in the socket by then. It most often is, since that comes
    /// before the next request is looked at; where it is not, the server sends the stream too.
    pub(super) async fn answer(self, router: Router, request: Request<Body>) -> Response {
        let may_take = request.version() == Version::HTTP_11 && request.method() == Method::GET;
        let Ok(answer) = router.oneshot(request).await;
        if !may_take || !is_event_stream(answer.headers()) || self.0.is_blocked.load(Ordering::Relaxed) {
            return answer;
        }
        let sender = self.0.answer.lock().take();
        if let Some(sender) = sender {
            // Where nobody waits for it the connection is at its end.
            drop(sender.send(answer));
        }
        pending().await
    }
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|of| of == EVENT_STREAM)
}

impl<I> Handover<I> {
    /// The answer that is to have the connection; pending while there is none.
    pub(super) async fn answered(&mut self) -> Response {
        match (&mut self.answer).await {
            Ok(answer) => answer,
            Err(_) => pending().await,
        }
    }

    /// The socket, once it is given back.
    pub(super) fn socket(self) -> Option<I> {
        self.shared.io.lock().take()
    }
}

impl<I> Drop for Loan<I> {
    fn drop(&mut self) {
        *self.shared.io.lock() = self.io.take();
    }
}

impl<I: Unpin> Loan<I> {
    fn io(&mut self) -> Pin<&mut I> {
        Pin::new(self.io.as_mut().expect("it is given back by the drop alone"))
    }

    /// What came of sending something.
    fn sent<T>(&self, sent: Poll<T>) -> Poll<T> {
        self.shared.is_blocked.store(sent.is_pending(), Ordering::Relaxed);
        sent
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Loan<I> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.io().poll_read(context, into)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Loan<I> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let sent = self.io().poll_write(context, bytes);
        self.sent(sent)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let sent = self.io().poll_write_vectored(context, slices);
        self.sent(sent)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let sent = self.io().poll_flush(context);
        self.sent(sent)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.io().poll_shutdown(context)
    }
}

/// Sends an event stream until it ends, or the client leaves; `own` is told of all that the client takes.
///
/// # Errors
/// When the connection breaks, or the client sends too much.
pub(super) fn send<I>(io: I, answer: Response, own: Connection) -> impl Future<Output = io::Result<()>> + Send
where
    I: AsyncRead + AsyncWrite + Unpin + Send,
{
    let (parts, body) = answer.into_parts();
    send_parts(io, head(parts), body, own)
}

/// Nothing but what is needed for as long as the stream goes on is held by this.
async fn send_parts<I>(mut io: I, head: Vec<u8>, mut body: Body, own: Connection) -> io::Result<()>
where
    I: AsyncRead + AsyncWrite + Unpin,
{
    io.write_all(&head).await?;
    drop(head);
    let mut unasked = 0;
    loop {
        let frame = tokio::select! {
            biased;
            frame = body.frame() => frame,
            left = leaving(&mut io, &mut unasked) => return left,
        };
        let Some(frame) = frame else { break };
        if let Ok(bytes) = frame.map_err(io::Error::other)?.into_data()
            && !bytes.is_empty()
        {
            let length = format!("{:x}\r\n", bytes.len());
            let mut chunk = length.as_bytes().chain(bytes).chain(&b"\r\n"[..]);
            while chunk.has_remaining() {
                if io.write_buf(&mut chunk).await? == 0 {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                own.moved();
            }
            io.flush().await?;
        }
    }
    io.write_all(LAST_CHUNK).await?;
    io.shutdown().await
}

/// Ends when the client leaves, or has sent too much; `unasked` is how many bytes it has sent.
async fn leaving<I: AsyncRead + Unpin>(io: &mut I, unasked: &mut usize) -> io::Result<()> {
    poll_fn(|context| {
        loop {
            let mut bytes = [0; UNASKED_BYTES];
            let mut into = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut *io).poll_read(context, &mut into))?;
            if into.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            *unasked += into.filled().len();
            if *unasked > UNASKED_BYTES_MAX {
                return Poll::Ready(Err(io::Error::other("its client sends, where only the daemon is to")));
            }
        }
    })
    .await
}

/// The head of an answer whose body comes in chunks, on a connection that ends with it (RFC 9112, sections 4, 7.1 and 9.6).
fn head(mut parts: Parts) -> Vec<u8> {
    let date = httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_millis(clock::now_ms()));
    if let Ok(date) = HeaderValue::from_str(&date) {
        parts.headers.insert(DATE, date);
    }
    // Of the two, one (RFC 9112, section 6.2).
    parts.headers.remove(CONTENT_LENGTH);
    parts.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    parts.headers.insert(CONNECTION, HeaderValue::from_static("close"));
    let mut head = format!("HTTP/1.1 {}\r\n", parts.status).into_bytes();
    for (name, value) in &parts.headers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            head.extend_from_slice(part);
        }
    }
    head.extend_from_slice(b"\r\n");
    head
}
