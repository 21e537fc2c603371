//! Files that nothing compiles, functions that are too long, dependencies that nothing names.

use std::collections::{BTreeMap, BTreeSet};

use regex::Regex;

use super::source::{Source, closing};

/// Files that no crate root reaches by `mod`.
pub(super) fn unreached(sources: &[Source]) -> Vec<String> {
    let by_path: BTreeMap<&str, &Source> = sources.iter().map(|source| (source.path.as_str(), source)).collect();
    let mut reached = BTreeSet::new();
    let mut open: Vec<&Source> = sources.iter().filter(|source| is_root(&source.path)).collect();
    while let Some(source) = open.pop() {
        if reached.insert(source.path.as_str()) {
            open.extend(modules(source).iter().filter_map(|path| by_path.get(path.as_str())));
        }
    }
    let dead = sources.iter().filter(|source| !reached.contains(source.path.as_str()));
    dead.map(|source| source.at(0, "no `mod` leads to it: declare it or delete it")).collect()
}

/// Whether cargo compiles a file without being told: the roots of libraries, binaries, tests, benches and examples.
fn is_root(path: &str) -> bool {
    let root = r"(^|/)(src/(lib|main|bin/\w+|bin/\w+/main)|build|(it|bench)/main|(examples|benches)/\w+)\.rs$|^\w+/tests/\w+\.rs$|^sdk/\w+/tests/\w+\.rs$|^plugins/\w+/tests/\w+\.rs$";
    Regex::new(root).expect("a pattern").is_match(path)
}

/// The files that a file's `mod name;` lines may mean.
fn modules(source: &Source) -> Vec<String> {
    let (folder, file) = source.path.rsplit_once('/').unwrap_or(("", &source.path));
    let stem = file.trim_end_matches(".rs");
    let inner = match is_root(&source.path) || stem == "mod" {
        true => folder.to_owned(),
        false => format!("{folder}/{stem}"),
    };
    let declared = Regex::new(r"\bmod\s+(\w+)\s*;").expect("a pattern");
    let names = declared.captures_iter(&source.code).map(|hit| hit[1].to_owned());
    names.flat_map(|name| [format!("{inner}/{name}.rs"), format!("{inner}/{name}/mod.rs")]).collect()
}

/// Functions of more than `lines_max` lines, from `fn` to the closing brace.
pub(super) fn long_functions(source: &Source, lines_max: usize) -> Vec<String> {
    let function = Regex::new(r"\bfn\s+(\w+)").expect("a pattern");
    let mut found = Vec::new();
    for hit in function.captures_iter(&source.code) {
        let start = hit.get(0).expect("a match has a place").start();
        let Some(body) = body(&source.code, start) else { continue };
        let lines = source.line(closing(&source.code, body) - 1) - source.line(start) + 1;
        if lines > lines_max {
            let what = format!("`{}` has {lines} lines, at most {lines_max}: split it by step", &hit[1]);
            found.push(source.at(start, &what));
        }
    }
    found
}

/// The brace that opens a function's body, `None` for a declaration without one.
fn body(code: &str, start: usize) -> Option<usize> {
    let mut at = start;
    loop {
        match code.as_bytes().get(at)? {
            b'{' => return Some(at),
            b';' => return None,
            b'(' | b'[' => at = closing(code, at),
            _ => at += 1,
        }
    }
}

/// Whether one of the manifests in `manifests` takes a shared dependency.
pub(super) fn depends_on(manifests: &str, name: &str) -> bool {
    let taken = [format!("{name}.workspace"), format!("{name} = {{ workspace")];
    manifests.lines().any(|line| taken.iter().any(|start| line.starts_with(start)))
}
