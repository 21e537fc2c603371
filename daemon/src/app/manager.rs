//! Tells the service manager that started the daemon how it is: systemd's protocol of `sd_notify(3)`, a datagram to the
//! socket that `NOTIFY_SOCKET` names. Without that variable nothing is told.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::interval;
use tracing::warn;

use crate::telemetry::clock;
use crate::telemetry::health::{Condition, Health};

/// What a service manager says its socket's address in.
const VARIABLE: &str = "NOTIFY_SOCKET";
/// A manager that does not read for so long is not waited for: the daemon's one thread is.
const WRITE_TIME_MAX: Duration = Duration::from_millis(200);
/// How often is looked at how the daemon is.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// What is told of a daemon that can do its work.
const READY: &str = "ready";

/// The service manager, when there is one. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub(super) struct Manager(Option<Arc<Listening>>);

#[derive(Debug)]
struct Listening {
    socket: UnixDatagram,
    address: SocketAddr,
    told: Mutex<Told>,
}

/// What the manager knows.
#[derive(Debug, Default)]
struct Told {
    /// That the daemon has started. It stays so: a daemon that waits for NATS later has not stopped.
    is_started: bool,
    /// The text that it shows beside the service.
    status: String,
}

impl Manager {
    /// The one that the environment names. One that cannot be reached is warned of: the daemon works without.
    pub(super) fn of_environment() -> Self {
        let Some(address) = std::env::var_os(VARIABLE).filter(|address| !address.is_empty()) else {
            return Self::default();
        };
        Self::at(&address).unwrap_or_else(|error| {
            warn!(%error, ?address, "the service manager cannot be told anything");
            Self::default()
        })
    }

    fn at(address: &OsStr) -> std::io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(WRITE_TIME_MAX))?;
        let (address, told) = (socket_address(address)?, Mutex::default());
        Ok(Self(Some(Arc::new(Listening { socket, address, told }))))
    }

    /// Tells how the parts are, as far as that is news: once that the daemon has started, when `/readyz` first says so, and
    /// from then on what it waits for.
    pub(super) fn look_at(&self, health: &Health) {
        let Some(listening) = &self.0 else { return };
        let failing = health.report().into_iter().filter_map(|(name, condition)| match condition {
            Condition::Failing(why) => Some(format!("{name}: {why}")),
            Condition::Ready | Condition::Noted(_) => None,
        });
        let failing = failing.collect::<Vec<_>>().join("; ");
        let status = if failing.is_empty() { READY.to_owned() } else { format!("not ready: {failing}") };
        let mut told = listening.told.lock();
        let starts = failing.is_empty() && !told.is_started;
        if starts || told.status != status {
            // What was not told is told at the next look.
            if listening.tell(if starts { "READY=1\n" } else { "" }, &status) {
                told.is_started |= starts;
                told.status = status;
            }
        }
    }

    /// Tells how the parts are while something goes on.
    pub(super) async fn look_during<T>(&self, health: &Health, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        let mut looks = interval(LOOK_INTERVAL);
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = looks.tick() => self.look_at(health),
            }
        }
    }

    /// Tells that the configuration is being read again. Before the start is told there is nothing to tell: what ends a
    /// reload is the same message that ends a start.
    pub(super) fn reloading(&self) {
        if let Some(listening) = self.started() {
            let began = format!("RELOADING=1\nMONOTONIC_USEC={}\n", clock::monotonic_us());
            listening.tell(&began, "reading the configuration again");
        }
    }

    /// Tells that the configuration was read again, whatever came of it.
    pub(super) fn reloaded(&self) {
        if let Some(listening) = self.started() {
            let status = listening.told.lock().status.clone();
            listening.tell("READY=1\n", &status);
        }
    }

    /// Tells that the daemon stops. Not to be told by one that starts again in its own place: its process stays.
    pub(super) fn stopping(&self) {
        if let Some(listening) = &self.0 {
            listening.tell("STOPPING=1\n", "stopping");
        }
    }

    fn started(&self) -> Option<&Listening> {
        self.0.as_deref().filter(|listening| listening.told.lock().is_started)
    }
}

impl Listening {
    /// Whether it was told.
    fn tell(&self, state: &str, status: &str) -> bool {
        // A line is one field.
        let status = status.replace('\n', " ");
        let message = format!("{state}STATUS={status}");
        let sent = self.socket.send_to_addr(message.as_bytes(), &self.address);
        if let Err(error) = &sent {
            warn!(%error, "the service manager was not told how the daemon is");
        }
        sent.is_ok()
    }
}

/// A path, or with `@` before it a name in Linux's own namespace of sockets.
fn socket_address(text: &OsStr) -> std::io::Result<SocketAddr> {
    match text.as_bytes().strip_prefix(b"@") {
        Some(name) => abstract_address(name),
        None => SocketAddr::from_pathname(text),
    }
}

