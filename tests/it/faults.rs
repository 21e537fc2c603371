//! Plugins that fail, in the running daemon: a typed fault, the subscription's policy, and neighbours that notice nothing.

use std::time::Duration;

use serde_json::json;
use sluiced_tests::events::order;
use sluiced_tests::setup::config;
use sluiced_tests::{TestDaemon, TestNats, TestReceiver, Webhook, wait_until};

const SOON: Duration = Duration::from_secs(60);
const EVENTS: u64 = 20;

/// What the plugin does wrong, and the fault's kind.
const MISDEEDS: [(&str, &str); 4] =
    [("loop", "deadline"), ("allocate", "memory"), ("trap", "trap"), ("error", "reported")];

/// A memory limit that is soon reached.
const PLUGINS: &str = "[plugins]\nmemory_mib_max = 16\n";

fn misbehaving(name: &str, receiver: &TestReceiver, misdeed: &str) -> Webhook {
    Webhook::to(name, &receiver.url(&format!("/{name}"))).filter("hostile", &format!("{{ do = {misdeed:?} }}"))
}

#[tokio::test]
async fn with_dead_letter_each_fault_is_counted_by_its_kind_and_its_event_kept() {
    let (daemon, receiver) = all_misdeeds("dead-letter").await;
    for (misdeed, _) in MISDEEDS {
        assert_eq!(daemon.accounted(misdeed, EVENTS).await.failed, EVENTS, "{misdeed}");
    }
    daemon.wait_metric("sluiced_dead_letters", &[], (EVENTS * 4) as f64).await;
    assert_eq!(receiver.counts().requests, EVENTS, "only the neighbour's");
}

#[tokio::test]
async fn with_drop_each_fault_is_counted_by_its_kind_and_its_event_dropped() {
    let (daemon, receiver) = all_misdeeds("drop").await;
    for (misdeed, _) in MISDEEDS {
        assert_eq!(daemon.accounted(misdeed, EVENTS).await.filtered, EVENTS, "{misdeed}");
        let dropped = daemon.metrics().await.sum("sluiced_events_dropped_total", &[("subscription", misdeed)]);
        assert_eq!(dropped, EVENTS as f64, "{misdeed}");
    }
    assert_eq!(receiver.counts().requests, EVENTS, "only the neighbour's");
}

#[tokio::test]
async fn with_pass_each_fault_is_counted_by_its_kind_and_its_event_goes_on() {
    let (daemon, receiver) = all_misdeeds("pass").await;
    for (misdeed, _) in MISDEEDS {
        assert_eq!(daemon.accounted(misdeed, EVENTS).await.delivered, EVENTS, "{misdeed}");
    }
    assert_eq!(receiver.counts().requests, EVENTS * 5);
}

