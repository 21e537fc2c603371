//! Blocks that are no commands to walk: configurations are checked, JSON is parsed, and what is run elsewhere says where.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;
use sluiced_tests::ADMIN_KEY;
use sluiced_tests::events::SECRET;
use sluiced_tests::paths::{author_cache, plugin_cache, plugin_dir, sluiced_binary, workspace};
use sluiced_tests::tls::TestCa;

use super::pages::{self, Block, Page};
use super::walks::WALKED;

/// A block that is not run as it stands.
struct Elsewhere {
    page: &'static str,
    language: &'static str,
    /// What its first line has.
    first: &'static str,
    /// Why it cannot be, or is not, run here.
    why: &'static str,
    /// The test that shows it, where there is one.
    test: &'static str,
}

const fn elsewhere(
    page: &'static str,
    language: &'static str,
    first: &'static str,
    why: &'static str,
    test: &'static str,
) -> Elsewhere {
    Elsewhere { page, language, first, why, test }
}

const OWN_TEST: &str = "a test of its own runs the file, and compares the page with it";
const OTHER_TOML: &str = "no configuration of the daemon's";

const ELSEWHERE: [Elsewhere; 26] = [
    elsewhere(
        "README.md",
        "sh",
        "cargo xtask dev     #",
        "it is CI's own command",
        "the_demonstration_shows_the_main_job_and_ends_by_itself",
    ),
    elsewhere(
        "README.md",
        "sh",
        "sluiced check --config sluiced.toml",
        "the brokers are examples",
        "every_configuration_passes_the_check",
    ),
    elsewhere(
        "docs/console.md",
        "sh",
        "cd console && npm ci",
        "CI builds it by these steps",
        "the_console_is_served_compressed_and_kept_and_shadows_no_route",
    ),
    elsewhere(
        "docs/performance.md",
        "sh",
        "cargo xtask bench report",
        "half an hour; `cargo xtask test` runs the case `instructions`",
        "",
    ),
    elsewhere(
        "docs/plugins.md",
        "sh",
        "sluiced plugin new large-orders",
        "walked in three languages",
        "the_path_is_walked_in_rust",
    ),
    elsewhere(
        "docs/plugins.md",
        "sh",
        "sluiced plugin test large-orders --config",
        "needs that plugin",
        "a_dry_run_over_a_stream_tells_verdicts_reasons_and_faults_and_leaves_no_trace",
    ),
    elsewhere(
        "docs/plugins.md",
        "toml",
        "filters = [{ plugin = \"large-orders\"",
        "needs that plugin",
        "the_path_is_walked_in_rust",
    ),
    elsewhere("docs/plugins.md", "toml", "[package]", OTHER_TOML, "the_path_is_walked_in_rust"),
    elsewhere("docs/plugins.md", "toml", "[tool.sluiced]", OTHER_TOML, "heavy_the_path_is_walked_in_python"),
    elsewhere(
        "docs/plugins.md",
        "rust",
        "use serde::Deserialize;",
        "the SDK compiles it",
        "the_plugin_of_the_guide_is_the_one_that_the_sdk_compiles",
    ),
    elsewhere("docs/running-plugins.md", "sh", "curl -X PUT", "needs that plugin", "the_path_is_walked_in_rust"),
    elsewhere(
        "docs/running-plugins.md",
        "sh",
        "curl -H",
        "needs that plugin",
        "a_dry_run_tells_verdict_outputs_faults_time_memory_and_log_of_any_event_and_version",
    ),
    elsewhere(
        "docs/running-plugins.md",
        "sh",
        "cd tests/fuzz",
        "a nightly compiler, and as long as one likes",
        "a_file_that_is_nearly_a_plugin_is_refused_or_works_and_harms_nobody",
    ),
    elsewhere(
        "docs/limits.md",
        "toml",
        "transforms = [{ plugin = \"report\"",
        "needs that plugin",
        "a_plugin_may_have_limits_of_its_own_where_it_is_used",
    ),
    elsewhere(
        "docs/receiving.md",
        "sh",
        "export WEBHOOK_SECRETS",
        OWN_TEST,
        "the_sample_in_python_takes_only_what_was_signed",
    ),
    elsewhere("docs/receiving.md", "rust", "//! A receiver", OWN_TEST, "the_sample_in_rust_takes_only_what_was_signed"),
    elsewhere("docs/receiving.md", "js", "// A receiver", OWN_TEST, "the_sample_for_node_takes_only_what_was_signed"),
    elsewhere("docs/receiving.md", "python", "", OWN_TEST, "the_sample_in_python_takes_only_what_was_signed"),
    elsewhere("docs/receiving.md", "go", "", OWN_TEST, "the_sample_in_go_takes_only_what_was_signed"),
    elsewhere("docs/sse.md", "sh", "export SLUICED=", OWN_TEST, "the_command_for_curl_hears_what_is_published"),
    elsewhere(
        "docs/sse.md",
        "nginx",
        "location /api/",
        "needs nginx; the headers that it goes by are tested",
        "a_stream_comes_as_text_or_in_gzip_and_is_kept_by_nobody",
    ),
    elsewhere(
        "docs/sse.md",
        "html",
        "<!doctype html>",
        OWN_TEST,
        "the_page_of_the_guide_hears_everything_with_tickets",
    ),
    elsewhere("docs/sse.md", "js", "", OWN_TEST, "the_sample_for_node_with_eventsource_hears_everything"),
    elsewhere("docs/sse.md", "python", "", OWN_TEST, "the_sample_in_python_with_httpx_sse_hears_everything"),
    elsewhere("docs/sse.md", "rust", "", OWN_TEST, "the_sample_in_rust_hears_everything"),
    elsewhere(
        "docs/traces.md",
        "sh",
        "nats pub",
        "needs the NATS command line",
        "a_publishers_trace_goes_through_every_stage_and_on_to_the_receiver_also_out_of_the_store",
    ),
];

