//! What a demonstration stands on: a directory, a configuration file, the plugins.

use std::fs::{self, DirBuilder, File};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde_json::json;

/// The configuration file; what stands between two `@` is put in.
const TEMPLATE: &str = include_str!("demo.toml");
/// The variable that names the plugins' folder.
const PLUGINS_DIR: &str = "SLUICED_PLUGINS__DIR";

/// The directory of one demonstration. A temporary one is removed on drop.
#[derive(Debug)]
pub(super) struct Root {
    path: PathBuf,
    temporary: bool,
}

impl Root {
    /// The directory given, else a fresh one in the system's folder for temporary files; only this user can read it.
    pub(super) fn make(given: Option<&Path>) -> anyhow::Result<Self> {
        let path = match given {
            Some(path) => std::path::absolute(path)?,
            None => std::env::temp_dir().join(format!("sluiced-dev-{:016x}", rand::random::<u64>())),
        };
        let root = Self { path, temporary: given.is_none() };
        let made = DirBuilder::new().recursive(!root.temporary).mode(0o700).create(&root.path);
        made.with_context(|| format!("cannot make {}", root.path.display()))?;
        fs::create_dir_all(root.data_dir()).with_context(|| format!("cannot make {}", root.data_dir().display()))?;
        Ok(root)
    }

    /// The daemon's data directory. The configuration lies outside, where nothing else changes.
    pub(super) fn data_dir(&self) -> PathBuf {
        self.path.join("data")
    }

    /// The configuration file.
    pub(super) fn config_file(&self) -> PathBuf {
        self.path.join("sluiced.toml")
    }

    /// The daemon's log.
    pub(super) fn log_file(&self) -> PathBuf {
        self.data_dir().join("sluiced.log")
    }

    /// Writes the configuration file, in place of one of an earlier run: its ports and secrets are of that run.
    pub(super) fn write_config(&self, text: &str) -> anyhow::Result<()> {
        let path = self.config_file();
        let context = || format!("cannot write {}", path.display());
        let new = path.with_extension("toml.new");
        let mut file = File::options().create(true).write(true).truncate(true).mode(0o600).open(&new);
        file.as_mut().map_or(Ok(()), |file| file.write_all(text.as_bytes())).with_context(context)?;
        drop(file.with_context(context)?);
        fs::rename(&new, &path).with_context(context)
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        if self.temporary
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            eprintln!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// The folder of the standard plugins: as the environment says, else where a build leaves them beside this program.
pub(super) fn plugin_dir() -> anyhow::Result<PathBuf> {
    let given = std::env::var_os(PLUGINS_DIR).map(PathBuf::from);
    let built = || Some(std::env::current_exe().ok()?.parent()?.parent()?.join("plugins"));
    let Some(dir) = given.or_else(built) else { bail!("set {PLUGINS_DIR} to the folder of the standard plugins") };
    for plugin in ["jq", "redact", "render"] {
        let file = dir.join(plugin).with_extension("wasm");
        if !file.is_file() {
            bail!("there is no {}: run `cargo xtask dev`, or set {PLUGINS_DIR} to the folder it is in", file.display());
        }
    }
    Ok(std::path::absolute(dir)?)
}

/// What differs from one run to the next.
#[derive(Debug)]
pub(super) struct Values<'a> {
    pub(super) data_dir: &'a Path,
    pub(super) plugin_dir: &'a Path,
    pub(super) nats_url: &'a str,
    pub(super) receiver_url: &'a str,
    pub(super) admin_key: &'a str,
    pub(super) secret: &'a str,
}

impl Values<'_> {
    /// The configuration file. It is as a person would write it, so that it can be read and changed.
    pub(super) fn config(&self) -> anyhow::Result<String> {
        // JSON's strings are TOML's too.
        let path = |path: &Path| path.to_str().map(|text| json!(text).to_string()).context("a path that is not UTF-8");
        let (data_dir, plugin_dir) = (path(self.data_dir)?, path(self.plugin_dir)?);
        let values = [
            ("\"@data_dir@\"", data_dir.as_str()),
            ("\"@plugin_dir@\"", &plugin_dir),
            ("@nats_url@", self.nats_url),
            ("@receiver_url@", self.receiver_url),
            ("@admin_key@", self.admin_key),
            ("@secret@", self.secret),
        ];
        Ok(values.into_iter().fold(TEMPLATE.to_owned(), |text, (mark, value)| text.replace(mark, value)))
    }
}
