//! The real daemon as a process under a test's control.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};
use serde_json::Value;
use tempfile::TempDir;

use crate::accounting::Accounting;
use crate::http::{Answer, send, try_request};
use crate::metrics::Metrics;
use crate::nats::TestNats;
use crate::paths::{link_all_plugins, plugin_cache, plugin_dir, sluiced_binary, workspace};
use crate::process::Process;
use crate::wait::{comes_true, wait_until};

/// The admin key of every daemon whose test does not set one.
pub const ADMIN_KEY: &str = "test-admin-key-0123456789abcdef";

const READY_TIMEOUT: Duration = Duration::from_secs(60);
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
const BALANCE_TIMEOUT: Duration = Duration::from_secs(60);

/// A daemon with its own data directory, which outlives a kill. Ended on drop.
#[derive(Debug)]
pub struct TestDaemon {
    process: Option<Process>,
    listen: String,
    nats_url: String,
    plugins: PathBuf,
    env: Vec<(String, String)>,
    open_files_max: Option<u32>,
    limits_files: bool,
    /// What runs it, with its arguments, in the place of the system itself.
    under: Vec<String>,
    /// A configuration of the repository that it runs with as it is, in the place of one of its own.
    file: Option<PathBuf>,
    dir: TempDir,
}

/// A daemon that is about to start.
#[derive(Debug)]
pub struct Builder {
    daemon: TestDaemon,
}

impl TestDaemon {
    /// A daemon with this configuration, to be changed further or started. Keys that every test needs are added where
    /// the text does not set them: `data_dir`, a free port, the admin key, no limit on requests, the NATS URL, the plugins' folder, loopback
    /// in `allow_cidrs`.
    pub fn builder(nats: &TestNats, config: &str) -> Builder {
        let dir = tempfile::Builder::new().prefix("sluiced-test-").tempdir().expect("a temporary folder");
        let (listen, plugins, env) = (String::new(), plugin_dir(), Vec::new());
        let daemon = Self {
            process: None,
            listen,
            nats_url: nats.url(),
            plugins,
            env,
            open_files_max: None,
            limits_files: false,
            under: Vec::new(),
            file: None,
            dir,
        };
        daemon.share_plugin_cache();
        daemon.write_config(config);
        Builder { daemon }
    }

    /// A daemon that runs with a file of `config/examples` exactly as it stands there. Only where things are is said by its
    /// environment: the data directory, its address, NATS, the plugins, loopback as a place that receivers may be at; and the
    /// admin key.
    pub fn of_example(nats: &TestNats, name: &str) -> Builder {
        let mut builder = Self::builder(nats, "");
        let daemon = &mut builder.daemon;
        daemon.file = Some(workspace().join("config/examples").join(name));
        let (data_dir, plugins) = (daemon.data_dir(), daemon.plugins.clone());
        let env = [
            ("SLUICED_DATA_DIR", data_dir.to_string_lossy()),
            ("SLUICED_PLUGINS__DIR", plugins.to_string_lossy()),
            ("SLUICED_NATS__URL", nats.url().into()),
            ("SLUICED_SERVER__LISTEN", "127.0.0.1:0".into()),
            ("SLUICED_AUTH__ADMIN_KEY", ADMIN_KEY.into()),
            ("SLUICED_DELIVERY__ALLOW_CIDRS", "[\"127.0.0.0/8\"]".into()),
        ];
        daemon.env = env.map(|(name, value)| (name.to_owned(), value.into_owned())).into();
        builder
    }

    /// Starts a daemon with this configuration and waits until it is ready.
    pub async fn start(nats: &TestNats, config: &str) -> Self {
        Self::builder(nats, config).start().await
    }

    /// `http://127.0.0.1:PORT` followed by `path`. The port is another one after a restart.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.listen)
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// The configuration file.
    pub fn config_path(&self) -> PathBuf {
        self.file.clone().unwrap_or_else(|| self.own_config())
    }

    fn own_config(&self) -> PathBuf {
        self.dir.path().join("sluiced.toml")
    }

    /// Replaces the configuration file in one step, with the same additions as at the start. [`TestDaemon::reload`]
    /// tells the daemon, which may also see it by itself.
    pub fn write_config(&self, config: &str) {
        self.write_config_raw(&complete(config, &self.data_dir(), &self.nats_url, &self.plugins));
    }

