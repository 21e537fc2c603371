//! The pages whose commands are walked, each with a daemon of its own.

use std::time::Duration;

use regex::Regex;
use sluiced_tests::{ADMIN_KEY, TestNats, port};
use tokio::time::Instant;

use super::pages::Page;
use super::samples::run_elsewhere;
use super::walk::Walk;

/// Every block of commands of these pages is walked, but for those that a test of their own runs.
pub(super) const WALKED: [&str; 9] = [
    "README.md",
    "docs/access.md",
    "docs/api.md",
    "docs/backup.md",
    "docs/cli.md",
    "docs/examples.md",
    "docs/operations.md",
    "docs/quick-start.md",
    "docs/upgrade.md",
];

/// How long a newcomer's first delivery may take, and how many commands.
const FIRST_DELIVERY: Duration = Duration::from_secs(300);
const COMMANDS_MAX: usize = 12;

/// A daemon as most pages suppose it: with a webhook of the file and one of the API, an event that was delivered to both, and
/// a receiver that takes all.
const RUNNING: &str = r#"
cat > sluiced.toml <<END
data_dir = "$PWD/data"
[server]
listen = "127.0.0.1:$PORT"
[auth]
admin_key = "$KEY"
[limits]
requests_per_minute = 0
tests_per_minute = 0
[nats]
url = "$NATS"
[[stream]]
name = "EVENTS"
subjects = ["events.>"]
type_prefix = "events."
create = true
[plugins]
dir = "$PLUGINS"
[delivery]
allow_cidrs = ["127.0.0.0/8"]
[store]
backup_dir = "$PWD/backups"
[[subscription]]
name = "crm"
types = ["orders.*"]
webhook = { url = "http://127.0.0.1:$RECEIVER_PORT/hook" }
END
mkdir -m 700 data
ln -s "$PLUGIN_CACHE" data/plugin-cache
daemon_up() {
    "$WALK_SLUICED" run --config sluiced.toml >> daemon.log 2>&1 &
    DAEMON=$!
    curl -sS --retry 60 --retry-connrefused --retry-delay 1 http://127.0.0.1:$PORT/readyz
}
daemon_down() {
    kill -TERM $DAEMON
    wait $DAEMON
}
"$WALK_SLUICED" listen --listen 127.0.0.1:$RECEIVER_PORT > receiver.log &
daemon_up
ID=$(sluiced webhooks create --name first --endpoint http://127.0.0.1:$RECEIVER_PORT/first --type 'orders.*' | awk '$1 == "id" { print $2 }')
sluiced send orders.created '{"id": 7, "amount": 120}'
until DELIVERY=$(sluiced deliveries list --webhook crm --status delivered | grep -o 'msg_[0-9a-f]*'); do sleep 0.1; done
"#;

/// Walks a page beside such a daemon. In the page's addresses its ports are put in, besides what is `replaced`.
async fn beside_a_daemon(path: &str, endless: bool, replaced: &[(&'static str, &str)], before: &[(usize, &str)]) {
    let (page, nats) = (super::page(path), TestNats::start().await);
    let (port, receiver) = (port::free().to_string(), port::free().to_string());
    let url = format!("http://127.0.0.1:{port}");
    let nats_url = nats.url();
    let mut env = vec![
        ("PORT", port.as_str()),
        ("RECEIVER_PORT", &receiver),
        ("NATS", &nats_url),
        ("KEY", ADMIN_KEY),
        ("ADMIN", ADMIN_KEY),
        ("SLUICED_AUTH__ADMIN_KEY", ADMIN_KEY),
        ("SLUICED_URL", &url),
        ("SLUICED_SERVER__LISTEN", ""),
    ];
    let listen = format!("127.0.0.1:{port}");
    env.last_mut().expect("it is not empty").1 = &listen;
    if endless {
        env.push(("WALK_ENDLESS_S", "3"));
    }
    let mut walk = Walk::start(&env, replaced).await;
    walk.run(RUNNING).await;
    walk.page(&page, &run_elsewhere(&page), before).await;
}

#[tokio::test]
async fn the_quick_start_is_walked_line_by_line() {
    let page = super::page("docs/quick-start.md");
    let (port, receiver) = (port::free(), port::free());
    let (listen, url) = (format!("127.0.0.1:{port}"), format!("http://127.0.0.1:{port}"));
    let env = [("SLUICED_SERVER__LISTEN", listen.as_str()), ("SLUICED_URL", &url)];
    let replaced = [("127.0.0.1:8080", listen.as_str()), ("127.0.0.1:8099", &format!("127.0.0.1:{receiver}"))];
    let mut walk = Walk::start(&env, &replaced).await;
    let (first, rest) = up_to_the_first_delivery(&page);
    assert!(commands(&first) <= COMMANDS_MAX, "{} commands to the first delivery", commands(&first));
    let started = Instant::now();
    walk.page(&page, &rest, &[]).await;
    assert!(started.elapsed() < FIRST_DELIVERY, "the first delivery took {:?}", started.elapsed());
    let walked = page.blocks.iter().map(|block| block.line).filter(|line| !rest.contains(line));
    walk.page(&page, &walked.collect::<Vec<_>>(), &[]).await;
}

/// The commands up to the first delivery as they stand, and the lines of the blocks after it.
fn up_to_the_first_delivery(page: &Page) -> (String, Vec<usize>) {
    let at = page.blocks.iter().position(|block| block.text.contains("orders.created  verified"));
    let (first, rest) = page.blocks.split_at(at.expect("the page shows a delivery") + 1);
    let first = first.iter().filter(|block| block.language == "sh").map(|block| block.text.as_str());
    (first.collect(), rest.iter().map(|block| block.line).collect())
}

/// How many commands a person types: lines, but for what goes on over several.
fn commands(text: &str) -> usize {
    let document = Regex::new(r"(?s)<<'END'\n.*?\nEND\n").expect("a pattern");
    let text = document.replace_all(text, "\n");
    text.replace("\\\n", "").lines().filter(|line| !line.trim().is_empty()).count()
}

#[tokio::test]
async fn the_page_about_access_is_walked() {
    beside_a_daemon("docs/access.md", false, &[("localhost:8080", "127.0.0.1:$PORT")], &[]).await;
}

#[tokio::test]
async fn the_page_about_the_api_is_walked() {
    let replaced = [
        ("127.0.0.1:8080", "127.0.0.1:$PORT"),
        ("https://crm.example/hook", "http://127.0.0.1:'$RECEIVER_PORT'/hook"),
        ("wh_0123456789abcdef01234567", "$ID"),
        ("msg_d38d82911d77590c338db2660e83fc67", "$DELIVERY"),
        ("EVENTS:42", "EVENTS:1"),
        ("curl -X POST $API/webhooks/$ID/redrive", "until curl -X POST $API/webhooks/$ID/redrive; do sleep 0.1; done"),
    ];
    beside_a_daemon("docs/api.md", false, &replaced, &[]).await;
}

#[tokio::test]
async fn the_page_about_the_command_line_is_walked() {
    let key = "$(sluiced keys list | grep -o 'key_[0-9a-f]*' | head -n 1)";
    let etag = "\"$(curl -sS -D - -o answer -H \"X-API-Key: $KEY\" $SLUICED_URL/api/v1/webhooks/$ID | sed -n 's/^etag: //Ip' | tr -d '\\r')\"";
    let replaced = [
        ("https://crm.example/hook", "http://127.0.0.1:$RECEIVER_PORT/hook"),
        ("wh_…", "$ID"),
        ("'\"…\"'", etag),
        ("msg_…", "$DELIVERY"),
        ("EVENTS:4711", "EVENTS:1"),
        ("whsec_…", "$(sluiced secret)"),
        ("sluiced listen", "sluiced listen --listen 127.0.0.1:0"),
        ("key_…", key),
        ("/usr/local/share/man/man1", "man1"),
        ("/etc/bash_completion.d/sluiced", "completion.bash"),
        ("\"${fpath[1]}/_sluiced\"", "completion.zsh"),
        ("~/.config/fish/completions/sluiced.fish", "completion.fish"),
    ];
    beside_a_daemon("docs/cli.md", true, &replaced, &[(2, "echo a note > note.txt")]).await;
}

#[tokio::test]
async fn the_page_about_backups_is_walked() {
    let replaced = [("127.0.0.1:8080", "127.0.0.1:$PORT"), ("/mnt/backups", "$PWD"), ("/var/lib/sluiced", "$PWD/data")];
    let restored = "daemon_up\nsluiced deliveries get $DELIVERY\nsluiced webhooks get $ID\ndaemon_down";
    beside_a_daemon("docs/backup.md", false, &replaced, &[(1, "daemon_down"), (3, restored)]).await;
}

#[tokio::test]
async fn the_page_about_operations_is_walked() {
    let replaced =
        [("127.0.0.1:8080", "127.0.0.1:$PORT"), ("NEW_FILE", "new.key"), ("--config FILE", "--config sluiced.toml")];
    beside_a_daemon("docs/operations.md", false, &replaced, &[(0, "daemon_down"), (1, "MASTER=new.key\nsed -i \"/^.auth./i [secrets]\\nmaster_key_file = \\\"$PWD/new.key\\\"\" sluiced.toml\ndaemon_up")]).await;
}

#[tokio::test]
async fn the_page_about_upgrades_is_walked() {
    beside_a_daemon("docs/upgrade.md", false, &[("127.0.0.1:8080", "127.0.0.1:$PORT")], &[]).await;
}

#[tokio::test]
async fn the_page_about_examples_is_walked() {
    let replaced = [("/tmp/sluiced", "$PWD/state"), ("nats://127.0.0.1:4222", "$NATS")];
    let before =
        "daemon_down\nln -s $WORKSPACE/config config\nmkdir -m 700 state\nln -s $PLUGIN_CACHE state/plugin-cache";
    beside_a_daemon("docs/examples.md", true, &replaced, &[(0, before)]).await;
}
