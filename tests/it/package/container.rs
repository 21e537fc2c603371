//! The container: what its Dockerfile and its compose file say, carried out as far as that goes without an engine. What the
//! image has is put into a folder of a machine of its own, with the libraries of a C program and no shell, and run from there.

use std::fs;
use std::path::Path;
use std::time::Duration;

use regex::Regex;
use sluiced_tests::paths::workspace;
use sluiced_tests::{TestNats, TestReceiver, Webhook, wait_until};

use super::machine::Machine;
use super::package;

const SOON: Duration = Duration::from_secs(60);
const DOCKERFILE: &str = "config/container/Dockerfile";
const COMPOSE: &str = "config/container/compose.yaml";
/// In the place of 8080, which another program of this machine may have.
const PORT: u16 = 18_080;
const ROOT: &str = "/container";

/// The instructions of the Dockerfile, each with its name and the rest of its line.
fn instructions() -> Vec<(String, String)> {
    let text = fs::read_to_string(workspace().join(DOCKERFILE)).expect("there is a Dockerfile");
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(|line| line.split_once(' ').expect("an instruction has arguments")).map(owned).collect()
}

fn owned((name, rest): (&str, &str)) -> (String, String) {
    (name.to_owned(), rest.to_owned())
}

/// The instructions of the last stage.
fn image() -> Vec<(String, String)> {
    let all = instructions();
    let last = all.iter().rposition(|(name, _)| name == "FROM").expect("there are stages");
    all[last..].to_vec()
}

/// What an instruction that stands once in the last stage says.
fn said(name: &str) -> String {
    let found: Vec<_> = image().into_iter().filter(|(other, _)| other == name).map(|(_, rest)| rest).collect();
    assert_eq!(found.len(), 1, "{name} stands there once");
    found.into_iter().next().unwrap_or_default()
}

/// A list of words in brackets, as a command line.
fn words(json: &str) -> String {
    let words: Vec<String> = serde_json::from_str(json).expect("a list of texts");
    words.join(" ")
}

fn compose() -> String {
    fs::read_to_string(workspace().join(COMPOSE)).expect("there is a compose file")
}

/// What the compose file sets in the daemon's environment.
fn environment() -> Vec<(String, String)> {
    let variable = Regex::new(r"(?m)^ +(SLUICED_\w+): (.+)$").expect("a pattern");
    let found = variable.captures_iter(&compose()).map(|found| (found[1].to_owned(), found[2].to_owned())).collect();
    let (name, value) = said("ENV").split_once('=').map(owned).expect("a variable");
    [vec![(name, value)], found].concat()
}

