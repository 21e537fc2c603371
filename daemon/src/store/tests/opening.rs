//! What the directory may look like at start.

use std::fs;

use super::super::engine::FORMAT;
use super::*;

#[test]
fn everything_stays_over_a_restart() {
    let dir = TempDir::new().expect("tempdir");
    let store = open(&dir);
    store.commit(&[park(parked("crm", 1, 10)), Change::Finished(entry("crm", 2))]).expect("commit");
    drop(store);
    let store = open(&dir);
    assert_eq!(store.parked_page(&sub("crm"), None, 10, 10).expect("page")[0].1, parked("crm", 1, 10));
    assert_eq!(store.deliveries(&sub("crm"), None, 10).expect("page").entries.len(), 2);
    assert!(store.writable().is_ok());
}

#[test]
fn a_held_lock_is_waited_for_and_then_named() {
    let dir = TempDir::new().expect("tempdir");
    let store = open(&dir);
    let impatient = Config { lock_wait: Duration::from_millis(60), ..config(&dir) };
    let error = Store::open(impatient).err().expect("locked");
    assert!(matches!(&error, Error::Locked { dir: named } if *named == dir.path().join("store")), "{error}");
    let waiting = std::thread::spawn({
        let config = config(&dir);
        move || Store::open(config).map(drop)
    });
    drop(store);
    waiting.join().expect("thread").expect("opens once the lock is free");
}

#[test]
fn the_directory_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let dir = TempDir::new().expect("tempdir");
    let _store = open(&dir);
    let mode = fs::metadata(dir.path().join("store")).expect("metadata").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[test]
fn torn_and_damaged_snapshots_do_no_harm() {
    let dir = TempDir::new().expect("tempdir");
    for round in 1..=3 {
        let store = open(&dir);
        store.commit(&[Change::Finished(entry("crm", round))]).expect("commit");
        drop(store);
    }
    let data = dir.path().join("store/sled");
    fs::write(data.join("snap.FFFFFFFFFFFFFFFF.generating"), b"torn").expect("write");
    drop(open(&dir));
    assert!(!data.join("snap.FFFFFFFFFFFFFFFF.generating").exists());
    fs::write(data.join("snap.FFFFFFFFFFFFFFFF"), b"nonsense, and long enough to be looked at").expect("write");
    let store = open(&dir);
    assert_eq!(store.deliveries(&sub("crm"), None, 10).expect("page").entries.len(), 3);
    assert!(data.join("aside.snap.FFFFFFFFFFFFFFFF").exists());
}

#[test]
fn lost_data_are_told_and_never_replaced_by_an_empty_store() {
    let dir = TempDir::new().expect("tempdir");
    open(&dir).commit(&[park(parked("crm", 1, 10))]).expect("commit");
    fs::remove_dir_all(dir.path().join("store/sled")).expect("remove");
    for _ in 0..2 {
        let error = Store::open(config(&dir)).err().expect("refused");
        assert!(matches!(error, Error::Emptied { .. }), "{error}");
    }
    assert!(!dir.path().join("store/sled/db").exists());
}

#[test]
fn data_that_were_wiped_in_place_are_told() {
    let dir = TempDir::new().expect("tempdir");
    open(&dir).commit(&[park(parked("crm", 1, 10))]).expect("commit");
    let data = dir.path().join("store/sled");
    for entry in fs::read_dir(&data).expect("list") {
        let path = entry.expect("entry").path();
        if path.is_file() && path.file_name().is_some_and(|name| name != "conf") {
            let length = fs::metadata(&path).expect("metadata").len() as usize;
            fs::write(&path, vec![0; length.min(1 << 20)]).expect("write");
        }
    }
    let error = Store::open(config(&dir)).err().expect("refused");
    assert!(matches!(error, Error::Emptied { .. } | Error::Corrupt { .. }), "{error}");
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    let dir = TempDir::new().expect("tempdir");
    drop(open(&dir));
    let path = dir.path().join("store/format");
    fs::write(&path, "99\n").expect("write");
    let error = Store::open(config(&dir)).err().expect("refused");
    assert!(matches!(error, Error::Newer { found: 99, supported: FORMAT, .. }), "{error}");
    // The data's own word counts too, should the file be lost.
    fs::write(&path, format!("{FORMAT}\n")).expect("write");
    let store = open(&dir);
    store
        .write_directly(|_, _, batch| {
            batch.insert(keys::META_FORMAT, codec::write_number(7));
            Ok(())
        })
        .expect("write");
    drop(store);
    let error = Store::open(config(&dir)).err().expect("refused");
    assert!(matches!(error, Error::Newer { found: 7, .. }), "{error}");
}

#[test]
fn a_creation_that_was_cut_short_is_finished() {
    let dir = TempDir::new().expect("tempdir");
    drop(open(&dir));
    fs::remove_file(dir.path().join("store/format")).expect("remove");
    drop(open(&dir));
    assert_eq!(fs::read_to_string(dir.path().join("store/format")).expect("read"), format!("{FORMAT}\n"));
}