/// A page whose commands and files need a machine of their own: root, systemd, a container engine, a proxy. Why, and the tests
/// that run what it says as far as a machine without these allows.
const INSTALLED: (&str, [&str; 2]) = (
    "docs/deployment.md",
    [
        "heavy_the_package_is_installed_delivers_is_upgraded_with_its_state_and_leaves_nothing",
        "through_nginx_events_come_at_once_and_the_audit_log_has_the_clients_address",
    ],
);

impl Elsewhere {
    fn is_of(&self, page: &Page, block: &Block) -> bool {
        let first = block.text.lines().next().unwrap_or_default();
        self.page == page.path && self.language == block.language && first.starts_with(self.first)
    }
}

/// The lines of a page's blocks that are run elsewhere.
pub(super) fn run_elsewhere(page: &Page) -> Vec<usize> {
    let blocks = page.blocks.iter().filter(|block| ELSEWHERE.iter().any(|one| one.is_of(page, block)));
    blocks.map(|block| block.line).collect()
}

#[test]
fn every_block_is_run_or_says_by_which_test_it_is_shown() {
    let (pages, tests) = (pages::all(), sources());
    for one in &ELSEWHERE {
        let is_there = one.test.is_empty() || tests.contains(&format!("fn {}(", one.test));
        assert!(is_there, "{}: there is no test {}", one.page, one.test);
        let blocks = pages.iter().flat_map(|page| page.blocks.iter().map(move |block| (page, block)));
        let count = blocks.filter(|(page, block)| one.is_of(page, block)).count();
        assert_eq!(count, 1, "{}: blocks of {} that begin with {:?} ({})", one.page, one.language, one.first, one.why);
    }
    for page in &pages {
        if page.path == INSTALLED.0 {
            for test in INSTALLED.1 {
                assert!(tests.contains(&format!("fn {test}(")), "{}: there is no test {test}", page.path);
            }
            continue;
        }
        let left_out = run_elsewhere(page);
        for block in page.blocks.iter().filter(|block| !left_out.contains(&block.line)) {
            let is_run = match block.language.as_str() {
                "sh" => WALKED.contains(&page.path.as_str()),
                "toml" | "json" | "text" | "mermaid" => true,
                _ => false,
            };
            let place = format!("{}:{}", page.path, block.line);
            assert!(
                is_run,
                "{place}: nothing runs this block of {:?}: walk its page, or say where it is shown",
                block.language
            );
        }
    }
}

