//! Layers, places, bounds and what a dump shows.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use super::problem::Source;
use super::valid::bounds;
use super::*;
use crate::api::forwarded::ForwardedHeader;
use crate::domain::{
    AnswerRules, BodyFormat, BodyKey, BodySignature, BreakerPolicy, Endpoint, HealthPolicy, PluginLimits, RequestShape,
    Target,
};

const STREAM: &str = "[[stream]]\nname = \"EVENTS\"\nsubjects = [\"events.>\"]\ntype_prefix = \"events.\"\n";
const KEY: &str = "whsec_c2x1aWNlZCBleGFtcGxlIHNlY3JldCBvbmx5ISEh";

fn load_with(text: &str, env: &[(&str, &str)], overrides: Overrides) -> Result<Config, Error> {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("sluiced.toml");
    std::fs::write(&file, text).expect("written");
    load(Some(&file), env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())), overrides)
}

fn load_text(text: &str) -> Config {
    load_with(text, &[], Overrides::default()).expect("valid")
}

fn webhook(extra: &str) -> String {
    format!(
        "{STREAM}[[subscription]]\nname = \"a\"\ntypes = [\">\"]\n[subscription.webhook]\nurl = \"https://a.example/\"\n\
         secret = \"{KEY}\"\n{extra}\n"
    )
}

fn endpoint(config: &Config) -> &Endpoint {
    match &config.subscriptions[0].target {
        Target::Webhook(endpoint) => endpoint,
        Target::Sse => panic!("a webhook"),
    }
}

