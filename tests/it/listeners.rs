//! Clients of event streams that others wrote, and the samples of docs/sse.md, which are made of them: they hear what was
//! published, every event once and in order, and go on where they were after the daemon was killed.

mod wire;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use sluiced_tests::events::number_of;
use sluiced_tests::paths::{example_binary, listeners_of_npm, listeners_of_pip, workspace};
use sluiced_tests::process::Process;
use sluiced_tests::setup::EVENTS;
use sluiced_tests::{ADMIN_KEY, TestDaemon, TestNats, TestReceiver, port, wait_until};
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(60);
const SUBJECT: &str = "events.orders.created";
const TYPE: &str = "orders.created";

/// What a client shows of an event.
type Heard = (String, String);

/// A daemon at an address that stays the same.
struct Parts {
    nats: TestNats,
    daemon: TestDaemon,
    dir: TempDir,
}

impl Parts {
    async fn start() -> Self {
        let config = format!("[server]\nlisten = \"127.0.0.1:{}\"\ncors_origins = [\"*\"]\n{EVENTS}", port::free());
        let nats = TestNats::start().await;
        let daemon = TestDaemon::start(&nats, &config).await;
        Self { nats, daemon, dir: tempfile::tempdir().expect("a folder") }
    }

    /// Takes away the key: everybody on this machine is the operator.
    async fn open(&mut self) {
        self.daemon.kill9();
        let text = std::fs::read_to_string(self.daemon.config_path()).expect("the configuration");
        let open: String =
            text.lines().filter(|line| !line.starts_with("admin_key")).map(|l| format!("{l}\n")).collect();
        self.daemon.write_config_raw(&open);
        self.daemon.restart().await;
    }

    fn url(&self) -> String {
        self.daemon.url("").trim_end_matches('/').to_owned()
    }

    fn run(&self, command: &mut Command) -> Process {
        Process::start("listener", command.env("SLUICED_KEY", ADMIN_KEY), &self.dir.path().join("listener"))
    }

    async fn wait_listening(&self) {
        wait_until("it listens", SOON, async || {
            let listed = self.daemon.request("GET", "/api/v1/events/clients", None).await;
            listed.json()["clients"].as_array().is_some_and(|clients| clients.len() == 1)
        })
        .await;
    }

    /// Publishes what is hard to say in lines of text, and then numbers while the daemon is killed and starts again; a client
    /// that does all that it should has heard exactly that.
    async fn assert_hears_everything(&mut self, heard: &dyn Fn() -> Vec<Heard>) {
        self.wait_listening().await;
        let mut expected = Vec::new();
        for (body, data, mark) in payloads() {
            self.nats.publish(SUBJECT, body).await;
            expected.push((format!("{TYPE}{mark}"), data));
        }
        let wait = async |n: usize| {
            wait_until(&format!("it has heard {n} events"), SOON, async || heard().len() >= n).await;
        };
        wait(expected.len()).await;
        for (seen, expected) in heard().iter().zip(&expected) {
            let short = |text: &str| text.chars().take(40).collect::<String>();
            assert!(seen == expected, "{:?} instead of {:?}", short(&seen.1), short(&expected.1));
        }
        let before = expected.len();
        self.nats.publish_orders(SUBJECT, 0..50).await;
        wait(before + 50).await;
        self.daemon.kill9();
        self.nats.publish_orders(SUBJECT, 50..100).await;
        self.daemon.restart().await;
        self.nats.publish_orders(SUBJECT, 100..150).await;
        wait(before + 150).await;
        let numbers: Vec<_> = heard()[before..].iter().map(|(_, data)| number_of(data.as_bytes())).collect();
        assert_eq!(numbers, (0..150).map(Some).collect::<Vec<_>>());
    }
}

/// Bodies, what a client makes of them, and what stands behind the type.
fn payloads() -> Vec<(Vec<u8>, String, &'static str)> {
    let same =
        ["plain", "", " a space before", "a\nb", "\n", "nul\0nul", "ü 😀 \u{2028} \u{85} \u{feff}", ": no comment"];
    let mut all: Vec<_> = same.map(|text| (text.as_bytes().to_vec(), text.to_owned(), "")).into();
    for text in ["a\rb", "a\r\nb", "\r", "id: 9\r\n\r\nevent: x\r\rdata: y\n\n"] {
        all.push((text.into(), text.replace("\r\n", "\n").replace('\r', "\n"), ""));
    }
    let large = "0123456789".repeat(100_000);
    all.push((large.clone().into_bytes(), large, ""));
    all.push((vec![0xff, 0, 1], "/wAB".to_owned(), ";base64"));
    all
}

/// What a client's lines say.
fn parsed<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<Heard> {
    let events = lines.filter(|line| line.starts_with('{')).map(|line| {
        let event: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let text = |key: &str| event[key].as_str().unwrap_or_else(|| panic!("no {key}: {line}")).to_owned();
        assert!(text("id").starts_with("EVENTS:"), "{line}");
        (text("type"), text("data"))
    });
    events.collect()
}

/// The lines that are whole: the last one may still be on its way.
fn of_log(process: &Process) -> Vec<Heard> {
    let log = process.log();
    parsed(log.rsplit_once('\n').map_or("", |(whole, _)| whole).lines())
}

fn sample(file: &str) -> PathBuf {
    workspace().join("docs/sse").join(file)
}