    /// Replaces the configuration file in one step with exactly this text.
    pub fn write_config_raw(&self, text: &str) {
        let new = self.dir.path().join("sluiced.toml.new");
        fs::write(&new, text).expect("the configuration can be written");
        fs::rename(&new, self.own_config()).expect("the configuration can be replaced");
    }

    /// Ends it with SIGKILL.
    pub fn kill9(&mut self) {
        drop(self.process.take());
    }

    /// Has the next starts run it under another program, such as one that counts its instructions.
    pub fn run_under(&mut self, program: &[&str]) {
        self.under = program.iter().map(|&part| part.to_owned()).collect();
    }

    /// Asks it to stop with SIGTERM and waits for its end.
    ///
    /// # Panics
    /// When it has not ended within a minute.
    pub async fn terminate(&mut self) -> ExitStatus {
        let mut process = self.process.take().expect("the daemon runs");
        process.signal(Signal::TERM);
        process.wait_ended(STOP_TIMEOUT).await
    }

    /// Asks it to read its configuration again, with SIGHUP.
    pub fn reload(&mut self) {
        self.process().signal(Signal::HUP);
    }

    /// Starts it again on the same data, after killing it where it still runs, and waits until it is ready.
    pub async fn restart(&mut self) {
        self.launch();
        self.wait_ready().await;
    }

    /// Starts it again without waiting: its port is not known until [`TestDaemon::wait_ready`].
    pub fn launch(&mut self) {
        self.kill9();
        // Of an earlier run: the port it names may be another server's by now.
        drop(fs::remove_file(self.data_dir().join("listen")));
        let mut command = self.command();
        for (key, _) in std::env::vars_os() {
            if key.as_encoded_bytes().starts_with(b"SLUICED_") {
                command.env_remove(key);
            }
        }
        command.args([OsStr::new("run"), OsStr::new("--config"), self.config_path().as_os_str()]);
        command.envs(self.env.iter().cloned()).current_dir(self.dir.path());
        self.process = Some(Process::start("sluiced", &mut command, &self.dir.path().join("log")));
    }

