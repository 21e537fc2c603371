//! The documents say what the code does: metrics, limits, and the guide's plugin.

use std::collections::BTreeSet;
use std::fs;

use regex::Regex;
use sluiced::telemetry::metrics::Metrics;
use sluiced_tests::paths::workspace;

/// Keys of the sections of `config/default.toml` with limits that are none themselves.
const NO_LIMITS: [&str; 10] = [
    "server.listen",
    "server.cors_origins",
    "server.trusted_proxies",
    "server.forwarded_header",
    "plugins.dir",
    "delivery.allow_cidrs",
    "delivery.retry_statuses",
    "delivery.fail_statuses",
    "delivery.deny_ports",
    "delivery.dns_servers",
];

#[test]
fn every_metric_is_documented_and_every_documented_one_exists() {
    let exported: BTreeSet<[String; 3]> = exported().into_iter().collect();
    let registered = read("daemon/src/telemetry/metrics.rs").matches(" r.register").count();
    assert_eq!(exported.len(), registered, "a family without a value is not exported: give each one here");
    let documented = rows("docs/metrics.md").into_iter().filter(|row| row[0].starts_with("sluiced_") && row.len() == 4);
    let documented: BTreeSet<_> = documented.map(|row| [row[0].clone(), row[1].clone(), row[2].clone()]).collect();
    let missing: Vec<_> = exported.difference(&documented).collect();
    let stale: Vec<_> = documented.difference(&exported).collect();
    assert!(missing.is_empty() && stale.is_empty(), "docs/metrics.md lacks {missing:?}, and should not have {stale:?}");
}

