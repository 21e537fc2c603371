//! `sluiced plugin new`: a project that builds and passes its tests as it stands.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};

use crate::cli::write_out;
use crate::plugin::{NAME_BYTES_MAX, is_name};

/// The variable that names the folder of the SDK, for Rust projects.
const SDK: &str = "SLUICED_SDK";
/// The version of the SDK that goes with this program.
const SDK_VERSION: &str = env!("CARGO_PKG_VERSION");

/// A file of a new project: where it goes, and what is in it. `@name@` and `@sdk@` are put in.
type Template = (&'static str, &'static str);

/// A template, from `sdk/templates`.
macro_rules! template {
    ($file:literal) => {
        include_str!(concat!("../../../../sdk/templates/", $file))
    };
}

const RUST: &[Template] = &[
    ("Cargo.toml", template!("rust/manifest.toml")),
    ("src/lib.rs", template!("rust/src/lib.rs")),
    ("README.md", template!("rust/README.md")),
];

const JS: &[Template] = &[
    ("package.json", template!("js/package.json")),
    ("src/plugin.js", template!("js/src/plugin.js")),
    ("README.md", template!("js/README.md")),
    CONTRACT,
];

const PYTHON: &[Template] = &[
    ("pyproject.toml", template!("python/pyproject.toml")),
    ("src/plugin.py", template!("python/src/plugin.py")),
    ("README.md", template!("python/README.md")),
    CONTRACT,
];

/// The contract's text.
pub(super) const WIT: &str = include_str!("../../../../sdk/wit/plugin.wit");
/// The contract in a project. One in Rust has it from the SDK.
const CONTRACT: Template = ("wit/plugin.wit", WIT);

/// What every project has.
const COMMON: &[Template] = &[
    (".gitignore", template!("gitignore.txt")),
    ("fixtures/drop-small.in.json", template!("fixtures/drop-small.in.json")),
    ("fixtures/drop-small.out.json", template!("fixtures/drop-small.out.json")),
    ("fixtures/keep-large.in.json", template!("fixtures/keep-large.in.json")),
    ("fixtures/keep-large.out.json", template!("fixtures/keep-large.out.json")),
    ("fixtures/mark-large.in.json", template!("fixtures/mark-large.in.json")),
    ("fixtures/mark-large.out.json", template!("fixtures/mark-large.out.json")),
    ("fixtures/no-field.in.json", template!("fixtures/no-field.in.json")),
    ("fixtures/no-field.out.json", template!("fixtures/no-field.out.json")),
    ("fixtures/not-a-number.in.json", template!("fixtures/not-a-number.in.json")),
    ("fixtures/not-a-number.out.json", template!("fixtures/not-a-number.out.json")),
];

/// Which project.
#[derive(Debug, Args)]
pub struct NewArgs {
    /// The plugin's name, and the project's folder: lower-case letters, digits, `-` and `_`.
    #[arg(value_name = "NAME")]
    name: String,
    /// The language that it is written in.
    #[arg(long, value_enum, default_value_t = Lang::Rust)]
    lang: Lang,
    /// Where the project's folder is made.
    #[arg(long, value_name = "DIR", default_value = ".")]
    within: PathBuf,
}

/// A language that plugins are written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Lang {
    /// Rust, with the SDK.
    Rust,
    /// JavaScript, with componentize-js.
    Js,
    /// Python, with componentize-py.
    Python,
}

/// Makes the project.
///
/// # Errors
/// When the name is none, the folder is there already, or it cannot be written.
pub(super) fn run(args: &NewArgs) -> anyhow::Result<()> {
    let NewArgs { name, lang, within } = args;
    if !is_name(name) {
        bail!(
            "`{name}` is not a plugin name: 1 to {NAME_BYTES_MAX} lower-case letters, digits, `-` or `_`, with a letter \
             or digit first"
        );
    }
    if *lang == Lang::Rust && !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        bail!("`{name}` cannot be the name of a Rust package: it must begin with a letter");
    }
    let dir = within.join(name);
    if dir.exists() {
        bail!("{} exists already: choose another name, or remove it", dir.display());
    }
    let (templates, sdk) = match lang {
        Lang::Rust => (RUST, Sdk::find(within)),
        Lang::Js => (JS, Sdk::Registry),
        Lang::Python => (PYTHON, Sdk::Registry),
    };
    for (path, template) in templates.iter().chain(COMMON) {
        let path = dir.join(path);
        let folder = path.parent().expect("a template lies in a folder");
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let text = template.replace("@name@", name).replace("@sdk@", &sdk.dependency());
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let dir = dir.display();
    let mut said = format!("{dir}: made\n\nnext:\n  sluiced plugin build {dir}\n  sluiced plugin test {dir}\n");
    if *lang == Lang::Rust && sdk == Sdk::Registry {
        said += &format!(
            "\nIts sluiced-sdk is version {SDK_VERSION} from crates.io. Where that is not to be had, set {SDK} to the folder \
             `sdk` of a checkout of sluiced, and make the project again.\n"
        );
    }
    write_out(&said)
}

/// Where a Rust project has the SDK from.
#[derive(Debug, PartialEq, Eq)]
enum Sdk {
    /// A folder.
    Folder(PathBuf),
    /// crates.io.
    Registry,
}

impl Sdk {
    /// The folder that the environment names, else that of a checkout that the project, or this program, lies in, else
    /// crates.io.
    fn find(within: &Path) -> Self {
        let given = std::env::var_os(SDK).filter(|value| !value.is_empty()).map(PathBuf::from);
        let above = |path: PathBuf| path.ancestors().map(|dir| dir.join("sdk")).find(|dir| is_sdk(dir));
        given
            .and_then(|dir| std::path::absolute(dir).ok())
            .or_else(|| above(std::path::absolute(within).ok()?))
            .or_else(|| above(std::env::current_exe().ok()?))
            .map_or(Self::Registry, Self::Folder)
    }

    /// The right side of the dependency in the project's manifest.
    fn dependency(&self) -> String {
        match self {
            // JSON's strings are TOML's too.
            Self::Folder(dir) => format!("{{ path = {} }}", serde_json::Value::from(dir.to_string_lossy())),
            Self::Registry => format!("\"{SDK_VERSION}\""),
        }
    }
}

/// Is that the folder of the SDK?
fn is_sdk(dir: &Path) -> bool {
    fs::read_to_string(dir.join("Cargo.toml")).is_ok_and(|text| text.contains("name = \"sluiced-sdk\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sdk_is_found_above_a_project_or_named_by_its_version() {
        let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the daemon lies in the workspace");
        assert!(matches!(Sdk::find(&checkout.join("docs")), Sdk::Folder(dir) if dir == checkout.join("sdk")));
        assert_eq!(Sdk::Folder("/a \"b".into()).dependency(), r#"{ path = "/a \"b" }"#);
        assert_eq!(Sdk::Registry.dependency(), format!("\"{SDK_VERSION}\""));
    }

    #[test]
    fn every_mark_is_filled_in() {
        for (path, template) in [RUST, JS, PYTHON, COMMON].concat() {
            let text = template.replace("@name@", "x").replace("@sdk@", "y");
            assert!(!text.contains("@name") && !text.contains("@sdk"), "{path}");
        }
    }
}
