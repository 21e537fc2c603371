//! A table of broken configurations, each with the exact lines that `sluiced check` must say of it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A stream and a webhook: lines 1 to 8 of most cases, so that what is broken begins in line 9.
const WEBHOOK: &str = r#"stream = [{ name = "EVENTS", subjects = ["events.>"], type_prefix = "events." }]
[[subscription]]
name = "a"
types = ["orders.*"]
on_plugin_error = "drop"
[subscription.webhook]
url = "https://a.example/hook"
secret = "whsec_c2x1aWNlZCBleGFtcGxlIHNlY3JldCBvbmx5ISEh"
"#;

/// A stream: line 1 of other cases, so that what is broken begins in line 2.
const STREAM: &str = r#"stream = [{ name = "EVENTS", subjects = ["events.>"], type_prefix = "events." }]
"#;

/// A stream and the beginning of a subscription to SSE: lines 1 to 4.
const SSE: &str = r#"stream = [{ name = "EVENTS", subjects = ["events.>"], type_prefix = "events." }]
[[subscription]]
name = "a"
sse = {}
"#;

/// What stands before the broken text, the broken text, and what is said of it (each line less `sluiced.toml:`).
struct Case(&'static str, &'static str, &'static [&'static str]);

#[rustfmt::skip]
const CASES: &[Case] = &[
    // TOML itself
    Case("", "[server\nlisten = 1", &["1: not valid TOML: invalid table header, expected `.`, `]`"]),
    Case(STREAM, "data_dir = \"a\"\ndata_dir = \"b\"", &["3: not valid TOML: duplicate key `data_dir` in document root"]),
    // Keys
    Case(STREAM, "[servr]\nlisten = \"127.0.0.1:1\"", &["2: servr: unknown key, did you mean `server`? (known here: auth, data_dir, dead_letters, delivery, event_type, limits, log, nats, operational_events, plugins, secrets, server, store, stream, subscription, traces)"]),
    Case(STREAM, "[server]\nlitsen = \"127.0.0.1:1\"\nbanana = 1", &[
        "3: server.litsen: unknown key, did you mean `listen`? (known here: cors_origins, drain_timeout, forwarded_header, listen, sse_expiry_notice, sse_heartbeat, sse_ticket_lifetime, tls, trusted_proxies)",
        "4: server.banana: unknown key (known here: cors_origins, drain_timeout, forwarded_header, listen, sse_expiry_notice, sse_heartbeat, sse_ticket_lifetime, tls, trusted_proxies)",
    ]),
    Case(STREAM, "[auth]\njwt = { hs256_secret = \"x\", keys = 1 }", &["3: auth.jwt.keys: unknown key (known here: audience, hs256_secret, issuer, jwks_file, jwks_url, leeway, public_key_file)"]),
    Case(STREAM, "[delivery.retry]\nmax_atempts = 3", &["3: delivery.retry.max_atempts: unknown key, did you mean `max_attempts`? (known here: base, factor, jitter, max, max_attempts, schedule)"]),
    Case(WEBHOOK, "timout = \"1s\"", &["9: subscription[0].webhook.timout: unknown key, did you mean `timeout`? (known here: body_signature, breaker, capture_bytes_max, cloudevents_source, connect_timeout, disable_after, ed25519_key, fail_statuses, format, head_of_line, headers, max_in_flight, order_key, ordering, rate_limit, retry, retry_statuses, secret, secret_overlap, timeout, tls, url)"]),
    Case(SSE, "types = [\">\"]\nfilters = [{ plugin = \"jq\", cfg = {} }]", &["6: subscription[0].filters[0].cfg: unknown key (known here: call_deadline_ms, calls_per_instance_max, config, memory_mib_max, output_kib_max, plugin, warm_instances_max)"]),
    Case(STREAM, "[[subscription]]\nname = \"a\"\ntypes = [\">\"]\nsse = { heartbeat = 1 }", &["5: subscription[0].sse.heartbeat: unknown key (no keys are known here)"]),
    Case(SSE, "", &["2: subscription[0].types: is missing, and has no default"]),
    Case("", "[[stream]]\nname = \"EVENTS\"", &["1: stream[0].subjects: is missing, and has no default"]),
    // Types
    Case(STREAM, "[server]\ntls = { cert_file = \"a.pem\", min_version = \"1.1\" }", &[
        "3: server.tls.key_file: is missing, and has no default",
    ]),
    Case(STREAM, "[server]\ntls = { cert_file = \"a.pem\", key_file = \"b.pem\" }", &[
        "3: server.tls.cert_file: a.pem cannot be read: No such file or directory (os error 2)",
    ]),
    Case(STREAM, "[server]\nlisten = 8080", &["3: server.listen: must be a text in quotes, not a whole number"]),
    Case(STREAM, "server = 5", &["2: server: must be a table, not a whole number"]),
    Case(STREAM, "[limits]\nsse_clients = \"many\"\nbody_bytes_max = 1.5", &[
        "3: limits.sse_clients: must be a whole number, not a text",
        "4: limits.body_bytes_max: must be a whole number, not a number with a fraction",
    ]),
    Case(STREAM, "[traces]\notlp_url = \"127.0.0.1:4318\"\nsample_ratio = 2", &[
        "3: traces.otlp_url: must be an http or https URL without user and password",
        "4: traces.sample_ratio: must be from 0 to 1, not 2",
    ]),
    Case(STREAM, "[nats]\nmanaged = \"yes\"", &["3: nats.managed: must be true or false, not a text"]),
    Case(STREAM, "[delivery]\nretry = { factor = \"6\" }", &["3: delivery.retry.factor: must be a number, not a text"]),
    Case(SSE, "types = \"orders.*\"", &["5: subscription[0].types: must be a list, not a text"]),
    Case(SSE, "types = [\n  \">\",\n  7,\n]", &["7: subscription[0].types[1]: must be a text in quotes, not a whole number"]),
    Case(SSE, "types = [\">\"]\nfilters = [[\"jq\"]]", &["6: subscription[0].filters[0]: must be a table, not a list"]),
    Case(STREAM, "subscription = 1", &["2: subscription: must be a list of tables, each headed [[subscription]], not a whole number"]),
    // Server, auth, limits
    Case(STREAM, "[server]\nlisten = \"localhost\"", &["3: server.listen: \"localhost\" is not an address and port, such as \"127.0.0.1:8080\""]),
    Case(STREAM, "[server]\nlisten = \"0.0.0.0:8080\"", &["3: server.listen: 0.0.0.0 is not loopback, and there is no auth.admin_key: set SLUICED_AUTH__ADMIN_KEY, or listen on 127.0.0.1"]),
    Case(STREAM, "[server]\ndrain_timeout = \"20\"\nsse_heartbeat = \"1h\"", &[
        "3: server.drain_timeout: \"20\" is not a duration: write one such as \"250ms\", \"5s\" or \"12h\"",
        "4: server.sse_heartbeat: must be from 1s to 5m, not \"1h\"",
    ]),
    Case(STREAM, "[server]\ncors_origins = [\"https://a.example/\"]", &["3: server.cors_origins[0]: \"https://a.example/\" is not a web origin: write one such as \"https://app.example\", or \"*\" for any"]),
    Case(STREAM, "[auth]\nadmin_key = \"two words\"", &["3: auth.admin_key: must be 1 to 256 visible ASCII characters without spaces"]),
    Case(STREAM, "[limits]\nsse_clients = 0\nbody_bytes_max = 99999999999", &[
        "3: limits.sse_clients: must be from 1 to 1000000, not 0",
        "4: limits.body_bytes_max: must be from 1024 to 67108864, not 99999999999",
    ]),
    // NATS and streams
    Case(STREAM, "[nats]\nurl = \"http://127.0.0.1:4222\"", &["3: nats.url: must begin with nats:// or tls://"]),
    Case(STREAM, "[nats]\nurl = \"nats://a:4222, nats://me:pw@b:4222\"", &["3: nats.url: must not hold a user or password, since URLs are logged: use nats.user and nats.password"]),
    Case(STREAM, "[nats]\nurl = \"nats://127.0.0.1:4222\"\nmanaged = true", &["4: nats.managed: a managed server has its own address: remove `url`, or set `managed = false`"]),
    Case(STREAM, "[nats]\nuser = \"me\"", &["3: nats.user: needs `password` beside it"]),
    Case(STREAM, "[nats]\ntoken = \"t\"\ncredentials_file = \"c\"", &["2: nats: log in one way only: `user` and `password`, or `token`, or `credentials_file`"]),
    Case(STREAM, "[nats]\nconsumer_name = \"a.b\"", &["3: nats.consumer_name: must be 1 to 64 letters, digits, `-` or `_`"]),
    Case("", "data_dir = \"d\"", &[" stream: there is no stream to read: add a [[stream]] with `name` and `subjects`"]),
    Case("", "[[stream]]\nname = \"my stream\"\nsubjects = [\"a.>\"]", &["2: stream[0].name: a stream name is 1 to 64 letters, digits, `-` or `_`"]),
    Case("", "[[stream]]\nname = \"A\"\nsubjects = []", &["3: stream[0].subjects: must name at least one subject, such as \"events.>\""]),
    Case("", "[[stream]]\nname = \"A\"\nsubjects = [\"a..b\", \"$JS.>\", \">\"]", &[
        "3: stream[0].subjects[0]: \"a..b\" is not a subject: it has an empty token (a dot at an end, or two in a row)",
        "3: stream[0].subjects[1]: \"$JS.>\" is among NATS's own subjects ($…): begin with another token",
        "3: stream[0].subjects[2]: \">\" would take in NATS's own subjects: begin with a literal token, such as \"events.>\"",
    ]),
    Case("", "[[stream]]\nname = \"A\"\nsubjects = [\"a.>\"]\ntype_prefix = \"a\"", &["4: stream[0].type_prefix: \"a\" must be literal tokens that end with a dot, such as \"events.\""]),
    Case("", "[[stream]]\nname = \"A\"\nsubjects = [\"a.>\", \"b.>\"]\ntype_prefix = \"a.\"", &["3: stream[0].subjects[1]: \"b.>\" does not begin with the type_prefix \"a.\""]),
    Case(STREAM, "[[stream]]\nname = \"B\"\nsubjects = [\"events.x\"]", &["2: not valid TOML: invalid table header, duplicate key `stream` in document root"]),
    Case("", "[[stream]]\nname = \"A\"\nsubjects = [\"a.>\"]\n[[stream]]\nname = \"A\"\nsubjects = [\"a.b\", \"c\", \"c\"]", &[
        "5: stream[1].name: \"A\" is the name of another stream already",
        "6: stream[1].subjects[0]: \"a.b\" overlaps \"a.>\" of stream A, so events would come twice",
        "6: stream[1].subjects[2]: \"c\" overlaps \"c\" of the same stream: keep the wider one",
    ]),
    // Plugins, delivery, store, log
    Case(STREAM, "[plugins]\ndir = \"\"\ncall_deadline_ms = 0", &[
        "3: plugins.dir: must not be empty: name a path",
        "4: plugins.call_deadline_ms: must be from 1 to 60000, not 0",
    ]),
    Case(STREAM, "[plugins]\nwarm_instances_max = 65\ncalls_per_instance_max = 0", &[
        "3: plugins.warm_instances_max: must be from 1 to 64, not 65",
        "4: plugins.calls_per_instance_max: must be from 1 to 1000000000, not 0",
    ]),
    Case(STREAM, "[delivery]\nallow_cidrs = [\"10.0.0.0/8\", \"10.0.0.0/40\"]", &["3: delivery.allow_cidrs[1]: \"10.0.0.0/40\" is not a network: write one such as \"10.0.0.0/8\" or \"::1/128\""]),
    Case(STREAM, "[delivery]\nconnect_timeout = \"30s\"", &["3: delivery.connect_timeout: must not be longer than the timeout of the whole attempt, 15s"]),
    Case(STREAM, "[delivery]\nretry = { max_attempts = 101, base = \"0s\" }", &[
        "3: delivery.retry.max_attempts: must be from 1 to 100, not 101",
        "3: delivery.retry.base: must be from 1ms to 30d, not \"0s\"",
    ]),
    Case(STREAM, "[delivery]\nretry = { factor = 0.5 }", &["3: delivery.retry.factor: factor must be 1 or more, and at most 100"]),
    Case(STREAM, "[delivery]\ndeny_ports = [25, 0]", &["3: delivery.deny_ports[1]: must be from 1 to 65535, not 0"]),
    Case(STREAM, "[delivery]\ndns_servers = [\"10.0.0.53\"]", &["3: delivery.dns_servers[0]: \"10.0.0.53\" is not an address and port, such as \"10.0.0.53:53\""]),
    Case(STREAM, "[delivery]\nproxy = \"http://user:hush@proxy:3128\"", &["3: delivery.proxy: must not hold a user or password: use delivery.proxy_user and delivery.proxy_password"]),
    Case(STREAM, "[delivery]\nproxy = \"socks5://proxy\"\nproxy_password = \"hush\"", &[
        "3: delivery.proxy: must begin with http://: the daemon speaks plain HTTP to a proxy, and TLS through it",
        "4: delivery.proxy_password: needs `proxy_user` beside it",
    ]),
    Case(STREAM, "[delivery]\nretry = { jitter = 2 }", &["3: delivery.retry.jitter: jitter must be from 0 to 1"]),
    Case(STREAM, "[store]\ncache_mib = 1\nlog_retention = \"5m\"", &[
        "3: store.cache_mib: must be from 8 to 65536, not 1",
        "4: store.log_retention: must be from 1h to 365d, not \"5m\"",
    ]),
    Case(STREAM, "[log]\nformat = \"xml\"\nlevel = \"wrn\"", &[
        "3: log.format: must be one of \"text\", \"json\", not \"xml\"",
        "4: log.level: must be one of \"error\", \"warn\", \"info\", \"debug\", \"trace\", not \"wrn\", did you mean \"warn\"?",
    ]),
    // Subscriptions
    Case(SSE, "types = [\">\"]\n[[subscription]]\nname = \"a\"\ntypes = [\">\"]\nsse = {}", &["7: subscription[1].name: \"a\" is the name of another subscription already"]),
    Case(STREAM, "[[subscription]]\nname = \"no spaces\"\ntypes = [\">\"]\nsse = {}", &["3: subscription[0].name: a name is 1 to 64 letters, digits, `-`, `_` or `.`, and starts with a letter or digit"]),
    Case(SSE, "types = []", &["5: subscription[0].types: must name at least one event type; [\">\"] is all of them"]),
    Case(SSE, "types = [\"a.>.b\"]", &["5: subscription[0].types[0]: \"a.>.b\" is not an event type: a wildcard must be a whole token, `>` only the last one"]),
    Case("", "[[stream]]\nname = \"S\"\nsubjects = [\"e.orders.>\", \"e.sync\"]\ntype_prefix = \"e.\"\n[[subscription]]\nname = \"a\"\nsse = {}\ntypes = [\"sync\", \"e.orders.>\"]", &["8: subscription[0].types[1]: no stream has events of type \"e.orders.>\": S has \"orders.>\", \"sync\""]),
    Case(SSE, "types = [\">\"]\non_plugin_error = \"deadletter\"", &["6: subscription[0].on_plugin_error: must be one of \"dead-letter\", \"drop\", \"pass\", not \"deadletter\", did you mean \"dead-letter\"?"]),
    Case(SSE, "types = [\">\"]\ntransforms = [{ plugin = \"../evil.wasm\" }]", &["6: subscription[0].transforms[0].plugin: \"../evil.wasm\" is not a plugin name: 1 to 64 of a-z, 0-9, `-` and `_`, without folder or .wasm"]),
    Case(SSE, "types = [\">\"]\nfilters = [\n  { plugin = \"jq\", call_deadline_ms = 60001, memory_mib_max = 1025 },\n  { plugin = \"jq\", warm_instances_max = 0, calls_per_instance_max = -1 },\n]\ntransforms = [{ plugin = \"jq\", output_kib_max = 65537 }]", &[
        "7: subscription[0].filters[0].call_deadline_ms: must be from 1 to 60000, not 60001",
        "7: subscription[0].filters[0].memory_mib_max: must be from 1 to 1024, not 1025",
        "8: subscription[0].filters[1].warm_instances_max: must be from 1 to 64, not 0",
        "8: subscription[0].filters[1].calls_per_instance_max: must be from 1 to 1000000000, not -1",
        "10: subscription[0].transforms[0].output_kib_max: must be from 1 to 65536, not 65537",
    ]),
    Case(SSE, "types = [\">\"]\nfilters = [{ plugin = \"jq\", config = { since = 2026-01-01 } }]", &["6: subscription[0].filters[0].config: holds a date, which JSON has no form for: write it as a text in quotes"]),
    Case(SSE, "types = [\">\"]\ndeliver_from = \"all\"", &["6: subscription[0].deliver_from: has no meaning beside `sse`: each client says where it begins, by Last-Event-ID"]),
    Case(STREAM, "[[subscription]]\nname = \"a\"\ntypes = [\">\"]\ndeliver_from = \"yesterday\"\nwebhook = { url = \"https://a.example/\", secret = \"whsec_c2x1aWNlZCBleGFtcGxlIHNlY3JldCBvbmx5ISEh\" }", &["5: subscription[0].deliver_from: must be \"now\", \"all\", a time such as \"2026-01-31T08:00:00Z\", or a stream sequence from 1 on"]),
    Case(STREAM, "[[subscription]]\nname = \"a\"\ntypes = [\">\"]\ndeliver_from = { EVENTS = 0, OTHER = 3 }\nwebhook = { url = \"https://a.example/\", secret = \"whsec_c2x1aWNlZCBleGFtcGxlIHNlY3JldCBvbmx5ISEh\" }", &[
        "5: subscription[0].deliver_from.EVENTS: must be \"now\", \"all\", a time such as \"2026-01-31T08:00:00Z\", or a stream sequence from 1 on",
        "5: subscription[0].deliver_from.OTHER: \"OTHER\" is not one of the streams: EVENTS",
    ]),
    Case(STREAM, "[[subscription]]\nname = \"a\"\ntypes = [\">\"]", &["2: subscription[0]: has no target: add `webhook = { url = \"…\", secret = \"…\" }` or `sse = {}`"]),
    Case(SSE, "types = [\">\"]\nwebhook = { url = \"https://a.example\" }", &["4: subscription[0].sse: a subscription has one target: remove `sse` or `webhook`"]),
    // Secrets
    Case(STREAM, "[secrets]\nmaster_key = \"hush\"", &["3: secrets.master_key: a master key is the base64 text of 32 bytes: make one with `sluiced secrets key`"]),
    Case(STREAM, "[secrets]\nmaster_key = \"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\"\nmaster_key_file = \"key\"", &["4: secrets.master_key_file: stands beside `master_key`: give one of them"]),
    Case(WEBHOOK, "secret_overlap = \"31d\"", &["9: subscription[0].webhook.secret_overlap: must be from 0s to 30d, not \"31d\""]),
    // Webhooks
    Case(STREAM, "[[subscription]]\nname = \"a\"\ntypes = [\">\"]\nwebhook = { url = \"a.example\" }", &[
        "5: subscription[0].webhook.url: must be an absolute URL: relative URL without a base",
    ]),
    Case(STREAM, "[[subscription]]\nname = \"a\"\ntypes = [\">\"]\nwebhook = { url = \"ftp://a.example\", secret = \"whsec_dG9vIHNob3J0\" }", &[
        "5: subscription[0].webhook.url: must begin with http:// or https://, not ftp:",
        "5: subscription[0].webhook.secret: must be `whsec_` and the base64 text of 24 to 64 bytes: make one with `sluiced secret`",
    ]),
    Case(STREAM, "[[subscription]]\nname = \"a\"\ntypes = [\">\"]\nwebhook = { url = \"https://me:pw@a.example\", secret = \"c2x1aWNlZCBleGFtcGxlIHNlY3JldCBvbmx5ISEh\" }", &[
        "5: subscription[0].webhook.url: must not hold a user or password: send them in `headers`, as Authorization",
        "5: subscription[0].webhook.secret: must be `whsec_` and the base64 text of 24 to 64 bytes: make one with `sluiced secret`",
    ]),
    Case(STREAM, "[[subscription]]\nname = \"a\"\ntypes = [\">\"]\nwebhook = { url = \"https://a.example/#top\", secret = 7 }", &["5: subscription[0].webhook.secret: must be a text in quotes, not a whole number"]),
    Case(STREAM, "[[subscription]]\nname = \"a\"\ntypes = [\">\"]\nwebhook = { url = \"https://a.example/#top\", secret = \"whsec_c2x1aWNlZCBleGFtcGxlIHNlY3JldCBvbmx5ISEh\" }", &["5: subscription[0].webhook.url: must not have a fragment (#…): it is never sent"]),
    Case(WEBHOOK, "[subscription.webhook.headers]\nHost = \"b\"\nWebhook-Id = \"1\"\n\"X Y\" = \"1\"\nX-A = \"1\"\nX-B = \"a\\nb\"\nx-a = \"2\"", &[
        "10: subscription[0].webhook.headers.Host: is set by sluiced itself, and cannot be replaced",
        "11: subscription[0].webhook.headers.Webhook-Id: is set by sluiced itself, and cannot be replaced",
        "12: subscription[0].webhook.headers.\"X Y\": is not a header name",
        "14: subscription[0].webhook.headers.X-B: its value must be at most 4096 visible ASCII characters",
        "15: subscription[0].webhook.headers.x-a: stands here twice, since case makes no difference: remove one",
    ]),
    Case(WEBHOOK, "max_in_flight = 0\ntimeout = \"1h\"", &[
        "9: subscription[0].webhook.max_in_flight: must be from 1 to 1024, not 0",
        "10: subscription[0].webhook.timeout: must be from 10ms to 5m, not \"1h\"",
    ]),
    Case(WEBHOOK, "timeout = \"1s\"\nconnect_timeout = \"2s\"", &["10: subscription[0].webhook.connect_timeout: must not be longer than the timeout of the whole attempt, 1s"]),
    Case(WEBHOOK, "retry = { schedule = [\"5s\", \"soon\"], base = \"1s\" }", &[
        "9: subscription[0].webhook.retry.base: has no meaning beside `schedule`: remove one of them",
        "9: subscription[0].webhook.retry.schedule[1]: \"soon\" is not a duration: write one such as \"250ms\", \"5s\" or \"12h\"",
    ]),
    Case(WEBHOOK, "tls = { client_cert_file = \"a.pem\", min_version = \"1.1\" }", &[
        "9: subscription[0].webhook.tls.min_version: must be one of \"1.2\", \"1.3\", not \"1.1\", did you mean \"1.2\"?",
        "9: subscription[0].webhook.tls.client_cert_file: needs `client_key_file` beside it",
    ]),
    Case(WEBHOOK, "tls = { ca_file = \"not-there.pem\" }", &[
        "9: subscription[0].webhook.tls.ca_file: not-there.pem cannot be read: No such file or directory (os error 2)",
    ]),
    Case(WEBHOOK, "retry = { base = \"24h\" }", &["9: subscription[0].webhook.retry.max: max must not be shorter than base"]),
];

