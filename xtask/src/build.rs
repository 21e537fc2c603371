//! `cargo xtask build`: the daemon, the standard plugins, and the hostile plugins of the tests.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::steps::{say, step};
use crate::tools;
use crate::workspace::{binary, cargo, packages_below, plugin_dir, root, target, test_plugin_dir};

const WASM_ARGS: [&str; 5] = ["build", "--profile", "plugin", "--target", "wasm32-wasip2"];

/// The profile `plugin` of the root manifest, for the hostile plugins, which are workspaces of their own.
const PROFILE_PLUGIN: [&str; 7] =
    ["inherits='release'", "opt-level=3", "lto=true", "codegen-units=1", "panic='abort'", "strip=true", "debug=false"];

/// Builds what a user runs: the daemon and the standard plugins.
pub(crate) fn run(release: bool) -> Result<()> {
    tools::wasm_target()?;
    daemon(release)?;
    plugins()?;
    say(&format!("daemon:  {}", binary("sluiced", release).display()));
    say(&format!("plugins: {}", plugin_dir().display()));
    Ok(())
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
    step("build plugins", &mut build)?;
    names.iter().try_for_each(|name| install(name, &plugin_dir()))
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
