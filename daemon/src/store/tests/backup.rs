//! Backups under load, what becomes of them, and the database written anew.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

/// What one commit does: parks a delivery, with a large body now and then, and finishes the one seven before.
fn step(n: u64) -> Vec<Change> {
    let mut one = parked("crm", n, 1_000 + n);
    if n.is_multiple_of(16) {
        one.content.body = Bytes::from(vec![n as u8; INLINE_BODY_BYTES_MAX + 1]);
    }
    let mut changes = vec![park(one)];
    if n > 7 {
        let log = LogEntry { attempt: 2, ..entry("crm", n - 7) };
        changes.push(Change::FinishParked { delivery: parked("crm", n - 7, 0).delivery, log });
    }
    if n.is_multiple_of(50) {
        changes.push(bury(dead("erp", n, n)));
    }
    changes
}

/// The sequences that are parked.
fn parked_in(store: &Store) -> Vec<u64> {
    let page = store.parked_page(&sub("crm"), None, u64::MAX - 1, 256).expect("page");
    page.into_iter().map(|(_, parked)| parked.position.sequence).collect()
}

/// What a dead letter counts for: its record, whose body is in it.
fn letter_bytes(letter: &DeadLetter) -> u64 {
    codec::write_dead(letter, None).len() as u64
}

fn restored(from: &Path, dir: &TempDir) -> Store {
    Store::restore(from, &config(dir)).expect("restored");
    open(dir)
}

#[test]
fn a_backup_under_load_is_the_store_at_one_point() {
    let (dir, out) = (TempDir::new().expect("tempdir"), TempDir::new().expect("tempdir"));
    // Small partitions, so that some begin while the backup runs.
    let store = Store::open(Config { log_partition: Duration::from_millis(20), ..config(&dir) }).expect("opens");
    let mut written = 0;
    // Enough that a backup takes many steps.
    for n in 1..=3_000 {
        store.commit(&[park(parked("quiet", n, n))]).expect("commit");
    }
    while written < 40 {
        written += 1;
        store.commit(&step(written)).expect("commit");
    }
    let (stop, before) = (AtomicBool::new(false), written);
    let backups = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut n = before;
            while !stop.load(Ordering::Relaxed) {
                n += 1;
                store.commit(&step(n)).expect("commit");
            }
            n
        });
        let taken: Vec<_> = (0..3).map(|n| store.backup(&out.path().join(n.to_string())).expect("backup")).collect();
        stop.store(true, Ordering::Relaxed);
        written = writer.join().expect("writer");
        taken
    });
    assert!(written > before, "groups went on meanwhile");
    for (n, backup) in backups.into_iter().enumerate() {
        let place = TempDir::new().expect("tempdir");
        let copy = restored(&out.path().join(n.to_string()), &place);
        // Every commit is a flush.
        let last = backup.flush - 3_000;
        assert!((before..=written).contains(&last), "{last} of {before}..{written}");
        assert_eq!(parked_in(&copy), (last - 6..=last).collect::<Vec<_>>(), "backup {n}: all up to its point, no more");
        assert_eq!(copy.counts(&sub("crm")), counts(7, 0));
        let dead_bytes = (1..=last / 50).map(|n| letter_bytes(&dead("erp", 50 * n, 50 * n))).sum();
        assert_eq!(copy.counts(&sub("erp")), Counts { dead_bytes, ..counts(0, last / 50) });
        assert_eq!(copy.counts(&sub("quiet")), counts(3_000, 0));
        let log = copy.deliveries(&sub("crm"), None, 1).expect("page");
        assert_eq!(log.entries[0].1.position.sequence.max(last), last, "the log ends there too");
        for (_, one) in copy.parked_page(&sub("crm"), None, u64::MAX - 1, 256).expect("page") {
            let long = one.position.sequence.is_multiple_of(16);
            assert_eq!(one.content.body.len() > INLINE_BODY_BYTES_MAX, long, "bodies in files came along");
        }
        copy.commit(&step(last + 1)).expect("the copy goes on");
    }
    drop(store);
    let bodies = fs::read_dir(dir.path().join("store/bodies")).expect("listed").count();
    assert!(bodies <= 1, "what was kept for a backup is removed afterwards: {bodies}");
}

#[test]
fn a_damaged_or_cut_backup_is_refused_and_nothing_is_left() {
    let (dir, out) = (TempDir::new().expect("tempdir"), TempDir::new().expect("tempdir"));
    let store = open(&dir);
    (1..=20).for_each(|n| store.commit(&step(n)).map(drop).expect("commit"));
    let whole = out.path().join("whole");
    store.backup(&whole).expect("backup");
    assert!(matches!(store.backup(&whole), Err(Error::Backup { .. })), "never over another one");
    let body = fs::read_dir(whole.join("bodies")).expect("listed").next().expect("a body").expect("entry").path();
    let place = TempDir::new().expect("tempdir");
    for file in [whole.join("data"), whole.join("manifest"), body] {
        let right = fs::read(&file).expect("read");
        let middle = right.len() / 2;
        let flipped: Vec<u8> = right.iter().enumerate().map(|(at, b)| if at == middle { b ^ 1 } else { *b }).collect();
        for wrong in [flipped, right[..middle].to_vec(), right[..right.len() - 2].to_vec()] {
            fs::write(&file, wrong).expect("write");
            let error = Store::restore(&whole, &config(&place)).expect_err("refused");
            assert!(matches!(error, Error::NoBackup { .. }), "{}: {error}", file.display());
        }
        fs::remove_file(&file).expect("remove");
        let error = Store::restore(&whole, &config(&place)).expect_err("refused");
        assert!(matches!(error, Error::NoBackup { .. }), "{} gone: {error}", file.display());
        fs::write(&file, right).expect("write");
        assert_eq!(fs::read_dir(place.path()).expect("listed").count(), 0, "nothing stands there");
    }
    drop(restored(&whole, &place));
    let error = Store::restore(&whole, &config(&place)).expect_err("refused");
    assert!(matches!(error, Error::Occupied { .. }), "{error}");
}

