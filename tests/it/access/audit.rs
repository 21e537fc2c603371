//! The audit log: fields, refusals, reloads.

use std::time::Duration;

use serde_json::{Value, json};
use sluiced_tests::setup::config;
use sluiced_tests::{TestDaemon, TestNats, TestReceiver, Webhook, wait_until};

use super::{TOKENS, admin, ask, client, token, webhook};

const SOON: Duration = Duration::from_secs(60);

/// The newest records of the audit log.
async fn newest(daemon: &TestDaemon, limit: usize) -> Vec<Value> {
    let page = admin(daemon, "GET", &format!("/api/v1/audit?limit={limit}"), None).await.json();
    page["audit"].as_array().unwrap_or_else(|| panic!("no records in {page}")).clone()
}

/// The record of that reload of the configuration, the first of which is 0.
async fn reload(daemon: &TestDaemon, number: usize) -> Option<Value> {
    let all = newest(daemon, 100).await;
    all.iter().rev().filter(|record| record["action"] == "configuration.reload").nth(number).cloned()
}

#[tokio::test]
async fn the_fields_of_a_change_are_named_and_secrets_are_not_told() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let mut daemon = TestDaemon::start(&nats, &config(TOKENS, &[])).await;
    let mut wanted = webhook(&receiver.url("/hush-hush"), &["platform.>"]);
    wanted["headers"] = json!({ "Authorization": "Bearer hush-hush" });
    let made = admin(&daemon, "POST", "/api/v1/webhooks", Some(&wanted)).await.json();
    let path = format!("/api/v1/webhooks/{}", made["id"].as_str().expect("an id"));
    let change = json!({
        "max_in_flight": 2, "timeout": "5s", "types": [">"], "active": false, "url": receiver.url("/hush-hush/2"),
        "headers": { "Authorization": "Bearer hush-hush-2" }, "secret": "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    });
    assert_eq!(admin(&daemon, "PATCH", &path, Some(&change)).await.status, 200);
    let again = json!({ "max_in_flight": 3, "timeout": null });
    assert_eq!(admin(&daemon, "PATCH", &path, Some(&again)).await.status, 200);
    let described = json!({ "description": "an order", "enforce": false });
    assert_eq!(admin(&daemon, "PUT", "/api/v1/event-types/orders.created", Some(&described)).await.status, 201);

    // It is the same after a kill.
    daemon.kill9();
    daemon.restart().await;
    let records = newest(&daemon, 4).await;
    let of_type = json!([
        { "field": "description", "after": "an order" },
        { "field": "enforce", "after": false },
        { "field": "managed_by", "after": "api" },
        { "field": "type", "after": "orders.created" },
    ]);
    assert_eq!((&records[0]["action"], &records[0]["changes"]), (&json!("event_type.replace"), &of_type));
    let second = json!([{ "field": "max_in_flight", "before": 2, "after": 3 }, { "field": "timeout", "before": "5s" }]);
    assert_eq!((&records[1]["action"], &records[1]["changes"]), (&json!("webhook.update"), &second));
    let first = json!([
        { "field": "active", "before": true, "after": false },
        { "field": "headers" },
        { "field": "max_in_flight", "after": 2 },
        { "field": "timeout", "after": "5s" },
        { "field": "types" },
        { "field": "url" },
        { "field": "secret" },
    ]);
    assert_eq!((&records[2]["action"], &records[2]["changes"]), (&json!("webhook.update"), &first));
    let fields: Vec<_> = records[3]["changes"].as_array().expect("changes").iter().map(|c| &c["field"]).collect();
    assert_eq!(fields, ["active", "headers", "name", "types", "url"], "{}", records[3]);
    let all = Value::from(records).to_string();
    assert!(!all.contains("hush") && !all.contains("whsec_"), "{all}");
}

#[tokio::test]
async fn who_tried_what_and_was_refused_is_on_record_within_bounds() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let of_file = Webhook::new("crm", &receiver);
    let daemon = TestDaemon::start(&nats, &config(TOKENS, &[of_file])).await;
    let one = token("u1");
    let made = admin(&daemon, "POST", "/api/v1/webhooks", Some(&webhook(&receiver.url("/"), &["platform.>"]))).await;
    let path = format!("/api/v1/webhooks/{}", made.json()["id"].as_str().expect("an id"));
    let change = json!({ "max_in_flight": 2 });
    let refused = ask(&daemon, Some("wrong"), "DELETE", &path, None).await;
    assert_eq!(refused.status, 401);
    assert_eq!(ask(&daemon, Some(&one), "POST", "/api/v1/keys", Some(&json!({ "name": "a" }))).await.status, 403);
    assert_eq!(admin(&daemon, "PATCH", "/api/v1/webhooks/crm", Some(&change)).await.status, 409);
    let seen = client().patch(daemon.url(&path)).bearer_auth(sluiced_tests::ADMIN_KEY).header("if-match", "\"other\"");
    let answer = seen.header("content-type", "application/json").body(change.to_string()).send().await;
    assert_eq!(answer.expect("an answer").status().as_u16(), 412);
    // What is wrong in itself, and what is not there, tried nothing.
    assert_eq!(admin(&daemon, "PATCH", &path, Some(&json!({ "nonsense": 1 }))).await.status, 400);
    assert_eq!(admin(&daemon, "DELETE", "/api/v1/webhooks/wh_none", None).await.status, 404);

    let told = |record: &Value| {
        let text = |key: &str| record[key].as_str().unwrap_or_default().to_owned();
        (text("principal"), text("action"), text("target"), record["status"].as_u64(), text("code"))
    };
    let of = |who: &str, what: &str, target: &str, status: u64, code: &str| {
        (who.to_owned(), what.to_owned(), target.to_owned(), Some(status), code.to_owned())
    };
    let records: Vec<_> = newest(&daemon, 4).await.iter().map(told).collect();
    assert_eq!(
        records,
        [
            of("admin", "webhook.update", &path, 412, "precondition_failed"),
            of("admin", "webhook.update", "/api/v1/webhooks/crm", 409, "managed_by_file"),
            of("owner:u1", "key.create", "/api/v1/keys", 403, "operator_only"),
            of("nobody", "webhook.delete", &path, 401, "unauthorized"),
        ]
    );

    // Whoever goes on does not fill the log.
    for _ in 0..70 {
        assert_eq!(ask(&daemon, Some("wrong"), "DELETE", &path, None).await.status, 401);
    }
    let refused = newest(&daemon, 100).await.iter().filter(|record| record["status"] == 401).count();
    assert!((27..=60).contains(&refused), "{refused} in at most two minutes");
}