#[test]
fn the_defaults_are_those_of_the_domain() {
    let config = load_text(STREAM);
    assert_eq!(config.data_dir, Path::new("/var/lib/sluiced"));
    assert_eq!(config.server.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(config.delivery.retry, RetryPolicy::default());
    assert_eq!(config.delivery.hold_after, Duration::from_millis(250));
    assert_eq!(config.plugins.call_deadline, Duration::from_millis(50));
    assert_eq!(config.nats.login, NatsLogin::Anonymous);
    assert!(config.plugins.dir.ends_with("plugins") && config.plugins.dir.is_absolute(), "beside the file");
    assert!(config.subscriptions.is_empty() && config.auth.admin_key.is_none());
}

#[test]
fn each_layer_is_over_the_one_before() {
    let listen = |env: &[(&str, &str)], flag: Option<&str>| {
        let overrides = Overrides { listen: flag.map(str::to_owned), ..Overrides::default() };
        let text = format!("server.listen = \"127.0.0.1:1\"\n{STREAM}");
        load_with(&text, env, overrides).expect("valid").server.listen.port()
    };
    let env = [("SLUICED_SERVER__LISTEN", "127.0.0.1:2")];
    assert_eq!(listen(&[], None), 1);
    assert_eq!(listen(&env, None), 2);
    assert_eq!(listen(&env, Some("127.0.0.1:3")), 3);
}

#[test]
fn variables_take_the_type_of_their_key_and_others_are_left_alone() {
    let env = [
        ("SLUICED_AUTH__ADMIN_KEY", "00123"),
        ("SLUICED_LIMITS__SSE_CLIENTS", "7"),
        ("SLUICED_NATS__MANAGED", "true"),
        ("SLUICED_DELIVERY__ALLOW_CIDRS", "[\"10.1.2.3/8\", \"::1/128\"]"),
        ("SLUICED_DELIVERY__RETRY__BASE", "1s"),
        ("SLUICED_DATA_DIR", "relative"),
        ("SLUICED_PORT", "tcp://10.0.0.1:80"),
        ("PATH", "/bin"),
    ];
    let config = load_with(STREAM, &env, Overrides::default()).expect("valid");
    assert_eq!(config.auth.admin_key.expect("a key").expose(), "00123");
    assert_eq!(config.limits.sse_clients, 7);
    assert!(config.nats.managed);
    assert_eq!(
        config.delivery.allow_cidrs.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["10.0.0.0/8", "::1/128"]
    );
    assert_eq!(config.delivery.retry.delay(1, 0.5), Some(Duration::from_secs(1)));
    assert_eq!(config.data_dir, Path::new("relative"));
}

#[test]
fn a_webhook_inherits_what_it_does_not_say() {
    let plain = load_text(&webhook(""));
    assert_eq!(endpoint(&plain).retry, plain.delivery.retry);
    assert_eq!(endpoint(&plain).total_timeout, Duration::from_secs(15));

    let part = load_text(&webhook("timeout = \"2s\"\nretry = { max_attempts = 3 }"));
    assert_eq!(endpoint(&part).retry.attempts_max(), 3);
    assert_eq!(endpoint(&part).retry.delay(1, 0.5), Some(Duration::from_secs(5)));
    assert_eq!(endpoint(&part).connect_timeout, Duration::from_secs(2));

    let schedule = load_text(&webhook("retry = { schedule = [\"1s\", \"2s\"], jitter = 0 }"));
    assert_eq!(
        endpoint(&schedule).retry,
        RetryPolicy::schedule(vec![Duration::from_secs(1), Duration::from_secs(2)], 0.0).expect("valid")
    );

    let health = load_text(&webhook("breaker = { attempts_min = 3 }\ndisable_after = \"never\""));
    assert_eq!(endpoint(&health).health.breaker, BreakerPolicy { attempts_min: 3, ..BreakerPolicy::default() });
    assert_eq!((endpoint(&health).health.disable_after, endpoint(&plain).health), (None, HealthPolicy::default()));

    let general = load_text(&format!("delivery.retry = {{ schedule = [\"9s\"] }}\n{}", webhook("")));
    assert_eq!(endpoint(&general).retry.attempts_max(), 2);
}

#[test]
fn a_webhook_says_how_it_is_sent_and_what_answers_mean() {
    let plain = load_text(&webhook(""));
    assert_eq!(endpoint(&plain).request, RequestShape::default());
    assert_eq!(endpoint(&plain).answer, AnswerRules::default());

    let (key, text) = crate::deliver::ed25519::generate();
    let own = load_text(&webhook(&format!(
        "format = \"cloudevents-binary\"\ncloudevents_source = \"/shop\"\ned25519_key = \"{text}\"\ncapture_bytes_max = 0\n\
         body_signature = {{ header = \"X-Sum\", keyed_by = \"text\" }}\nfail_statuses = [\"501\"]"
    )));
    let shape = RequestShape {
        format: BodyFormat::CloudEventsBinary,
        cloudevents_source: Some("/shop".into()),
        body_signature: Some(BodySignature { header: "x-sum".into(), key: BodyKey::Text }),
        ed25519_key: Some(key),
    };
    assert_eq!(endpoint(&own).request, shape);
    assert_eq!(
        (endpoint(&own).answer.capture_bytes_max, endpoint(&own).answer.statuses.retries(501)),
        (0, Some(false))
    );
    assert!(!own.dump().contains("whsk_") && !format!("{own:?}").contains(&text[5..20]), "the key is not shown");

    let general = "delivery.body_signature = { header = \"X-Sum\" }\n";
    let inherits = |extra: &str| format!("{general}{}", webhook(extra));
    let signed = |text: &str| endpoint(&load_text(text)).request.body_signature.clone().expect("it signs so").header;
    assert_eq!(&*signed(&inherits("")), "x-sum");
    assert_eq!(&*signed(&inherits("body_signature = { header = \"X-Own\" }")), "x-own");
    let clash = load_with(&inherits("headers = { X-SUM = \"1\" }"), &[], Overrides::default());
    let clash = clash.expect_err("both in one header").to_string();
    assert!(clash.contains("headers.X-SUM: carries the signature of delivery.body_signature"), "{clash}");

    let general = "delivery.retry_statuses = [\"404\"]\ndelivery.fail_statuses = [\"503\"]\n";
    let inherits = load_text(&format!("{general}{}", webhook("fail_statuses = [\"500\"]")));
    let rules = &endpoint(&inherits).answer.statuses;
    assert_eq!([404, 500, 503].map(|status| rules.retries(status)), [Some(true), Some(false), None]);
}

#[test]
fn what_cannot_be_sent_or_meant_is_refused_at_its_place() {
    for (extra, expected) in [
        ("format = \"cloudevent-binary\"", "webhook.format: must be one of \"raw\", \"envelope\""),
        ("cloudevents_source = \"/shop\"", "cloudevents_source: has a meaning only for the formats"),
        ("format = \"cloudevents-binary\"\ncloudevents_source = \"a b\"", "cloudevents_source: must be a URI"),
        (
            "format = \"cloudevents-structured\"\nheaders = { CE-Id = \"1\" }",
            "headers.CE-Id: belongs to the CloudEvents",
        ),
        ("body_signature = { header = \"Webhook-Sum\" }", "body_signature.header: is set by sluiced itself"),
        ("body_signature = { header = \"ce-sum\" }", "body_signature.header: belongs to CloudEvents"),
        ("body_signature = { header = \"a b\" }", "body_signature.header: is not a header name"),
        ("body_signature = { header = \"X-A\", keyed_by = \"hex\" }", "keyed_by: must be one of \"bytes\", \"text\""),
        ("body_signature = { header = \"X-A\" }\nheaders = { x-a = \"1\" }", "is set in `headers` already"),
        ("ed25519_key = \"whsec_hush\"", "ed25519_key: a private key begins with `whsk_`"),
        ("ed25519_key = \"whsk_AAAA\"", "sluiced secret --ed25519"),
        ("retry_statuses = [\"200\"]", "retry_statuses[0]: \"200\" holds statuses outside of 300 to 599"),
        ("fail_statuses = [\"404\", \"410\"]", "fail_statuses[1]: 410 Gone always ends the delivery"),
        ("fail_statuses = [\"teapot\"]", "fail_statuses[0]: \"teapot\" is not a status"),
        ("retry_statuses = [\"400-409\"]\nfail_statuses = [\"405-499\"]", "400-409 overlaps 405-499 of the other list"),
        ("capture_bytes_max = 65537", "capture_bytes_max: must be from 0 to 65536"),
        ("headers = { Host = \"a\" }", "headers.Host: is set by sluiced itself"),
        ("headers = { Content-Length = \"1\" }", "headers.Content-Length: is set by sluiced itself"),
        ("headers = { Content-Type = \"a/b\" }", "headers.Content-Type: is set by sluiced itself"),
        ("headers = { Transfer-Encoding = \"chunked\" }", "headers.Transfer-Encoding: is set by sluiced itself"),
        ("headers = { webhook-id = \"1\" }", "headers.webhook-id: is set by sluiced itself"),
        ("headers = { Sluiced-Attempt = \"1\" }", "headers.Sluiced-Attempt: is set by sluiced itself"),
        ("headers = { Proxy-Authorization = \"1\" }", "headers.Proxy-Authorization: is set by sluiced itself"),
        ("headers = { X-A = \"a\\nb\" }", "headers.X-A: its value must be at most 4096 visible ASCII characters"),
    ] {
        let error = load_with(&webhook(extra), &[], Overrides::default()).expect_err(extra).to_string();
        assert!(error.contains(expected), "{extra}: {error}");
        assert!(!error.contains("hush"), "{error}");
    }
    let general = format!("delivery.retry_statuses = [\"409\"]\n{}", webhook("fail_statuses = [\"409\"]"));
    let error = load_with(&general, &[], Overrides::default()).expect_err("a clash").to_string();
    assert!(error.contains("webhook.fail_statuses: 409 overlaps 409 of the other list"), "{error}");
}

#[test]
fn secrets_are_in_neither_dump_nor_debug() {
    let env = [("SLUICED_AUTH__ADMIN_KEY", "hush-admin"), ("SLUICED_NATS__TOKEN", "hush-token")];
    let text = webhook("headers = { Authorization = \"hush-header\" }");
    let text = format!(
        "{text}[[subscription.transforms]]\nplugin = \"redact\"\nconfig = {{ hash_key = \"hush-plugin\", n = 1.5 }}\n"
    );
    let config = load_with(&text, &env, Overrides::default()).expect("valid");
    let (dump, debug) = (config.dump(), format!("{config:?}"));
    for secret in ["hush-", "c2x1aWNl"] {
        assert!(!dump.contains(secret), "{dump}");
    }
    for secret in ["hush-admin", "hush-token", "c2x1aWNl"] {
        assert!(!debug.contains(secret), "{debug}");
    }
    let dumped: toml_edit::DocumentMut = dump.parse().expect("TOML");
    assert_eq!(dumped["auth"]["admin_key"].as_str(), Some("***"));
    assert_eq!(dumped["delivery"]["retry"]["factor"].as_integer(), Some(6));
    assert_eq!(dumped["subscription"][0]["webhook"]["headers"]["Authorization"].as_str(), Some("***"));
    assert_eq!(dumped["subscription"][0]["transforms"][0]["config"]["n"].as_float(), Some(1.5));
}

#[test]
fn a_plugin_may_have_limits_of_its_own_where_it_is_used() {
    let used = "filters = [{ plugin = \"a\", call_deadline_ms = 7, warm_instances_max = 3 }, { plugin = \"a\" }]\n\
                transforms = [{ plugin = \"a\", memory_mib_max = 2, output_kib_max = 3, calls_per_instance_max = 4 }]";
    let text = format!("{STREAM}[[subscription]]\nname = \"a\"\ntypes = [\">\"]\nsse = {{}}\n{used}\n");
    let config = load_text(&text);
    let Subscription { filters, transforms, .. } = &config.subscriptions[0];
    let first = PluginLimits { call_deadline_ms: Some(7), warm_instances_max: Some(3), ..PluginLimits::default() };
    let last = PluginLimits {
        memory_bytes_max: Some(2 << 20),
        output_bytes_max: Some(3 << 10),
        calls_per_instance_max: Some(4),
        ..PluginLimits::default()
    };
    assert_eq!((filters[0].limits, filters[1].limits), (first, PluginLimits::default()));
    assert_eq!(transforms[0].limits, last);

    let again = load_text(&config.dump());
    assert_eq!(again.subscriptions, config.subscriptions, "a dump shows them");
    let dumped: toml_edit::DocumentMut = config.dump().parse().expect("TOML");
    assert_eq!(dumped["plugins"]["warm_instances_max"].as_integer(), Some(2), "and the defaults");
}

#[test]
fn a_dump_without_secrets_loads_again() {
    let text = format!(
        "{STREAM}[[subscription]]\nname = \"a\"\ntypes = [\"a.*\"]\nsse = {{}}\nfilters = [{{ plugin = \"jq\" }}]\n"
    );
    let config = load_text(&text);
    let again = load_text(&config.dump());
    assert_eq!(again.subscriptions, config.subscriptions);
    assert_eq!(restart_needed(&config, &again), ["plugins"], "only the folder of the file differs");
}

#[test]
fn only_what_is_read_at_start_needs_a_restart() {
    let old = load_text(&webhook(""));
    let mut new = load_text(&webhook("timeout = \"2s\""));
    new.plugins = old.plugins.clone();
    assert!(restart_needed(&old, &new).is_empty());
    new.delivery.total_timeout = Duration::from_secs(1);
    assert!(restart_needed(&old, &new).is_empty());
    new.delivery.readers_max = 1;
    new.nats.managed = true;
    assert_eq!(restart_needed(&old, &new), ["nats", "delivery"]);
}

#[test]
fn an_element_of_a_list_is_located() {
    let text = format!(
        "{STREAM}[[subscription]]\nname = \"a\"\ntypes = [\">\"]\nsse = {{}}\nfilters = [\n  {{ plugin = \"x\" }},\n  {{ plugin = \"y\" }},\n]\n"
    );
    let place = load_text(&text).locate(0, "filters", 1);
    assert_eq!(place.key, "subscription[0].filters[1]");
    assert!(matches!(place.source, Source::File { line: Some(11), .. }), "{place:?}");
}

#[test]
fn a_problem_names_the_layer_of_the_value() {
    let env = [("SLUICED_LOG__FORMAT", "xml")];
    let overrides = Overrides { log_level: Some("loud".into()), ..Overrides::default() };
    let error = load_with(STREAM, &env, overrides).expect_err("two problems").to_string();
    assert_eq!(
        error,
        "env SLUICED_LOG__FORMAT: log.format: must be one of \"text\", \"json\", not \"xml\"\n\
         flag --log-level: log.level: must be one of \"error\", \"warn\", \"info\", \"debug\", \"trace\", not \"loud\""
    );
    let without = load(None, std::iter::empty(), Overrides::default()).expect_err("no stream").to_string();
    assert!(without.starts_with("defaults: stream: there is no stream"), "{without}");
}

#[test]
fn odd_variable_names_are_refused_and_not_a_panic() {
    for name in [
        "SLUICED___X",
        "SLUICED_AUTH__",
        "SLUICED_A____B",
        "SLUICED_A.B__C",
        "SLUICED_DATA_DIR__X",
        "SLUICED_SERVER__LISTEN__X",
    ] {
        let error = load_with(STREAM, &[(name, "1")], Overrides::default()).expect_err(name).to_string();
        assert!(!error.is_empty(), "{name}");
    }
    let error = load_with(STREAM, &[("SLUICED_DATA_DIR__X", "1")], Overrides::default()).expect_err("a table");
    assert_eq!(error.to_string(), "env SLUICED_DATA_DIR__X: data_dir: must be a text in quotes, not a table");
}

#[test]
fn proxies_are_networks_and_say_the_client_in_one_header() {
    assert_eq!(load_text(STREAM).server.proxies, Proxies::default());
    let set = "[server]\ntrusted_proxies = [\"10.1.2.3/8\"]\nforwarded_header = \"forwarded\"\n";
    let trusted = vec!["10.0.0.0/8".parse().expect("a network")];
    let proxies = Proxies { trusted, header: ForwardedHeader::Forwarded };
    assert_eq!(load_text(&format!("{STREAM}{set}")).server.proxies, proxies);
    let wrong = "[server]\ntrusted_proxies = [\"10.0.0.0/8\", \"proxy\"]\nforwarded_header = \"X-Real-IP\"\n";
    let error = load_with(&format!("{STREAM}{wrong}"), &[], Overrides::default()).expect_err("both").to_string();
    for part in ["server.trusted_proxies[1]: \"proxy\" is not a network", "forwarded_header: must be one of"] {
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_shared_secret_is_as_long_as_its_algorithm_asks() {
    let with = |secret: &str| {
        load_with(&format!("{STREAM}[auth]\njwt = {{ hs256_secret = {secret:?} }}\n"), &[], Overrides::default())
    };
    assert!(with(&"x".repeat(32)).is_ok());
    for bytes in [0, 1, 31, 1025] {
        let secret = "x".repeat(bytes);
        let error = with(&secret).expect_err("too short, or too long").to_string();
        assert!(error.contains(&format!("hs256_secret: has {bytes} bytes, and HS256 asks for 32 to 1024")), "{error}");
        assert!(bytes < 2 || !error.contains(&secret), "it is not shown");
    }
}

#[test]
fn every_example_loads() {
    let folder = Path::new("../config/examples");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        load(Some(&path), std::iter::empty(), Overrides::default()).expect("valid");
        seen += 1;
    }
    assert!(seen >= 6);
}

#[test]
fn the_default_file_states_the_bounds() {
    let (comment, _) = layers::DEFAULTS.split_once("\nbreaker = ").expect("the key");
    let comment: String = comment.lines().rev().take(8).collect();
    let breaker = [
        format!("from {} to {}", bounds::BREAKER_ATTEMPTS.start(), bounds::BREAKER_ATTEMPTS.end()),
        spelt("from", &bounds::BREAKER_WINDOW),
        spelt("from", &bounds::BREAKER_PROBE),
    ];
    let missing: Vec<_> = breaker.iter().filter(|bounds| !comment.contains(*bounds)).collect();
    assert!(missing.is_empty(), "breaker: {missing:?}");
    for (key, bounds) in bounds::stated() {
        let (section, key) = key.split_once('.').expect("a section");
        let (_, section) = layers::DEFAULTS.split_once(&format!("\n[{section}]\n")).expect("the section");
        let (comment, _) = section.split_once(&format!("\n{key} = ")).expect("the key");
        let comment: Vec<_> = comment.lines().rev().take_while(|line| line.starts_with('#')).collect();
        let stated = format!("From {bounds}");
        assert!(comment.iter().any(|line| line.contains(&stated)), "{key}: {stated:?} is not in {comment:?}");
    }
}

fn spelt(from: &str, range: &std::ops::RangeInclusive<Duration>) -> String {
    format!("{from} {} to {}", report::short(*range.start()), report::short(*range.end()))
}

#[test]
fn the_reference_has_every_key_of_the_code() {
    let tables = reference::tables();
    let sections = reference::sections(&tables);
    assert_eq!(tables.len(), sections.len(), "config/default.toml lacks a table, or has them in another order");
    for (table, section) in tables.iter().zip(&sections) {
        let written = section.entries.iter().flat_map(|entry| &entry.keys).map(|key| key.name.as_str());
        let written: Vec<_> = written.collect();
        // The table of a webhook has a place of its own.
        let keys: BTreeSet<_> = table.keys.iter().copied().filter(|key| *key != "webhook").collect();
        assert_eq!(written.iter().copied().collect::<BTreeSet<_>>(), keys, "config/default.toml: [{}]", table.name);
        assert_eq!(written.len(), keys.len(), "[{}] has a key twice: {written:?}", table.name);
    }
}

#[test]
fn the_reference_says_what_a_reload_puts_into_effect() {
    let others = [
        "allow_cidrs = [\"10.0.0.0/8\"]",
        "deny_ports = [1]",
        "dns_servers = [\"10.0.0.53:53\"]",
        "proxy = \"http://127.0.0.1:3128\"",
        "proxy = \"http://127.0.0.1:3128\"\nproxy_user = \"a\"\nproxy_password = \"b\"",
        "connections_max = 7",
        "retry = { schedule = [\"7s\"] }",
        "connect_timeout = \"1s\"",
        "timeout = \"7s\"",
        "max_in_flight = 7",
        "retry_statuses = [\"409\"]",
        "fail_statuses = [\"501\"]",
        "retry_after_max = \"7s\"",
        "capture_bytes_max = 7",
        "rate_limit = { rate = 7, per = \"1s\" }",
        "hold_after = \"7ms\"",
        "max_readers = 7",
        "max_overflow = 7",
        "breaker = { failure_ratio = 0.7, attempts_min = 7, window = \"7s\", probe = \"7s\", probe_max = \"7m\" }",
        "disable_after = \"7d\"",
        "secret_overlap = \"7h\"",
        "body_signature = { header = \"X-Signature\" }",
    ];
    let base = load_text(STREAM);
    for other in others {
        let mut new = load_text(&format!("{STREAM}[delivery]\n{other}\n"));
        new.plugins = base.plugins.clone();
        let key = other.split(' ').next().expect("a key");
        let at_start = reference::DELIVERY_AT_START.contains(&key);
        assert_eq!(restart_needed(&base, &new) == ["delivery"], at_start, "{key}");
    }
    let tried = others.iter().flat_map(|other| other.lines()).filter_map(|line| line.split(' ').next());
    let tables = reference::tables();
    let delivery = tables.iter().find(|table| table.name == "delivery").expect("the table");
    let all: BTreeSet<_> = delivery.keys.iter().copied().collect();
    assert_eq!(tried.collect::<BTreeSet<_>>(), all, "each key of [delivery] is tried here");
}