    /// The binary, below a shell that lowers its limit where a test asks for that: the shell becomes the daemon.
    fn command(&self) -> Command {
        let mut before = String::new();
        if let Some(open_files_max) = self.open_files_max {
            before += &format!("ulimit -n {open_files_max} && ");
        }
        if self.limits_files {
            before += "trap '' XFSZ && ";
        }
        if before.is_empty() {
            let Some((program, args)) = self.under.split_first() else { return Command::new(sluiced_binary()) };
            let mut command = Command::new(program);
            command.args(args).arg(sluiced_binary());
            return command;
        }
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("{before}exec \"$0\" \"$@\"")]).arg(sluiced_binary());
        shell
    }

    /// Lets no file of the running daemon grow, or be written, past so many bytes: for what it writes there, the disk is
    /// full. It needs [`Builder::limits_files`].
    pub fn limit_file_bytes(&mut self, bytes: Option<u64>) {
        let pid = Pid::from_raw(i32::try_from(self.process().id()).expect("a process id")).expect("not zero");
        let maximum = getrlimit(Resource::Fsize).maximum;
        prlimit(Some(pid), Resource::Fsize, Rlimit { current: bytes, maximum }).expect("the limit can be set");
    }

    /// Waits until it has named its port and answers there, ready or not.
    ///
    /// # Panics
    /// When it ends, or does not within a minute.
    pub async fn wait_answering(&mut self) {
        let answers = comes_true(READY_TIMEOUT, async || {
            if let Some(status) = self.process().ended() {
                panic!("sluiced ended at start: {status}\n{}", self.log());
            }
            let Ok(listen) = fs::read_to_string(self.data_dir().join("listen")) else { return false };
            listen.trim().clone_into(&mut self.listen);
            try_request("GET", &self.url("/healthz"), None, None).await.is_some()
        });
        assert!(answers.await, "sluiced does not answer within {READY_TIMEOUT:?}");
    }

    /// Waits until it has named its port and says that it is ready.
    ///
    /// # Panics
    /// When it ends, or is not ready within a minute.
    pub async fn wait_ready(&mut self) {
        let ready = comes_true(READY_TIMEOUT, async || {
            if let Some(status) = self.process().ended() {
                panic!("sluiced ended at start: {status}\n{}", self.log());
            }
            let Ok(listen) = fs::read_to_string(self.data_dir().join("listen")) else { return false };
            listen.trim().clone_into(&mut self.listen);
            let answer = try_request("GET", &self.url("/readyz"), None, None).await;
            answer.is_some_and(|answer| answer.status == 200)
        });
        assert!(ready.await, "sluiced is not ready within {READY_TIMEOUT:?}");
    }

    /// Sends a request with the admin key.
    ///
    /// # Panics
    /// When the daemon does not answer.
    pub async fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let answer = try_request(method, &self.url(path), Some(ADMIN_KEY), body).await;
        answer.unwrap_or_else(|| panic!("no answer to {method} {path}"))
    }

    /// Sends a plugin with the admin key, to that path below `/api/v1/plugins/`.
    ///
    /// # Panics
    /// When the daemon does not answer.
    pub async fn send_plugin(&self, path: &str, wasm: Vec<u8>, prefer: &str) -> Answer {
        let url = self.url(&format!("/api/v1/plugins/{path}"));
        let headers = [("content-type", "application/wasm"), ("prefer", prefer)];
        let answer = send("PUT", &url, Some(ADMIN_KEY), &headers, wasm).await;
        answer.unwrap_or_else(|| panic!("no answer to PUT {url}"))
    }

    /// The metrics right now.
    pub async fn metrics(&self) -> Metrics {
        Metrics::parse(&self.request("GET", "/metrics", None).await.body)
    }

    /// Waits until the books of `subscription` balance with `received` events, and returns them. They count from the
    /// daemon's start, so a test that restarts it states what it expects of the last run.
    ///
    /// # Panics
    /// With the books as they were last seen, when they do not within a minute.
    pub async fn accounted(&self, subscription: &str, received: u64) -> Accounting {
        let mut books = Accounting::of(&self.metrics().await, subscription);
        let balanced = comes_true(BALANCE_TIMEOUT, async || {
            books = Accounting::of(&self.metrics().await, subscription);
            books.received == received && books.balances()
        });
        assert!(balanced.await, "the books of {subscription} do not balance at {received} received: {books:?}");
        books
    }

    /// What one subscription's gauge or counter stands at; 0 when it was never set.
    pub async fn reading(&self, name: &str, subscription: &str) -> u64 {
        self.metrics().await.sum(name, &[("subscription", subscription)]) as u64
    }

    /// Waits until a subscription is held or catching up (`true`), or reads live (`false`).
    ///
    /// # Panics
    /// When it is not within `timeout`.
    pub async fn wait_held(&self, subscription: &str, held: bool, timeout: Duration) {
        let what = if held { "is held" } else { "reads live" };
        let state = async || self.reading("sluiced_held", subscription).await == u64::from(held);
        wait_until(&format!("{subscription} {what}"), timeout, state).await;
    }

    /// Waits until the sum of a metric's samples with these labels is `value`.
    ///
    /// # Panics
    /// With what it was last, when it is not within a minute.
    pub async fn wait_metric(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        let mut last = f64::NAN;
        let reached = comes_true(BALANCE_TIMEOUT, async || {
            last = self.metrics().await.sum(name, labels);
            last == value
        });
        assert!(reached.await, "{name}{labels:?} is {last}, not {value}");
    }

    /// Resident memory in bytes.
    pub fn rss_bytes(&self) -> u64 {
        self.process.as_ref().map_or(0, Process::rss_bytes)
    }

    /// CPU time used since its start.
    pub fn cpu_time(&self) -> Duration {
        self.process.as_ref().map_or(Duration::ZERO, Process::cpu_time)
    }

    /// Everything that it has logged, over all its starts.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.dir.path().join("log")).unwrap_or_default()).into_owned()
    }

    /// Says what is to happen at the daemon's failpoints from now on: lines of `PLACE = ACTION`, see the daemon's module
    /// `failpoint`. It needs [`Builder::failpoints`].
    pub fn arm(&self, text: &str) {
        let new = self.dir.path().join("failpoints.new");
        fs::write(&new, text).expect("the failpoints can be written");
        fs::rename(&new, self.failpoints_path()).expect("the failpoints can be replaced");
    }

    /// Waits until it has ended itself at a failpoint.
    ///
    /// # Panics
    /// When it does not within a minute, or ends in another way.
    pub async fn wait_aborted(&mut self) {
        let mut process = self.process.take().expect("the daemon runs");
        let status = process.wait_ended(STOP_TIMEOUT).await;
        assert_eq!(status.signal(), Some(Signal::ABORT.as_raw()), "it ended otherwise: {status}\n{}", self.log());
    }

    /// The file of [`TestDaemon::arm`], for another process on the same data.
    pub fn failpoints_path(&self) -> PathBuf {
        self.dir.path().join("failpoints")
    }

    /// Its process.
    ///
    /// # Panics
    /// When it is stopped.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("the daemon runs")
    }

    fn share_plugin_cache(&self) {
        DirBuilder::new().mode(0o700).create(self.data_dir()).expect("the data directory can be made");
        symlink(plugin_cache(), self.data_dir().join("plugin-cache")).expect("a link can be made");
    }
}

