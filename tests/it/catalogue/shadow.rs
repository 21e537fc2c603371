//! Shadow mode: a candidate runs on live events without effect, and what it says is compared.

use super::*;

async fn shadow(daemon: &TestDaemon) -> Value {
    daemon.request("GET", "/api/v1/plugins/mask/shadow", None).await.json()
}

async fn wait_compared(daemon: &TestDaemon, calls: u64) -> Value {
    let compared = comes_true(SOON, async || shadow(daemon).await["compared"] == calls).await;
    assert!(compared, "{}", shadow(daemon).await);
    shadow(daemon).await
}

#[tokio::test]
async fn a_candidate_is_compared_on_live_events_without_effect_and_promoted() {
    let (nats, receiver, dir) = (TestNats::start().await, TestReceiver::start(), TempDir::new().expect("a folder"));
    let hook = Webhook::new("a", &receiver).transform("mask", r#"{ pointers = ["/card"] }"#);
    let config = config("", &[hook]);
    let mut daemon = daemon_with(&nats, dir.path(), &[("mask", &version(MASKS[0]))], &config).await;
    let on_record = async || plugin(&daemon, "mask").await["versions"].as_array().map(Vec::len) == Some(1);
    assert!(comes_true(SOON, on_record).await);
    assert_eq!(daemon.request("GET", "/api/v1/plugins/mask/shadow", None).await.status, 404);

    let begun = daemon.send_plugin("mask/shadow", version(MASKS[1]), "wait=60").await;
    assert_eq!(begun.status, 200, "{begun:?}");
    for number in 0..50 {
        nats.publish("events.orders.paid", card(number)).await;
    }
    nats.publish("events.orders.paid", r#"{"number": 50}"#).await;
    receiver.wait_for(51, SOON).await;
    let found = wait_compared(&daemon, 51).await;
    assert_eq!((&found["same"], &found["different"]["output"], &found["skipped"]), (&json!(1), &json!(50), &json!(0)));
    let sample = &found["samples"][0];
    assert_eq!((&sample["subscription"], &sample["type"]), (&json!("a"), &json!("orders.paid")), "{found}");
    let data = |side: &str| sample[side]["outputs"][0]["data"].as_str().expect("a text").to_owned();
    assert!(data("current").contains(MASKS[0]) && data("shadow").contains(MASKS[1]), "{sample}");
    assert!(found["mean_us"]["shadow"].is_u64(), "{found}");
    // The one without a card may have come before others: several are under way at a time.
    let received = receiver.received();
    let with_card: Vec<_> = received.iter().filter(|received| received.number().is_some_and(|n| n < 50)).collect();
    assert_eq!(with_card.len(), 50);
    with_card.iter().for_each(|received| {
        assert!(String::from_utf8_lossy(&received.body).contains(MASKS[0]), "what is delivered is the current one's");
    });

    // It goes on after a restart, counting anew, also in subscriptions that come later. What is not yet acknowledged would
    // come once more.
    nats.wait_drained("EVENTS", "sluiced", SOON).await;
    daemon.kill9();
    daemon.restart().await;
    let goes_on = async || daemon.request("GET", "/api/v1/plugins/mask/shadow", None).await.status == 200;
    assert!(comes_true(SOON, goes_on).await, "{}", daemon.log());
    let wanted = json!({
        "name": "b", "url": receiver.url("/b"), "types": [">"],
        "transforms": [{ "plugin": "mask", "config": { "pointers": ["/card"] } }],
    });
    assert_eq!(daemon.request("POST", "/api/v1/webhooks", Some(&wanted)).await.status, 201);
    nats.publish("events.orders.paid", card(51)).await;
    wait_compared(&daemon, 2).await;
    receiver.wait_for(53, SOON).await;

    let promoted = daemon.request("POST", "/api/v1/plugins/mask/shadow/promote", None).await;
    assert_eq!(promoted.status, 200, "{promoted:?}");
    assert!(promoted.json().get("shadow").is_none(), "it has its place: {promoted:?}");
    nats.publish("events.orders.paid", card(52)).await;
    receiver.wait_for(55, SOON).await;
    assert_eq!(masks_after(&receiver, 53), [MASKS[1], MASKS[1]]);
    assert_eq!(daemon.request("DELETE", "/api/v1/plugins/mask/shadow", None).await.status, 404);
}

fn masks_after(receiver: &TestReceiver, skip: usize) -> Vec<String> {
    let card = |body: &[u8]| serde_json::from_slice::<Value>(body).expect("JSON")["card"].as_str().map(str::to_owned);
    receiver.received().iter().skip(skip).map(|received| card(&received.body).expect("a card")).collect()
}

#[tokio::test]
async fn a_candidate_that_fails_or_does_not_fit_disturbs_nobody_and_is_dropped() {
    let (nats, receiver, dir) = (TestNats::start().await, TestReceiver::start(), TempDir::new().expect("a folder"));
    let hooks = [
        Webhook::new("a", &receiver).filter("judge", r#"{ do = "nothing" }"#),
        Webhook::new("b", &receiver)
            .filter("judge", r#"{ do = "trap" }"#)
            .subscribed_with("on_plugin_error", "\"drop\""),
    ];
    let hostile = fs::read(test_plugin_dir().join("hostile.wasm")).expect("built");
    let daemon = daemon_with(&nats, dir.path(), &[("judge", &hostile)], &config("", &hooks)).await;
    let judge = async || plugin(&daemon, "judge").await;
    assert!(comes_true(SOON, async || judge().await["versions"].as_array().map(Vec::len) == Some(1)).await);

    // Another plugin altogether: its configuration fits neither subscription.
    let jq = fs::read(plugin_dir().join("jq.wasm")).expect("built");
    assert_eq!(daemon.send_plugin("judge/shadow", jq, "wait=60").await.status, 200);
    let unfit = judge().await["shadow"]["unfit"].clone();
    assert_eq!(unfit.as_array().map(Vec::len), Some(2), "{unfit}");
    nats.publish("events.orders.paid", order(1)).await;
    receiver.wait_for(1, SOON).await;
    assert_eq!(judge().await["shadow"]["compared"], 0);

    // The same plugin as candidate: where the one traps the other does too, which is no difference.
    let mut same = hostile.clone();
    same.extend([0, 5, 1, b'x', b'o', b'n', b'e']);
    assert_eq!(daemon.send_plugin("judge/shadow", same, "wait=60").await.status, 200);
    nats.publish("events.orders.paid", order(2)).await;
    receiver.wait_for(2, SOON).await;
    assert!(comes_true(SOON, async || judge().await["shadow"]["same"] == 2).await, "{}", judge().await);
    assert_eq!(daemon.request("DELETE", "/api/v1/plugins/judge/shadow", None).await.status, 204);
    let shown = judge().await;
    assert!(shown.get("shadow").is_none(), "{shown}");
    let books = daemon.accounted("a", 2).await;
    assert_eq!(books.delivered, 2, "{books:?}");
}
