//! Where the parts under test lie. A missing one panics with the command that makes it.

use std::env;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

const REMEDY: &str = "run `cargo xtask test` once: it builds and gets every part";

/// The root of the workspace.
pub fn workspace() -> PathBuf {
    // Of the checkout that cargo runs this for: checkouts that share a target directory share this program.
    let manifest = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&manifest).parent().expect("the harness lies below the workspace").to_owned()
}

/// The daemon: `SLUICED_BIN`, else the one built beside this executable.
pub fn sluiced_binary() -> PathBuf {
    match env::var_os("SLUICED_BIN") {
        Some(path) => existing(path.into()),
        None => existing(profile_dir().join("sluiced")),
    }
}

/// The NATS server: `SLUICED_NATS_SERVER`, else the one that xtask installed, else one on `PATH`.
pub fn nats_server_binary() -> PathBuf {
    if let Some(path) = env::var_os("SLUICED_NATS_SERVER") {
        let path = PathBuf::from(path);
        return if path.components().count() > 1 { existing(path) } else { on_path("nats-server") };
    }
    let installed = target().join("tools/nats/bin/nats-server");
    if installed.is_file() { installed } else { on_path("nats-server") }
}

/// schemathesis, as xtask installed it.
pub fn schemathesis_binary() -> PathBuf {
    existing(target().join("tools/schemathesis/bin/schemathesis"))
}

/// The folder of the walks through the web console, with what they need.
pub fn console_tests() -> PathBuf {
    existing(workspace().join("console/node_modules/playwright-core"));
    existing(workspace().join("console/test"))
}

/// A Python that has the libraries which others wrote to verify webhooks, as xtask installed them.
pub fn python_clients() -> Command {
    let dir = existing(target().join("tools/python-clients"));
    let own = dir.join("bin/python");
    let mut command = Command::new(if own.is_file() { own } else { PathBuf::from("python3") });
    // Without a private environment they lie in the folder itself.
    command.env("PYTHONPATH", dir);
    command
}

/// The folder below which the same of JavaScript lies, as xtask installed it.
pub fn node_client_dir() -> PathBuf {
    let dir = target().join("tools/node-clients");
    existing(dir.join("node_modules/standardwebhooks"));
    dir
}

/// The folder with `node_modules` of clients of event streams, as xtask installed them.
pub fn listeners_of_npm() -> PathBuf {
    existing(target().join("tools/listeners-npm"))
}

/// The folder of clients of event streams in Python, as xtask installed them: an environment, or packages alone.
pub fn listeners_of_pip() -> PathBuf {
    existing(target().join("tools/listeners-pip"))
}

/// An example of the workspace, as it lies beside what is built for tests.
pub fn example_binary(name: &str) -> PathBuf {
    existing(profile_dir().join("examples").join(name))
}

/// The folder of the standard plugins, `NAME.wasm`.
pub fn plugin_dir() -> PathBuf {
    existing(target().join("plugins"))
}

/// The folder of the hostile plugins of the tests, `NAME.wasm`.
pub fn test_plugin_dir() -> PathBuf {
    existing(target().join("test-plugins"))
}

/// Links every plugin, the standard and the hostile ones, into a folder.
pub fn link_all_plugins(folder: &Path) {
    for dir in [plugin_dir(), test_plugin_dir()] {
        for entry in fs::read_dir(dir).expect("a folder of plugins can be listed") {
            let path = entry.expect("a folder of plugins can be listed").path();
            symlink(&path, folder.join(path.file_name().expect("a file has a name"))).expect("a link can be made");
        }
    }
}

/// The folder of `sluiced plugin` for what can be made again, its `SLUICED_CACHE_DIR`: compiled plugins and tool chains.
pub fn author_cache() -> PathBuf {
    target().join("author")
}

/// Where the compiled plugins of all tests lie: compiling one takes most of a second, and a minute for other languages
/// than Rust.
pub fn plugin_cache() -> PathBuf {
    let dir = author_cache().join("compiled");
    DirBuilder::new().recursive(true).mode(0o700).create(&dir).expect("the folder of compiled plugins can be made");
    dir
}

/// Cargo's target directory: the one that this executable was built into.
pub fn target() -> PathBuf {
    let dir = profile_dir();
    dir.parent().unwrap_or_else(|| panic!("{} is not in a target directory", dir.display())).to_owned()
}

/// `<target>/debug` or `<target>/release`; tests lie one deeper, in `deps`.
fn profile_dir() -> PathBuf {
    let exe = env::current_exe().expect("an executable knows its path");
    let dir = exe.parent().expect("an executable lies in a folder");
    if dir.ends_with("deps") { dir.parent().expect("deps lies in a folder").to_owned() } else { dir.to_owned() }
}

fn on_path(name: &str) -> PathBuf {
    let path = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&path).map(|dir| dir.join(name)).find(|candidate| candidate.is_file());
    found.unwrap_or_else(|| panic!("{name} is not on PATH: {REMEDY}"))
}

fn existing(path: PathBuf) -> PathBuf {
    assert!(path.exists(), "{} is missing: {REMEDY}", path.display());
    path
}
