//! Deliveries: listed by each status, shown with their attempts, tried again at any time, counted.

use serde_json::{Value, json};
use sluiced_tests::events::order;
use sluiced_tests::setup::config;
use sluiced_tests::{Behaviour, Reply, TestDaemon, TestNats, TestReceiver, Webhook, wait_until};

use super::{SOON, get, pages, post, sequences};

const LIST: &str = "/api/v1/deliveries";

/// A daemon with the webhooks `crm`, which takes what `status` says 200 of, and `wall`, which takes everything.
async fn ended(events: u64, waits: &[&str], status: fn(u64) -> u16) -> (TestNats, TestReceiver, TestDaemon) {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    receiver.set(Behaviour::custom(move |request| {
        let number = request.number().unwrap_or(0);
        let status = if request.path == "/crm" { status(number) } else { 200 };
        Reply { body: format!("said {number}").into_bytes().into(), ..Reply::status(status) }
    }));
    let breaker = "{ attempts_min = 1000, failure_ratio = 1.0 }";
    let crm = Webhook::to("crm", &receiver.url("/crm")).retry_after(waits).with("capture_bytes_max", 64);
    let crm = crm.with("breaker", breaker);
    let wall = Webhook::to("wall", &receiver.url("/wall"));
    let daemon = TestDaemon::start(&nats, &config("", &[crm, wall])).await;
    for number in 1..=events {
        nats.publish("events.orders.created", order(number)).await;
    }
    daemon
        .wait_metric("sluiced_deliveries_total", &[("subscription", "wall"), ("outcome", "delivered")], events as f64)
        .await;
    (nats, receiver, daemon)
}

/// Waits until so many deliveries of `crm` stand so.
async fn wait_for(daemon: &TestDaemon, status: &str, count: usize) -> Vec<Value> {
    let path = format!("{LIST}?webhook=crm&status={status}");
    wait_until(&format!("{count} are {status}"), SOON, async || {
        pages(daemon, &path, "deliveries", async || ()).await.len() == count
    })
    .await;
    pages(daemon, &path, "deliveries", async || ()).await
}

/// What filters leave, and those that cannot be used, where three are pending, and three failed.
async fn filters_and_their_refusals(daemon: &TestDaemon) {
    for (query, count) in [
        ("status=pending&type=orders.created", 3),
        ("status=failed&type=nobody.has.this", 0),
        ("status=delivered&to=2020-01-01T00:00:00Z", 0),
        ("status=failed&from=2020-01-01T00:00:00Z", 3),
        ("status=dropped", 0),
    ] {
        assert_eq!(
            get(daemon, &format!("{LIST}?{query}")).await["deliveries"].as_array().map(Vec::len),
            Some(count),
            "{query}"
        );
    }
    for (query, field) in
        [("type=a", "type"), ("status=lost", "query"), ("cursor=x", "cursor"), ("limit=1000", "limit")]
    {
        let answer = daemon.request("GET", &format!("{LIST}?{query}"), None).await;
        assert_eq!((answer.status, answer.json()["errors"][0]["field"].clone()), (400, json!(field)), "{query}");
    }
    assert_eq!(daemon.request("GET", &format!("{LIST}?webhook=nobody"), None).await.status, 404);
}

#[tokio::test]
async fn each_status_has_its_list_and_a_record_has_all_its_times() {
    let (nats, _receiver, daemon) = ended(9, &["1h"], |number| match number % 3 {
        0 => 200,
        1 => 503,
        _ => 400,
    })
    .await;
    let (pending, failed) = (wait_for(&daemon, "pending", 3).await, wait_for(&daemon, "failed", 3).await);
    let delivered = wait_for(&daemon, "delivered", 3).await;
    let sorted = |entries: &[Value]| {
        let mut sequences = sequences(entries);
        sequences.sort_unstable();
        sequences
    };
    assert_eq!((sorted(&pending), sorted(&failed), sorted(&delivered)), (vec![1, 4, 7], vec![2, 5, 8], vec![3, 6, 9]));
    assert_eq!(sequences(&delivered), [9, 6, 3], "newest first");
    let waiting = &pending[0];
    for key in ["next_attempt_at", "created_at", "updated_at"] {
        assert!(waiting[key].is_string(), "{key}: {waiting}");
    }
    assert_eq!(
        (&waiting["attempts"], &waiting["response_status"], &waiting["type"]),
        (&json!(1), &json!(503), &json!("orders.created"))
    );
    assert!(waiting["error"].as_str().is_some_and(|error| !error.is_empty()) && waiting["class"] == "status");
    assert!(failed[0]["failed_at"].is_string() && delivered[0]["delivered_at"].is_string());
    assert_eq!((&delivered[0]["response_status"], &delivered[0]["status"]), (&json!(200), &json!("delivered")));

    // All of them, over all webhooks and of one, each once.
    let all = pages(&daemon, &format!("{LIST}?limit=5"), "deliveries", async || ()).await;
    let mut ids: Vec<&str> = all.iter().map(|delivery| delivery["id"].as_str().expect("an id")).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((all.len(), ids.len()), (18, 18));
    let crm = pages(&daemon, "/api/v1/webhooks/crm/deliveries?limit=4", "deliveries", async || ()).await;
    assert_eq!(sorted(&crm), (1..=9).collect::<Vec<_>>());
    assert!(crm.iter().all(|delivery| delivery["webhook"] == "crm"));
    let of_event = get(&daemon, &format!("{LIST}?event=EVENTS:4")).await;
    let stands: Vec<(&str, &str)> = of_event["deliveries"]
        .as_array()
        .expect("deliveries")
        .iter()
        .map(|delivery| (delivery["webhook"].as_str().expect("a name"), delivery["status"].as_str().expect("a word")))
        .collect();
    assert_eq!(stands, [("crm", "pending"), ("wall", "delivered")]);
    filters_and_their_refusals(&daemon).await;

    let stats = get(&daemon, "/api/v1/deliveries/stats").await;
    assert_eq!((&stats["pending"], &stats["dead_letters"], &stats["complete"]), (&json!(3), &json!(3), &json!(true)));
    assert_eq!(stats["total"], json!({ "delivered": 12, "retried": 3, "failed": 3, "dropped": 0 }));
    let own = get(&daemon, "/api/v1/deliveries/stats?webhook=wall").await;
    assert_eq!((&own["total"]["delivered"], &own["pending"]), (&json!(9), &json!(0)));
    drop(nats);
}

