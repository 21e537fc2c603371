//! Every way to misbehave that the contract's promise names, in one table: each ends in an error or a fault of its own,
//! within its limit, and the neighbour goes on.

use std::net::{TcpListener, UdpSocket};

use sluiced_tests::component::{Act, Component};
use sluiced_tests::proc::rss_max_bytes;

use super::*;

/// What misbehaves.
enum Plugin {
    /// The plugin `hostile`, told what to do.
    Told(Value),
    /// The plugin `jq` with a configuration.
    Jq(Value),
    /// A file.
    File(Vec<u8>),
}

/// A misdeed, what commits it, how that ends, and what the message says.
type Row = (&'static str, Plugin, &'static str, &'static str);

#[tokio::test]
async fn every_misdeed_of_the_list_ends_in_its_own_fault() {
    let lab = lab();
    let neighbour = lab.chain(&[jq(".ok")], &[]);
    let mut otherwise = Vec::new();
    for (misdeed, plugin, ending, words) in rows() {
        let started = Instant::now();
        let (ended, message) = ending_of(&lab, &plugin).await;
        let took = started.elapsed();
        if ended != ending || !message.contains(words) || took > PATIENCE {
            otherwise.push(format!("{misdeed}: {ended:?} after {took:?}: {message}"));
        }
        let ran = neighbour.run(&event("a", &json!({ "ok": true }))).await;
        assert_eq!(kept(ran).len(), 1, "the neighbour after {misdeed}");
    }
    assert!(otherwise.is_empty(), "not as the table says:\n{}", otherwise.join("\n"));
}

fn rows() -> Vec<Row> {
    let told = |misdeed: &str| Plugin::Told(json!({ "do": misdeed, "when_type": null, "amount": null }));
    let file = |component: Component| Plugin::File(component.wasm());
    let whole = Component::default().wasm();
    let (half, most) = (whole[..whole.len() / 2].to_vec(), whole[..whole.len() - 1].to_vec());
    let random: Vec<u8> = (0..4_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let headed = [&whole[..8], &random].concat();
    vec![
        ("endless loop", told("loop"), "fault: deadline", "100 ms"),
        ("loop in describe", file(Component::default().describe(Act::Loop)), "describe: deadline", "200 ms"),
        ("loop in configure", told("loop-in-configure"), "configure: deadline", "200 ms"),
        ("memory bomb", told("allocate"), "fault: memory", "16777216 bytes"),
        ("table bomb", file(Component::default().apply(Act::GrowTable)), "fault: table", "100000 entries"),
        (
            "table bomb in describe",
            file(Component::default().describe(Act::GrowTable)),
            "describe: table",
            "100000 entries",
        ),
        (
            "memory from the start",
            file(Component::default().memory_pages(1 << 14)),
            "describe: memory",
            "16777216 bytes",
        ),
        ("deep recursion", told("recurse"), "fault: trap", "call stack exhausted"),
        ("trap", told("trap"), "fault: trap", "unreachable"),
        ("trap in configure", told("trap-in-configure"), "configure: trap", "unreachable"),
        (
            "too many outputs",
            Plugin::Told(json!({ "do": "many-outputs", "amount": 1_000 })),
            "fault: output",
            "more than 100 outputs",
        ),
        ("far too many outputs", told("many-outputs"), "fault: output", "too much data"),
        ("a place outside of memory", file(Component::default().apply(Act::Outside)), "fault: output", "out of bounds"),
        ("invalid UTF-8", file(Component::default().apply(Act::NotUtf8)), "fault: output", "utf-8"),
        ("invalid UTF-8 in describe", file(Component::default().describe(Act::NotUtf8)), "describe: output", "utf-8"),
        ("wrong world", file(Component::default().package("other:thing")), "exports", "other:thing/lifecycle@1.0.0"),
        ("an interface without a function", file(Component::default().without_configure()), "shape", "configure"),
        (
            "a function of another type",
            file(Component::default().keep_like_describe()),
            "describe: instantiate",
            "could not be instantiated",
        ),
        (
            "import of files",
            file(Component::default().import("own:files/open@1.0.0")),
            "imports",
            "own:files/open@1.0.0",
        ),
        (
            "import of sockets",
            file(Component::default().import("wasi:http/outgoing-handler@0.2.6")),
            "imports",
            "wasi:http/outgoing-handler@0.2.6",
        ),
        ("unknown contract version", file(Component::default().version("2.0.0")), "version", "@2.0.0"),
        ("nothing", Plugin::File(Vec::new()), "not wasm", "not WebAssembly"),
        ("truncated bytes", Plugin::File(half), "compile", "not a valid WebAssembly component"),
        ("all but one byte", Plugin::File(most), "compile", "not a valid WebAssembly component"),
        ("random bytes", Plugin::File(random), "not wasm", "not WebAssembly"),
        ("random bytes as a component", Plugin::File(headed), "compile", "not a valid WebAssembly component"),
        ("a core module", Plugin::File(b"\0asm\x01\0\0\0".to_vec()), "core module", "plugin build"),
        ("config that the schema refuses", Plugin::Jq(json!({ "expr": 5 })), "config", "/expr"),
        ("config that `configure` refuses", told("refuse-config"), "refused", "refused, as asked"),
    ]
}

/// How the plugin fares, from its file to an event, in a word and in the message.
async fn ending_of(lab: &Lab, plugin: &Plugin) -> (String, String) {
    let used = match plugin {
        Plugin::Told(config) => with("hostile", config),
        Plugin::Jq(config) => with("jq", config),
        Plugin::File(wasm) => {
            fs::write(lab.dir.path().join("file.wasm"), wasm).expect("written");
            with("file", &json!({}))
        }
    };
    let transforms = if matches!(plugin, Plugin::Jq(_)) { Vec::new() } else { vec![used.clone()] };
    let filters = if transforms.is_empty() { vec![used] } else { Vec::new() };
    match lab.try_chain(&filters, &transforms, OnPluginError::DeadLetter) {
        Ok(chain) => {
            let fault = fault(chain.run(&event("a", &json!({}))).await);
            (format!("fault: {}", fault.kind_str()), fault.to_string())
        }
        Err(error) => (word(&error), error.to_string() + &below(&error)),
    }
}

/// The kind of an error, and of the fault that it carries.
fn word(error: &Error) -> String {
    let word = match error {
        Error::Describe(fault) => return format!("describe: {}", fault.kind_str()),
        Error::Configure(fault) => return format!("configure: {}", fault.kind_str()),
        Error::NotWasm { .. } => "not wasm",
        Error::CoreModule { .. } => "core module",
        Error::Compile { .. } => "compile",
        Error::Imports { .. } => "imports",
        Error::Version { .. } => "version",
        Error::Exports { .. } => "exports",
        Error::Shape { .. } => "shape",
        Error::Config { .. } => "config",
        Error::Refused { .. } => "refused",
        other => panic!("{other:?}"),
    };
    word.to_owned()
}

/// The messages of what lies below an error.
fn below(error: &Error) -> String {
    let first = std::error::Error::source(error);
    std::iter::successors(first, |error| error.source()).map(|error| format!(": {error}")).collect()
}

#[test]
fn an_output_of_100_mb_is_a_fault_and_never_leaves_the_sandbox() {
    alone("plugins::hostile::list::an_output_of_100_mb_is_a_fault_and_never_leaves_the_sandbox", || {
        let lab = Lab::with(&["hostile"], Limits { memory_bytes_max: 300 << 20, call_deadline_ms: 5_000, ..limits() });
        let chain = lab.chain(&[], &[with("hostile", &json!({ "do": "big-output", "amount": 100_000_000 }))]);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        let before = rss_max_bytes(std::process::id());
        let fault = fault(runtime.block_on(chain.run(&event("a", &json!({})))));
        assert!(matches!(&fault.kind, FaultKind::Output { .. }), "{fault}");
        let grown = rss_max_bytes(std::process::id()).saturating_sub(before);
        assert!((100_000_000..150_000_000).contains(&grown), "the plugin's own copy and no other: {grown} bytes");
    });
}

#[tokio::test]
async fn there_are_no_files_no_sockets_and_no_environment() {
    let (tcp, udp) = (TcpListener::bind("127.0.0.1:0"), UdpSocket::bind("127.0.0.1:0"));
    let (tcp, udp) = (tcp.expect("a port"), udp.expect("a port"));
    for port in [tcp.local_addr(), udp.local_addr()].map(|address| address.expect("it has one").port()) {
        let lab = lab();
        let chain = lab.chain(&[], &[with("hostile", &json!({ "do": "reach", "amount": port }))]);
        let kind = fault(chain.run(&event("a", &json!({}))).await).kind;
        assert_eq!(kind, FaultKind::Reported { message: "nothing".into() }, "what it could reach");
    }
    tcp.set_nonblocking(true).and_then(|()| udp.set_nonblocking(true)).expect("both can be asked without waiting");
    assert!(tcp.accept().is_err() && udp.recv(&mut [0]).is_err(), "nobody has knocked");
}
