//! Words: log messages, and links between documents.

use std::path::Path;

use regex::Regex;
use sluiced_tests::paths::workspace;

use super::source::{Source, closing};

/// Log messages that start with a capital, end with a full stop, or carry a fact in the text.
pub(super) fn logs(source: &Source) -> Vec<String> {
    let call = Regex::new(r"\b(?:error|warn|info|debug|trace)!\s*\(").expect("a pattern");
    let mut found = Vec::new();
    for hit in call.find_iter(&source.product) {
        let Some((at, message)) = message(source, hit.end() - 1) else { continue };
        let mut chars = message.chars();
        let (first, second) = (chars.next().unwrap_or(' '), chars.next().unwrap_or(' '));
        // NATS and SSE are names.
        if first.is_uppercase() && !second.is_uppercase() {
            found.push(source.at(at, "start the log message with a lower-case letter"));
        }
        if message.ends_with('.') {
            found.push(source.at(at, "end the log message without a full stop"));
        }
        if message.contains('{') {
            found.push(source.at(at, "put the facts of the log message into fields"));
        }
    }
    found
}

/// The literal of a logging call that is an argument by itself, not the value of a field.
fn message(source: &Source, open: usize) -> Option<(usize, &str)> {
    let end = closing(&source.code, open) - 1;
    let (code, text) = (source.code.as_bytes(), source.text.as_bytes());
    let mut separator = true;
    let mut at = open + 1;
    while at < end {
        match code[at] {
            b',' => separator = true,
            b'(' | b'[' | b'{' => {
                at = closing(&source.code, at);
                separator = false;
                continue;
            }
            b' ' | b'\n' if text[at] == b'"' && separator => {
                let close = at + 1 + source.text[at + 1..end].find('"')?;
                return Some((at, &source.text[at + 1..close]));
            }
            b' ' | b'\n' => {}
            _ => separator = false,
        }
        at += 1;
    }
    None
}

/// Links to files that are not there.
pub(super) fn dead_links(source: &Source) -> Vec<String> {
    let link = Regex::new(r"\]\(([^)#\s]+)(?:#[^)\s]*)?\)").expect("a pattern");
    let folder = workspace().join(&source.path).parent().map(Path::to_owned).unwrap_or_default();
    let outside = |target: &str| target.contains("://") || target.starts_with("mailto:");
    let dead = link.captures_iter(&source.text).filter_map(|hit| {
        let target = hit.get(1).expect("the group always takes part");
        let leads = outside(target.as_str()) || folder.join(target.as_str()).exists();
        (!leads).then(|| source.at(target.start(), &format!("no such file: {}", target.as_str())))
    });
    dead.collect()
}
