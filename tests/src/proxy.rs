//! A real HTTP proxy on loopback that makes tunnels and records what it was asked for.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;

use parking_lot::Mutex;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// A proxy on a thread of its own. Stopped on drop.
#[derive(Debug)]
pub struct TestProxy {
    address: SocketAddr,
    shared: Arc<Mutex<State>>,
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
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
        let (address, running) = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), &shared);
        Self { address, shared, running: Some(running) }
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
        if let Some((stop, thread)) = self.running.take() {
            // It fails only when the thread has ended already; joining it says how.
            let _ = stop.send(());
            thread.join().expect("the proxy's thread does not panic");
        }
    }

    /// Listens again on the same port.
    pub fn resume(&mut self) {
        self.stop();
        self.running = Some(listen(self.address, &self.shared).1);
    }
}

impl Drop for TestProxy {
    fn drop(&mut self) {
        self.stop();
    }
}

fn listen(address: SocketAddr, shared: &Arc<Mutex<State>>) -> (SocketAddr, (oneshot::Sender<()>, JoinHandle<()>)) {
    let listener = std::net::TcpListener::bind(address).expect("a loopback port is free");
    listener.set_nonblocking(true).expect("a socket can be set to non-blocking");
    let address = listener.local_addr().expect("a bound socket has an address");
    let (stop, stopped) = oneshot::channel();
    let (ready, is_ready) = sync_channel(1);
    let shared = Arc::clone(shared);
    let serve = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let listener = TcpListener::from_std(listener).expect("a listener for this runtime");
            ready.send(()).expect("the starter waits");
            let mut tunnels = JoinSet::new();
            tokio::select! {
                () = async {
                    while let Ok((stream, _)) = listener.accept().await {
                        tunnels.spawn(tunnel(stream, Arc::clone(&shared)));
                    }
                } => {}
                _ = stopped => {}
            }
        });
    };
    let thread = std::thread::Builder::new().name("proxy".to_owned()).spawn(serve).expect("a thread");
    is_ready.recv().expect("the proxy's thread starts");
    (address, (stop, thread))
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
