//! `cargo xtask book`: the guides as a book for a browser, in `<target>/book`.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::steps::{line_of, say};
use crate::tools;
use crate::workspace::{files_below, root, target};

/// Where what the guides link to outside of themselves can be read.
const SOURCE: &str = concat!(env!("CARGO_PKG_REPOSITORY"), "/blob/main");

/// Builds the book. A warning fails it, and so does a link that leads nowhere.
pub(crate) fn run() -> Result<()> {
    let (docs, out) = (root().join("docs"), target().join("book"));
    let mut build = Command::new(tools::mdbook()?);
    build.arg("build").arg(&docs).arg("--dest-dir").arg(&out);
    say("book ...");
    let built = build.output().with_context(|| format!("book: cannot start {}", line_of(&build)))?;
    let said = String::from_utf8_lossy(&built.stderr);
    // It succeeds with warnings as well.
    if !built.status.success() || [" WARN", "[WARN]", "ERROR"].iter().any(|word| said.contains(word)) {
        bail!("book failed ({}): {}\n{said}", built.status, line_of(&build));
    }
    let pages: Vec<_> =
        files_below(&out)?.into_iter().filter(|file| file.extension() == Some(OsStr::new("html"))).collect();
    let mut astray = Vec::new();
    for page in &pages {
        let html = fs::read_to_string(page).with_context(|| format!("reading {}", page.display()))?;
        let led_home = lead_links(&html, page, &out, &mut astray);
        fs::write(page, led_home).with_context(|| format!("writing {}", page.display()))?;
    }
    if !astray.is_empty() {
        bail!("book: these links lead nowhere:\n{}", astray.join("\n"));
    }
    say(&format!("book: ok, {} pages in {}", pages.len(), out.display()));
    Ok(())
}

/// The page with every link to a file outside of the guides led to the repository. What leads nowhere is added to `astray`.
fn lead_links(html: &str, page: &Path, out: &Path, astray: &mut Vec<String>) -> String {
    let mut parts = html.split("href=\"");
    let mut led = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (link, rest) = part.split_once('"').unwrap_or((part, ""));
        // mdBook makes `index.html` of each `README.md`, and leaves the links as they are.
        let link = outside(link, page, out).unwrap_or_else(|| link.replace("README.html", "index.html"));
        if !leads_somewhere(&link, page, out) {
            astray.push(format!("{}: {link}", page.strip_prefix(out).unwrap_or(page).display()));
        }
        led.push_str(&format!("href=\"{link}\"{rest}"));
    }
    led
}

/// The address of a file of the repository that is none of the guides'.
fn outside(link: &str, page: &Path, out: &Path) -> Option<String> {
    let (path, anchor) =
        link.split_once('#').map_or((link, String::new()), |(path, anchor)| (path, format!("#{anchor}")));
    let folder = page.strip_prefix(out).ok()?.parent()?;
    let there = joined(&Path::new("docs").join(folder), path)?;
    // A page that the summary does not list is none of the book's either.
    let is_ours = there.strip_prefix("docs").is_ok_and(|path| out.join(path).exists() || path.ends_with("README.html"));
    if path.contains(':') || is_ours {
        return None;
    }
    // mdBook takes every Markdown file for a page of the book.
    let source = [there.with_extension("md"), there].into_iter().find(|file| root().join(file).exists())?;
    Some(format!("{SOURCE}/{}{anchor}", source.display()))
}

/// Is there what a link of a page leads to? Of other hosts nothing is asked.
fn leads_somewhere(link: &str, page: &Path, out: &Path) -> bool {
    let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
    if path.contains(':') || path.starts_with("//") || link.contains("${") {
        return true;
    }
    let folder = page.parent().unwrap_or(out);
    let file = if path.is_empty() { page.to_owned() } else { folder.join(path) };
    let file = if file.is_dir() { file.join("index.html") } else { file };
    file.exists() && (anchor.is_empty() || anchors(&file).contains(anchor))
}

fn anchors(page: &Path) -> BTreeSet<String> {
    let html = fs::read_to_string(page).unwrap_or_default();
    html.split(" id=\"").skip(1).filter_map(|rest| rest.split_once('"')).map(|(id, _)| id.to_owned()).collect()
}

/// A path from a folder, without `..`; `None` when it leads out of the repository.
fn joined(folder: &Path, path: &str) -> Option<PathBuf> {
    folder.join(path).components().try_fold(PathBuf::new(), |mut path, part| {
        match part {
            Component::ParentDir => path.pop().then_some(())?,
            Component::Normal(name) => path.push(name),
            _ => {}
        }
        Some(path)
    })
}