#[test]
fn the_image_is_built_by_the_steps_that_there_are() {
    let manifest = fs::read_to_string(workspace().join("Cargo.toml")).expect("there is a manifest");
    let version = Regex::new(r#"(?m)^rust-version = "(.+)""#).expect("a pattern");
    let version = &version.captures(&manifest).expect("a version of Rust")[1];
    let all = instructions();
    let has = |name: &str, part: &str| all.iter().any(|(other, rest)| other == name && rest.contains(part));
    assert!(
        has("FROM", &format!("/rust:{version}-bookworm AS build")),
        "the compiler is another one than the workspace's"
    );
    assert!(has("RUN", "cargo xtask package --out /package/sluiced.deb"));
    let steps = fs::read_to_string(workspace().join("xtask/src/main.rs")).expect("there is xtask");
    assert!(steps.contains("    Package {") && steps.contains("out: Option<PathBuf>"), "xtask has no such step");
    let ignored = fs::read_to_string(workspace().join(".dockerignore")).expect("what is not sent to the engine");
    for needed in ["Cargo.toml", "Cargo.lock", "daemon", "sdk", "plugins", "console/src", "config", "xtask", "docs"] {
        assert!(workspace().join(needed).exists());
        assert!(!ignored.lines().any(|line| line == needed), "{needed} does not get into the build");
    }
}

#[test]
fn the_compose_file_and_the_image_agree() {
    let compose = compose();
    let folder = workspace().join(COMPOSE).parent().expect("it lies in a folder").to_owned();
    let context = Regex::new(r"context: (\S+)\n +dockerfile: (\S+)").expect("a pattern");
    let found = context.captures(&compose).expect("it says what to build");
    let context = fs::canonicalize(folder.join(&found[1])).expect("the context is there");
    assert_eq!(context, fs::canonicalize(workspace()).expect("the workspace is there"));
    assert_eq!(&found[2], DOCKERFILE);
    let (port, volume) = (said("EXPOSE"), said("VOLUME"));
    assert!(compose.contains(&format!(r#"ports: ["127.0.0.1:{port}:{port}"]"#)));
    assert!(compose.contains(&format!(r#"volumes: ["state:{volume}"]"#)));
    assert!(said("ENV").ends_with(&format!("=0.0.0.0:{port}")));
    assert!(compose.contains("SLUICED_NATS__URL: nats://nats:4222") && compose.contains("\n  nats:\n    image: "));
    let defaults = fs::read_to_string(workspace().join("config/default.toml")).expect("there are defaults");
    assert!(defaults.contains(&format!("data_dir = {volume:?}")), "the state lies elsewhere than in the volume");
    let user = said("USER");
    assert!(user.split(':').all(|id| id.parse::<u32>().is_ok_and(|id| id != 0)), "{user} is root, or a name");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_what_the_image_has_runs_as_it_says_and_delivers() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let machine = Machine::boot().await;
    fill(&machine);
    let (user, entry) = (said("USER"), words(&said("ENTRYPOINT")));
    let url = format!("http://127.0.0.1:{PORT}");
    let mut given = environment();
    for (name, value) in &mut given {
        *value = match name.as_str() {
            "SLUICED_SERVER__LISTEN" => format!("127.0.0.1:{PORT}"),
            "SLUICED_NATS__URL" => nats.url(),
            "SLUICED_AUTH__ADMIN_KEY" => "of-this-test-and-of-no-other-0123456789".to_owned(),
            _ => value.clone(),
        };
    }
    let line = |given: &[(String, String)], args: &str| {
        let given: Vec<_> = given.iter().map(|(name, value)| format!("{name}='{value}'")).collect();
        format!("env -i {} SLUICED_URL={url} /usr/sbin/chroot --userspec={user} {ROOT} {args}", given.join(" "))
    };
    // As the image has it: open to a network, and nobody has said with which key.
    let open = [said("ENV").split_once('=').map(owned).expect("a variable")];
    let refused = machine.run(&line(&open, &format!("{entry} check --config /etc/sluiced/sluiced.toml")));
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(refused.status.code() == Some(64) && why.contains("admin_key"), "{why}");

    let webhook = Webhook::new("crm", &receiver).filter("jq", "{ expr = \"true\" }").toml();
    let config = machine.path(&format!("{ROOT}/etc/sluiced/sluiced.toml"));
    let with_webhook = fs::read_to_string(&config).expect("it has a configuration") + &webhook;
    fs::write(&config, with_webhook + "\n[delivery]\nallow_cidrs = [\"127.0.0.0/8\"]\n").expect("it can be edited");
    let run = line(&given, &format!("{entry} {}", words(&said("CMD"))));
    machine.sh(&format!("setsid {run} < /dev/null > /var/log/sluiced 2>&1 & echo started"));
    let healthcheck = said("HEALTHCHECK");
    let (_, healthcheck) = healthcheck.split_once(" CMD ").expect("a command");
    let healthy = async || machine.run(&line(&[], &words(healthcheck))).status.success();
    wait_until("it is healthy", SOON, healthy).await;
    nats.publish_orders("events.orders.created", 0..3).await;
    receiver.wait_for_numbers(0..3, SOON).await;
    assert!(machine.log().starts_with('{'), "logs are JSON");
    machine.sh("pkill -TERM -x sluiced");
    wait_until("it stops cleanly", SOON, async || machine.log().contains("\"stopped\"")).await;
}

/// Puts what the last stage copies into a folder, and the libraries that its base image has.
fn fill(machine: &Machine) {
    machine.sh(&format!(
        "mkdir -p /image/var/lib/sluiced && dpkg-deb --extract {} /image",
        package("first.deb").display()
    ));
    for (_, rest) in image().into_iter().filter(|(name, _)| name == "COPY") {
        let mut words: Vec<_> = rest.split(' ').collect();
        assert_eq!(words.remove(0), "--from=build", "the image takes from the build only");
        let owner =
            if words[0].starts_with("--chown=") { words.remove(0).trim_start_matches("--chown=") } else { "0:0" };
        let [from, to] = words[..] else { panic!("COPY {rest}") };
        assert!(machine.path(from).exists(), "{from} is not in the package");
        let place = Path::new(to).parent().expect("a place below the root").display().to_string();
        machine.sh(&format!("mkdir -p {ROOT}{place} && cp -rT {from} {ROOT}{to} && chown -R {owner} {ROOT}{to}"));
    }
    machine.sh(&format!(
        "cp -L --parents $(ldd {ROOT}/usr/bin/sluiced | grep -o '/[^ ]*') /etc/resolv.conf {ROOT}; \
         mkdir -p -m 1777 {ROOT}/tmp; mkdir {ROOT}/proc; mount -t proc proc {ROOT}/proc"
    ));
}