#[test]
fn the_dashboard_and_the_alert_rules_ask_for_metrics_and_labels_that_are_there() {
    let exported = exported();
    let asked = Regex::new(r"(sluiced_\w+?)(_bucket)?\b(?:\{([^}]*)\})?").expect("a pattern");
    let label = Regex::new(r#"(\w+)=~?\\?""#).expect("a pattern");
    for (path, least) in [("config/grafana/dashboard.json", 40), ("config/grafana/alerts.yaml", 9)] {
        let text = read(path);
        let mut seen = 0;
        for hit in asked.captures_iter(&text) {
            let known = exported
                .iter()
                .find(|[name, kind, _]| *name == hit[1] && (kind == "histogram") == hit.get(2).is_some());
            let [_, _, labels] = known.unwrap_or_else(|| panic!("{path} asks for {}, which is no metric", &hit[0]));
            let chosen = hit.get(3).map_or("", |chosen| chosen.as_str());
            for chosen in label.captures_iter(chosen) {
                assert!(
                    labels.split(", ").any(|own| own == &chosen[1]),
                    "{path}: {} has no label {}",
                    &hit[1],
                    &chosen[1]
                );
            }
            seen += 1;
        }
        assert!(seen >= least, "{path} asks for {seen} metrics only");
    }
    let dashboard: serde_json::Value = serde_json::from_str(&read("config/grafana/dashboard.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels").iter().filter(|panel| panel["type"] != "row");
    for panel in panels {
        assert!(panel["description"].is_string() && panel["targets"][0]["expr"].is_string(), "{panel}");
    }
    // The page's conditions and the rules are the same.
    let (rules, page) = (read("config/grafana/alerts.yaml"), read("docs/metrics.md"));
    let conditions =
        rules.lines().filter_map(|line| line.trim().strip_prefix("expr: ")).filter(|expr| !expr.starts_with("up{"));
    for condition in conditions {
        let metric = asked.captures(condition).expect("it asks for a metric")[1].to_owned();
        let alarms = page.split("## What to alarm on").nth(1).expect("the page has them");
        assert!(alarms.contains(&metric), "docs/metrics.md does not say why to alarm on {metric}");
    }
}

#[test]
fn every_limit_of_the_configuration_is_documented_with_its_default() {
    let rows = rows("docs/limits.md");
    for (key, default) in defaults(&["server", "limits", "plugins", "delivery", "store"]) {
        if NO_LIMITS.contains(&key.as_str()) {
            continue;
        }
        let row = rows.iter().find(|row| row[0] == key);
        let row = row.unwrap_or_else(|| panic!("docs/limits.md has no row for `{key}`"));
        assert_eq!(row[1], default, "docs/limits.md: the default of `{key}`");
    }
}

#[test]
fn every_documented_limit_has_the_value_of_the_code() {
    let path = Regex::new(r"\]\(\.\./(daemon/src/[\w/]+\.rs)\)$").expect("a pattern");
    let mut seen = 0;
    for row in rows("docs/limits.md") {
        let Some(file) = row.get(2).and_then(|cell| path.captures(cell)) else { continue };
        let (name, source) = (&row[0], read(&file[1]));
        let in_code = constant(&source, name).unwrap_or_else(|| panic!("{} has no `{name}`", &file[1]));
        assert_eq!(quantity(&row[1]), Some(in_code), "docs/limits.md: `{name}`, {:?}", row[1]);
        seen += 1;
    }
    assert!(seen > 40, "only {seen} rows were understood");
}

#[test]
fn the_plugin_of_the_guide_is_the_one_that_the_sdk_compiles() {
    let guide = read("docs/plugins.md");
    let block = guide.split("```rust\n").nth(1).and_then(|rest| rest.split("```").next());
    let block = block.expect("the guide has a plugin").trim_end();
    let documented = read("sdk/src/lib.rs");
    let documented: Vec<_> = documented.lines().filter_map(|line| line.strip_prefix("//!")).collect();
    let documented: Vec<_> = documented.iter().map(|line| line.strip_prefix(' ').unwrap_or(line)).collect();
    assert!(
        documented.join("\n").contains(block),
        "copy the plugin of docs/plugins.md from the documentation in sdk/src/lib.rs"
    );
}

/// Every exported metric: its name, its type, its labels.
fn exported() -> Vec<[String; 3]> {
    let metrics = Metrics::new();
    let subscription = metrics.subscription("a");
    subscription.attempted("delivered");
    subscription.faulted("trap");
    metrics.announced("sluiced.endpoint.failing");
    drop(metrics.stream("S"));
    drop(metrics.sse().tail_lag("S"));
    let text = metrics.render().expect("metrics can be written");
    let family = Regex::new(r"(?m)^# TYPE (\w+) (\w+)$").expect("a pattern");
    let label = Regex::new(r#"(\w+)=""#).expect("a pattern");
    let exported = family.captures_iter(&text).map(|family| {
        let suffix = if &family[2] == "counter" { "_total" } else { "" };
        let name = format!("{}{suffix}", &family[1]);
        let sample = text.lines().find_map(|line| line.strip_prefix(&format!("{name}{{")));
        let labels = label.captures_iter(sample.unwrap_or_default()).map(|label| label[1].to_owned());
        [name, family[2].to_owned(), labels.collect::<Vec<_>>().join(", ")]
    });
    exported.collect()
}

/// The keys of those sections of `config/default.toml` with their defaults, without quotes.
fn defaults(sections: &[&str]) -> Vec<(String, String)> {
    let text = read("config/default.toml");
    let mut section = "";
    let mut found = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = name;
        } else if let Some((key, value)) = line.split_once(" = ")
            && !line.starts_with('#')
            && sections.contains(&section)
        {
            found.push((format!("{section}.{key}"), plain(value)));
        }
    }
    found
}

/// The rows of a document's tables, as their cells without quotes and backticks.
fn rows(path: &str) -> Vec<Vec<String>> {
    let text = read(path);
    let lines = text.lines().filter_map(|line| line.strip_prefix('|')?.strip_suffix('|'));
    lines.map(|line| line.split('|').map(plain).collect()).collect()
}

fn plain(cell: &str) -> String {
    cell.replace(['`', '"'], "").trim().to_owned()
}

/// The number that a constant or a default has in the code: durations in milliseconds.
fn constant(source: &str, name: &str) -> Option<u64> {
    let number = r"(\d[\d_]*)(?: (<<|\*) (\d[\d_]*))?";
    let given = format!(r"\b{name}: (?:[\w]+ = )?(?:Duration::from_(secs|millis)\()?{number}");
    let given = Regex::new(&given).expect("a pattern").captures(source)?;
    let digits = |group: usize| given.get(group)?.as_str().replace('_', "").parse::<u64>().ok();
    let value = match given.get(3).map(|operator| operator.as_str()) {
        Some("<<") => digits(2)? << digits(4)?,
        Some(_) => digits(2)? * digits(4)?,
        None => digits(2)?,
    };
    Some(if given.get(1).is_some_and(|unit| unit.as_str() == "secs") { value * 1_000 } else { value })
}

/// The number that a cell of a document states: bytes, milliseconds, or a plain count.
fn quantity(cell: &str) -> Option<u64> {
    let (number, unit) = cell.split_once(' ').unwrap_or((cell, ""));
    let scale = match unit {
        "" | "bytes" | "ms" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "s" => 1_000,
        _ => return None,
    };
    Some(number.parse::<u64>().ok()? * scale)
}

fn read(path: &str) -> String {
    let path = workspace().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
