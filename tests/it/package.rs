//! The Debian package: built, installed, started by systemd as its unit says, upgraded with its state, removed and purged.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use sluiced_tests::events::order;
use sluiced_tests::http::{Answer, try_request};
use sluiced_tests::paths::{plugin_dir, target, workspace};
use sluiced_tests::{TestNats, TestReceiver, wait_until};

mod container;
mod machine;

use machine::Machine;

const SOON: Duration = Duration::from_secs(60);
const CONFIG: &str = "/etc/sluiced/sluiced.toml";
const STATE: &str = "/var/lib/sluiced";
const UNIT: &str = "/usr/lib/systemd/system/sluiced.service";
/// What `systemd-analyze security` says at most, from 0 (nothing is open) to 100 (everything is).
const EXPOSURE_MAX: u32 = 20;

fn package(name: &str) -> PathBuf {
    let path = target().join("test-packages").join(name);
    assert!(path.is_file(), "{} is missing: run `cargo xtask test` once", path.display());
    path
}

/// The installed daemon, as somebody on its machine uses it.
struct Installed {
    machine: Machine,
}

impl Installed {
    fn install(&self, package_name: &str) {
        // With a question about a configuration file, it would wait for ever.
        self.machine.sh(&format!("dpkg -i {} < /dev/null", package(package_name).display()));
    }

    fn property(&self, name: &str) -> String {
        self.machine.sh(&format!("systemctl show --property {name} --value sluiced"))
    }

    /// The admin key that the package made.
    fn key(&self) -> String {
        let environment = self.machine.read("/etc/sluiced/environment");
        let key = environment.lines().find_map(|line| line.strip_prefix("SLUICED_AUTH__ADMIN_KEY="));
        let key = key.expect("an admin key").to_owned();
        assert!(key.len() >= 64, "{key:?} can be guessed");
        key
    }

    async fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Answer {
        let url = format!("http://{}{path}", self.machine.read(&format!("{STATE}/listen")).trim());
        let answer = try_request(method, &url, Some(&self.key()), body).await;
        answer.unwrap_or_else(|| panic!("no answer to {method} {path}: {}", self.machine.log()))
    }

    /// Edits the configuration as an operator would, and returns it.
    fn edit_config(&self, nats: &TestNats) -> String {
        let given = self.machine.read(CONFIG);
        let edited = given
            .replace("url = \"nats://127.0.0.1:4222\"", &format!("url = {:?}", nats.url()))
            .replace("listen = \"127.0.0.1:8080\"", "listen = \"127.0.0.1:0\"");
        let edited = edited + "\n[delivery]\nallow_cidrs = [\"127.0.0.0/8\"]\n";
        fs::write(self.machine.path(CONFIG), &edited).expect("the configuration can be edited");
        edited
    }

    /// Has the service get its master key as a credential, as the unit says that it may.
    fn keep_master_key_apart(&self) {
        self.machine.sh("umask 077; sluiced secrets key > /root/key");
        let unit = self.machine.read(UNIT);
        let hint =
            unit.lines().skip_while(|line| *line != "#     [Service]").map_while(|line| line.strip_prefix("#     "));
        let hint: Vec<_> = hint.map(|line| line.replace("/etc/sluiced/master.key", "/root/key")).collect();
        assert!(hint.len() == 3 && hint[1].ends_with(":/root/key"), "{hint:?}");
        fs::write(self.machine.path("/etc/systemd/system/sluiced.service.d/key.conf"), hint.join("\n"))
            .expect("a drop-in");
        self.machine.sh("systemctl daemon-reload");
    }

