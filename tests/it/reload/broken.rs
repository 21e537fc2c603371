//! A configuration that cannot be used: refused with its place and reason, whether it is checked, run or reloaded.

use std::path::Path;
use std::process::{Command, Output};

use sluiced_tests::config::EVENTS;
use sluiced_tests::paths::sluiced_binary;

use super::*;

const FILTER_LINE: usize = 9;

/// A configuration whose filter stands in [`FILTER_LINE`].
fn with_filter(filter: &str, receiver: &TestReceiver) -> String {
    let text = format!("{EVENTS}{}", hook("crm", receiver).set("filters", &format!("[{{ {filter} }}]")));
    assert!(text.lines().nth(FILTER_LINE - 1).is_some_and(|line| line.starts_with("filters")), "{text}");
    text
}

/// Plugins that cannot be used as they are named, and what is said of each.
const REFUSED: [(&str, &str); 5] = [
    (r#"plugin = "jqq""#, "subscription[0].filters[0]: there is no plugin `jqq`: "),
    (
        r#"plugin = "redact", config = { pointers = ["/a"] }"#,
        "subscription[0].filters[0]: the plugin `redact` is a transform, not a filter",
    ),
    (
        r#"plugin = "jq", config = { expr = 5 }"#,
        "subscription[0].filters[0]: the configuration of the plugin `jq` at `/expr`: value is not of type \"string\"",
    ),
    (r#"plugin = "jq", config = { exrp = "." }"#, "subscription[0].filters[0]: the configuration of the plugin `jq`"),
    (
        r#"plugin = "jq", config = { expr = ".amount >" }"#,
        "subscription[0].filters[0]: the plugin `jq` refuses its configuration: ",
    ),
];

#[test]
fn a_check_names_every_plugin_that_cannot_be_used() {
    let (folder, receiver) = (tempfile::tempdir().expect("a folder"), TestReceiver::start());
    for (filter, said) in REFUSED {
        let output = check(folder.path(), &with_filter(filter, &receiver));
        let actual = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{actual}");
        assert!(actual.starts_with(&format!("sluiced.toml:{FILTER_LINE}: {said}")), "{actual}");
        assert_eq!(actual.lines().count(), 1, "{actual}");
    }
}

#[test]
fn a_check_of_sound_plugins_passes_and_leaves_nothing_behind() {
    let (folder, receiver) = (tempfile::tempdir().expect("a folder"), TestReceiver::start());
    let sound = with_filter(r#"plugin = "jq", config = { expr = ".amount > 1" }"#, &receiver);
    let output = check(folder.path(), &sound);
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "sluiced.toml: ok, streams: 1, subscriptions: 1\n");
    let left: Vec<_> =
        fs::read_dir(folder.path()).expect("listed").map(|entry| entry.expect("an entry").file_name()).collect();
    assert_eq!(left, ["sluiced.toml"], "neither a data directory nor a cache");
}

/// `sluiced check` in a folder that is also the place of temporary files, without a data directory and without NATS.
fn check(folder: &Path, config: &str) -> Output {
    let text = format!("{config}[plugins]\ndir = {:?}\n", plugin_dir());
    fs::write(folder.join("sluiced.toml"), text).expect("written");
    let mut command = Command::new(sluiced_binary());
    command.args(["check", "--config", "sluiced.toml", "--data-dir", "data"]).current_dir(folder);
    command.env_clear().env("TMPDIR", folder).output().expect("sluiced is built and runs")
}

#[tokio::test]
async fn a_start_with_a_plugin_that_cannot_be_used_ends_with_64() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let (filter, said) = REFUSED[2];
    let mut daemon = TestDaemon::builder(&nats, &with_filter(filter, &receiver)).launch();
    assert_eq!(daemon.process().wait_ended(SOON).await.code(), Some(64));
    // One line lower: the data directory is named above.
    let expected = format!("sluiced.toml:{}: {said}", FILTER_LINE + 1);
    assert!(daemon.log().contains(&expected), "{}", daemon.log());
}

#[tokio::test]
async fn a_broken_file_leaves_the_running_set_in_place_and_says_why() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let mut daemon = TestDaemon::start(&nats, &with_hooks(&[hook("crm", &receiver)])).await;
    let file = daemon.config_path().display().to_string();
    let mut number = 0;
    let not_toml = "[[stream]\n".to_owned();
    let wrong_key = with_hooks(&[hook("crm", &receiver).set("filtres", "[]")]);
    let refused = with_filter(REFUSED[4].0, &receiver);
    for (config, said) in [
        (&not_toml, format!("{file}:2: not valid TOML")),
        (
            &wrong_key,
            format!("{file}:{}: subscription[0].filtres: unknown key, did you mean `filters`?", FILTER_LINE + 1),
        ),
        (&refused, format!("{file}:{}: {}", FILTER_LINE + 1, REFUSED[4].1)),
    ] {
        daemon.write_config(config);
        logged(&daemon, &said).await;
        number += 1;
        nats.publish("events.orders.created", order(number)).await;
        wait_for_numbers_of("crm", &receiver, &[number]).await;
    }
    assert!(!daemon.log().contains(RELOADED));

    daemon.write_config(&with_hooks(&[hook("crm", &receiver), hook("new", &receiver)]));
    logged(&daemon, RELOADED).await;
    nats.publish("events.orders.created", order(number + 1)).await;
    wait_for_numbers_of("new", &receiver, &[number + 1]).await;
    assert_eq!(daemon.accounted("crm", number + 1).await.delivered, number + 1);
    assert!(daemon.process().ended().is_none());
}
