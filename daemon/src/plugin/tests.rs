//! Tests of the host that need no built plugin; those that do are in the integration tests.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use bytes::Bytes;

use super::*;
use crate::domain::{Event, OnPluginError, Position, StreamName, SubscriptionId};

/// An empty component: the preamble and nothing else.
const EMPTY_COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";

fn host(dir: &Path) -> Host {
    let limits = Limits { instances_max: 4, ..Limits::default() };
    Host::new(Config { dir: dir.join("plugins"), cache_dir: dir.join("cache"), limits }).unwrap()
}

fn with_plugin(content: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("plugins")).unwrap();
    fs::write(dir.path().join("plugins/p.wasm"), content).unwrap();
    dir
}

#[test]
fn names_are_plain() {
    for good in ["jq", "a", "0-b_c"] {
        assert!(is_name(good), "{good}");
    }
    for bad in ["", "-a", "_a", "A", "../jq", "a/b", "a.b", "ä", "a\0", &"a".repeat(65)] {
        assert!(!is_name(bad), "{bad}");
    }
}

#[test]
fn a_name_that_leads_elsewhere_is_refused_before_anything_is_read() {
    let dir = with_plugin(b"");
    let error = host(dir.path()).load("../plugins/p").unwrap_err();
    assert!(matches!(error, Error::Name { .. }), "{error}");
}

#[test]
fn an_unknown_plugin_is_named_with_its_path() {
    let dir = with_plugin(b"");
    let error = host(dir.path()).load("nope").unwrap_err().to_string();
    assert!(error.starts_with("there is no plugin `nope`") && error.contains("plugins/nope.wasm"), "{error}");
}

#[test]
fn what_is_no_component_is_refused() {
    let load = |content| host(with_plugin(content).path()).load("p").unwrap_err();
    for content in [&b""[..], b"hello", &EMPTY_COMPONENT[..3]] {
        assert!(matches!(load(content), Error::NotWasm { .. }), "{content:?}");
    }
    assert!(matches!(load(b"\0asm\x01\0\0\0"), Error::CoreModule { .. }));
    for content in [&EMPTY_COMPONENT[..6], b"\0asm\x0d\0\x01\0\xff"] {
        assert!(matches!(load(content), Error::Compile { .. }), "{content:?}");
    }
}

#[test]
fn a_component_that_is_no_plugin_is_refused_with_what_it_exports() {
    let dir = with_plugin(EMPTY_COMPONENT);
    let host = host(dir.path());
    let error = host.load("p").unwrap_err().to_string();
    assert_eq!(error, "the plugin `p` does not export sluiced:plugin/lifecycle@1.0.0; it exports nothing");
    assert_eq!((host.stats().compiled, host.stats().instances), (1, 0));
}

#[test]
fn a_file_that_is_too_large_is_refused() {
    let dir = with_plugin(&[0; 100]);
    let limits = Limits { file_bytes_max: 99, instances_max: 1, ..Limits::default() };
    let config = Config { dir: dir.path().join("plugins"), cache_dir: dir.path().join("cache"), limits };
    assert!(matches!(Host::new(config).unwrap().load("p"), Err(Error::TooLarge { bytes_max: 99, .. })));
}

#[test]
fn compiled_plugins_are_cached_and_a_broken_file_is_made_anew() {
    let dir = with_plugin(EMPTY_COMPONENT);
    let counts = |stats: Stats| (stats.compiled, stats.cache_loaded, stats.cache_discarded);
    let load = || {
        let host = host(dir.path());
        host.load("p").unwrap_err();
        counts(host.stats())
    };
    assert_eq!(load(), (1, 0, 0));
    assert_eq!(load(), (0, 1, 0), "from the cache");
    let cache = dir.path().join("cache");
    assert_eq!(fs::metadata(&cache).unwrap().permissions().mode() & 0o777, 0o700);
    let files: Vec<_> = fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 2, "the code and its digest, and nothing temporary: {files:?}");
    for file in &files {
        assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let code = files.iter().find(|path| path.extension().is_some_and(|extension| extension == "cwasm")).unwrap();
    let whole = fs::read(code).unwrap();
    fs::write(code, &whole[..whole.len() / 2]).unwrap();
    assert_eq!(load(), (1, 0, 1), "torn");
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    fs::write(code, flipped).unwrap();
    assert_eq!(load(), (1, 0, 1), "rotten");
    fs::remove_file(code.with_extension("cwasm.sha256")).unwrap();
    assert_eq!(load(), (1, 0, 1), "without its digest");
    assert_eq!(load(), (0, 1, 0), "whole again");
}

#[test]
fn a_cache_that_cannot_be_written_is_no_obstacle() {
    let dir = with_plugin(EMPTY_COMPONENT);
    fs::write(dir.path().join("cache"), b"a file where the directory should be").unwrap();
    let host = host(dir.path());
    assert!(matches!(host.load("p"), Err(Error::Exports { .. })));
    assert_eq!(host.stats().compiled, 1);
}

#[test]
fn limits_that_make_no_sense_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let new = |limits| Host::new(Config { dir: dir.path().into(), cache_dir: dir.path().into(), limits });
    for limits in [
        Limits { memory_bytes_max: 1, ..Limits::default() },
        Limits { instances_max: 0, ..Limits::default() },
        Limits { instances_max: u32::MAX, ..Limits::default() },
        Limits { call_deadline_ms: 0, ..Limits::default() },
    ] {
        assert!(matches!(new(limits), Err(Error::Limit { .. })));
    }
}

#[test]
fn names_lists_the_plugins_of_the_directory() {
    let dir = with_plugin(b"");
    for file in ["a.wasm", "B.wasm", "c.txt", ".wasm"] {
        fs::write(dir.path().join("plugins").join(file), b"").unwrap();
    }
    assert_eq!(host(dir.path()).names(), ["a", "p"]);
    assert!(host(&dir.path().join("nowhere")).names().is_empty());
}

#[tokio::test]
async fn an_empty_chain_shares_the_payload() {
    let dir = with_plugin(b"");
    let host = host(dir.path());
    let id = SubscriptionId::parse("s").unwrap();
    let chain = host.chain(&id, &[], &[], OnPluginError::DeadLetter).unwrap();
    assert!(chain.is_empty());
    let event = Event {
        id: "1".into(),
        kind: "a".into(),
        subject: "a".into(),
        position: Position { stream: StreamName::parse("S").unwrap(), sequence: 1 },
        time_ms: 0,
        headers: Vec::new(),
        content_type: None,
        data: Bytes::from(vec![1, 2, 3]),
        undecodable: None,
    };
    let Passed::Kept(outputs) = chain.run(&event).await.passed else { panic!("not kept") };
    assert_eq!(outputs.len(), 1);
    assert_eq!(outputs[0].data.as_ptr(), event.data.as_ptr());
    assert_eq!((outputs[0].content_type.as_ref(), outputs[0].headers.len()), (None, 0));
}

#[test]
fn what_others_need_of_a_chain_holds() {
    fn is_shared<T: Send + Sync>() {}
    fn is_send<T: Send>(_: &T) {}
    is_shared::<Chain>();
    is_shared::<Host>();
    is_shared::<Plugin>();
    let run = |chain: &Chain, event: &Event| is_send(&chain.run(event));
    let _ = run;
}