/// All tests, as texts.
fn sources() -> String {
    let mut folders = vec![workspace().join("tests/it"), workspace().join("daemon/src")];
    let mut all = String::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                all += &fs::read_to_string(&path).unwrap_or_default();
            }
        }
    }
    all
}

#[test]
fn every_sample_of_json_parses() {
    for page in pages::all() {
        for block in page.blocks.iter().filter(|block| block.language == "json") {
            let values = serde_json::Deserializer::from_str(&block.text).into_iter::<Value>();
            let parsed: Result<Vec<_>, _> = values.collect();
            assert!(parsed.as_ref().is_ok_and(|values| !values.is_empty()), "{}:{}: {parsed:?}", page.path, block.line);
        }
    }
}

#[test]
fn every_configuration_passes_the_check() {
    let authority = TestCa::new();
    let identity = authority.identity("us");
    let files = [
        ("erp-ca.pem", authority.file()),
        ("us.pem", identity.cert_file.clone()),
        ("us.key", identity.key_file.clone()),
        ("/etc/sluiced/tls/fullchain.pem", identity.cert_file.clone()),
        ("/etc/sluiced/tls/privkey.pem", identity.key_file),
        ("/usr/lib/sluiced/plugins", plugin_dir()),
    ];
    // Parts of subscriptions are checked together: each check compiles the plugins that it meets.
    let (mut seen, mut parts) = (0, String::new());
    for page in pages::all() {
        let left_out = run_elsewhere(&page);
        let is_checked = |block: &&Block| block.language == "toml" && !left_out.contains(&block.line);
        for block in page.blocks.iter().filter(is_checked) {
            let named = |text: String, (name, file): &(&str, PathBuf)| text.replace(name, &file.to_string_lossy());
            let text = files.iter().fold(block.text.replace("whsec_…", SECRET), named);
            let place = format!("{}:{}", page.path, block.line);
            match subscription(&text, &place) {
                Some(part) => parts += &part,
                None => check(&text, &place),
            }
            seen += 1;
        }
    }
    check(&parts, "parts of subscriptions");
    assert!(seen > 15, "only {seen} samples were checked");
}

/// A subscription of what is a part of one, named after its place.
fn subscription(sample: &str, place: &str) -> Option<String> {
    let is_part =
        ["filters", "transforms", "[[subscription.", "[subscription."].iter().any(|part| sample.starts_with(part));
    let name = place.replace(|letter: char| !letter.is_ascii_alphanumeric(), "-");
    let webhook = match sample.contains("[subscription.webhook]") {
        true => "",
        false => "[subscription.webhook]\nurl = \"https://receiver.example/\"\n",
    };
    is_part.then(|| format!("[[subscription]]\nname = \"{name}\"\ntypes = [\">\"]\n{sample}\n{webhook}\n"))
}

fn check(text: &str, place: &str) {
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("sluiced.toml");
    let stream = match text.contains("[[stream]]") {
        true => "",
        false => "\n[[stream]]\nname = \"EVENTS\"\nsubjects = [\"events.>\"]\ntype_prefix = \"events.\"\n",
    };
    fs::write(&file, format!("{text}{stream}")).expect("it can be written");
    // With the plugins that other tests have had compiled: those in other languages than Rust take a minute.
    let data_dir = tempfile::tempdir_in(author_cache()).expect("a folder");
    let cache = data_dir.path().join("plugin-cache");
    DirBuilder::new().mode(0o700).create(&cache).expect("a folder can be made");
    for compiled in fs::read_dir(plugin_cache()).expect("a folder") {
        let compiled = compiled.expect("an entry").path();
        // What is gone by now was not for long.
        let _ = fs::hard_link(&compiled, cache.join(compiled.file_name().expect("a name")));
    }
    let mut command = Command::new(sluiced_binary());
    command.env("SLUICED_DATA_DIR", data_dir.path());
    command.args(["check", "--config"]).arg(&file).env("SLUICED_AUTH__ADMIN_KEY", ADMIN_KEY);
    if !text.contains("[plugins]") {
        command.env("SLUICED_PLUGINS__DIR", plugin_dir());
    }
    let output = command.output().expect("it runs");
    assert!(output.status.success(), "{place}: {}\n{text}", String::from_utf8_lossy(&output.stderr));
}
