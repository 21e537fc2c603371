//! `cargo xtask package`: the Debian package.
//!
//! No path of this machine is in the binary or in a plugin, and the times of files are the commit's: the same binary is
//! packed to the same package, wherever that is.

use std::env;
use std::fs::{self, File};
use std::path::{self, Path};
use std::process::Command;

use anyhow::{Context, Result};

use crate::steps::{ask, say, step};
use crate::workspace::{binary, cargo, packages_below, plugin_dir, root, target, without_paths};
use crate::{build, sbom, tools};

/// What is packed.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Profile {
    /// Optimised, for others.
    Release,
    /// The binary that the tests run.
    Dev,
}

impl Profile {
    fn name(self) -> &'static str {
        if self == Self::Release { "release" } else { "dev" }
    }
}

/// Builds everything that is packed, and packs it.
pub(crate) fn run(profile: Profile, version: Option<&str>, out: Option<&Path>) -> Result<()> {
    build::console(build::Missing::Fails)?;
    tools::wasm_target()?;
    daemon(profile)?;
    build::plugins()?;
    stage(profile)?;
    let folder = target().join("debian");
    pack(profile, version, out.unwrap_or(&folder))
}

/// Two packages for the tests, of the binary that they run: one to install, made twice to be compared, and one to upgrade to.
/// False where the machine does not let a test have a machine of its own to install them on, which is said.
pub(crate) fn for_tests() -> Result<bool> {
    let mut namespaces = Command::new("unshare");
    if ask(namespaces.args(["--mount", "--pid", "--ipc", "--uts", "--cgroup", "--fork", "true"])).is_none() {
        say("package: NOT tested, only root in namespaces of its own installs it (unshare, overlayfs, systemd)");
        return Ok(false);
    }
    tools::package_test()?;
    let folder = target().join("test-packages");
    for (file, version) in [("first.deb", None), ("again.deb", None), ("upgrade.deb", Some("999.0.0-1"))] {
        stage(Profile::Dev)?;
        pack(Profile::Dev, version, &folder.join(file))?;
    }
    Ok(true)
}

fn daemon(profile: Profile) -> Result<()> {
    if profile == Profile::Dev {
        return build::daemon(false);
    }
    let mut build = cargo();
    build.args(["build", "--locked", "--release", "--bins", "--package", "sluiced"]);
    // By the linker, whose build id is of all that it writes: what is compiled of C names folders in what a debugger reads.
    build.env("CARGO_PROFILE_RELEASE_STRIP", "symbols");
    step("build daemon", without_paths(&mut build))
}

/// Makes what is packed beside the binary and what lies in the repository.
fn stage(profile: Profile) -> Result<()> {
    let sluiced = binary("sluiced", profile == Profile::Release);
    let folder = sluiced.with_file_name("package");
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    let plugins = folder.join("plugins");
    fs::create_dir_all(&plugins).with_context(|| format!("creating {}", plugins.display()))?;
    for name in packages_below("plugins")? {
        let file = format!("{name}.wasm");
        fs::copy(plugin_dir().join(&file), plugins.join(&file)).with_context(|| format!("copying {file}"))?;
    }
    step("manual pages", Command::new(&sluiced).arg("man").arg(folder.join("man")))?;
    for shell in ["bash", "zsh", "fish"] {
        let file = File::create(folder.join(format!("sluiced.{shell}"))).context("making a file of completions")?;
        step(&format!("completions for {shell}"), Command::new(&sluiced).args(["completions", shell]).stdout(file))?;
    }
    sbom::write(&folder.join("sbom"))
}

fn pack(profile: Profile, version: Option<&str>, out: &Path) -> Result<()> {
    // As whoever asks sees it: what packs runs in the workspace.
    let out = path::absolute(out).with_context(|| format!("finding {}", out.display()))?;
    let mut pack = Command::new(tools::cargo_deb()?);
    pack.current_dir(root()).args(["--quiet", "--package", "sluiced", "--locked", "--no-build"]);
    pack.args(["--profile", profile.name()]).arg("--output").arg(&out);
    if profile == Profile::Dev {
        pack.args(["--strip", "--fast"]);
    }
    if let Some(version) = version {
        pack.args(["--deb-version", version]);
    }
    match source_date() {
        Some(date) => pack.env("SOURCE_DATE_EPOCH", date),
        None => {
            say("package: no commit and no SOURCE_DATE_EPOCH, it has the times of this build");
            &mut pack
        }
    };
    fs::create_dir_all(out.parent().unwrap_or(&out))
        .with_context(|| format!("creating a folder for {}", out.display()))?;
    step("package", &mut pack)?;
    say(&format!("package: {}", out.display()));
    Ok(())
}

/// The time of everything in the package: `SOURCE_DATE_EPOCH`, else that of the last commit; seconds since 1970.
pub(crate) fn source_date() -> Option<String> {
    let given = env::var("SOURCE_DATE_EPOCH").ok();
    given.or_else(|| ask(Command::new("git").args(["log", "-1", "--format=%ct"]).current_dir(root())))
}
