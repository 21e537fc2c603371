//! A machine of its own for a package: this one's files, with systemd as its init, and nothing of what is done there remains.
//!
//! It is a namespace: what is written goes to memory, over this machine's own files, which are only read. The network is the
//! same, so that a nats-server and a receiver of a test are where they always are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use sluiced_tests::process::Process;
use sluiced_tests::wait_until;
use tempfile::TempDir;

const BOOT_TIME_MAX: Duration = Duration::from_secs(30);

/// The system's other services stay out: they are this machine's, and some would look after its devices.
const BOOT: &str = r#"
set -eu
mount --make-rprivate /
mount -t tmpfs tmpfs "$DIR"
mkdir "$DIR/upper" "$DIR/work" "$DIR/root" "$DIR/cgroup"
mount -t overlay overlay -o "lowerdir=/,upperdir=$DIR/upper,workdir=$DIR/work" "$DIR/root"
root="$DIR/root"
mount -t proc proc "$root/proc"
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount --rbind /dev "$root/dev"
rm -rf "$root"/lib/systemd/system/*.wants "$root"/etc/systemd/system/*.wants
# Of a container: that no package starts a service.
rm -f "$root/usr/sbin/policy-rc.d"
mkdir -p "$root/etc/systemd/system/sluiced.service.d"
printf '[Unit]\nDefaultDependencies=no\n' > "$root/etc/systemd/system/nothing.target"
printf '[Service]\nStandardOutput=append:/var/log/sluiced\nStandardError=append:/var/log/sluiced\n' \
    > "$root/etc/systemd/system/sluiced.service.d/log.conf"
mount -t cgroup2 none "$DIR/cgroup"
mkdir "$DIR/cgroup/$CGROUP"
echo $$ > "$DIR/cgroup/$CGROUP/cgroup.procs"
mkdir "$root/.outside"
cd "$root"
# Not chroot: below one no namespace of users can be made, and the unit has one.
pivot_root . .outside
exec env -i container=other "PATH=$PATH" unshare --cgroup sh -c '
    umount -l /.outside
    mount -t cgroup2 none /sys/fs/cgroup
    exec /lib/systemd/systemd --system --unit=nothing.target --log-target=console --show-status=0
'
"#;

/// The machine, up until it is dropped.
pub(super) struct Machine {
    /// Holds the namespaces; its end takes all processes in them with it.
    process: Process,
    /// Its init, by the number that it has here.
    init: u32,
    cgroup: String,
    _dir: TempDir,
}

impl Machine {
    /// Boots one.
    ///
    /// # Panics
    /// When this machine allows none: it takes root, namespaces of one's own, overlayfs, cgroup v2 and systemd.
    pub(super) async fn boot() -> Self {
        let dir = tempfile::Builder::new().prefix("sluiced-machine-").tempdir().expect("a temporary folder");
        let cgroup = dir.path().file_name().expect("a folder has a name").to_string_lossy().into_owned();
        let log = dir.path().with_extension("log");
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child", "sh", "-c", BOOT]);
        command.env("DIR", dir.path()).env("CGROUP", &cgroup);
        let process = Process::start("systemd in a namespace", &mut command, &log);
        let mut machine = Self { process, init: 0, cgroup, _dir: dir };
        wait_until("a machine of its own is up (it takes root and systemd)", BOOT_TIME_MAX, async || {
            assert!(machine.process.ended().is_none(), "no machine of its own can be had: {}", machine.process.log());
            machine.init = machine.find_init();
            machine.init != 0 && machine.run("systemctl is-system-running").status.success()
        })
        .await;
        fs::remove_file(log).expect("a log can be removed while it is written");
        machine
    }

    /// The process below the one that holds the namespaces; 0 before it is there.
    fn find_init(&self) -> u32 {
        let holder = self.process.id();
        let children = fs::read_to_string(format!("/proc/{holder}/task/{holder}/children")).unwrap_or_default();
        children.split_whitespace().next().and_then(|id| id.parse().ok()).unwrap_or(0)
    }

    /// Runs a line of shell there.
    pub(super) fn run(&self, line: &str) -> Output {
        let mut command = Command::new("nsenter");
        let init = self.init.to_string();
        command.args(["--target", &init, "--mount", "--pid", "--ipc", "--uts", "--cgroup", "--root"]);
        command.args(["env", "-C", "/", "-i", "LANG=C.UTF-8", "DEBIAN_FRONTEND=noninteractive"]);
        command.args(["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "sh", "-c", line]);
        command.output().expect("nsenter runs")
    }

    /// Runs a line of shell there, which must succeed, and returns what it prints.
    pub(super) fn sh(&self, line: &str) -> String {
        let output = self.run(line);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let said = text(&output.stdout) + &text(&output.stderr);
        let status = || text(&self.run("systemctl status --no-pager sluiced").stdout);
        assert!(output.status.success(), "`{line}` failed: {said}\n{}", status());
        said.trim().to_owned()
    }

    /// A file there, by its path here.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        Path::new(&format!("/proc/{}/root", self.init)).join(path.trim_start_matches('/'))
    }

    /// What a file there holds.
    pub(super) fn read(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// What the daemon has logged there.
    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.path("/var/log/sluiced")).unwrap_or_default()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the daemon ---\n{}\n--- end of log ---", self.log());
        }
        self.process.kill9();
        // Its groups of processes are the kernel's, not the namespace's. The last of them may take a moment to end.
        let sweep = "mount -t cgroup2 none /mnt && for _ in 1 2 3 4 5 6 7 8 9; do \
                     find \"/mnt/$0\" -depth -type d -exec rmdir {} + 2>/dev/null && exit; sleep 0.1; done";
        drop(Command::new("unshare").args(["--mount", "sh", "-c", sweep, &self.cgroup]).output());
    }
}