#[tokio::test]
async fn a_delivery_shows_its_attempts_whatever_became_of_it_also_after_a_kill() {
    let (_nats, _receiver, mut daemon) =
        ended(3, &["20ms", "1h"], |number| [200, 500, 400, 200][number as usize]).await;
    wait_until("two attempts were made", SOON, async || {
        let pending = get(&daemon, &format!("{LIST}?webhook=crm&status=pending")).await;
        pending["deliveries"][0]["attempts"] == 2
    })
    .await;
    let by_sequence = async |daemon: &TestDaemon, sequence: u64| {
        let found = get(daemon, &format!("{LIST}?webhook=crm&event=EVENTS:{sequence}")).await;
        let id = found["deliveries"][0]["id"].as_str().expect("an id").to_owned();
        get(daemon, &format!("{LIST}/{id}")).await
    };
    for _ in 0..2 {
        let pending = by_sequence(&daemon, 1).await;
        let history = pending["history"].as_array().expect("a history");
        assert_eq!((history.len(), &history[1]["status"]), (2, &json!(500)));
        assert_eq!((&history[0]["response"]["body"], &pending["status"]), (&json!("said 1"), &json!("pending")));
        assert!(pending["content"]["body"].as_str().is_some_and(|body| body.contains("\"number\"")), "{pending}");
        let failed = by_sequence(&daemon, 2).await;
        assert_eq!((&failed["status"], &failed["history"][0]["status"]), (&json!("failed"), &json!(400)));
        let delivered = by_sequence(&daemon, 3).await;
        assert_eq!((&delivered["status"], &delivered["history"][0]["status"]), (&json!("delivered"), &json!(200)));
        for key in ["created_at", "updated_at", "delivered_at"] {
            assert!(delivered[key].is_string(), "{key}: {delivered}");
        }
        daemon.kill9();
        daemon.restart().await;
    }
    for id in ["msg_1", "msg_00000000000000000000000000000000"] {
        assert_eq!(daemon.request("GET", &format!("{LIST}/{id}"), None).await.status, 404, "{id}");
    }
}

#[tokio::test]
async fn a_delivery_is_tried_again_at_any_time() {
    let (_nats, receiver, daemon) = ended(3, &["1h"], |number| [200, 503, 400, 200][number as usize]).await;
    let (pending, failed) = (wait_for(&daemon, "pending", 1).await, wait_for(&daemon, "failed", 1).await);
    let delivered = wait_for(&daemon, "delivered", 1).await;
    receiver.set(Behaviour::Ok);
    receiver.forget();
    let id = |found: &[Value]| found[0]["id"].as_str().expect("an id").to_owned();
    let arrived = async |id: &str| {
        wait_until("it arrives", SOON, async || receiver.received().iter().any(|request| request.webhook_id() == id))
            .await;
        receiver.received().into_iter().find(|request| request.webhook_id() == id).expect("it arrived")
    };
    for (found, was, attempt) in [(&pending, "pending", 2), (&failed, "failed", 2), (&delivered, "delivered", 1)] {
        let id = id(found);
        let (status, answer) = post(&daemon, &format!("{LIST}/{id}/retry")).await;
        assert_eq!((status, &answer["was"]), (202, &json!(was)), "{answer}");
        assert_eq!(answer["job"].is_string(), was == "delivered");
        let request = arrived(&id).await;
        assert_eq!((request.attempt(), request.header("sluiced-replay").is_empty()), (attempt, was != "delivered"));
        wait_until("it is on record", SOON, async || {
            get(&daemon, &format!("{LIST}/{id}")).await["status"] == "delivered"
        })
        .await;
    }
    let history = get(&daemon, &format!("{LIST}/{}", id(&pending))).await["history"].clone();
    let statuses: Vec<u64> =
        history.as_array().expect("a history").iter().filter_map(|a| a["status"].as_u64()).collect();
    assert_eq!(statuses, [503, 200], "the first attempt stays on record");
    assert_eq!(get(&daemon, &format!("{LIST}?webhook=crm&status=pending")).await["deliveries"], json!([]));
    let (status, _) = post(&daemon, &format!("{LIST}/msg_00000000000000000000000000000000/retry")).await;
    assert_eq!(status, 404);
    // One whose attempt is under way is not made due twice.
    receiver.set(Behaviour::Hang);
    let (status, _) = post(&daemon, &format!("{LIST}/{}/retry", id(&delivered))).await;
    assert!([202, 409].contains(&status), "{status}");
}