impl Builder {
    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.daemon.env.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Lets [`TestDaemon::arm`] take effect, in a daemon that is built with debug assertions.
    #[must_use]
    pub fn failpoints(self) -> Self {
        let file = self.daemon.failpoints_path();
        self.env("SLUICED_FAILPOINTS", &file.to_string_lossy())
    }

    /// Lets it have no more than this many open files, whatever it asks for.
    #[must_use]
    pub fn open_files_max(mut self, open_files_max: u32) -> Self {
        self.daemon.open_files_max = Some(open_files_max);
        self
    }

    /// Lets [`TestDaemon::limit_file_bytes`] make writes fail, which without this would end the process.
    #[must_use]
    pub fn limits_files(mut self) -> Self {
        self.daemon.limits_files = true;
        self
    }

    /// Offers the hostile plugins too.
    #[must_use]
    pub fn hostile_plugins(self, config: &str) -> Self {
        let folder = self.daemon.dir.path().join("plugins");
        fs::create_dir(&folder).expect("a folder can be made");
        link_all_plugins(&folder);
        self.plugins(&folder, config)
    }

    /// Takes the plugins from another folder.
    #[must_use]
    pub fn plugins(mut self, dir: &Path, config: &str) -> Self {
        dir.clone_into(&mut self.daemon.plugins);
        self.daemon.write_config(config);
        self
    }

    /// Starts it and waits until it is ready.
    pub async fn start(self) -> TestDaemon {
        let mut daemon = self.launch();
        daemon.wait_ready().await;
        daemon
    }

    /// Starts it without waiting.
    pub fn launch(mut self) -> TestDaemon {
        self.daemon.launch();
        self.daemon
    }
}

/// The configuration with the keys that every test needs, where it does not set them itself. Works on lines, so that a
/// text that is broken on purpose stays as it is.
pub fn complete(config: &str, data_dir: &Path, nats_url: &str, plugins: &Path) -> String {
    let defaults = [
        ("", "data_dir", format!("{data_dir:?}")),
        ("server", "listen", "\"127.0.0.1:0\"".to_owned()),
        ("auth", "admin_key", format!("{ADMIN_KEY:?}")),
        ("limits", "requests_per_minute", "0".to_owned()),
        ("limits", "tests_per_minute", "0".to_owned()),
        ("nats", "url", format!("{nats_url:?}")),
        ("plugins", "dir", format!("{plugins:?}")),
        ("delivery", "allow_cidrs", "[\"127.0.0.0/8\", \"::1/128\"]".to_owned()),
    ];
    let mut lines: Vec<String> = config.lines().map(str::to_owned).collect();
    for (table, key, value) in defaults {
        let setting = format!("{key} = {value}");
        match header(&lines, table) {
            Some(start) if sets(&lines[start..], key) => {}
            Some(start) => lines.insert(start, setting),
            None => lines.extend([format!("[{table}]"), setting]),
        }
    }
    lines.join("\n") + "\n"
}

/// The line after a table's header; the top level starts at the first line.
fn header(lines: &[String], table: &str) -> Option<usize> {
    if table.is_empty() {
        return Some(0);
    }
    let header = format!("[{table}]");
    lines.iter().position(|line| line.trim() == header).map(|at| at + 1)
}

/// Whether a table, whose lines these are, sets a key.
fn sets(lines: &[String], key: &str) -> bool {
    let mut own = lines.iter().map(|line| line.trim()).take_while(|line| !line.starts_with('['));
    own.any(|line| line.strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('=')))
}