fn python(script: &Path) -> Command {
    let packages = listeners_of_pip();
    let own = packages.join("bin/python3");
    let mut command = Command::new(if own.is_file() { own } else { "python3".into() });
    command.arg(script).env("PYTHONPATH", packages).env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

#[tokio::test]
async fn the_sample_for_node_with_eventsource_hears_everything() {
    let mut parts = Parts::start().await;
    // A module finds its packages beside itself.
    let script = parts.dir.path().join("listen.mjs");
    std::fs::copy(sample("listen.mjs"), &script).expect("a copy");
    let modules = listeners_of_npm().join("node_modules");
    std::os::unix::fs::symlink(modules, parts.dir.path().join("node_modules")).expect("a link");
    let listener = parts.run(Command::new("node").arg(script).args([&parts.url(), TYPE]));
    parts.assert_hears_everything(&|| of_log(&listener)).await;
}

#[tokio::test]
async fn the_sample_in_python_with_httpx_sse_hears_everything() {
    let mut parts = Parts::start().await;
    let listener = parts.run(python(&sample("listen.py")).args([&parts.url(), TYPE]));
    parts.assert_hears_everything(&|| of_log(&listener)).await;
}

#[tokio::test]
async fn the_sample_in_rust_hears_everything() {
    let mut parts = Parts::start().await;
    let listener = parts.run(Command::new(example_binary("listen")).args([&parts.url(), TYPE]));
    parts.assert_hears_everything(&|| of_log(&listener)).await;
}

#[tokio::test]
async fn sseclient_py_hears_everything() {
    let mut parts = Parts::start().await;
    let script = workspace().join("tests/it/listeners/with_sseclient.py");
    let url = format!("{}/api/v1/events/stream?types={TYPE}", parts.url());
    let listener = parts.run(python(&script).args([&url, ADMIN_KEY]));
    parts.assert_hears_everything(&|| of_log(&listener)).await;
}

/// A page in a headless Chromium, which sends on what it shows.
struct Browser {
    shown: TestReceiver,
    _process: Process,
}

impl Browser {
    fn open(parts: &Parts, page: &Path, query: &str) -> Self {
        let shown = TestReceiver::start();
        let text = std::fs::read_to_string(page).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
        let script = format!(
            "<script>{{ let turn = Promise.resolve(); console.log = (body) => {{ turn = turn.then(() => \
             fetch('{}', {{ method: 'POST', mode: 'no-cors', body }})); }}; }}</script>\n",
            shown.url("/shown")
        );
        let (head, tail) = text.split_once("</title>\n").expect("a title");
        let copy = parts.dir.path().join("page.html");
        std::fs::write(&copy, format!("{head}</title>\n{script}{tail}")).expect("a copy");
        let mut chromium = Command::new("chromium");
        let profile = format!("--user-data-dir={}", parts.dir.path().join("profile").display());
        chromium.args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", &profile]);
        let process = parts.run(chromium.arg(format!("file://{}?{query}", copy.display())));
        Self { shown, _process: process }
    }

    fn heard(&self) -> Vec<Heard> {
        let shown = self.shown.received();
        let lines: Vec<_> = shown.iter().map(|shown| String::from_utf8_lossy(&shown.body).into_owned()).collect();
        parsed(lines.iter().map(String::as_str))
    }
}

#[tokio::test]
async fn the_page_of_the_guide_hears_everything_with_tickets() {
    let mut parts = Parts::start().await;
    let query = format!("daemon={}&types={TYPE}#{ADMIN_KEY}", parts.url());
    let browser = Browser::open(&parts, &sample("listen.html"), &query);
    parts.assert_hears_everything(&|| browser.heard()).await;
}

#[tokio::test]
async fn a_browser_s_event_source_hears_everything_and_comes_back_by_itself() {
    let mut parts = Parts::start().await;
    parts.open().await;
    let query = format!("url={}/api/v1/events/stream?types={TYPE}", parts.url());
    let browser = Browser::open(&parts, &workspace().join("tests/it/listeners/plain.html"), &query);
    parts.assert_hears_everything(&|| browser.heard()).await;
}

#[tokio::test]
async fn the_command_for_curl_hears_what_is_published() {
    let parts = Parts::start().await;
    let guide = std::fs::read_to_string(workspace().join("docs/sse.md")).expect("the guide");
    let command = guide.lines().find(|line| line.starts_with("curl -N ")).expect("a command");
    let listener = parts.run(Command::new("sh").args(["-c", command]).env("SLUICED", parts.url()));
    parts.wait_listening().await;
    parts.nats.publish(SUBJECT, "said").await;
    wait_until("it has heard it", SOON, async || listener.log().contains("event: orders.created\ndata: said\n\n"))
        .await;
}

#[test]
fn the_guide_shows_the_samples_as_they_are() {
    let read =
        |path: &Path| std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let guide = read(&workspace().join("docs/sse.md"));
    let rust = workspace().join("tests/examples/listen.rs");
    for (tag, file) in
        [("html", sample("listen.html")), ("js", sample("listen.mjs")), ("python", sample("listen.py")), ("rust", rust)]
    {
        let block = format!("```{tag}\n{}```\n", read(&file));
        assert!(guide.contains(&block), "docs/sse.md: copy {} into its block of {tag}", file.display());
    }
}
