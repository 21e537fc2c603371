//! `cargo xtask build`: the web console, the daemon, the standard plugins, and the hostile plugins of the tests.

use std::fs;
use std::hash::{DefaultHasher, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::steps::{say, step};
use crate::tools;
use crate::workspace::{
    author_cache, binary, cargo, files_below, packages_below, plugin_dir, projects_below, root, target,
    test_plugin_dir, without_paths,
};

const WASM_ARGS: [&str; 5] = ["build", "--profile", "plugin", "--target", "wasm32-wasip2"];

/// The profile `plugin` of the root manifest, for the hostile plugins, which are workspaces of their own.
const PROFILE_PLUGIN: [&str; 7] =
    ["inherits='release'", "opt-level=3", "lto=true", "codegen-units=1", "panic='abort'", "strip=true", "debug=false"];

/// Builds what a user runs: the daemon and the standard plugins.
pub(crate) fn run(release: bool) -> Result<()> {
    console(Missing::LeftOut)?;
    rust(release)?;
    other_plugins(&binary("sluiced", release), Missing::LeftOut)?;
    say(&format!("daemon:  {}", binary("sluiced", release).display()));
    say(&format!("plugins: {}", plugin_dir().display()));
    Ok(())
}

/// Builds what is written in Rust: the daemon, and all standard plugins but the examples in other languages.
pub(crate) fn rust(release: bool) -> Result<()> {
    tools::wasm_target()?;
    daemon(release)?;
    plugins()
}

/// Builds the web console into `console/dist`, from where the daemon's build takes it. It is left as it is while its files and
/// the description of the API are the same.
pub(crate) fn console(missing: Missing) -> Result<()> {
    let project = root().join("console");
    let (stamp, print) = (project.join("dist/.stamp"), console_fingerprint(&project)?);
    let built = project.join("dist/index.html").is_file() && fs::read_to_string(&stamp).is_ok_and(|text| text == print);
    if built {
        say("console: built");
        // Its tests need its packages besides.
        return if missing == Missing::Fails { packages(&project) } else { Ok(()) };
    }
    if let Err(error) = tools::node() {
        if missing == Missing::Fails {
            return Err(error);
        }
        say(&format!("console: NOT built, the daemon will say so at /: {error:#}"));
        return Ok(());
    }
    packages(&project)?;
    step("build console", Command::new("npm").args(["run", "--silent", "build"]).current_dir(&project))?;
    fs::write(&stamp, print).with_context(|| format!("writing {}", stamp.display()))
}

/// Gets the packages that the console's lock file names, exactly these, unless they are there.
fn packages(project: &Path) -> Result<()> {
    tools::node()?;
    let lock = project.join("package-lock.json");
    let wanted = fs::read_to_string(&lock).with_context(|| format!("reading {}", lock.display()))?;
    let got = project.join("node_modules/.lock-of-xtask");
    if fs::read_to_string(&got).is_ok_and(|text| text == wanted) {
        return Ok(());
    }
    step("get console packages", Command::new("npm").args(["ci", "--silent"]).current_dir(project))?;
    fs::write(&got, wanted).with_context(|| format!("writing {}", got.display()))
}

/// What the console is made of.
fn console_fingerprint(project: &Path) -> Result<String> {
    let files = files_below(project)?.into_iter().chain([root().join("docs/openapi.json")]);
    print_of(files.filter(|file| !file.ends_with("src/api/types.ts")))
}

/// What becomes of a part whose tool chain is not to be had on this machine.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    /// It is left out, which is said.
    LeftOut,
    /// The build fails.
    Fails,
}

/// Builds the daemon. A release has the daemon's own dependency features and no others; any other build shares its
/// dependencies with the tests, so that they are compiled once.
pub(crate) fn daemon(release: bool) -> Result<()> {
    let scope: &[&str] = if release { &["--release", "--package", "sluiced"] } else { &["--workspace"] };
    step("build daemon", cargo().args(["build", "--bins"]).args(scope))
}

