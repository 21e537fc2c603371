//! `cargo xtask reproduce`: is the package of a commit the same, wherever it is built?
//!
//! Two clones are built from nothing, at paths of different lengths. One has its target directory within it, as it is where
//! nobody says otherwise. The other has it elsewhere, and gets every dependency anew, into a place that is not the home
//! folder. Both take the same compilers, which is what the page on deployment asks of whoever builds it again.

use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::steps::{ask, say, step};
use crate::workspace::{root, target};

/// Builds the package of the last commit twice.
///
/// # Errors
/// When a build fails, or the packages differ: with the names of the files that do.
pub(crate) fn run() -> Result<()> {
    let folder = target().join("reproduced");
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    // The same one twice, whatever is committed or built meanwhile.
    fs::create_dir_all(&folder).with_context(|| format!("creating {}", folder.display()))?;
    let builder = folder.join("xtask");
    fs::copy(env::current_exe().context("this program's path")?, &builder).context("copying this program")?;
    let commit =
        ask(Command::new("git").args(["rev-parse", "HEAD"]).current_dir(root())).context("there is no commit")?;
    let first = package(&builder, &commit, &folder.join("one"), false)?;
    let second = package(&builder, &commit, &folder.join("another/that-is-deeper"), true)?;
    if fs::read(&first)? == fs::read(&second)? {
        say(&format!("reproduce: {} and {} are the same, byte for byte", first.display(), second.display()));
        return Ok(());
    }
    let (first, second) = (unpacked(&first)?, unpacked(&second)?);
    step("compare", Command::new("diff").args(["--recursive", "--brief"]).args([first, second]))?;
    bail!("the packages have the same files and are not the same: see with `diffoscope`")
}

/// Builds a clone's package in a place of its own; what is built, and of what, lies within the clone, or `apart` from it.
fn package(builder: &Path, commit: &str, place: &Path, apart: bool) -> Result<PathBuf> {
    let (clone, package) = (place.join("sluiced"), place.join("sluiced.deb"));
    let built = if apart { place } else { &clone }.join("target");
    step("clone", Command::new("git").args(["clone", "--quiet", "--no-checkout"]).args([&root(), &clone]))?;
    step("checkout", Command::new("git").args(["checkout", "--quiet", "--detach", commit]).current_dir(&clone))?;
    fs::create_dir_all(&built).with_context(|| format!("creating {}", built.display()))?;
    // What builds is not what is built.
    let tools = target().join("tools");
    fs::create_dir_all(&tools).with_context(|| format!("creating {}", tools.display()))?;
    symlink(tools, built.join("tools")).context("linking the tools")?;
    // It works for the clone: see `workspace::root`.
    let mut build = Command::new(builder);
    build.arg("package").arg("--out").arg(&package).current_dir(&clone).env("CARGO_MANIFEST_DIR", clone.join("xtask"));
    build.env_remove("CARGO_TARGET_DIR");
    if apart {
        build.env("CARGO_TARGET_DIR", built).env("CARGO_HOME", place.join("dependencies"));
    }
    step(&format!("package in {}", place.display()), &mut build)?;
    Ok(package)
}

/// What is in a package, beside it.
fn unpacked(package: &Path) -> Result<PathBuf> {
    let folder = package.with_extension("contents");
    step("unpack", Command::new("dpkg-deb").arg("--raw-extract").args([package, &folder]))?;
    Ok(folder)
}
