//! A child process that is ended by its id, at the latest when its handle is dropped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit, setrlimit};

use crate::proc;
use crate::wait::comes_true;

/// How much of a log a failing test prints.
const LOG_TAIL_BYTES: usize = 16 * 1024;

/// A running child whose output goes to a file. Killed on drop; when the test panics, the end of its log is printed.
#[derive(Debug)]
pub struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with its output appended to `log`.
    pub fn start(name: &'static str, command: &mut Command, log: &Path) -> Self {
        let file = fs::OpenOptions::new().create(true).append(true).open(log).expect("a log file can be opened");
        let same = file.try_clone().expect("a file can be shared");
        let child = command.stdin(Stdio::null()).stdout(file).stderr(same).spawn();
        let child = child.unwrap_or_else(|error| panic!("cannot start {name} as {command:?}: {error}"));
        Self { name, child, log: log.to_owned() }
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its exit status, once it has ended by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Ends it with SIGKILL and waits until it is gone.
    pub fn kill9(&mut self) {
        if self.ended().is_none() {
            self.child.kill().expect("a running child can be killed");
            self.child.wait().expect("a child can be waited for");
        }
    }

    /// Sends a signal; none is sent to a process that has ended.
    pub fn signal(&mut self, signal: Signal) {
        if self.ended().is_none() {
            kill_process(Pid::from_child(&self.child), signal).expect("a running child can be signalled");
        }
    }

    /// Waits until it has ended by itself.
    ///
    /// # Panics
    /// When it has not within `timeout`; it is then killed.
    pub async fn wait_ended(&mut self, timeout: Duration) -> ExitStatus {
        if !comes_true(timeout, async || self.ended().is_some()).await {
            self.kill9();
            panic!("{} did not end within {timeout:?}", self.name);
        }
        self.ended().expect("it was just seen to have ended")
    }

    /// Resident memory in bytes; 0 once it has ended.
    pub fn rss_bytes(&self) -> u64 {
        proc::rss_bytes(self.id())
    }

    /// CPU time used so far, in user and kernel mode; zero once it has ended.
    pub fn cpu_time(&self) -> Duration {
        proc::cpu_time(self.id())
    }

    /// How many files and connections it has open.
    pub fn open_files(&self) -> u64 {
        let open = fs::read_dir(format!("/proc/{}/fd", self.id())).expect("a running child has descriptors");
        open.count() as u64
    }

    /// Lets it have no more than this many open files, as if the system had run short of them, and returns the limit
    /// before.
    pub fn limit_open_files(&self, max: u64) -> u64 {
        limit_open_files(self.id(), max)
    }

    /// Everything that it has written so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }
}

/// Lets this process have as many open files as it may.
pub fn raise_open_files() {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("a limit can be raised to its maximum");
}

/// Sets how many open files a process of this user may have, and returns the limit before.
pub fn limit_open_files(process: u32, max: u64) -> u64 {
    let process = Pid::from_raw(process.cast_signed()).expect("a process has an id");
    let now = getrlimit(Resource::Nofile);
    let limit = Rlimit { current: Some(max), maximum: now.maximum };
    let before = prlimit(Some(process), Resource::Nofile, limit).expect("a process of the same user can be limited");
    before.current.unwrap_or(u64::MAX)
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill9();
        if std::thread::panicking() {
            let log = self.log();
            let start = log.ceil_char_boundary(log.len().saturating_sub(LOG_TAIL_BYTES));
            eprintln!("--- log of {} ---\n{}--- end of log ---", self.name, &log[start..]);
        }
    }
}