#[cfg(target_os = "linux")]
fn abstract_address(name: &[u8]) -> std::io::Result<SocketAddr> {
    use std::os::linux::net::SocketAddrExt as _;

    SocketAddr::from_abstract_name(name)
}

#[cfg(not(target_os = "linux"))]
fn abstract_address(_: &[u8]) -> std::io::Result<SocketAddr> {
    Err(std::io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manager() -> (Manager, UnixDatagram, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        (Manager::at(path.as_os_str()).unwrap(), socket, dir)
    }

    /// The next message, none when nothing was told.
    fn told(socket: &UnixDatagram) -> Option<String> {
        let mut message = [0; 1_024];
        let length = socket.recv(&mut message).ok()?;
        Some(String::from_utf8(message[..length].to_vec()).unwrap())
    }

    #[test]
    fn is_told_once_that_the_daemon_has_started_and_then_what_it_waits_for() {
        let (manager, socket, _dir) = manager();
        let health = Health::new(["nats"]);
        manager.look_at(&health);
        assert_eq!(told(&socket).unwrap(), "STATUS=not ready: nats: not started yet");
        manager.look_at(&health);
        assert_eq!(told(&socket), None, "it is no news");
        health.set("nats", Condition::Ready);
        manager.look_at(&health);
        assert_eq!(told(&socket).unwrap(), "READY=1\nSTATUS=ready");
        health.set("nats", Condition::Failing("two\nlines".to_owned()));
        manager.look_at(&health);
        assert_eq!(told(&socket).unwrap(), "STATUS=not ready: nats: two lines");
        health.set("nats", Condition::Noted("large".to_owned()));
        manager.look_at(&health);
        assert_eq!(told(&socket).unwrap(), "STATUS=ready", "it has been told of the start");
        manager.stopping();
        assert_eq!(told(&socket).unwrap(), "STOPPING=1\nSTATUS=stopping");
    }

    #[test]
    fn a_reload_is_told_of_with_its_time_and_never_passes_for_the_start() {
        let (manager, socket, _dir) = manager();
        manager.reloading();
        manager.reloaded();
        assert_eq!(told(&socket), None, "the daemon has not started");
        manager.look_at(&Health::new([]));
        assert!(told(&socket).unwrap().starts_with("READY=1\n"));
        let before = clock::monotonic_us();
        manager.reloading();
        let message = told(&socket).unwrap();
        let at = message.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap().split_once('\n').unwrap().0;
        assert!((before..=clock::monotonic_us()).contains(&at.parse().unwrap()), "{message}");
        manager.reloaded();
        assert_eq!(told(&socket).unwrap(), "READY=1\nSTATUS=ready");
    }

    #[test]
    fn a_start_that_could_not_be_told_is_told_at_the_next_look() {
        let (manager, socket, dir) = manager();
        drop(socket);
        let path = dir.path().join("notify");
        std::fs::remove_file(&path).unwrap();
        manager.look_at(&Health::new([]));
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        manager.look_at(&Health::new([]));
        assert_eq!(told(&socket).unwrap(), "READY=1\nSTATUS=ready");
        manager.look_at(&Health::new([]));
        assert_eq!(told(&socket), None);
    }

    #[tokio::test(start_paused = true)]
    async fn is_told_what_the_start_waits_for() {
        let (manager, socket, _dir) = manager();
        let health = Health::new(["nats"]);
        let work = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            health.set("nats", Condition::Failing("away".to_owned()));
            tokio::time::sleep(Duration::from_secs(1)).await;
            7
        };
        assert_eq!(manager.look_during(&health, work).await, 7);
        assert_eq!(told(&socket).unwrap(), "STATUS=not ready: nats: not started yet");
        assert_eq!(told(&socket).unwrap(), "STATUS=not ready: nats: away");
        assert_eq!(told(&socket), None);
    }

    #[test]
    fn nobody_listens_and_nothing_happens() {
        let (manager, socket, _dir) = manager();
        drop(socket);
        manager.stopping();
        Manager::default().stopping();
        assert!(Manager::at(OsStr::new(&"x".repeat(200))).is_err(), "too long for a socket");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_name_of_the_abstract_namespace_begins_with_an_at_sign() {
        let name = format!("@sluiced-test-{}", std::process::id());
        let socket = UnixDatagram::bind_addr(&socket_address(OsStr::new(&name)).unwrap()).unwrap();
        socket.set_nonblocking(true).unwrap();
        Manager::at(OsStr::new(&name)).unwrap().stopping();
        assert!(told(&socket).is_some());
    }
}
