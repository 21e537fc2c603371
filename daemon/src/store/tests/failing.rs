//! A disk that takes no more: changes fail, nothing confirmed is lost, and writing resumes without a restart.
//!
//! The disk is a limit on the size of files, so the test runs itself again as a child process that may set one for
//! itself; the shell in between makes the child ignore the signal that goes with the limit.

use std::collections::HashSet;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::*;

const DIR: &str = "SLUICED_TEST_FAILING_DIR";
const PATIENCE: Duration = Duration::from_secs(30);
const ROUNDS: u64 = 4;
/// How many changes are handed in at a time: more than one group.
const BURST: u64 = 300;

type Done = (Vec<u64>, Result<(), Error>);

fn limit_file_bytes(bytes: Option<u64>) {
    let maximum = getrlimit(Resource::Fsize).maximum;
    setrlimit(Resource::Fsize, Rlimit { current: bytes, maximum }).expect("limit");
}

/// Hands in a burst that writes to the state tree and the log, and sorts out what came back.
fn burst(recorder: &Recorder<u64>, done: &Receiver<Done>, first: u64) -> (Vec<u64>, Vec<u64>) {
    for n in first..first + BURST {
        let change = if n % 3 == 0 { park(parked("crm", n, n)) } else { Change::Finished(entry("crm", n)) };
        recorder.submit(change, n);
    }
    recorder.hurry();
    let (mut kept, mut failed) = (Vec::new(), Vec::new());
    while kept.len() + failed.len() < BURST as usize {
        let (tokens, result) = done.recv_timeout(PATIENCE).expect("tokens always come back");
        if result.is_ok() { kept.extend(tokens) } else { failed.extend(tokens) }
    }
    (kept, failed)
}

/// Ends the reader also when the test fails.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn wait_until_writable(store: &Store) {
    let deadline = Instant::now() + PATIENCE;
    while store.writable().is_err() {
        assert!(Instant::now() < deadline, "writing resumes");
        std::thread::yield_now();
    }
}

#[test]
fn child() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let store = Store::open(Config::new(&dir)).expect("open");
    let (send, done) = sync_channel(10_000);
    let (recorder, thread) =
        Recorder::start(store.clone(), move |tokens, result| drop(send.send((tokens, result)))).expect("start");
    let ended = AtomicBool::new(false);
    let end = End(&ended);
    let mut confirmed = HashSet::new();
    std::thread::scope(|scope| {
        let _end = end;
        // Someone reads all the while: it may be refused, but must neither hang nor keep the store from reopening.
        let (ended, store) = (&ended, &store);
        scope.spawn(move || {
            while !ended.load(Ordering::Relaxed) {
                drop(store.parked_page(&sub("crm"), None, u64::MAX, 100));
            }
        });
        for round in 0..ROUNDS {
            let first = 1 + round * 1_000_000;
            let (kept, failed) = burst(&recorder, &done, first);
            assert_eq!((kept.len() as u64, failed.len()), (BURST, 0), "all is well");
            confirmed.extend(kept);

            // At first the file may not grow. Recovery then rounds it up to a whole segment, so later limits lie below
            // the place where sled writes.
            let data_bytes = std::fs::metadata(format!("{dir}/sled/db")).expect("data").len();
            limit_file_bytes(Some(if round == 0 { data_bytes } else { round * 7_001 }));
            let felt = (1..100).any(|k| {
                let (kept, failed) = burst(&recorder, &done, first + k * 1_000);
                confirmed.extend(kept);
                !failed.is_empty()
            });
            // Where the limit left room for a little, the store may be open again already.
            assert!(felt, "the limit is felt");
            limit_file_bytes(None);
            wait_until_writable(store);
        }
    });
    recorder.close();
    thread.join().expect("writer");
    let recovered = store.recover(&[(stream("EVENTS"), 0)]).expect("recover");
    let recorded: HashSet<u64> = recovered[0].recorded.iter().map(|r| r.sequence).collect();
    for n in &confirmed {
        assert!(recorded.contains(n), "{n} was confirmed and is lost");
    }
    // No group is there by half: what is on record as parked is parked, and the counts are right.
    let parked_on_record = recorded.iter().filter(|n| *n % 3 == 0);
    let mut parked_count = 0;
    for n in parked_on_record {
        assert!(store.parked(&parked("crm", *n, 0).delivery).expect("read").is_some(), "{n} is parked");
        parked_count += 1;
    }
    assert_eq!(totals(&store), counts(parked_count, 0));
}

#[test]
fn a_full_disk_heals_without_a_restart() {
    let dir = TempDir::new().expect("tempdir");
    let output = Command::new("sh")
        .args(["-c", "trap '' XFSZ; exec \"$0\" store::tests::failing::child --exact --nocapture --test-threads=1"])
        .arg(std::env::current_exe().expect("own path"))
        .env(DIR, dir.path().join("store"))
        .output()
        .expect("child");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
}