#[test]
fn every_broken_configuration_is_refused_with_its_place_and_reason() {
    assert!(CASES.len() >= 40, "{} cases", CASES.len());
    let folder = tempfile::tempdir().expect("a folder");
    let mut wrong = Vec::new();
    for Case(before, broken, said) in CASES {
        let expected: String = said.iter().map(|line| format!("sluiced.toml:{line}\n")).collect();
        let output = check(folder.path(), &format!("{before}{broken}"), &[]);
        let actual = String::from_utf8_lossy(&output.stderr);
        if output.status.code() != Some(64) || actual != expected {
            wrong.push(format!("--- {broken}\nexpected 64:\n{expected}{:?}:\n{actual}", output.status.code()));
        }
    }
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn a_broken_variable_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = check(folder.path(), STREAM, &[("SLUICED_SERVER__LISTEN", "nowhere"), ("SLUICED_LGO__LEVEL", "x")]);
    assert_eq!(output.status.code(), Some(64));
    assert_eq!(
        String::from_utf8_lossy(&output.stderr),
        "env SLUICED_SERVER__LISTEN: server.listen: \"nowhere\" is not an address and port, such as \"127.0.0.1:8080\"\n\
         env SLUICED_LGO__LEVEL: lgo: unknown key, did you mean `log`? (known here: auth, data_dir, dead_letters, delivery, event_type, limits, log, \
         nats, operational_events, plugins, secrets, server, store, stream, subscription, traces)\n"
    );
}