/// Builds every package below `plugins/` and copies it to `<target>/plugins/NAME.wasm`.
pub(crate) fn plugins() -> Result<()> {
    let names = packages_below("plugins")?;
    let mut build = cargo();
    build.args(WASM_ARGS);
    for name in &names {
        build.arg("--package").arg(format!("sluiced-plugin-{name}"));
    }
    step("build plugins", without_paths(&mut build))?;
    names.iter().try_for_each(|name| install(name, &plugin_dir()))
}

/// Builds every project below `plugins/` that is not in Rust, with the daemon's own `plugin build`. A project is left as
/// it is while its files are the same: componentizing takes up to half a minute, and what it makes is another component
/// each time, which is compiled for as long once more.
pub(crate) fn other_plugins(sluiced: &Path, missing: Missing) -> Result<()> {
    for name in projects_below("plugins")? {
        let project = root().join("plugins").join(&name);
        let (stamp, print) = (plugin_dir().join(format!("{name}.stamp")), fingerprint(&project)?);
        let built = plugin_dir().join(format!("{name}.wasm")).is_file();
        if built && fs::read_to_string(&stamp).is_ok_and(|text| text == print) {
            say(&format!("plugin {name}: built"));
            continue;
        }
        if let Err(error) = tools::for_project(&project) {
            if missing == Missing::Fails {
                return Err(error);
            }
            say(&format!("plugin {name}: NOT built: {error:#}"));
            continue;
        }
        let mut build = Command::new(sluiced);
        build.args(["plugin", "build"]).arg(&project).arg("--out").arg(plugin_dir());
        step(&format!("build plugin {name}"), build.env("SLUICED_CACHE_DIR", author_cache()))?;
        // A look at it compiles it, once, so that nothing later has to wait for that.
        let mut inspect = Command::new(sluiced);
        inspect.args(["plugin", "inspect"]).arg(plugin_dir().join(format!("{name}.wasm"))).stdout(Stdio::null());
        step(&format!("compile plugin {name}"), inspect.env("SLUICED_CACHE_DIR", author_cache()))?;
        fs::write(&stamp, print).with_context(|| format!("writing {}", stamp.display()))?;
    }
    Ok(())
}

/// What a component is made of: the project's files, the contract, and the versions of the tool chains.
fn fingerprint(project: &Path) -> Result<String> {
    let shared = ["sdk/wit/plugin.wit", "daemon/src/cli/plugin/tools.rs", "daemon/src/cli/plugin/build.rs"];
    print_of(files_below(project)?.into_iter().chain(shared.map(|file| root().join(file))))
}

/// A print of files: of their names and of what is in them.
fn print_of(files: impl Iterator<Item = PathBuf>) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    for file in files {
        // Not where the checkout lies: another one may use the same target directory.
        hasher.write(file.strip_prefix(root()).unwrap_or(&file).to_string_lossy().as_bytes());
        hasher.write(&fs::read(&file).with_context(|| format!("reading {}", file.display()))?);
    }
    Ok(format!("{:016x}", hasher.finish()))
}

/// Builds every package below `tests/plugins/` and copies it to `<target>/test-plugins/NAME.wasm`.
pub(crate) fn test_plugins() -> Result<()> {
    for name in packages_below("tests/plugins")? {
        let mut build = cargo();
        build.args(WASM_ARGS).arg("--manifest-path").arg(root().join("tests/plugins").join(&name).join("Cargo.toml"));
        // The folder of their own workspace would otherwise become their target directory.
        build.env("CARGO_TARGET_DIR", target());
        for setting in PROFILE_PLUGIN {
            build.arg("--config").arg(format!("profile.plugin.{setting}"));
        }
        step(&format!("build hostile plugin {name}"), &mut build)?;
        install(&name, &test_plugin_dir())?;
    }
    Ok(())
}

/// Copies a built component. Its library is named after the folder, with `_` for `-`.
fn install(name: &str, dir: &Path) -> Result<()> {
    let built = target().join("wasm32-wasip2/plugin").join(format!("{}.wasm", name.replace('-', "_")));
    fs::create_dir_all(dir).with_context(|| format!("creating {}", dir.display()))?;
    fs::copy(&built, dir.join(format!("{name}.wasm"))).with_context(|| format!("copying {}", built.display()))?;
    Ok(())
}
