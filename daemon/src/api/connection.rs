//! Connections that can be cut from outside: a client of an event stream that reads nothing is told of by nobody else.

use std::io::{self, ErrorKind, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::extract::Request;
use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::stream::Connection;

/// A listener whose connections can be cut.
pub(super) struct Cuttable<L>(pub(super) L);

impl<L: Listener> Listener for Cuttable<L> {
    type Io = Cut<L::Io>;
    type Addr = L::Addr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let (io, address) = self.0.accept().await;
        (Cut { io, connection: Connection::default() }, address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.0.local_addr()
    }
}

/// A connection that fails once it is cut.
pub(super) struct Cut<T> {
    io: T,
    connection: Connection,
}

impl<T> Cut<T> {
    fn check(&self, context: &Context<'_>) -> io::Result<()> {
        match self.connection.poll_cut(context) {
            Poll::Ready(()) => Err(io::Error::new(ErrorKind::TimedOut, "the client reads nothing")),
            Poll::Pending => Ok(()),
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Cut<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Cut<T> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.io).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

/// Who is at the other end, and the connection to it.
#[derive(Clone)]
pub(super) struct Peer {
    address: SocketAddr,
    connection: Connection,
}

impl<L: Listener<Addr = SocketAddr>> Connected<IncomingStream<'_, Cuttable<L>>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Cuttable<L>>) -> Self {
        Self { address: *stream.remote_addr(), connection: stream.io().connection.clone() }
    }
}

impl Peer {
    /// Tells a request's handlers of its peer's address and its connection, each by itself.
    pub(super) fn tell(request: &mut Request) {
        let extensions = request.extensions_mut();
        if let Some(ConnectInfo(Self { address, connection })) = extensions.remove::<ConnectInfo<Self>>() {
            extensions.insert(ConnectInfo(address));
            extensions.insert(connection);
        }
    }
}
