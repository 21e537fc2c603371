//! Versions of plugins: durable with their files, in backups, and without anything left behind.

use std::fs;

use sha2::Digest as _;

use super::*;
use crate::store::{PluginOrigin, PluginRecord, PluginVersion};

const WASM: [&[u8]; 3] = [b"\0asm one", b"\0asm two", b"\0asm three"];

fn digest(wasm: &[u8]) -> Box<str> {
    hex::encode(sha2::Sha256::digest(wasm)).into()
}

/// A record of those versions, of which the first runs.
fn record(versions: &[&[u8]]) -> PluginRecord {
    let version = |wasm: &&[u8]| PluginVersion {
        digest: digest(wasm),
        bytes: wasm.len() as u64,
        version: "1.0".into(),
        about: "{}".into(),
        origin: PluginOrigin::Upload,
        added_ms: 1,
        ran_ms: None,
    };
    let versions = versions.iter().map(version).collect();
    PluginRecord { current: digest(WASM[0]), file: None, shadow: None, versions }
}

fn files(dir: &TempDir) -> Vec<String> {
    let names = fs::read_dir(dir.path().join("store/bodies")).expect("a folder");
    let mut names: Vec<_> = names.map(|e| e.expect("a file").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn a_version_is_kept_as_long_as_a_record_names_it() {
    let dir = TempDir::new().expect("tempdir");
    let store = open(&dir);
    store.put_plugin("a", &record(&WASM[..1]), Some(WASM[0])).expect("written");
    store.put_plugin("a", &record(&WASM[..2]), Some(WASM[1])).expect("written");
    store.put_plugin("b", &record(&WASM[..1]), Some(WASM[0])).expect("written");
    assert_eq!(files(&dir).len(), 2, "the same content is there once");
    store.put_plugin("a", &record(&WASM[1..2]), None).expect("written");
    assert_eq!(store.plugin_wasm(&digest(WASM[0])).expect("b has it"), WASM[0]);
    store.remove_plugin("b").expect("written");
    assert_eq!(files(&dir), [format!("plugin-{}", digest(WASM[1]))]);

    // A crash between file and record leaves a file, which the next start sweeps away.
    fs::write(dir.path().join("store/bodies").join(format!("plugin-{}", digest(WASM[2]))), WASM[2]).expect("written");
    drop(store);
    let store = open(&dir);
    assert_eq!(files(&dir).len(), 1);
    assert_eq!(store.plugins().expect("read"), [("a".into(), record(&WASM[1..2]))]);
    assert_eq!(store.plugin_wasm(&digest(WASM[1])).expect("read"), WASM[1]);

    // What is not what its name says is not handed out.
    fs::write(dir.path().join("store/bodies").join(format!("plugin-{}", digest(WASM[1]))), b"\0asm rot")
        .expect("written");
    assert!(matches!(store.plugin_wasm(&digest(WASM[1])), Err(Error::Body { .. })));
}

#[test]
fn a_backup_has_the_plugins() {
    let (dir, out, back) =
        (TempDir::new().expect("tempdir"), TempDir::new().expect("tempdir"), TempDir::new().expect("tempdir"));
    let store = open(&dir);
    store.put_plugin("a", &record(&WASM[..2]), Some(WASM[0])).expect("written");
    store.put_plugin("a", &record(&WASM[..2]), Some(WASM[1])).expect("written");
    let made = store.backup(out.path()).expect("a backup");
    assert_eq!(made.bodies, 2);
    Store::restore(out.path(), &config(&back)).expect("restored");
    let restored = open(&back);
    assert_eq!(restored.plugins().expect("read"), store.plugins().expect("read"));
    assert_eq!(restored.plugin_wasm(&digest(WASM[1])).expect("read"), WASM[1]);

    // A damaged copy is found when it is restored, not when it is to run.
    fs::write(out.path().join("bodies").join(format!("plugin-{}", digest(WASM[1]))), b"\0asm rot").expect("written");
    let again = TempDir::new().expect("tempdir");
    assert!(matches!(Store::restore(out.path(), &config(&again)), Err(Error::NoBackup { .. })));
}
