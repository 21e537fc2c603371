//! Where things are: the workspace, the target directory and what is built into it.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// The folder of the root `Cargo.toml`: of the checkout that cargo runs this for, since checkouts that share a target
/// directory share this program.
pub(crate) fn root() -> PathBuf {
    let manifest = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&manifest).parent().expect("xtask lies below the workspace").to_owned()
}

/// Cargo's target directory, absolute: `CARGO_TARGET_DIR`, else `target` in the workspace.
pub(crate) fn target() -> PathBuf {
    root().join(env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

/// Where cargo keeps the sources of dependencies, absolute: `CARGO_HOME`, else `.cargo` in the home folder.
pub(crate) fn cargo_home() -> PathBuf {
    let home = || env::home_dir().unwrap_or_default().join(".cargo");
    env::var_os("CARGO_HOME").map_or_else(home, PathBuf::from)
}

/// Has the compiler keep the places of this machine out of what a call of cargo makes.
pub(crate) fn without_paths(cargo: &mut Command) -> &mut Command {
    // Of those that match, the compiler takes the last: one place may lie within another.
    let places = [(root(), "/sluiced"), (target(), "/target"), (cargo_home(), "/cargo")];
    let remaps = places.map(|(place, name)| {
        ["--remap-path-prefix=".into(), place.into_os_string(), "=".into(), name.into()]
            .into_iter()
            .collect::<OsString>()
    });
    // The form that takes a place with a space in it. Where it is set, cargo looks at no other.
    let given = env::var_os("CARGO_ENCODED_RUSTFLAGS").or_else(|| {
        let flags = env::var("RUSTFLAGS").ok()?;
        Some(flags.split_whitespace().collect::<Vec<_>>().join("\x1f").into())
    });
    let flags: Vec<_> = given.into_iter().filter(|flags| !flags.is_empty()).chain(remaps).collect();
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join(OsStr::new("\x1f")))
}

/// Where the standard plugins are copied to, as `NAME.wasm`.
pub(crate) fn plugin_dir() -> PathBuf {
    target().join("plugins")
}

/// Where the hostile plugins of the tests are copied to, as `NAME.wasm`.
pub(crate) fn test_plugin_dir() -> PathBuf {
    target().join("test-plugins")
}

/// Where `sluiced plugin` keeps compiled plugins and tool chains, for builds and tests.
pub(crate) fn author_cache() -> PathBuf {
    target().join("author")
}

/// Where tools that were not found on the machine are installed.
pub(crate) fn tool_dir(tool: &str) -> PathBuf {
    target().join("tools").join(tool)
}

/// The binary that a build leaves in the target directory.
pub(crate) fn binary(name: &str, release: bool) -> PathBuf {
    target().join(if release { "release" } else { "debug" }).join(name)
}

/// The names of the packages directly below a folder, in order; none when the folder is absent.
pub(crate) fn packages_below(folder: &str) -> Result<Vec<String>> {
    folders_with(folder, &["Cargo.toml"])
}

/// The names of the plugins' projects in other languages than Rust, directly below a folder, in order.
pub(crate) fn projects_below(folder: &str) -> Result<Vec<String>> {
    folders_with(folder, &["package.json", "pyproject.toml"])
}

/// The names of the folders directly below a folder that hold one of these files, in order.
fn folders_with(folder: &str, files: &[&str]) -> Result<Vec<String>> {
    let folder = root().join(folder);
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("listing {}", folder.display()))? {
        let entry = entry?;
        if files.iter().any(|file| entry.path().join(file).is_file()) {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// Every file below a folder, in order, without what is hidden or was built.
pub(crate) fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let (mut files, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("listing {}", folder.display()))? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with('.') || ["dist", "node_modules", "__pycache__"].contains(&name.as_str()) {
                continue;
            }
            if entry.path().is_dir() {
                folders.push(entry.path());
            } else {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    Ok(files)
}

/// A call of the cargo that runs this, in the workspace.
///
/// What that cargo told xtask about its own package is taken away: ring's build script reads those variables, so that
/// it and all above it would be compiled again whenever a person and xtask take turns.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
    command.current_dir(root());
    for (name, _) in env::vars_os() {
        if ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|own| name.as_encoded_bytes().starts_with(own.as_bytes())) {
            command.env_remove(name);
        }
    }
    command
}
