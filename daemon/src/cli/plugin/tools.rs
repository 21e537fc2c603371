//! The tool chains that plugins are built with: found, or got into this user's cache, or a clear word on what is missing.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

use super::lab::cache_dir;

/// componentize-js, as npm has it.
const COMPONENTIZE_JS: (&str, &str) = ("@bytecodealliance/componentize-js", "0.23.0");
/// componentize-py, as PyPI has it.
const COMPONENTIZE_PY: (&str, &str) = ("componentize-py", "0.25.1");
/// The oldest Node.js that componentize-js runs on.
const NODE_MIN: (u32, u32) = (20, 0);
/// The oldest Python that componentize-py runs on.
const PYTHON_MIN: (u32, u32) = (3, 10);

/// What componentize-js puts into a component unless it is told not to: all of it needs WASI.
pub(super) const JS_FEATURES: [&str; 5] = ["stdio", "random", "clocks", "http", "fetch-event"];

/// The cargo that called this program, else the one on `PATH`.
pub(super) fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")))
}

/// Makes sure that cargo is there and can compile for that target.
///
/// # Errors
/// With what to install.
pub(super) fn rust(target: &str) -> anyhow::Result<()> {
    if ask(cargo().arg("--version")).is_none() {
        bail!("cargo is missing: install Rust with rustup, https://rustup.rs");
    }
    let sysroot = ask(Command::new("rustc").args(["--print", "sysroot"]));
    let installed = |sysroot: &str| Path::new(sysroot).join("lib/rustlib").join(target).join("lib").is_dir();
    if sysroot.is_some_and(|sysroot| installed(&sysroot)) {
        return Ok(());
    }
    bail!("Rust's target {target} is missing: install it with `rustup target add {target}`")
}

/// componentize-js: the project's own where it has one, else that of this user's cache, which is got from npm.
///
/// # Errors
/// With what to install, or what npm said.
pub(super) fn componentize_js(project: &Path) -> anyhow::Result<Command> {
    let how = "install Node.js 20 or newer, with npm: https://nodejs.org, or your system's packages nodejs and npm";
    at_least(&mut Command::new("node"), "node", NODE_MIN, how)?;
    let own = project.join("node_modules/.bin/componentize-js");
    if own.is_file() {
        return Ok(Command::new(own));
    }
    let (package, version) = COMPONENTIZE_JS;
    let tool = Tool { dir: tool_dir("componentize-js", version)?, program: "node_modules/.bin/componentize-js" };
    tool.get_once(|into| {
        if ask(Command::new("npm").arg("--version")).is_none() {
            bail!("npm is missing: {how}");
        }
        eprintln!("getting {package} {version} from npm, once (about 390 MB on disk)");
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-audit", "--no-fund", "--loglevel", "error", "--prefix"]).arg(into);
        run(npm.arg(format!("{package}@{version}")).current_dir(into))
    })?;
    Ok(Command::new(tool.path()))
}

/// componentize-py, of this user's cache, which is got from PyPI.
///
/// # Errors
/// With what to install, or what pip said.
pub(super) fn componentize_py() -> anyhow::Result<Command> {
    let how = "install Python 3.10 or newer, with pip and venv: https://python.org, or your system's packages python3, \
               python3-pip and python3-venv";
    at_least(&mut Command::new("python3"), "python3", PYTHON_MIN, how)?;
    let (package, version) = COMPONENTIZE_PY;
    let tool = Tool { dir: tool_dir(package, version)?, program: "bin/componentize-py" };
    let wanted = format!("{package}=={version}");
    tool.get_once(|into| {
        eprintln!("getting {package} {version} from PyPI, once (about 70 MB on disk)");
        let options = ["install", "--quiet", "--disable-pip-version-check", "--only-binary=:all:"];
        // Debian splits `venv` from Python; without it pip's own `--target` gives the same programs.
        let mut venv = Command::new("python3");
        if run(venv.args(["-m", "venv", "--clear"]).arg(into)).is_ok() {
            return run(Command::new(into.join("bin/python3")).args(["-m", "pip"]).args(options).arg(&wanted));
        }
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip"]).args(options).arg("--target").arg(into);
        run(pip.arg(&wanted)).context(how)
    })?;
    let mut command = Command::new(tool.path());
    // Where pip installed with `--target`, the modules lie beside the programs.
    command.env("PYTHONPATH", &tool.dir);
    Ok(command)
}

/// A tool in this user's cache.
struct Tool {
    dir: PathBuf,
    program: &'static str,
}

impl Tool {
    fn path(&self) -> PathBuf {
        self.dir.join(self.program)
    }

    /// Gets the tool unless it is there. A mark is set when all of it is: one that was got half is got again.
    fn get_once(&self, get: impl FnOnce(&Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let mark = self.dir.join(".complete");
        if mark.is_file() && self.path().is_file() {
            return Ok(());
        }
        match fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot empty {}", self.dir.display()));
            }
            _ => fs::create_dir_all(&self.dir).with_context(|| format!("cannot make {}", self.dir.display()))?,
        }
        get(&self.dir)?;
        if !self.path().is_file() {
            bail!("{} was not among what was installed", self.path().display());
        }
        fs::write(&mark, "").with_context(|| format!("cannot write {}", mark.display()))
    }
}

fn tool_dir(tool: &str, version: &str) -> anyhow::Result<PathBuf> {
    Ok(cache_dir("tools")?.join(format!("{tool}-{version}")))
}

/// Runs a command and keeps its words for the error.
fn run(command: &mut Command) -> anyhow::Result<()> {
    let line = format!("{command:?}");
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {line}"))?;
    if output.status.success() {
        return Ok(());
    }
    bail!("{line} failed ({}):\n{}", output.status, String::from_utf8_lossy(&output.stderr).trim())
}

/// The standard output of a command that succeeds.
fn ask(command: &mut Command) -> Option<String> {
    let output = command.stderr(Stdio::null()).stdin(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Makes sure that a program is there in that version or a later one.
fn at_least(command: &mut Command, name: &str, min: (u32, u32), how: &str) -> anyhow::Result<()> {
    let Some(said) = ask(command.arg("--version")) else { bail!("{name} is missing: {how}") };
    match version(&said) {
        Some(found) if found >= min => Ok(()),
        _ => bail!("{name} is {said}, and {}.{} or newer is needed: {how}", min.0, min.1),
    }
}

/// Major and minor version of what a program says: `v20.1.2`, `Python 3.11.7`.
fn version(said: &str) -> Option<(u32, u32)> {
    let numbers = said.rsplit(' ').next()?.trim_start_matches('v');
    let mut numbers = numbers.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_programs_say_them() {
        assert_eq!(version("v20.20.2"), Some((20, 20)));
        assert_eq!(version("Python 3.11.7"), Some((3, 11)));
        assert_eq!(version("what"), None);
    }

    #[test]
    fn what_is_missing_or_too_old_is_named_with_how_to_get_it() {
        let ask = |program: &str, min| at_least(&mut Command::new(program), program, min, "install it").unwrap_err();
        assert_eq!(
            ask("sluiced-no-such-program", (1, 0)).to_string(),
            "sluiced-no-such-program is missing: install it"
        );
        let old = ask("python3", (99, 0)).to_string();
        assert!(old.contains("99.0 or newer is needed: install it"), "{old}");
    }
}
