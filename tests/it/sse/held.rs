//! A stretch of wire between the daemon and nats-server on which a request can be held back.

use std::sync::Arc;
use std::time::Duration;

use sluiced_tests::{TestNats, wait_until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What is done with requests.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Wire {
    Open,
    /// The first one that has this text is held.
    Waits(String),
    Held,
}

/// It listens on a port of its own until it is dropped.
pub(super) struct HeldNats {
    port: u16,
    wire: Arc<watch::Sender<Wire>>,
    _serving: JoinSet<()>,
}

impl HeldNats {
    pub(super) async fn start(nats: &TestNats) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let wire = Arc::new(watch::Sender::new(Wire::Open));
        let (shared, to) = (Arc::clone(&wire), nats.url().trim_start_matches("nats://").to_owned());
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut all = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                all.spawn(carry(stream, to.clone(), Arc::clone(&shared)));
            }
        });
        Self { port, wire, _serving: serving }
    }

    pub(super) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// The next request with that text, and whatever follows it, waits for [`HeldNats::release`].
    pub(super) fn hold(&self, text: &str) {
        self.wire.send_replace(Wire::Waits(text.to_owned()));
    }

    pub(super) async fn wait_held(&self, timeout: Duration) {
        wait_until("the request is held", timeout, async || *self.wire.borrow() == Wire::Held).await;
    }

    pub(super) fn release(&self) {
        self.wire.send_replace(Wire::Open);
    }
}

/// Carries one connection. Its errors are its peers' going away.
async fn carry(stream: TcpStream, to: String, wire: Arc<watch::Sender<Wire>>) -> Option<()> {
    let server = TcpStream::connect(to).await.ok()?;
    let ((mut asks, mut hears), (mut answers, mut takes)) = (stream.into_split(), server.into_split());
    let back = async { copy(&mut answers, &mut hears).await.ok().map(drop) };
    let forth = async {
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = asks.read(&mut buffer).await.ok().filter(|read| *read > 0)?;
            let text = String::from_utf8_lossy(&buffer[..read]);
            let is_it = |wire: &mut Wire| {
                let is_it = matches!(wire, Wire::Waits(sought) if text.contains(&**sought));
                if is_it {
                    *wire = Wire::Held;
                }
                is_it
            };
            if wire.send_if_modified(is_it) {
                wire.subscribe().wait_for(|wire| *wire != Wire::Held).await.ok()?;
            }
            takes.write_all(&buffer[..read]).await.ok()?;
        }
    };
    tokio::select! {
        end = back => end,
        end = forth => end,
    }
}
