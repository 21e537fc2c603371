//! Case `start`: from exec to the first 200 of `/readyz`, with a warm plugin cache and a running NATS server.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use anyhow::{Result, ensure};
use sluiced_tests::TestNats;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::report::{Column, Report};
use crate::say;
use crate::setup::{alive, fresh_stream, three_plugins, warm_daemon};
use crate::stats::median;

const STARTS: u32 = 10;
const POLL: Duration = Duration::from_millis(1);
const READY_TIMEOUT: Duration = Duration::from_secs(30);
const START_MS_MAX: f64 = 300.0;

const COLUMNS: &[Column] = &[
    Column { key: "median_ms", name: "median", unit: "ms", decimals: 0 },
    Column { key: "min_ms", name: "fastest", unit: "ms", decimals: 0 },
    Column { key: "max_ms", name: "slowest", unit: "ms", decimals: 0 },
];

/// Starts it ten times on the same data.
pub(crate) async fn run() -> Result<Report> {
    let nats = TestNats::start().await;
    fresh_stream(&nats).await;
    // A port that is known before the start can be asked from its first moment on.
    let address = free_address()?;
    let config = format!("{}\n[server]\nlisten = \"{address}\"\n", three_plugins());
    let mut daemon = warm_daemon(&nats, &config).await;
    let mut times_ms = Vec::new();
    for start in 1..=STARTS {
        say(&format!("start: {start} of {STARTS}"));
        let began = Instant::now();
        daemon.launch();
        while !is_ready(address).await {
            alive(&mut daemon)?;
            ensure!(began.elapsed() < READY_TIMEOUT, "not ready within {READY_TIMEOUT:?}");
            sleep(POLL).await;
        }
        times_ms.push(began.elapsed().as_secs_f64() * 1_000.0);
        daemon.terminate().await;
    }
    let what = "from exec to /readyz 200, warm plugin cache, three plugins, running NATS, 10 starts";
    let mut report = Report::new("start", what.to_owned(), COLUMNS);
    let (fastest, slowest) = (times_ms.iter().copied().reduce(f64::min), times_ms.iter().copied().reduce(f64::max));
    let median = median(times_ms);
    report.row("sluiced".to_owned(), vec![Some(median), fastest, slowest]);
    report.target("exec to ready, median", "ms", median, START_MS_MAX);
    Ok(report)
}

/// A loopback address that was free a moment ago.
fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

/// Asks by hand: a refused connection costs next to nothing, an HTTP client would keep a core busy.
async fn is_ready(address: SocketAddr) -> bool {
    let Ok(mut stream) = TcpStream::connect(address).await else { return false };
    let request = format!("GET /readyz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    if stream.write_all(request.as_bytes()).await.is_err() {
        return false;
    }
    let mut status = [0; "HTTP/1.1 200".len()];
    stream.read_exact(&mut status).await.is_ok() && status.ends_with(b" 200")
}