/// A daemon with a subscription for each misdeed under that policy and a healthy neighbour, once all of them are through
/// with the events, the neighbour has received each once and every fault is counted by its kind.
async fn all_misdeeds(policy: &str) -> (TestDaemon, TestReceiver) {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let mut hooks = vec![Webhook::to("neighbour", &receiver.url("/neighbour")).filter("jq", r#"{ expr = "true" }"#)];
    for (misdeed, _) in MISDEEDS {
        hooks.push(misbehaving(misdeed, &receiver, misdeed).subscribed_with("on_plugin_error", format!("{policy:?}")));
    }
    let config = config("", &hooks) + PLUGINS;
    let daemon = TestDaemon::builder(&nats, &config).hostile_plugins(&config).start().await;
    nats.publish_orders("events.orders.created", 0..EVENTS).await;

    assert_eq!(daemon.accounted("neighbour", EVENTS).await.delivered, EVENTS);
    for (misdeed, kind) in MISDEEDS {
        let by_kind = [("subscription", misdeed), ("kind", kind)];
        daemon.wait_metric("sluiced_plugin_faults_total", &by_kind, EVENTS as f64).await;
        daemon.wait_metric("sluiced_plugin_faults_total", &[("subscription", misdeed)], EVENTS as f64).await;
        daemon.accounted(misdeed, EVENTS).await;
    }
    nats.wait_drained("EVENTS", "sluiced", SOON).await;
    (daemon, receiver)
}

#[tokio::test]
async fn a_transform_that_fails_costs_only_the_events_that_it_fails_on() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let trap = Webhook::to("crm", &receiver.url("/hook"))
        .transform("hostile", r#"{ do = "trap", when_type = "orders.cursed" }"#);
    let config = config("", &[trap]);
    let daemon = TestDaemon::builder(&nats, &config).hostile_plugins(&config).start().await;
    for round in 0..5 {
        nats.publish_orders("events.orders.created", round * 10..round * 10 + 9).await;
        nats.publish_orders("events.orders.cursed", round * 10 + 9..round * 10 + 10).await;
    }
    let books = daemon.accounted("crm", 50).await;
    assert_eq!((books.delivered, books.failed), (45, 5));
    nats.wait_drained("EVENTS", "sluiced", SOON).await;
    assert!(receiver.numbers().keys().all(|number| number % 10 != 9));
}

#[tokio::test]
async fn a_plugin_that_does_nothing_but_fail_is_set_aside_until_a_probe_works() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let trap = Webhook::to("crm", &receiver.url("/hook"))
        .transform("hostile", r#"{ do = "trap", when_type = "orders.cursed" }"#);
    let config = config("[plugins]\nquarantine_faults = 3\nquarantine_probe = \"5s\"\n", &[trap]);
    let daemon = TestDaemon::builder(&nats, &config).hostile_plugins(&config).start().await;
    let crm = [("subscription", "crm")];
    nats.publish_orders("events.orders.cursed", 0..3).await;
    daemon.wait_metric("sluiced_plugins_quarantined", &crm, 1.0).await;
    nats.publish_orders("events.orders.created", 3..4).await;
    daemon.wait_metric("sluiced_plugin_faults_total", &[crm[0], ("kind", "quarantined")], 1.0).await;
    let status = daemon.request("GET", "/api/v1/subscriptions/crm", None).await.json();
    assert_eq!(status["quarantined"], json!([{ "plugin": "hostile", "faults": 3 }]), "{status}");
    let letters = async || daemon.request("GET", "/api/v1/subscriptions/crm/dead-letters", None).await.json();
    wait_until("all four are dead letters", SOON, async || letters().await["dead_letters"][3].is_object()).await;
    let newest = letters().await["dead_letters"][0].clone();
    let reason = "the plugin `hostile` is set aside for a while, after 3 faults in a row";
    assert_eq!((newest["class"].as_str(), newest["reason"].as_str()), (Some("plugin"), Some(reason)), "{newest}");
    assert!(daemon.log().contains("the plugin is set aside for a while, it has done nothing but fail"));

    let mut number = 4;
    while receiver.counts().requests == 0 {
        nats.publish_orders("events.orders.created", number..number + 1).await;
        daemon.accounted("crm", number + 1).await;
        number += 1;
    }
    daemon.wait_metric("sluiced_plugins_quarantined", &crm, 0.0).await;
    assert!(daemon.request("GET", "/api/v1/subscriptions/crm", None).await.json()["quarantined"].is_null());
    assert_eq!(daemon.accounted("crm", number).await.delivered, 1, "the probe itself was delivered");
    nats.wait_drained("EVENTS", "sluiced", SOON).await;
}

#[tokio::test]
async fn a_transform_that_gives_too_much_is_at_fault_and_its_event_is_kept_as_it_came() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let transform = |(misdeed, amount): (&str, u64)| {
        let config = format!("{{ do = {misdeed:?}, amount = {amount} }}");
        Webhook::new(misdeed, &receiver).transform("hostile", &config)
    };
    // Just above the defaults of 1 MiB and 100 outputs.
    let misdeeds = [("big-output", 1_100_000), ("many-outputs", 101)];
    let config = config("[plugins]\ncall_deadline_ms = 5000\n", &misdeeds.map(transform));
    let daemon = TestDaemon::builder(&nats, &config).hostile_plugins(&config).start().await;
    nats.publish("events.orders.created", order(7)).await;
    for (misdeed, _) in misdeeds {
        assert_eq!(daemon.accounted(misdeed, 1).await.failed, 1, "{misdeed}");
        daemon.wait_metric("sluiced_plugin_faults_total", &[("subscription", misdeed), ("kind", "output")], 1.0).await;
        let path = format!("/api/v1/subscriptions/{misdeed}/dead-letters");
        let letter = daemon.request("GET", &path, None).await.json()["dead_letters"][0].clone();
        assert_eq!((letter["class"].as_str(), letter["attempts"].as_u64()), (Some("plugin"), Some(0)), "{letter}");
        assert_eq!(letter["body"].as_str().map(str::as_bytes), Some(&order(7)[..]), "{misdeed}");
    }
    nats.wait_drained("EVENTS", "sluiced", SOON).await;
    assert_eq!(receiver.counts().requests, 0);
}

#[tokio::test]
async fn each_use_of_a_plugin_has_limits_of_its_own_which_a_reload_and_the_api_change() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    // Each answers with 100,000 bytes: more than 64 KiB, less than 128.
    let big = json!({ "do": "big-output", "amount": 100_000 });
    let uses = |kib: u32| json!([{ "plugin": "hostile", "config": big, "output_kib_max": kib }]);
    let of_file = |own: &str| {
        let transform =
            format!("[{{ plugin = \"hostile\", config = {{ do = \"big-output\", amount = 100_000 }}{own} }}]");
        let narrow = Webhook::new("narrow", &receiver).subscribed_with("transforms", transform);
        let plain = Webhook::new("plain", &receiver).transform("hostile", "{ do = \"big-output\", amount = 100_000 }");
        config("[plugins]\ncall_deadline_ms = 5000\n", &[narrow, plain])
    };
    let before = of_file(", output_kib_max = 64");
    let daemon = TestDaemon::builder(&nats, &before).hostile_plugins(&before).start().await;
    let wanted = json!({ "name": "api", "url": receiver.url("/api"), "types": [">"], "transforms": uses(64) });
    let made = daemon.request("POST", "/api/v1/webhooks", Some(&wanted)).await;
    assert_eq!(made.status, 201, "{made:?}");
    let id = made.json()["id"].as_str().expect("an id").to_owned();
    let path = format!("/api/v1/webhooks/{id}");
    assert_eq!(daemon.request("GET", &path, None).await.json()["transforms"], uses(64));

    nats.publish("events.orders.created", order(1)).await;
    for refused in ["narrow", &id] {
        assert_eq!(daemon.accounted(refused, 1).await.failed, 1, "{refused}");
        daemon.wait_metric("sluiced_plugin_faults_total", &[("subscription", refused), ("kind", "output")], 1.0).await;
    }
    assert_eq!(daemon.accounted("plain", 1).await.delivered, 1);

    let too_much = daemon.request("PATCH", &path, Some(&json!({ "transforms": uses(65_537) }))).await;
    let reason = too_much.json()["detail"].as_str().expect("a text").to_owned();
    assert_eq!(too_much.status, 400);
    assert!(reason.contains("transforms[0].output_kib_max: must be from 1 to 65536, not 65537"), "{reason}");
    assert_eq!(daemon.request("PATCH", &path, Some(&json!({ "transforms": uses(128) }))).await.status, 200);
    daemon.write_config(&of_file(", output_kib_max = 128"));
    wait_until("the file is read", SOON, async || daemon.log().contains("configuration reloaded")).await;
    nats.publish("events.orders.created", order(2)).await;
    for allowed in ["narrow", &id] {
        assert_eq!(daemon.accounted(allowed, 2).await.delivered, 1, "{allowed}");
    }
    nats.wait_drained("EVENTS", "sluiced", SOON).await;
}

#[tokio::test]
async fn while_a_plugin_is_busy_with_its_loop_its_neighbour_receives_everything() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let neighbour = Webhook::to("neighbour", &receiver.url("/neighbour")).filter("jq", r#"{ expr = "true" }"#);
    let config = config("", &[neighbour, misbehaving("looping", &receiver, "loop")])
        + "[plugins]\ncall_deadline_ms = 2000\n[server]\ndrain_timeout = \"10s\"\n";
    let mut daemon = TestDaemon::builder(&nats, &config).hostile_plugins(&config).start().await;
    nats.publish_orders("events.orders.created", 0..1_000).await;

    receiver.wait_for_numbers(0..1_000, SOON).await;
    let faults = daemon.metrics().await.sum("sluiced_plugin_faults_total", &[("subscription", "looping")]);
    assert!(faults < 1_000.0, "a thousand loops of two seconds each are not over");
    assert_eq!(daemon.accounted("neighbour", 1_000).await.delivered, 1_000);
    assert_eq!(daemon.terminate().await.code(), Some(0), "a stop does not wait for all the loops");
}