#[test]
fn a_restore_that_was_cut_short_is_repeated() {
    let (dir, out) = (TempDir::new().expect("tempdir"), TempDir::new().expect("tempdir"));
    let store = open(&dir);
    store.commit(&step(1)).expect("commit");
    store.backup(&out.path().join("b")).expect("backup");
    let place = TempDir::new().expect("tempdir");
    fs::create_dir_all(place.path().join("store.restoring/sled")).expect("made");
    assert_eq!(parked_in(&restored(&out.path().join("b"), &place)), [1]);
}

#[test]
fn a_compacted_store_is_the_same_and_smaller() {
    let dir = TempDir::new().expect("tempdir");
    let store = open(&dir);
    for n in 1..=60u64 {
        let changes: Vec<Change> = (0..100)
            .map(|m| {
                let mut one = parked("crm", n * 100 + m, n);
                one.content.body = Bytes::from(vec![m as u8; 8 << 10]);
                park(one)
            })
            .collect();
        store.commit(&changes).expect("commit");
        if n > 1 {
            let gone: Vec<Change> =
                (0..100).map(|m| Change::Remove(parked("crm", (n - 1) * 100 + m, 0).delivery)).collect();
            store.commit(&gone).expect("commit");
        }
    }
    let (kept, total) = (parked_in(&store), store.totals());
    assert!(matches!(Store::compact(&Config { lock_wait: Duration::ZERO, ..config(&dir) }), Err(Error::Locked { .. })));
    let size = store.size().expect("size");
    assert!((600_000..2_000_000).contains(&size.live_bytes), "about 100 bodies of 8 KiB: {size:?}");
    drop(store);
    let done = Store::compact(&config(&dir)).expect("compacted");
    assert!(done.bytes_after * 2 < done.bytes_before, "{done:?}");
    let store = open(&dir);
    assert_eq!((parked_in(&store), store.totals()), (kept, total));
    assert!(!dir.path().join("store/sled.old").exists());
}

#[test]
fn a_compaction_that_was_cut_short_loses_nothing() {
    let data = |dir: &TempDir, name: &str| dir.path().join("store").join(name);
    for cut in ["copying", "between the renames", "before the removal"] {
        let dir = TempDir::new().expect("tempdir");
        open(&dir).commit(&step(1)).expect("commit");
        match cut {
            "copying" => fs::create_dir(data(&dir, "sled.new")).expect("made"),
            "between the renames" => {
                fs::rename(data(&dir, "sled"), data(&dir, "sled.old")).expect("renamed");
                fs::create_dir(data(&dir, "sled.new")).expect("made");
            }
            _ => fs::create_dir(data(&dir, "sled.old")).expect("made"),
        }
        assert_eq!(parked_in(&open(&dir)), [1], "{cut}");
        assert!(!data(&dir, "sled.new").exists() && !data(&dir, "sled.old").exists(), "{cut}");
    }
}

#[test]
fn flipped_bytes_and_cut_files_are_told_and_never_taken_for_data() {
    let dir = TempDir::new().expect("tempdir");
    let store = open(&dir);
    for n in 1..=400 {
        store.commit(&[park(parked("crm", n, n))]).expect("commit");
    }
    drop(store);
    let db = dir.path().join("store/sled/db");
    let right = fs::read(&db).expect("read");
    let expected: Vec<u64> = (1..=256).collect();
    // The data lie in the first part of the file; the rest of a segment is empty.
    let used = right.iter().rposition(|byte| *byte != 0).expect("data");
    let look = |what: &str| {
        let looked = std::panic::catch_unwind(|| {
            let store = Store::open(config(&dir)).ok()?;
            let page = store.parked_page(&sub("crm"), None, u64::MAX - 1, 256).ok()?;
            Some(page.into_iter().map(|(_, parked)| parked.position.sequence).collect::<Vec<_>>())
        });
        // All of it, or an error; sled calls some damage by a panic, which ends the request and not the daemon.
        if let Ok(Some(found)) = looked {
            assert_eq!(found, expected, "{what}");
            return false;
        }
        true
    };
    for part in 1..12 {
        let at = used * part / 12;
        let mut wrong = right.clone();
        wrong[at] ^= 0x55;
        fs::write(&db, &wrong).expect("write");
        look(&format!("flipped at {at} of {used}"));
        fs::write(&db, &right[..at]).expect("write");
        assert!(look(&format!("cut at {at} of {used}")), "what is missing is told");
    }
    // The way out that the message names, for who has no backup.
    fs::write(&db, &right[..used / 2]).expect("write");
    let error = Store::open(config(&dir)).err().expect("refused");
    assert!(error.to_string().contains("restore"), "{error}");
    if let Error::Behind { found, confirmed, .. } = error {
        assert!(found < confirmed);
        fs::remove_file(dir.path().join("store/mark")).expect("removed");
        drop(open(&dir));
    }
}
