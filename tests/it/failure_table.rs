//! Every way in which a receiver can misbehave, and what follows from it: one row each, against the real daemon.
//!
//! Each row is a subscription of one daemon with a receiver of its own. All are sent the same event, with two attempts at
//! most and a breaker that opens at the second failure that it is told of, so that a subscription that is held afterwards is
//! one whose endpoint was penalised. Then the receivers that can be healed are, and a second event arrives everywhere.

use std::io::Write as _;
use std::time::Duration;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use sluiced_tests::events::order;
use sluiced_tests::setup::config;
use sluiced_tests::tls::{Manner, TestCa, TlsReceiver};
use sluiced_tests::{Behaviour, Received, Reply, TestDaemon, TestNats, TestReceiver, Webhook};

const SOON: Duration = Duration::from_secs(60);
const CONSUMER: &str = "sluiced";
/// A daemon that inflated or kept what these receivers send would need far more.
const GROWTH_BYTES_MAX: u64 = 96 << 20;

/// What is expected of a row.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Expected {
    /// Delivered, with this status.
    Delivered(u16),
    /// Tried again until the attempts are used up, with this class and status; the endpoint is penalised.
    Retried(&'static str, Option<u16>),
    /// A dead letter after one attempt, with this class and status; the endpoint is not penalised.
    Final(&'static str, Option<u16>),
    /// As `Final`, and the subscription is disabled.
    Gone,
}
use Expected::{Delivered, Final, Gone, Retried};

/// Where a row's subscription delivers to.
enum Place {
    /// A receiver that behaves like this.
    Receiver(Behaviour),
    /// The same, asked over https, which it does not speak.
    NoTls,
    /// A receiver that was closed.
    Closed,
    /// One that speaks TLS with such a certificate.
    Tls(Certificate),
    /// A URL that leads nowhere.
    Url(&'static str),
}
use Place::{Closed, NoTls, Receiver, Tls, Url};

/// What a receiver shows of itself.
#[derive(Clone, Copy)]
enum Certificate {
    /// One that the webhook trusts.
    Good,
    /// One of an authority that nobody knows, as a self-signed one is.
    Unknown,
    /// One that was good until it expired.
    Expired,
    /// One for another name.
    OtherName,
}

/// One misbehaviour: its name, where it is met, the settings of the webhook, and what is expected.
struct Row {
    name: &'static str,
    place: Place,
    settings: &'static [(&'static str, &'static str)],
    expected: Expected,
}

fn row(name: &'static str, place: Place, expected: Expected) -> Row {
    Row { name, place, settings: &[], expected }
}

impl Row {
    fn with(self, settings: &'static [(&'static str, &'static str)]) -> Self {
        Self { settings, ..self }
    }
}

/// For receivers that keep an attempt waiting to its end.
const HASTY: &[(&str, &str)] = &[("timeout", "\"1500ms\""), ("connect_timeout", "\"1500ms\"")];

fn answers(status: u16) -> Place {
    Receiver(Behaviour::Status(status))
}

/// Statuses, as they are without any rule.
fn statuses() -> Vec<Row> {
    // Far in the future whenever this runs, and a Saturday.
    let in_a_lifetime = "Sat, 06 Nov 2094 08:49:37 GMT";
    let patient = |status, value: String| {
        Receiver(Behaviour::custom(move |_| Reply::status(status).header("retry-after", value.clone())))
    };
    let loops = Behaviour::custom(|request| Reply::status(302).header("location", request.path.clone()));
    vec![
        row("status-200", Receiver(Behaviour::Ok), Delivered(200)),
        row("status-202", answers(202), Delivered(202)),
        row("status-204", answers(204), Delivered(204)),
        row("status-302-elsewhere", Receiver(Behaviour::Redirect), Final("status", Some(302))),
        row("status-302-loop", Receiver(loops), Final("status", Some(302))),
        row("status-304", answers(304), Final("status", Some(304))),
        row("status-400", answers(400), Final("status", Some(400))),
        row("status-408", answers(408), Retried("status", Some(408))),
        row("status-410", answers(410), Gone),
        row("status-421", answers(421), Final("status", Some(421))),
        row("status-425", answers(425), Retried("status", Some(425))),
        row("status-429", answers(429), Retried("status", Some(429))),
        row("status-429-seconds", patient(429, "3600".to_owned()), Retried("status", Some(429))),
        row("status-500", answers(500), Retried("status", Some(500))),
        row("status-503-date", patient(503, in_a_lifetime.to_owned()), Retried("status", Some(503))),
    ]
}

/// Statuses of endpoints that have rules for them.
fn ruled() -> Vec<Row> {
    const RULES: &[(&str, &str)] =
        &[("retry_statuses", r#"["302", "409", "5xx"]"#), ("fail_statuses", r#"["501", "425"]"#)];
    let rows = [
        row("ruled-204", answers(204), Delivered(204)),
        row("ruled-302", Receiver(Behaviour::Redirect), Retried("status", Some(302))),
        row("ruled-409", answers(409), Retried("status", Some(409))),
        row("ruled-425", answers(425), Final("status", Some(425))),
        row("ruled-501", answers(501), Final("status", Some(501))),
        row("ruled-503", answers(503), Retried("status", Some(503))),
    ];
    rows.into_iter().map(|row| row.with(RULES)).collect()
}

/// Connections that are not made, break, or carry something else than an answer.
fn connections() -> Vec<Row> {
    let says = |text: &'static str| Receiver(Behaviour::Says(Bytes::from_static(text.as_bytes())));
    vec![
        row("refused-connection", Closed, Retried("network", None)),
        row("no-such-name", Url("http://nothing.invalid/hook"), Retried("network", None)),
        row("refused-address", Url("http://10.0.0.1/hook"), Final("address_refused", None)),
        row("refused-link-local", Url("http://169.254.169.254/latest/meta-data"), Final("address_refused", None)),
        row("no-tls", NoTls, Retried("network", None)),
        row("tls-good", Tls(Certificate::Good), Delivered(200)),
        row("tls-unknown-authority", Tls(Certificate::Unknown), Retried("network", None)),
        row("tls-expired", Tls(Certificate::Expired), Retried("network", None)),
        row("tls-other-name", Tls(Certificate::OtherName), Retried("network", None)),
        row("reset", Receiver(Behaviour::Reset), Retried("network", None)),
        row("closed-without-answer", says(""), Retried("network", None)),
        row("half-status-line", says("HTTP/1.1 20"), Retried("network", None)),
        row("half-headers", says("HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-"), Retried("network", None)),
        row("half-body", says("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc"), Delivered(200)),
        row("not-http", says("SSH-2.0-OpenSSH_9.9\r\n"), Retried("network", None)),
        row(
            "continue-first",
            says("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"),
            Delivered(200),
        ),
        row("continue-only", says("HTTP/1.1 100 Continue\r\n\r\n"), Retried("network", None)),
    ]
}

/// Receivers that are slow, or say too much.
fn bodies() -> Vec<Row> {
    let bomb = bomb();
    let bomb = Behaviour::custom(move |_| {
        Reply { body: bomb.clone(), ..Reply::status(200) }.header("content-encoding", "gzip")
    });
    vec![
        row("hang-before-headers", Receiver(Behaviour::Hang), Retried("timeout", None)).with(HASTY),
        row("hang-in-body", Receiver(Behaviour::HangBody), Delivered(200)).with(HASTY),
        row("dribble", Receiver(Behaviour::Dribble(Duration::from_secs(1))), Delivered(200)).with(HASTY),
        row("gigabyte", Receiver(Behaviour::Flood(1 << 30)), Delivered(200)),
        row("gzip-bomb", Receiver(bomb), Delivered(200)),
    ]
}

/// 256 MiB of nothing as gzip: some 256 KiB.
fn bomb() -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    for _ in 0..256 {
        encoder.write_all(&[0; 1 << 20]).expect("memory can be written to");
    }
    encoder.finish().expect("memory can be written to").into()
}

/// A row with its receiver, when it has one.
struct Running {
    row: Row,
    receiver: Option<TestReceiver>,
    secure: Option<(TestCa, TlsReceiver)>,
    url: String,
}

impl Running {
    fn start(row: Row) -> Self {
        let mut receiver = match &row.place {
            Receiver(_) | NoTls | Closed => Some(TestReceiver::start()),
            Tls(_) | Url(_) => None,
        };
        let secure = if let Tls(certificate) = row.place { Some(secure(certificate)) } else { None };
        let url = |receiver: &Option<TestReceiver>| {
            receiver.as_ref().map(|receiver| receiver.url("/hook")).unwrap_or_default()
        };
        let url = match &row.place {
            Receiver(_) | Closed => url(&receiver),
            NoTls => url(&receiver).replace("http:", "https:"),
            Url(url) => (*url).to_owned(),
            Tls(_) => {
                secure.as_ref().map(|(_, tls)| format!("https://127.0.0.1:{}/hook", tls.port())).unwrap_or_default()
            }
        };
        match (&row.place, &mut receiver) {
            (Receiver(behaviour), Some(receiver)) => receiver.set(behaviour.clone()),
            (Closed, Some(receiver)) => receiver.stop(),
            _ => {}
        }
        Self { row, receiver, secure, url }
    }

    fn webhook(&self) -> Webhook {
        let mut hook = Webhook::to(self.row.name, &self.url).retry_after(&["50ms"]);
        if let (Tls(certificate), Some((ca, _))) = (&self.row.place, &self.secure)
            && !matches!(certificate, Certificate::Unknown)
        {
            hook = hook.with("tls", format_args!("{{ ca_file = {:?} }}", ca.file()));
        }
        self.row.settings.iter().fold(hook, |hook, (key, value)| hook.with(key, value))
    }

    /// Checks what became of the one event.
    async fn check(&self, daemon: &TestDaemon) {
        let name = self.row.name;
        let books = daemon.accounted(name, 1).await;
        assert_eq!(books.parked, 0, "{name}: {books:?}");
        let (outcome, attempts) = match self.row.expected {
            Delivered(_) => ((1, 0), 1),
            Retried(..) => ((0, 1), 2),
            Final(..) | Gone => ((0, 1), 1),
        };
        assert_eq!((books.delivered, books.failed), outcome, "{name}: {books:?}");
        let label = |outcome| [("subscription", name), ("outcome", outcome)];
        let metrics = daemon.metrics().await;
        let (class, status) = match self.row.expected {
            Delivered(status) => ("delivered", Some(status)),
            Retried(class, status) | Final(class, status) => (class, status),
            Gone => ("gone", Some(410)),
        };
        assert_eq!(metrics.sum("sluiced_attempts_total", &label(class)), f64::from(attempts), "{name}");
        let all = metrics.sum("sluiced_attempts_total", &[("subscription", name)]);
        assert_eq!(all, f64::from(attempts), "{name}: no attempt ended otherwise");
        let penalised = matches!(self.row.expected, Retried(..) | Gone);
        assert_eq!(metrics.metric("sluiced_held", &[("subscription", name)]), f64::from(u8::from(penalised)), "{name}");
        self.check_record(daemon, class, status, attempts).await;
        if let Some((_, tls)) = &self.secure {
            let taken = usize::from(self.row.expected == Delivered(200));
            assert_eq!(tls.requests().len(), taken, "{name}: nothing is sent to whom nobody knows");
        }
        if let (Receiver(_), Some(receiver)) = (&self.row.place, &self.receiver) {
            assert_eq!(receiver.counts().requests, u64::from(attempts), "{name}: each attempt is one request");
            assert!(receiver.received().iter().all(|request| request.path == "/hook"), "{name}: nothing is followed");
            assert_patience(name, &receiver.received());
        }
    }

    /// What is on record says the same.
    async fn check_record(&self, daemon: &TestDaemon, class: &str, status: Option<u16>, attempts: u32) {
        let name = self.row.name;
        let page = |what: &str| {
            let path = format!("/api/v1/subscriptions/{name}/{what}");
            async move { daemon.request("GET", &path, None).await.json() }
        };
        let letters = page("dead-letters").await;
        let letters = letters["dead_letters"].as_array().unwrap_or_else(|| panic!("{name}: {letters}"));
        let deliveries = page("deliveries").await;
        let newest = &deliveries["deliveries"][0];
        assert_eq!(newest["status"].as_u64(), status.map(u64::from), "{name}: {deliveries}");
        if let Delivered(_) = self.row.expected {
            return assert!(letters.is_empty(), "{name}: {letters:?}");
        }
        let [letter] = &letters[..] else { panic!("{name}: {letters:?}") };
        assert_eq!(
            (letter["class"].as_str(), letter["status"].as_u64()),
            (Some(class), status.map(u64::from)),
            "{letter}"
        );
        assert_eq!(letter["attempts"].as_u64(), Some(u64::from(attempts)), "{letter}");
        assert_eq!(letter["body"].as_str().map(str::as_bytes), Some(&order(1)[..]), "{name}: the body is kept");
    }

    /// Heals the receiver, where that is possible, and says whether the next event will arrive.
    fn heal(&mut self) -> bool {
        let arrives = matches!(self.row.place, Receiver(_) | Closed) && self.row.expected != Gone;
        if let (Some(receiver), true) = (&mut self.receiver, arrives) {
            receiver.set(Behaviour::Ok);
            if matches!(self.row.place, Closed) {
                receiver.resume();
            }
        }
        arrives
    }
}

fn secure(certificate: Certificate) -> (TestCa, TlsReceiver) {
    let ca = TestCa::new();
    let identity = match certificate {
        Certificate::Good | Certificate::Unknown => ca.identity("127.0.0.1"),
        Certificate::Expired => ca.expired("127.0.0.1"),
        Certificate::OtherName => ca.identity("other.example"),
    };
    let receiver = TlsReceiver::start(Manner::of(&identity));
    (ca, receiver)
}

/// A receiver that asked for an hour was left alone for a second, which is the most that this daemon grants.
fn assert_patience(name: &str, received: &[Received]) {
    if let ("status-429-seconds" | "status-503-date", [first, second]) = (name, received) {
        let waited = second.at - first.at;
        assert!((Duration::from_millis(950)..Duration::from_secs(30)).contains(&waited), "{name}: {waited:?}");
    }
}

async fn run(rows: Vec<Row>) {
    let nats = TestNats::start().await;
    let mut rows: Vec<Running> = rows.into_iter().map(Running::start).collect();
    let settings = "[delivery]\nretry_after_max = \"1s\"\nbreaker = { failure_ratio = 1, attempts_min = 2, window = \"30s\", \
        probe = \"100ms\", probe_max = \"200ms\" }\n";
    let hooks: Vec<Webhook> = rows.iter().map(Running::webhook).collect();
    let daemon = TestDaemon::start(&nats, &(config("", &hooks) + settings)).await;
    let before_bytes = daemon.rss_bytes();
    nats.publish("events.orders.created", order(1)).await;
    nats.wait_drained("EVENTS", CONSUMER, SOON).await;
    for running in &rows {
        let of = [("subscription", running.row.name)];
        daemon.wait_metric("sluiced_events_received_total", &of, 1.0).await;
        daemon.wait_metric("sluiced_in_flight", &of, 0.0).await;
        daemon.wait_metric("sluiced_parked", &of, 0.0).await;
        running.check(&daemon).await;
    }
    let grown_bytes = daemon.rss_bytes().saturating_sub(before_bytes);
    assert!(grown_bytes < GROWTH_BYTES_MAX, "{} MiB more than before", grown_bytes >> 20);

    let healed: Vec<bool> = rows.iter_mut().map(Running::heal).collect();
    nats.publish("events.orders.created", order(2)).await;
    nats.wait_drained("EVENTS", CONSUMER, SOON).await;
    for (running, _) in rows.iter().zip(healed).filter(|(_, healed)| *healed) {
        let receiver = running.receiver.as_ref().expect("what was healed is a receiver");
        receiver.wait_for_numbers(2..3, SOON).await;
        daemon.wait_held(running.row.name, false, SOON).await;
        assert_eq!(daemon.accounted(running.row.name, 2).await.parked, 0, "{}", running.row.name);
    }
}

#[tokio::test]
async fn statuses_mean_what_the_table_says() {
    run(statuses()).await;
}

#[tokio::test]
async fn statuses_mean_what_the_rules_of_an_endpoint_say() {
    run(ruled()).await;
}

#[tokio::test]
async fn bad_connections_end_as_the_table_says() {
    run(connections()).await;
}

#[tokio::test]
async fn slow_and_endless_answers_end_as_the_table_says() {
    run(bodies()).await;
}
