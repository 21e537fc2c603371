//! A server on loopback, on a thread of its own: a busy test does not slow it, nor it the test.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;

use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// Any free port of 127.0.0.1.
pub(crate) const ANY: SocketAddr = SocketAddr::V4(std::net::SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));

/// A server that runs. Dropped, it closes its port and every connection, and its thread has ended.
#[derive(Debug)]
pub(crate) struct Serving {
    address: SocketAddr,
    thread: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Serving {
    /// Binds an address, and runs what `serve` makes of the listener on a thread of that name.
    pub(crate) fn start<F>(
        name: &str,
        address: SocketAddr,
        serve: impl FnOnce(TcpListener) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = ()>,
    {
        let listener = std::net::TcpListener::bind(address).expect("a loopback port is free");
        listener.set_nonblocking(true).expect("a socket can be set to non-blocking");
        let address = listener.local_addr().expect("a bound socket has an address");
        let (stop, stopped) = oneshot::channel();
        let (ready, is_ready) = sync_channel(1);
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            // Dropping the runtime closes every connection that is left.
            runtime.block_on(async {
                let listener = TcpListener::from_std(listener).expect("a listener for this runtime");
                ready.send(()).expect("the starter waits");
                tokio::select! {
                    () = serve(listener) => {}
                    _ = stopped => {}
                }
            });
        };
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(run).expect("a thread");
        is_ready.recv().expect("the server's thread starts");
        Self { address, thread: Some((stop, thread)) }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if let Some((stop, thread)) = self.thread.take() {
            // It fails only when the thread has ended already; joining it says how.
            let _ = stop.send(());
            thread.join().expect("the server's thread does not panic");
        }
    }
}
