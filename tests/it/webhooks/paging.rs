//! The list of webhooks, page by page.

use std::time::Duration;

use serde_json::{Value, json};
use sluiced_tests::daemon::ADMIN_KEY;
use sluiced_tests::paths::sluiced_binary;
use sluiced_tests::setup::config;
use sluiced_tests::{TestDaemon, TestNats, TestReceiver, Webhook};
use tokio::process::Command;

const SOON: Duration = Duration::from_secs(60);
const PATH: &str = "/api/v1/webhooks";
/// No limit that a test comes to.
const LIMITS: &str = "[limits]\nrequests_per_minute = 100000\n";

async fn get(daemon: &TestDaemon, query: &str) -> Value {
    let answer = daemon.request("GET", &format!("{PATH}{query}"), None).await;
    assert_eq!(answer.status, 200, "{query}: {answer:?}");
    answer.json()
}

fn ids(page: &Value) -> Vec<String> {
    let all = page["webhooks"].as_array().unwrap_or_else(|| panic!("no webhooks in {page}")).iter();
    all.map(|one| one["id"].as_str().expect("an id").to_owned()).collect()
}

/// All pages of a question, from that cursor on.
async fn rest(daemon: &TestDaemon, query: &str, mut cursor: Option<String>) -> Vec<String> {
    let mut all = Vec::new();
    loop {
        let on = cursor.map_or_else(String::new, |cursor| format!("&cursor={cursor}"));
        let page = get(daemon, &format!("?{query}{on}")).await;
        all.extend(ids(&page));
        cursor = page["next"].as_str().map(str::to_owned);
        if cursor.is_none() {
            return all;
        }
    }
}

async fn make(daemon: &TestDaemon, receiver: &TestReceiver, more: Value) -> String {
    let mut wanted = json!({ "name": "a", "url": receiver.url("/a"), "types": ["orders.*"] });
    wanted.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    let made = daemon.request("POST", PATH, Some(&wanted)).await;
    assert_eq!(made.status, 201, "{made:?}");
    made.json()["id"].as_str().expect("an id").to_owned()
}

#[tokio::test]
async fn each_webhook_is_on_one_page_while_others_come_and_go() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let of_file = ["zeta", "alpha", "mid"].map(|name| Webhook::new(name, &receiver).types(&["users.>"]));
    let daemon = TestDaemon::start(&nats, &config(LIMITS, &of_file)).await;
    let mut made = Vec::new();
    for _ in 0..6 {
        made.push(make(&daemon, &receiver, json!({})).await);
    }
    made.sort();
    let mut all = ["alpha", "mid", "zeta"].map(str::to_owned).to_vec();
    all.extend(made.clone());
    let whole = get(&daemon, "").await;
    assert_eq!((ids(&whole), &whole["next"]), (all.clone(), &Value::Null));
    for limit in 1..=10 {
        assert_eq!(rest(&daemon, &format!("limit={limit}"), None).await, all, "limit {limit}");
    }

    // Between two pages one goes that the cursor names, one that is still to come, and others come.
    let first = get(&daemon, "?limit=5").await;
    assert_eq!(ids(&first), all[..5]);
    for gone in [&all[4], &all[6]] {
        assert_eq!(daemon.request("DELETE", &format!("{PATH}/{gone}"), None).await.status, 204);
    }
    let new = make(&daemon, &receiver, json!({})).await;
    let mut left: Vec<_> = [&all[5], &all[7], &all[8]].into_iter().cloned().collect();
    left.extend(Some(new).filter(|new| *new > all[4]));
    left.sort();
    assert_eq!(rest(&daemon, "limit=2", first["next"].as_str().map(str::to_owned)).await, left);

    let cursor = first["next"].as_str().expect("a cursor");
    for wrong in ["cursor=", "cursor=AAAA", &format!("cursor={cursor}&active=true"), "limit=0", "limit=101", "before=x"]
    {
        let answer = daemon.request("GET", &format!("{PATH}?{wrong}"), None).await;
        assert_eq!((answer.status, &answer.json()["code"]), (400, &json!("invalid_request")), "{wrong}");
    }
}

#[tokio::test]
async fn filters_leave_out_and_the_command_line_goes_through_all_pages() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let of_file = Webhook::new("crm", &receiver).types(&["users.>"]).subscribed_with("owner", "\"acme\"");
    let daemon = TestDaemon::start(&nats, &config(LIMITS, &[of_file])).await;
    let idle = make(&daemon, &receiver, json!({ "active": false })).await;
    let owned = make(&daemon, &receiver, json!({ "owner": "acme", "types": [">"] })).await;
    let mut both = [idle.clone(), owned.clone()];
    both.sort();
    for (query, expected) in [
        ("active=false", vec![idle.as_str()]),
        ("active=true", vec!["crm", &owned]),
        ("owner=acme", vec!["crm", &owned]),
        ("owner=nobody", vec![]),
        ("managed_by=file", vec!["crm"]),
        ("managed_by=api", both.iter().map(String::as_str).collect()),
        ("type=users.signed-up", vec!["crm", &owned]),
        ("type=orders.created&active=true", vec![owned.as_str()]),
        ("type=orders.a.b&managed_by=file", vec![]),
    ] {
        for limit in [1, 100] {
            assert_eq!(rest(&daemon, &format!("{query}&limit={limit}"), None).await, expected, "{query}");
        }
    }

    // More than a page.
    for _ in 0..102 {
        make(&daemon, &receiver, json!({})).await;
    }
    let mut command = Command::new(sluiced_binary());
    command.args(["webhooks", "list", "--json"]).env("SLUICED_URL", daemon.url("")).env("SLUICED_API_KEY", ADMIN_KEY);
    let ended = tokio::time::timeout(SOON, command.kill_on_drop(true).output()).await;
    let output = ended.expect("it ends").expect("the daemon's binary runs");
    let listed: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    assert_eq!(ids(&listed).len(), 105);
    assert_eq!(ids(&listed), rest(&daemon, "limit=7", None).await);
}
