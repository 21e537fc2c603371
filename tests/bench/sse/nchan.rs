//! nginx with the nchan module, the same job done by another: one worker, one channel, loopback only.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use sluiced_tests::proc;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::setup::free_address;

/// Where Debian's package puts it.
const MODULE: &str = "/usr/lib/nginx/modules/ngx_nchan_module.so";
const START_TIMEOUT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);

/// The path that clients listen to.
pub(super) const PATH: &str = "/sub";

/// A running nginx. Ended on drop.
pub(super) struct Nchan {
    process: std::process::Child,
    pub(super) address: SocketAddr,
    publisher: TcpStream,
    _dir: TempDir,
}

/// Is it installed?
pub(super) fn is_there() -> bool {
    let nginx = Command::new("nginx").arg("-v").stdout(Stdio::null()).stderr(Stdio::null()).status();
    Path::new(MODULE).exists() && nginx.is_ok_and(|status| status.success())
}

impl Nchan {
    pub(super) async fn start() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("sluiced-nchan-").tempdir()?;
        let address = free_address()?;
        fs::write(dir.path().join("nginx.conf"), config(dir.path(), address))?;
        let mut command = Command::new("nginx");
        command.arg("-p").arg(dir.path()).arg("-c").arg(dir.path().join("nginx.conf"));
        let process = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().context("cannot start nginx")?;
        let deadline = Instant::now() + START_TIMEOUT;
        let publisher = loop {
            match TcpStream::connect(address).await {
                Ok(stream) => break stream,
                Err(_) => sleep(POLL).await,
            }
            ensure!(Instant::now() < deadline, "nginx does not listen within {START_TIMEOUT:?}");
        };
        publisher.set_nodelay(true)?;
        Ok(Self { process, address, publisher, _dir: dir })
    }

    /// Publishes one event, and waits until it is taken.
    pub(super) async fn publish(&mut self, body: &[u8]) -> Result<()> {
        let head = format!("POST /pub HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n\r\n", self.address, body.len());
        self.publisher.write_all(&[head.as_bytes(), body].concat()).await?;
        let mut answer = [0; 4096];
        let bytes = self.publisher.read(&mut answer).await?;
        ensure!(answer[..bytes].starts_with(b"HTTP/1.1 20"), "nginx did not take an event");
        Ok(())
    }

    /// CPU time of its processes.
    pub(super) fn cpu_time(&self) -> Duration {
        self.ids().into_iter().map(proc::cpu_time).sum()
    }

    /// Their memory.
    pub(super) fn pss_bytes(&self) -> u64 {
        self.ids().into_iter().map(proc::pss_bytes).sum()
    }

    pub(super) fn rss_max_bytes(&self) -> u64 {
        self.ids().into_iter().map(proc::rss_max_bytes).max().unwrap_or(0)
    }

    fn ids(&self) -> Vec<u32> {
        let master = self.process.id();
        let children = fs::read_to_string(format!("/proc/{master}/task/{master}/children")).unwrap_or_default();
        std::iter::once(master).chain(children.split_whitespace().filter_map(|id| id.parse().ok())).collect()
    }
}

impl Drop for Nchan {
    fn drop(&mut self) {
        // SIGTERM to the master ends its worker with it; SIGKILL would leave that running.
        if let Some(id) = i32::try_from(self.process.id()).ok().and_then(rustix::process::Pid::from_raw) {
            let _ended = rustix::process::kill_process(id, rustix::process::Signal::TERM);
        }
        drop(self.process.wait());
    }
}

fn config(dir: &Path, address: SocketAddr) -> String {
    let dir = dir.display();
    format!(
        "load_module {MODULE};
user root;
daemon off;
worker_processes 1;
worker_rlimit_nofile 20000;
pid {dir}/pid;
error_log /dev/null;
events {{ worker_connections 15000; }}
http {{
  access_log off;
  client_body_temp_path {dir}/body;
  proxy_temp_path {dir}/proxy;
  fastcgi_temp_path {dir}/fastcgi;
  uwsgi_temp_path {dir}/uwsgi;
  scgi_temp_path {dir}/scgi;
  keepalive_timeout 600s;
  keepalive_requests 1000000;
  tcp_nodelay on;
  server {{
    listen {address} backlog=4096;
    location = /pub {{ nchan_publisher; nchan_channel_id bench; nchan_message_buffer_length 1000; }}
    location = {PATH} {{
      nchan_subscriber eventsource;
      nchan_channel_id bench;
      nchan_subscriber_first_message newest;
      nchan_eventsource_ping_interval 15;
    }}
  }}
}}
"
    )
}
