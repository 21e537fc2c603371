//! Who may import whom: the tables of the architecture, as data.

use regex::Regex;

use super::source::{Source, closing};

const ALL: &[&str] = &["*"];

/// Which modules of the daemon a module may import, besides itself. `*` is every one but those of [`TOP`].
const OWN: &[(&str, &[&str])] = &[
    ("domain", &[]),
    (COMMON, &[]),
    ("telemetry", &[]),
    ("ingest", &["domain", "telemetry"]),
    ("route", &["domain", "telemetry"]),
    ("plugin", &["domain", "telemetry"]),
    ("store", &["domain", "telemetry"]),
    ("deliver", &["domain", "telemetry", "store"]),
    ("stream", &["domain", "telemetry", "ingest", "route", "plugin", "store"]),
    ("pipeline", &["domain", "telemetry", "ingest", "route", "plugin", "deliver", "store", "stream"]),
    ("api", &["domain", "telemetry", "ingest", "plugin", "deliver", "store", "stream"]),
    ("config", &["domain", "telemetry", "ingest", "route", "plugin", "deliver", "store", "stream", "pipeline", "api"]),
    ("app", ALL),
    ("cli", &["*", "app"]),
    ("main", &["*", "app", "cli"]),
];

/// What every module may import: it imports nothing itself, and is not there in a release.
const COMMON: &str = "failpoint";

/// What `*` leaves out: the modules above the others, which only those named in [`OWN`] see.
const TOP: &[&str] = &["app", "cli", "main"];

/// Which modules of the daemon may name a crate. Every other module may not.
const THIRD_PARTY: &[(&str, &[&str])] = &[
    ("async_nats", &["ingest"]),
    ("wasmtime", &["plugin"]),
    ("wasmtime_wasi", &["plugin"]),
    ("hyper", &["deliver", "api", "cli"]),
    ("hyper_util", &["deliver", "api", "cli"]),
    ("hyper_rustls", &["deliver"]),
    ("rustls", &["deliver", "api"]),
    ("tokio_rustls", &["api"]),
    ("rustls_platform_verifier", &["deliver"]),
    ("hickory_resolver", &["deliver"]),
    ("hmac", &["deliver"]),
    ("ed25519_dalek", &["deliver"]),
    ("sled", &["store"]),
    ("figment", &["config"]),
    ("toml_edit", &["config", "cli"]),
    ("axum", &["api"]),
    ("utoipa", &["api"]),
    ("utoipa_axum", &["api"]),
    ("serde", &["config", "api", "store"]),
    ("jsonwebtoken", &["api"]),
    ("flate2", &["api"]),
    ("governor", &["api"]),
    ("opentelemetry", &["telemetry"]),
    ("opentelemetry_sdk", &["telemetry"]),
    ("opentelemetry_otlp", &["telemetry"]),
    ("opentelemetry_http", &["telemetry", "app"]),
    ("anyhow", &["main", "cli"]),
    ("clap_complete", &["cli"]),
    ("comfy_table", &["cli"]),
];

/// Imports of the daemon's own modules that the table does not allow.
pub(super) fn own(source: &Source) -> Vec<String> {
    let module = source.module();
    let Some(own) = module.first() else { return Vec::new() };
    let Some((_, allowed)) = OWN.iter().find(|(name, _)| name == own) else {
        return vec![
            source.at(0, &format!("module `{own}` is not in the import table: add it, here and in the design")),
        ];
    };
    let may = |other: &str| {
        other == *own
            || other == COMMON
            || allowed.contains(&other)
            || (allowed.contains(&"*") && !TOP.contains(&other))
    };
    let refused = from_root(source, module.len()).into_iter().filter(|(name, _)| !may(name));
    let what =
        |name| format!("`{own}` may not import `{name}`: pass it in from `app`, or move what both need to `domain`");
    refused.map(|(name, at)| source.at(at, &what(name))).collect()
}

/// Uses of other people's crates outside the modules that wrap them.
pub(super) fn third_party(source: &Source) -> Vec<String> {
    let module = source.module();
    let own = module.first().copied().unwrap_or("lib");
    let mut found = Vec::new();
    for (name, homes) in THIRD_PARTY.iter().filter(|(_, homes)| !homes.contains(&own)) {
        let path = Regex::new(&format!(r"(^|[^\w:.])(::)?{name}(::|\s*;|\s+as\b)")).expect("a pattern");
        let what = format!("`{name}` belongs to {}: use what that module offers", homes.join(", "));
        found.extend(path.captures_iter(&source.product).map(|hit| {
            let before = hit.get(1).expect("the group always takes part");
            source.at(before.end(), &what)
        }));
    }
    found
}

/// The top-level modules that a file's paths name, with their offsets: `crate::a`, `crate::{a, b::c}`, `sluiced::a` in
/// `main`, and as many `super::` as lead to the root.
fn from_root(source: &Source, depth: usize) -> Vec<(&str, usize)> {
    let code = source.product.as_str();
    let root = Regex::new(r"(?:^|[^\w:])((?:crate|sluiced)::|(?:super::)+)").expect("a pattern");
    let mut found = Vec::new();
    for hit in root.captures_iter(code) {
        let prefix = hit.get(1).expect("the group always takes part");
        let supers = prefix.as_str().matches("super::").count();
        if supers > 0 && supers != depth {
            continue;
        }
        let start = prefix.end();
        if code[start..].starts_with('{') {
            found.extend(group(code, start));
        } else {
            found.extend(name_at(code, start));
        }
    }
    // A lower-case name followed by more is a module; anything else in the root is a re-export or a macro.
    found.retain(|(name, _)| name.starts_with(|c: char| c.is_ascii_lowercase()));
    found
}

/// The first names of the members of a `{…}` group.
fn group(code: &str, open: usize) -> Vec<(&str, usize)> {
    let end = closing(code, open) - 1;
    let mut found = Vec::new();
    let mut at = open + 1;
    while at < end {
        let start = at + code[at..end].len() - code[at..end].trim_start().len();
        found.extend(name_at(code, start));
        // On to the comma that ends this member.
        at = start;
        while at < end && code.as_bytes()[at] != b',' {
            at = if code.as_bytes()[at] == b'{' { closing(code, at) } else { at + 1 };
        }
        at += 1;
    }
    found
}

fn name_at(code: &str, start: usize) -> Option<(&str, usize)> {
    let rest = &code[start..];
    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
    let macro_call = rest[end..].starts_with('!');
    (end > 0 && !macro_call && &rest[..end] != "self").then(|| (&rest[..end], start))
}
