//! Listeners that take what the sockets hold for them, and read none of it: over HTTP/1.1, and over HTTP/2 (RFC 9113).

use std::net::SocketAddr;

use sluiced_tests::{ADMIN_KEY, TestDaemon};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpSocket, TcpStream};

use super::ORDERS;

/// What the kernel is to hold of what comes, in bytes: it takes a little more.
const BUFFER_BYTES: u32 = 4_096;
/// The type of a frame of settings, and of what follows it here.
const SETTINGS: u8 = 4;
const HEADERS: u8 = 1;
const WINDOW_UPDATE: u8 = 8;
/// The headers are whole, and no body follows.
const END_STREAM_END_HEADERS: u8 = 0x5;
/// The setting of the window that every stream begins with, and the largest one.
const INITIAL_WINDOW_SIZE: u16 = 4;
const WINDOW_MAX: u32 = (1 << 31) - 1;
/// What a connection's window is at first.
const WINDOW: u32 = 65_535;

/// A connection on which a stream was asked for. It lives as long as this, and is never read.
pub(super) struct Silent(#[expect(dead_code, reason = "it is held, and not read")] TcpStream);

impl Silent {
    pub(super) async fn http1(daemon: &TestDaemon) -> Self {
        let mut socket = connect(daemon).await;
        let text = format!("GET {ORDERS} HTTP/1.1\r\nhost: localhost\r\nx-api-key: {ADMIN_KEY}\r\n\r\n");
        socket.write_all(text.as_bytes()).await.expect("it is sent");
        Self(socket)
    }

    /// Its windows are as large as they can be: what stands still is the socket.
    pub(super) async fn http2(daemon: &TestDaemon) -> Self {
        let mut socket = connect(daemon).await;
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        let setting = [&INITIAL_WINDOW_SIZE.to_be_bytes()[..], &WINDOW_MAX.to_be_bytes()].concat();
        frame(&mut bytes, SETTINGS, 0, 0, &setting);
        frame(&mut bytes, WINDOW_UPDATE, 0, 0, &(WINDOW_MAX - WINDOW).to_be_bytes());
        // Of the static table (RFC 7541, appendix A): GET, http, a path and an authority of our own; then a header as text.
        let mut head = vec![0x82, 0x86];
        for (name, value) in [(4, ORDERS), (1, "localhost")] {
            head.push(name);
            literal(&mut head, value);
        }
        head.push(0);
        literal(&mut head, "x-api-key");
        literal(&mut head, ADMIN_KEY);
        frame(&mut bytes, HEADERS, END_STREAM_END_HEADERS, 1, &head);
        socket.write_all(&bytes).await.expect("it is sent");
        Self(socket)
    }
}

async fn connect(daemon: &TestDaemon) -> TcpStream {
    let url = daemon.url("");
    let address: SocketAddr = url.trim_start_matches("http://").parse().expect("an address");
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(BUFFER_BYTES).expect("it can be small");
    socket.connect(address).await.expect("a daemon that runs takes connections")
}

fn frame(bytes: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("a short frame");
    bytes.extend_from_slice(&length.to_be_bytes()[1..]);
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
}

fn literal(head: &mut Vec<u8>, text: &str) {
    head.push(u8::try_from(text.len()).ok().filter(|length| *length < 127).expect("a short text"));
    head.extend_from_slice(text.as_bytes());
}
