//! A tunnel through an HTTP proxy to an address that was judged here (RFC 9110, `CONNECT`).
//!
//! The proxy is asked for the address and never for the name: it would look the name up by itself, and could come to
//! another address than the one that was judged. The proxy's own address is the operator's, and is not judged.

use std::io;
use std::net::SocketAddr;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderValue, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::deliver::resolve::{self, Resolver};

/// The longest answer of a proxy to `CONNECT`, in bytes.
const ANSWER_BYTES_MAX: usize = 8 * 1024;

/// The proxy that all requests go through.
#[derive(Debug, Clone)]
pub struct Config {
    host: Box<str>,
    port: u16,
    /// The value of `Proxy-Authorization`, marked as sensitive so that it is not shown.
    authorization: Option<HeaderValue>,
}

impl Config {
    /// The proxy with that name or address and port, and a user and password when it wants them (RFC 7617).
    pub fn new(host: &str, port: u16, login: Option<(&str, &str)>) -> Self {
        let authorization = login.map(|(user, password)| {
            let credentials = BASE64_STANDARD.encode(format!("{user}:{password}"));
            let value = HeaderValue::from_str(&format!("Basic {credentials}"));
            let mut value = value.expect("base64 is visible ASCII");
            value.set_sensitive(true);
            value
        });
        Self { host: host.into(), port, authorization }
    }
}

/// Why there is no tunnel. What is below it is shown and not passed on as a source: it tells of the proxy, and must not be
/// taken for the receiver's.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The proxy's name leads nowhere.
    #[error("the proxy's name could not be resolved: {0}")]
    Lookup(resolve::Error),
    /// The proxy cannot be reached, or broke off.
    #[error("the proxy does not answer: {0}")]
    Io(io::Error),
    /// The proxy does not speak HTTP.
    #[error("the proxy's answer is not valid HTTP")]
    NotHttp,
    /// The proxy did not make the tunnel.
    #[error("the proxy answered {0}")]
    Refused(StatusCode),
}

impl Error {
    /// Whether it tells of the proxy and not of the receiver: one that cannot be reached, that wants other credentials or
    /// that does not let us go there. With 502, 503 and 504 it says that it could not reach the receiver.
    pub(super) fn is_ours(&self) -> bool {
        !matches!(
            self,
            Self::Refused(StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
        )
    }
}

/// Makes tunnels.
pub(super) struct Proxy(Config);

impl Proxy {
    pub(super) fn new(config: Config) -> Self {
        Self(config)
    }

    /// Where the proxy is. Its addresses are not judged.
    pub(super) async fn addresses(&self, resolver: &Resolver) -> Result<Vec<SocketAddr>, Error> {
        resolver.found(&self.0.host, self.0.port).await.map_err(Error::Lookup)
    }

    /// A connection to the proxy that was dialled, or why there is none.
    pub(super) fn dialled(&self, dialled: io::Result<TcpStream>) -> Result<TcpStream, Error> {
        dialled.map_err(Error::Io)
    }

    /// Makes a connection to the proxy one to `to`.
    pub(super) async fn tunnel(&self, mut stream: TcpStream, to: SocketAddr) -> Result<TcpStream, Error> {
        let mut ask = format!("CONNECT {to} HTTP/1.1\r\nHost: {to}\r\n").into_bytes();
        if let Some(authorization) = &self.0.authorization {
            ask.extend_from_slice(b"Proxy-Authorization: ");
            ask.extend_from_slice(authorization.as_bytes());
            ask.extend_from_slice(b"\r\n");
        }
        ask.extend_from_slice(b"\r\n");
        stream.write_all(&ask).await.map_err(Error::Io)?;
        let status = answer(&mut stream).await?;
        if status.is_success() { Ok(stream) } else { Err(Error::Refused(status)) }
    }
}

/// Reads the head of the proxy's answer and nothing beyond it.
async fn answer(stream: &mut TcpStream) -> Result<StatusCode, Error> {
    let mut head = Vec::with_capacity(256);
    while !head.ends_with(b"\r\n\r\n") {
        // Looked at before it is taken: what follows the head belongs to the receiver.
        let mut peeked = [0; 512];
        let available = stream.peek(&mut peeked).await.map_err(Error::Io)?;
        if available == 0 {
            return Err(Error::Io(io::ErrorKind::UnexpectedEof.into()));
        }
        let taken = end_of_head(&head, &peeked[..available]);
        let start = head.len();
        head.resize(start + taken, 0);
        stream.read_exact(&mut head[start..]).await.map_err(Error::Io)?;
        if head.len() > ANSWER_BYTES_MAX {
            return Err(Error::NotHttp);
        }
    }
    status(&head).ok_or(Error::NotHttp)
}

/// How many of the bytes belong to the head that `head` begins.
fn end_of_head(head: &[u8], bytes: &[u8]) -> usize {
    let known = head.len().min(3);
    let joined: Vec<u8> = head[head.len() - known..].iter().chain(bytes).copied().collect();
    let end = joined.windows(4).position(|window| window == b"\r\n\r\n");
    end.map_or(bytes.len(), |at| at + 4 - known)
}

/// The status of `HTTP/1.x NNN …`.
fn status(head: &[u8]) -> Option<StatusCode> {
    let rest = head.strip_prefix(b"HTTP/1.")?;
    match rest {
        [b'0' | b'1', b' ', code @ ..] if code.len() > 3 && !code[3].is_ascii_digit() => {
            StatusCode::from_bytes(&code[..3]).ok()
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_line_is_read_and_nothing_else() {
        assert_eq!(status(b"HTTP/1.1 200 Connection established\r\n\r\n"), Some(StatusCode::OK));
        assert_eq!(status(b"HTTP/1.0 407\r\n\r\n"), Some(StatusCode::PROXY_AUTHENTICATION_REQUIRED));
        for text in
            ["", "HTTP/1.1", "HTTP/2 200\r\n\r\n", "HTTP/1.1 2000\r\n\r\n", "SSH-2.0-x\r\n\r\n", "HTTP/1.1 abc \r\n"]
        {
            assert_eq!(status(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn the_head_ends_at_its_empty_line_wherever_it_was_cut() {
        let answer = b"HTTP/1.1 200 OK\r\nVia: x\r\n\r\nfrom the receiver";
        let end = answer.len() - "from the receiver".len();
        for cut in 0..end {
            let (head, rest) = answer.split_at(cut);
            assert_eq!(cut + end_of_head(head, rest), end, "cut at {cut}");
        }
        assert_eq!(end_of_head(b"HTTP/1.1 200 OK\r", b"\nVia"), 4);
    }

    #[test]
    fn credentials_are_not_shown() {
        let shown = format!("{:?}", Config::new("proxy", 3128, Some(("hush", "hush"))));
        assert!(!shown.contains("hush") && !shown.contains("aHVzaDpodXNo"), "{shown}");
    }
}
