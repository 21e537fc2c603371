//! What the binaries are made of, for those who must know: a CycloneDX document for the daemon, one for the console that is
//! compiled into it, and one for each plugin.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::package::source_date;
use crate::steps::{ask, step};
use crate::tools;
use crate::workspace::{packages_below, root};

/// What cargo-cyclonedx names its files, beside the manifests of all members.
const FILE: &str = "sbom-of-xtask";
const PLUGIN_TARGET: &str = "wasm32-wasip2";

/// What the console's build leaves beside what it bundled.
const OF_CONSOLE: &str = "console/dist/.console.cdx.json";

/// Writes `sluiced.cdx.json`, `console.cdx.json` and `plugin-NAME.cdx.json` into a folder.
pub(crate) fn write(folder: &Path) -> Result<()> {
    let cyclonedx = tools::cargo_cyclonedx()?;
    fs::create_dir_all(folder).with_context(|| format!("creating {}", folder.display()))?;
    fs::copy(root().join(OF_CONSOLE), folder.join("console.cdx.json"))
        .with_context(|| format!("copying {OF_CONSOLE}"))?;
    let plugins = packages_below("plugins")?;
    let plugins = plugins.iter().map(|name| (format!("plugins/{name}"), format!("plugin-{name}.cdx.json"))).collect();
    for (target, members) in
        [(host()?, vec![("daemon".to_owned(), "sluiced.cdx.json".to_owned())]), (PLUGIN_TARGET.to_owned(), plugins)]
    {
        let mut list = Command::new(&cyclonedx);
        list.current_dir(root()).args(["cyclonedx", "--format", "json", "--spec-version", "1.5", "--no-build-deps"]);
        list.args([
            "--quiet",
            "--target",
            &target,
            "--override-filename",
            FILE,
            "--manifest-path",
            "daemon/Cargo.toml",
        ]);
        list.envs(source_date().map(|date| ("SOURCE_DATE_EPOCH", date)));
        let listed = step(&format!("bill of materials for {target}"), &mut list);
        let taken =
            listed.and_then(|()| members.iter().try_for_each(|(member, file)| take(member, &folder.join(file))));
        clear()?;
        taken?;
    }
    Ok(())
}

/// Takes a member's document, without the place of this checkout in it.
fn take(member: &str, to: &Path) -> Result<()> {
    let from = root().join(member).join(FILE).with_extension("json");
    let text = fs::read_to_string(&from).with_context(|| format!("reading {}", from.display()))?;
    let root = root().display().to_string();
    fs::write(to, text.replace(&root, "/sluiced")).with_context(|| format!("writing {}", to.display()))
}

/// Removes the documents that lie beside the manifests.
fn clear() -> Result<()> {
    let mut members = vec!["daemon".to_owned(), "sdk".to_owned(), "tests".to_owned(), "xtask".to_owned()];
    members.extend(packages_below("plugins")?.iter().map(|name| format!("plugins/{name}")));
    for member in members {
        let file = root().join(member).join(FILE).with_extension("json");
        if file.exists() {
            fs::remove_file(&file).with_context(|| format!("removing {}", file.display()))?;
        }
    }
    Ok(())
}

/// The system that this machine's compiler builds for.
fn host() -> Result<String> {
    let said = ask(Command::new("rustc").arg("-vV")).unwrap_or_default();
    match said.lines().find_map(|line| line.strip_prefix("host: ")) {
        Some(host) => Ok(host.to_owned()),
        None => bail!("rustc does not say what it builds for"),
    }
}
