//! The house rules that a compiler does not hold. Each finding says where it is and what to do.

use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;
use sluiced_tests::paths::workspace;

mod imports;
mod layout;
mod source;
mod wording;

use source::Source;

const LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;

#[test]
fn modules_import_only_what_the_table_allows() {
    report(sources("daemon/src").iter().flat_map(imports::own));
}

#[test]
fn third_parties_stay_in_their_module() {
    report(sources("daemon/src").iter().flat_map(imports::third_party));
}

#[test]
fn every_source_file_says_what_it_is() {
    let silent = |source: &Source| (!source.text.starts_with("//!")).then(|| source.at(0, "open it with a `//!` line"));
    report(sources("").iter().filter_map(silent));
}

#[test]
fn every_source_file_is_compiled() {
    report(layout::unreached(&sources("")));
}

#[test]
fn files_and_functions_are_short() {
    let mut found = Vec::new();
    for source in sources("") {
        let lines = source.text.lines().count();
        if lines > LINES_MAX {
            found.push(source.at(0, &format!("{lines} lines, at most {LINES_MAX}: split it by concern")));
        }
        found.extend(layout::long_functions(&source, FUNCTION_LINES_MAX));
    }
    report(found);
}

#[test]
fn nothing_is_left_for_later() {
    let later = Regex::new(&["\\b(TO", "DO|FIX", "ME)\\b"].concat()).expect("a pattern");
    let found = files("", &["rs", "toml", "md", "wit", "py", "js", "sh"]).into_iter().flat_map(|path| {
        let source = Source::read(&path);
        let marks: Vec<_> = later.find_iter(&source.text).map(|found| found.start()).collect();
        marks
            .into_iter()
            .map(move |at| source.at(at, "do it, or file an issue and remove the mark"))
            .collect::<Vec<_>>()
    });
    report(found);
}

#[test]
fn log_messages_are_worded_alike() {
    report(sources("daemon/src").iter().flat_map(wording::logs));
}

#[test]
fn every_shared_dependency_is_used() {
    let members = files("", &["toml"]).into_iter().filter(|path| path.ends_with("Cargo.toml"));
    let members: String = members.filter(|path| *path != workspace().join("Cargo.toml")).map(read).collect();
    let root = read(workspace().join("Cargo.toml"));
    let section = root.split("[workspace.dependencies]").nth(1).expect("the root lists shared dependencies");
    let names = section.split("\n[").next().into_iter().flat_map(str::lines).filter_map(|line| line.split_once(" = "));
    let unused = names.map(|(name, _)| name).filter(|name| !layout::depends_on(&members, name));
    report(unused.map(|name| format!("Cargo.toml: no member uses `{name}`: remove it")));
}

#[test]
fn links_in_documents_lead_somewhere() {
    report(files("", &["md"]).iter().flat_map(|path| wording::dead_links(&Source::read(path))));
}

#[test]
fn there_is_a_changelog() {
    let missing = !workspace().join("CHANGELOG.md").is_file();
    report(missing.then(|| "CHANGELOG.md is missing: a line for each user-visible change".to_owned()));
}

fn report(findings: impl IntoIterator<Item = String>) {
    let findings: Vec<_> = findings.into_iter().collect();
    assert!(findings.is_empty(), "{} findings:\n{}\n", findings.len(), findings.join("\n"));
}

fn sources(below: &str) -> Vec<Source> {
    files(below, &["rs"]).iter().map(|path| Source::read(path)).collect()
}

/// The files with one of these endings, in order, without what was built and what is hidden.
fn files(below: &str, endings: &[&str]) -> Vec<PathBuf> {
    let mut folders = vec![workspace().join(below)];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = entry.expect("a folder can be listed").path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if name.starts_with('.') || ["target", "node_modules", "dist"].contains(&name) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if endings.iter().any(|ending| path.extension().is_some_and(|extension| extension == *ending)) {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path.as_ref()).unwrap_or_else(|error| panic!("{}: {error}", path.as_ref().display()))
}

/// Each rule finds what it is for: a rule that never fires holds nothing.
#[test]
fn the_rules_find_what_they_are_for() {
    let source = |path: &str, text: &str| Source::new(path, text.to_owned());
    let imports = |path, text| imports::own(&source(path, text));
    assert_eq!(imports("daemon/src/route/mod.rs", "use crate::domain::Event;\nuse super::telemetry;").len(), 0);
    assert_eq!(imports("daemon/src/route/trie.rs", "use crate::{domain::{A, store}, store::B};").len(), 1);
    assert_eq!(imports("daemon/src/route/trie.rs", "// crate::app::X\nfn f() { super::super::plugin::g() }").len(), 1);
    assert_eq!(imports("daemon/src/domain/mod.rs", "#[cfg(test)]\nmod tests { use crate::telemetry::x; }").len(), 0);
    assert_eq!(imports("daemon/src/api/mod.rs", "use crate::cli::X;").len(), 1);
    assert_eq!(imports("daemon/src/unknown.rs", "").len(), 1);
    let third = |path, text| imports::third_party(&source(path, text));
    assert_eq!(third("daemon/src/store/mod.rs", "use sled::Db;\nlet a: sled::Tree;").len(), 0);
    assert_eq!(third("daemon/src/api/mod.rs", "use sled::Db;\nlet a: store::sled::Tree; let b = \"sled::\";").len(), 1);
    assert_eq!(third("daemon/src/plugin/mod.rs", "use wasmtime::{Engine};\nuse anyhow::Result;").len(), 1);
    let logs = |text| wording::logs(&source("daemon/src/app.rs", text));
    assert_eq!(logs("info!(a = \"A.\", b, \"stream created\"); tracing::warn!(\"NATS is away\");").len(), 0);
    assert_eq!(logs("info!(\"Started\");\nwarn!(x = 1, \"it stopped.\");\nerror!(target: \"a\", \"n {n}\");").len(), 3);
    let long = |text| layout::long_functions(&source("a.rs", text), 3).len();
    assert_eq!(long("fn a(x: [u8; 2]) {\n}\ntrait T {\n fn b(&self);\n}\nfn c() {\n'{';\n\"}\";\n}"), 1);
    let files = [("x/src/lib.rs", "mod a;"), ("x/src/a.rs", "mod b;"), ("x/src/a/b.rs", ""), ("x/src/c.rs", "")];
    assert_eq!(layout::unreached(&files.map(|(path, text)| source(path, text))).len(), 1);
    assert_eq!(wording::dead_links(&source("a.md", "[x](no/where.md) [y](https://a.b) [z](Cargo.toml#q)")).len(), 1);
}
