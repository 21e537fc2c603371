//! `sluiced plugin build`: runs the language's tool chain, and says exactly what is missing.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use clap::Args;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use toml_edit::DocumentMut;

use super::new::WIT;
use super::project::DIST;
use super::table::size;
use super::tools;
use crate::cli::passing::PassingDir;
use crate::cli::write_out;
use crate::plugin::is_name;

/// The target that Rust plugins are compiled for.
const WASM_TARGET: &str = "wasm32-wasip2";
/// The worlds of the contract.
const WORLDS: [&str; 3] = ["filter-plugin", "transform-plugin", "filter-transform-plugin"];

/// Which project.
#[derive(Debug, Args)]
pub struct BuildArgs {
    /// The plugin's project: a folder with Cargo.toml, package.json or pyproject.toml.
    #[arg(value_name = "DIR", default_value = ".")]
    project: PathBuf,
    /// Where the component NAME.wasm goes; else `dist` in the project.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// Builds the component.
///
/// # Errors
/// When a tool is missing (with what to install) or fails.
pub(super) fn run(args: &BuildArgs) -> anyhow::Result<()> {
    let project = args.project.canonicalize().with_context(|| format!("cannot find {}", args.project.display()))?;
    let out = match &args.out {
        Some(out) => std::path::absolute(out)?,
        None => project.join(DIST),
    };
    fs::create_dir_all(&out).with_context(|| format!("cannot make {}", out.display()))?;
    let component = if project.join("Cargo.toml").is_file() {
        rust(&project, &out)?
    } else if project.join("package.json").is_file() {
        js(&project, &out)?
    } else if project.join("pyproject.toml").is_file() {
        python(&project, &out)?
    } else {
        bail!(
            "{} has no Cargo.toml, package.json or pyproject.toml: `sluiced plugin new` makes a project",
            project.display()
        );
    };
    let wasm = fs::read(&component).with_context(|| format!("cannot read {}", component.display()))?;
    let digest = hex::encode(Sha256::digest(&wasm));
    write_out(&format!("{}  {}  sha256 {digest}\n", component.display(), size(wasm.len() as u64)))
}

/// Rust: cargo, whose messages name the file that it made.
fn rust(project: &Path, out: &Path) -> anyhow::Result<PathBuf> {
    tools::rust(WASM_TARGET)?;
    let manifest = project.join("Cargo.toml");
    let mut cargo = tools::cargo();
    cargo.args(["build", "--release", "--target", WASM_TARGET, "--message-format", "json-render-diagnostics"]);
    cargo.arg("--manifest-path").arg(&manifest).current_dir(project).stdout(Stdio::piped());
    let output = cargo.stderr(Stdio::inherit()).stdin(Stdio::null()).output().context("cannot start cargo")?;
    if !output.status.success() {
        bail!("cargo could not build {}", project.display());
    }
    let messages = String::from_utf8_lossy(&output.stdout);
    let made = messages.lines().filter_map(|line| cdylib(&serde_json::from_str(line).ok()?, &manifest)).next_back();
    let made = made.with_context(|| {
        format!("{} makes no component: `crate-type` below `[lib]` must name \"cdylib\"", manifest.display())
    })?;
    let stem = made.file_stem().unwrap_or_default().to_string_lossy().replace('_', "-");
    let component = named(&stem, out)?;
    fs::copy(&made, &component).with_context(|| format!("cannot write {}", component.display()))?;
    Ok(component)
}

/// The component that one of cargo's messages says was made of that package.
fn cdylib(message: &Value, manifest: &Path) -> Option<PathBuf> {
    let is = |key: &str, value: &str| message[key] == value;
    let of_package = is("reason", "compiler-artifact") && is("manifest_path", &manifest.to_string_lossy());
    let kinds = message["target"]["kind"].as_array()?;
    let files = message["filenames"].as_array()?;
    let mut wasm = files.iter().filter_map(Value::as_str).filter(|file| file.ends_with(".wasm"));
    (of_package && kinds.iter().any(|kind| kind == "cdylib")).then(|| wasm.next().map(PathBuf::from)).flatten()
}

/// JavaScript: componentize-js with all of its features disabled, so that the component imports nothing of WASI.
fn js(project: &Path, out: &Path) -> anyhow::Result<PathBuf> {
    let path = project.join("package.json");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let package: Value = serde_json::from_str(&text).with_context(|| format!("{} is not JSON", path.display()))?;
    let name = package["name"].as_str().with_context(|| format!("{} has no `name`", path.display()))?;
    let main = package["sluiced"]["main"].as_str().unwrap_or("src/plugin.js");
    let world = world(package["sluiced"]["world"].as_str(), &path, "`world` below `sluiced`")?;
    let component = named(name, out)?;
    let mut componentize = tools::componentize_js(project)?;
    // The source before the features: their option takes all words up to the next one.
    let contract = Contract::of(project)?;
    componentize.arg(main).arg("--wit").arg(contract.folder()).args(["--world-name", world, "--disable"]);
    componentize.args(tools::JS_FEATURES).arg("--out").arg(&component);
    done(componentize.current_dir(project), "componentize-js")?;
    Ok(component)
}

/// Python: componentize-py with WASI replaced by stubs.
fn python(project: &Path, out: &Path) -> anyhow::Result<PathBuf> {
    let path = project.join("pyproject.toml");
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let manifest: DocumentMut = text.parse().with_context(|| format!("{} is not TOML", path.display()))?;
    let string = |keys: &[&str]| {
        let item = keys.iter().try_fold(manifest.as_item(), |item, key| item.get(key));
        item.and_then(|item| item.as_str()).map(str::to_owned)
    };
    let name = string(&["project", "name"]).with_context(|| format!("{} has no `project.name`", path.display()))?;
    let module = string(&["tool", "sluiced", "module"]).unwrap_or_else(|| "plugin".to_owned());
    let given = string(&["tool", "sluiced", "world"]);
    let world = world(given.as_deref(), &path, "`world` in `[tool.sluiced]`")?;
    let component = named(&name, out)?;
    let mut componentize = tools::componentize_py()?;
    let contract = Contract::of(project)?;
    componentize.arg("--wit-path").arg(contract.folder()).args(["--world", world, "componentize", &module]);
    componentize.args(["--python-path", "src", "--stub-wasi", "--output"]).arg(&component);
    done(componentize.current_dir(project), "componentize-py")?;
    Ok(component)
}

/// The contract that a project is built for: its own copy, else the one that this program knows.
enum Contract {
    /// The project's.
    Own(PathBuf),
    /// This program's, for a while in a folder.
    Known(PassingDir),
}

impl Contract {
    fn of(project: &Path) -> anyhow::Result<Self> {
        let own = project.join("wit");
        if own.is_dir() {
            return Ok(Self::Own(own));
        }
        let dir = PassingDir::make("wit")?;
        fs::write(dir.path().join("plugin.wit"), WIT)?;
        Ok(Self::Known(dir))
    }