    /// What of the package, or of what it made, lies on the machine.
    fn traces(&self) -> String {
        // But the pages that `man` showed, which are its own, and what the test put there.
        self.machine
            .sh("find /etc /usr /var -xdev -name '*sluiced*' -not -path '/etc/systemd/system/sluiced.service.d*' \
             -not -path /var/log/sluiced -not -path '/var/cache/man/*' | sort")
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heavy_the_package_is_installed_delivers_is_upgraded_with_its_state_and_leaves_nothing() {
    let (nats, receiver) = (TestNats::start().await, TestReceiver::start());
    let daemon = Installed { machine: Machine::boot().await };
    let before = daemon.traces();
    daemon.install("first.deb");
    assert_eq!(daemon.property("ActiveState"), "inactive", "it has to be configured first");
    assert_eq!(daemon.machine.run("systemctl is-enabled sluiced").stdout.trim_ascii(), b"disabled");
    unit_is_sound(&daemon.machine);
    belongings_are_there(&daemon.machine);

    daemon.keep_master_key_apart();
    let config = daemon.edit_config(&nats);
    daemon.machine.sh(&format!("runuser -u sluiced -- sluiced check --config {CONFIG}"));
    daemon.machine.sh("systemctl enable --now sluiced");
    assert_eq!(daemon.request("GET", "/readyz", None).await.status, 200, "started is ready");
    runs_as_its_unit_says(&daemon);
    let webhook = json!({
        "name": "crm", "url": receiver.url("/crm"), "types": ["orders.*"],
        // A plugin: it is compiled to machine code behind the unit's walls.
        "filters": [{ "plugin": "jq", "config": { "expr": ".number != 2" } }],
    });
    let made = daemon.request("POST", "/api/v1/webhooks", Some(&webhook)).await;
    assert_eq!(made.status, 201, "{made:?}");
    let secret = made.json()["secret"].as_str().expect("a secret").to_owned();
    nats.publish("events.orders.created", order(1)).await;
    nats.publish("events.orders.created", order(2)).await;
    receiver.wait_for_numbers(1..2, SOON).await;
    assert!(receiver.received()[0].verifies(&secret));
    daemon.machine.sh("systemctl reload sluiced");
    wait_until("it is reloaded", SOON, async || daemon.machine.log().contains("configuration reloaded")).await;
    assert_eq!(daemon.property("StatusText"), "ready");

    let (key, process) = (daemon.key(), daemon.property("MainPID"));
    daemon.install("upgrade.deb");
    assert_eq!(daemon.machine.sh("dpkg-query --show --showformat '${Version}' sluiced"), "999.0.0-1");
    assert_ne!(daemon.property("MainPID"), process, "it was started again");
    assert_eq!(daemon.machine.log().matches("stopped").count(), 1, "after a clean stop");
    assert_eq!((daemon.machine.read(CONFIG), daemon.key()), (config, key), "what was edited stays");
    nats.publish("events.orders.created", order(3)).await;
    let delivered = async || receiver.numbers().contains_key(&3);
    wait_until("the webhook is still there", SOON, delivered).await;
    assert_eq!(receiver.numbers().keys().filter(|number| **number < 4).count(), 2, "{:?}", receiver.numbers());

    daemon.machine.sh("dpkg --remove sluiced");
    assert_eq!(daemon.machine.run("pgrep -x sluiced").stdout, b"", "nothing of it runs");
    assert!(!daemon.machine.path("/var/lib/sluiced/master.key").exists(), "the key was to be a credential");
    for kept in [CONFIG, "/etc/sluiced/environment", "/var/lib/sluiced/store"] {
        assert!(daemon.machine.path(kept).exists(), "{kept} is gone with a mere removal");
    }
    assert!(!daemon.machine.path("/usr/bin/sluiced").exists());
    daemon.machine.sh("dpkg --purge sluiced");
    assert_eq!(daemon.traces(), before, "a purge leaves nothing");
    assert!(!daemon.machine.path("/etc/sluiced").exists());
    let user = daemon.machine.sh("getent passwd sluiced; passwd --status sluiced");
    assert!(user.contains("nologin") && user.contains(" L "), "only the user stays, and cannot log in: {user}");
}

/// What systemd has to say about the unit.
fn unit_is_sound(machine: &Machine) {
    assert_eq!(machine.sh(&format!("systemd-analyze verify {UNIT}")), "");
    machine.sh(&format!("systemd-analyze security --offline=true --no-pager --threshold={EXPOSURE_MAX} {UNIT}"));
}

/// Beside the binary: pages, completions, papers, and a configuration that others do not read.
fn belongings_are_there(machine: &Machine) {
    assert!(machine.sh("man --where sluiced sluiced-webhooks-create").contains("sluiced-webhooks-create"));
    assert!(machine.sh("sluiced --version").starts_with("sluiced "));
    for path in [
        "/usr/share/bash-completion/completions/sluiced",
        "/usr/share/zsh/vendor-completions/_sluiced",
        "/usr/share/fish/vendor_completions.d/sluiced.fish",
        "/usr/share/doc/sluiced/copyright",
        "/usr/share/doc/sluiced/default.toml",
        "/usr/share/doc/sluiced/docs/errors/README.md",
        "/usr/share/doc/sluiced/docs/pictures/console-overview.png",
        "/usr/lib/sluiced/plugins/redact.wasm",
    ] {
        assert!(machine.path(path).is_file(), "{path} is not in the package");
    }
    assert_eq!(machine.sh("stat --format '%a %U %G' /etc/sluiced/sluiced.toml"), "640 root sluiced");
    assert_eq!(machine.sh("stat --format '%a %U' /etc/sluiced/environment"), "600 root");
    for (name, least) in [("sluiced", 200), ("console", 3), ("plugin-jq", 20)] {
        let text = machine.read(&format!("/usr/share/doc/sluiced/sbom/{name}.cdx.json"));
        let list: Value = serde_json::from_str(&text).expect("a document of JSON");
        assert_eq!((&list["bomFormat"], &list["specVersion"]), (&json!("CycloneDX"), &json!("1.5")));
        let parts = list["components"].as_array().expect("components");
        assert!(parts.len() >= least, "{name} is made of {} parts only", parts.len());
        let here = workspace().display().to_string();
        assert!(!text.contains(&here), "the place of this checkout is in the list of {name}");
    }
}

/// The walls of the unit stand around the process itself.
fn runs_as_its_unit_says(daemon: &Installed) {
    let process = daemon.property("MainPID");
    let status = daemon.machine.read(&format!("/proc/{process}/status"));
    let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim).unwrap_or_default();
    let user = daemon.machine.sh("id --user sluiced");
    assert!(line("Uid:").split_whitespace().all(|id| id == user) && user != "0", "{status}");
    assert_eq!((line("NoNewPrivs:"), line("Seccomp:")), ("1", "2"), "{status}");
    assert!(line("CapEff:").bytes().chain(line("CapBnd:").bytes()).all(|digit| digit == b'0'), "{status}");
    assert_eq!(daemon.machine.sh(&format!("stat --format '%a %U' {STATE}")), "700 sluiced");
    let walls = format!("nsenter --target {process} --mount");
    let written = daemon.machine.run(&format!("{walls} touch /usr/x /etc/sluiced/x /home/x /var/x"));
    assert!(!written.status.success());
    let said = String::from_utf8_lossy(&written.stderr).into_owned();
    assert_eq!(said.matches("Read-only file system").count() + said.matches("Permission denied").count(), 4, "{said}");
}

#[test]
fn a_package_that_is_made_twice_is_the_same() {
    let bytes = |name| fs::read(package(name)).expect("a package can be read");
    assert!(bytes("first.deb") == bytes("again.deb"), "first.deb and again.deb differ: see with `diffoscope`");
}

#[test]
fn a_checkout_without_a_built_console_or_node_compiles_and_one_with_it_takes_it_in() {
    let dir = tempfile::tempdir().expect("a folder");
    let (program, out, daemon) = (dir.path().join("build"), dir.path().join("out"), dir.path().join("daemon"));
    let mut compile = Command::new("rustc");
    compile.args(["--edition", "2024", "-o"]).arg(&program).arg(workspace().join("daemon/build.rs"));
    assert!(compile.status().expect("rustc runs").success());
    for folder in [&out, &daemon] {
        fs::create_dir(folder).expect("a folder can be made");
    }
    let table = || {
        let mut build = Command::new(&program);
        // Nothing else is there to be found: no Node.js.
        let ran = build.env_clear().env("CARGO_MANIFEST_DIR", &daemon).env("OUT_DIR", &out).output();
        assert!(ran.expect("a build script runs").status.success());
        fs::read_to_string(out.join("console.rs")).expect("it writes a table")
    };
    assert_eq!(table(), "&[\n]");
    fs::create_dir_all(dir.path().join("console/dist/assets")).expect("a folder can be made");
    for file in ["index.html", "assets/main.js"] {
        fs::write(dir.path().join("console/dist").join(file), "x").expect("a file can be written");
    }
    assert!(table().contains("\"index.html\"") && table().contains("\"assets/main.js\""), "{}", table());
}

/// Paths in the messages of panics would make another package of the same commit on another machine.
#[test]
fn no_place_of_this_machine_is_in_a_plugin() {
    let mut seen = 0;
    for entry in fs::read_dir(plugin_dir()).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        // Those in other languages are not part of the package.
        let name = entry.file_stem().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        if entry.extension().is_none_or(|end| end != "wasm")
            || !workspace().join("plugins").join(&name).join("Cargo.toml").exists()
        {
            continue;
        }
        let plugin = fs::read(&entry).expect("a plugin");
        let text = String::from_utf8_lossy(&plugin);
        for place in ["/.cargo/registry/", workspace().to_str().expect("a text"), target().to_str().expect("a text")] {
            assert!(!text.contains(place), "{name} has {place}");
        }
        seen += 1;
    }
    assert!(seen > 3, "{seen} plugins were looked at");
}