#[tokio::test]
async fn reloads_of_the_configuration_are_on_record() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let (stays, goes) = (Webhook::new("stays", &receiver), Webhook::new("goes", &receiver).types(&["users.>"]));
    let mut daemon = TestDaemon::start(&nats, &config("", &[stays, goes])).await;
    assert_eq!(reload(&daemon, 0).await, None, "a start is no reload");
    let (stays, comes) = (Webhook::new("stays", &receiver), Webhook::new("comes", &receiver).types(&["users.>"]));
    let stays = stays.with("max_in_flight", 3);
    daemon.write_config(&config("[log]\nlevel = \"debug\"\n", &[stays, comes]));
    wait_until("the reload is on record", SOON, async || reload(&daemon, 0).await.is_some()).await;
    let record = reload(&daemon, 0).await.expect("it is there");
    assert_eq!(
        (&record["principal"], &record["status"], &record["from"]),
        (&json!("file"), &json!(200), &json!("file")),
        "{record}"
    );
    assert!(record["target"].as_str().is_some_and(|target| target.ends_with("sluiced.toml")), "{record}");
    let names = ["log", "subscription.comes", "subscription.goes", "subscription.stays"];
    let changes: Vec<Value> = names.iter().map(|name| json!({ "field": name })).collect();
    assert_eq!(record["changes"], json!(changes));

    daemon.write_config_raw("colour = 1\n");
    wait_until("the refusal is on record", SOON, async || reload(&daemon, 1).await.is_some()).await;
    let record = reload(&daemon, 1).await.expect("it is there");
    assert_eq!((&record["status"], &record["code"]), (&json!(400), &json!("configuration_refused")), "{record}");
    daemon.reload();
    wait_until("so is the next", SOON, async || reload(&daemon, 2).await.is_some()).await;
}