    fn folder(&self) -> &Path {
        match self {
            Self::Own(dir) => dir,
            Self::Known(dir) => dir.path(),
        }
    }
}

/// Runs a tool whose words are shown only when it fails.
fn done(command: &mut Command, tool: &str) -> anyhow::Result<()> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {tool}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    bail!("{tool} failed ({}):\n{}\n{}", output.status, said(&output.stdout), said(&output.stderr))
}

/// Where the component of that plugin goes.
fn named(name: &str, out: &Path) -> anyhow::Result<PathBuf> {
    if !is_name(name) {
        bail!("`{name}` is not a plugin name: lower-case letters, digits, `-` and `_`, with a letter or digit first");
    }
    Ok(out.join(OsString::from(format!("{name}.wasm"))))
}

/// The world that a manifest names.
fn world<'a>(given: Option<&'a str>, manifest: &Path, key: &str) -> anyhow::Result<&'a str> {
    match given {
        Some(world) if WORLDS.contains(&world) => Ok(world),
        _ => bail!("{}: {key} must be one of {}", manifest.display(), WORLDS.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_component_is_found_in_cargos_messages() {
        let message = |manifest: &str, kind: &str| {
            json!({
                "reason": "compiler-artifact", "manifest_path": manifest, "target": { "kind": [kind, "rlib"] },
                "filenames": ["/t/a.rlib", "/t/at_least.wasm"],
            })
        };
        let manifest = Path::new("/p/Cargo.toml");
        assert_eq!(cdylib(&message("/p/Cargo.toml", "cdylib"), manifest), Some("/t/at_least.wasm".into()));
        assert_eq!(cdylib(&message("/q/Cargo.toml", "cdylib"), manifest), None);
        assert_eq!(cdylib(&message("/p/Cargo.toml", "lib"), manifest), None);
        assert_eq!(cdylib(&json!({ "reason": "build-finished" }), manifest), None);
    }

    #[test]
    fn a_world_that_is_none_is_refused_with_those_that_are() {
        let at = Path::new("package.json");
        assert_eq!(world(Some("filter-plugin"), at, "`world`").unwrap(), "filter-plugin");
        for given in [None, Some("filter")] {
            let error = world(given, at, "`world`").unwrap_err().to_string();
            assert!(error.contains("filter-transform-plugin"), "{error}");
        }
    }
}
