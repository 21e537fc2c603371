//! A plugin's project: a folder with its sources, its fixtures, and in `dist/` its component.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, bail};

/// Where a build leaves the component, below the project.
pub(super) const DIST: &str = "dist";
/// Where the fixtures lie, below the project.
const FIXTURES: &str = "fixtures";
/// What else lies in a project and is none of its sources.
const NO_SOURCES: [&str; 4] = [DIST, FIXTURES, "target", "node_modules"];

/// The component and the folder of fixtures that a path means: a project's, or a component with what lies beside it.
///
/// # Errors
/// When one of them is not there.
pub(super) fn component_and_fixtures(path: &Path, fixtures: Option<&Path>) -> anyhow::Result<(PathBuf, PathBuf)> {
    let around = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new("")) };
    Ok((component(path)?, fixtures.map_or_else(|| around.join(FIXTURES), Path::to_owned)))
}

/// The component that a path means: a project's, or itself.
///
/// # Errors
/// When it is a project without one, or with several.
pub(super) fn component(path: &Path) -> anyhow::Result<PathBuf> {
    if !path.is_dir() {
        return Ok(path.to_owned());
    }
    let component = component_of(path)?;
    if let Some(source) = newer_than(&component, path)? {
        let (source, component) = (source.display(), component.display());
        eprintln!("{source} is newer than {component}: `sluiced plugin build` brings it up to date");
    }
    Ok(component)
}

/// The one component that a build left in a project.
fn component_of(project: &Path) -> anyhow::Result<PathBuf> {
    let dist = project.join(DIST);
    let entries = fs::read_dir(&dist).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found: Vec<PathBuf> =
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "wasm")).collect();
    found.sort();
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] => bail!(
            "there is no component in {}: run `sluiced plugin build {}` first, or name the .wasm file",
            dist.display(),
            project.display()
        ),
        [one, ..] => bail!("{} holds several components: name one of them, as {}", dist.display(), one.display()),
    }
}

/// A source of the project that was changed after its component was made.
fn newer_than(component: &Path, project: &Path) -> anyhow::Result<Option<PathBuf>> {
    let made = modified(component)?;
    let mut folders = vec![project.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if name.starts_with('.') || NO_SOURCES.contains(&name.as_str()) || name.ends_with(".md") {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if !name.contains("lock") && modified(&path)? > made {
                return Ok(Some(path));
            }
        }
    }
    Ok(None)
}

fn modified(path: &Path) -> anyhow::Result<SystemTime> {
    fs::metadata(path).and_then(|meta| meta.modified()).with_context(|| format!("cannot look at {}", path.display()))
}