#[test]
fn a_file_that_is_not_there_is_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = sluiced(folder.path(), &["check", "--config", "none.toml"], &[]);
    assert_eq!(output.status.code(), Some(64));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.starts_with("none.toml: cannot be read: No such file"), "{said}");
}

#[test]
fn a_sound_configuration_passes_and_is_dumped_without_secrets() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = check(folder.path(), WEBHOOK, &[]);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "sluiced.toml: ok, streams: 1, subscriptions: 1\n");
    assert_eq!(output.status.code(), Some(0));

    let output = sluiced(folder.path(), &["check", "--config", "sluiced.toml", "--dump-config"], &[]);
    let dump = String::from_utf8_lossy(&output.stdout);
    assert!(dump.contains("secret = \"***\"") && !dump.contains("whsec_"), "{dump}");
}

#[test]
fn a_new_secret_is_fit_for_a_webhook() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = sluiced(folder.path(), &["secret"], &[]);
    let secret = String::from_utf8(output.stdout).expect("text");
    let text = WEBHOOK.replace("whsec_c2x1aWNlZCBleGFtcGxlIHNlY3JldCBvbmx5ISEh", secret.trim());
    assert_eq!(check(folder.path(), &text, &[]).status.code(), Some(0), "{secret}");
    assert!(standardwebhooks::Webhook::new(secret.trim()).is_ok(), "{secret}");
}

#[test]
fn a_wrong_command_line_ends_with_64() {
    let folder = tempfile::tempdir().expect("a folder");
    assert_eq!(sluiced(folder.path(), &["chekc"], &[]).status.code(), Some(64));
    assert_eq!(sluiced(folder.path(), &["check"], &[]).status.code(), Some(64));
    assert_eq!(sluiced(folder.path(), &["--help"], &[]).status.code(), Some(0));
}

/// `sluiced check` of a file `sluiced.toml` with that text.
fn check(folder: &Path, text: &str, env: &[(&str, &str)]) -> Output {
    std::fs::write(folder.join("sluiced.toml"), text).expect("written");
    sluiced(folder, &["check", "--config", "sluiced.toml"], env)
}

fn sluiced(folder: &Path, args: &[&str], env: &[(&str, &str)]) -> Output {
    let mut command = Command::new(binary());
    command.args(args).current_dir(folder).env_clear().envs(env.iter().copied());
    command.output().expect("sluiced is built and runs")
}

/// The built binary, beside the folder of this test's own.
fn binary() -> PathBuf {
    let own = std::env::current_exe().expect("a path");
    own.parent().and_then(Path::parent).expect("target/PROFILE/deps").join("sluiced")
}
