//! A real HTTP proxy on loopback that makes tunnels and records what it was asked for.

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, copy_bidirectional};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::serving::{self, Serving};

/// A proxy on a thread of its own. Stopped on drop.
#[derive(Debug)]
pub struct TestProxy {
    address: SocketAddr,
    shared: Arc<Mutex<State>>,
    serving: Option<Serving>,
}

#[derive(Debug, Default)]
struct State {
    asked: Vec<Asked>,
    /// What it answers instead of making a tunnel; 0 for making one.
    status: u16,
}

/// One request for a tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The request line, such as `CONNECT 127.0.0.1:80 HTTP/1.1`.
    pub line: String,
    /// The value of `Proxy-Authorization`; empty when there was none.
    pub authorization: String,
}

impl TestProxy {
    /// Starts one that makes every tunnel.
    pub fn start() -> Self {
        let shared = Arc::default();
        let serving = listen(serving::ANY, &shared);
        Self { address: serving.address(), shared, serving: Some(serving) }
    }

    /// Where it listens, the same after [`TestProxy::resume`].
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Everything that it was asked for so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.lock().asked.clone()
    }

    /// From now on it answers with this status and makes no tunnel; 200 makes them again.
    pub fn refuse(&self, status: u16) {
        self.shared.lock().status = if status == 200 { 0 } else { status };
    }

    /// Closes the port and every tunnel.
    pub fn stop(&mut self) {
        self.serving = None;
    }

    /// Listens again on the same port.
    pub fn resume(&mut self) {
        self.stop();
        self.serving = Some(listen(self.address, &self.shared));
    }
}

fn listen(address: SocketAddr, shared: &Arc<Mutex<State>>) -> Serving {
    let shared = Arc::clone(shared);
    Serving::start("proxy", address, async move |listener| {
        let mut tunnels = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            tunnels.spawn(tunnel(stream, Arc::clone(&shared)));
        }
    })
}

/// Serves one connection. Its errors are its peers' going away.
async fn tunnel(stream: TcpStream, shared: Arc<Mutex<State>>) -> Option<()> {
    let mut stream = BufReader::new(stream);
    let (mut line, mut authorization) = (String::new(), String::new());
    stream.read_line(&mut line).await.ok()?;
    let line = line.trim_end().to_owned();
    loop {
        let mut header = String::new();
        stream.read_line(&mut header).await.ok()?;
        match header.trim_end().split_once(": ") {
            Some((name, value)) if name.eq_ignore_ascii_case("proxy-authorization") => {
                value.clone_into(&mut authorization);
            }
            Some(_) => {}
            None => break,
        }
    }
    let to = line.strip_prefix("CONNECT ").and_then(|rest| rest.strip_suffix(" HTTP/1.1")).map(str::to_owned);
    let status = {
        let mut state = shared.lock();
        state.asked.push(Asked { line, authorization });
        if to.is_none() { 400 } else { state.status }
    };
    if status != 0 {
        stream.write_all(format!("HTTP/1.1 {status} No\r\ncontent-length: 0\r\n\r\n").as_bytes()).await.ok()?;
        return stream.shutdown().await.ok();
    }
    match TcpStream::connect(to?).await {
        Ok(mut receiver) => {
            // In two pieces: a tunnel's answer need not come at once.
            stream.write_all(b"HTTP/1.1 200 Connection est").await.ok()?;
            stream.flush().await.ok()?;
            stream.write_all(b"ablished\r\nVia: 1.1 test\r\n\r\n").await.ok()?;
            copy_bidirectional(&mut stream, &mut receiver).await.ok().map(drop)
        }
        Err(_) => stream.write_all(b"HTTP/1.1 502 Bad Gateway\r\n\r\n").await.ok(),
    }
}
