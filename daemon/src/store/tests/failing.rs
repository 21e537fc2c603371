//! A disk that takes no more: changes fail, nothing confirmed is lost, and writing resumes without a restart.
//!
//! The disk is a limit on the size of files, so the test runs itself again as a child process that may set one for
//! itself; the shell in between makes the child ignore the signal that goes with the limit.

use std::process::Command;
use std::sync::mpsc::sync_channel;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::*;

const DIR: &str = "SLUICED_TEST_FAILING_DIR";
const PATIENCE: Duration = Duration::from_secs(30);

fn limit_file_bytes(bytes: Option<u64>) {
    let maximum = getrlimit(Resource::Fsize).maximum;
    setrlimit(Resource::Fsize, Rlimit { current: bytes, maximum }).expect("limit");
}

#[test]
fn child() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let store = Store::open(Config::new(&dir)).expect("open");
    let (send, done) = sync_channel(10_000);
    let (recorder, thread) =
        Recorder::start(store.clone(), move |tokens: Vec<u64>, result| drop(send.send((tokens, result))))
            .expect("start");
    let mut confirmed = Vec::new();
    let mut submit = |n: u64| {
        recorder.submit(Change::Finished(entry("crm", n)), n);
        let (tokens, result) = done.recv_timeout(PATIENCE).expect("tokens always come back");
        assert_eq!(tokens, [n]);
        if result.is_ok() {
            confirmed.push(n);
        }
        result
    };
    submit(1).expect("written");
    assert!(store.writable().is_ok());

    limit_file_bytes(Some(std::fs::metadata(format!("{dir}/sled/db")).expect("data").len()));
    assert!((2..50).any(|n| submit(n).is_err()), "the limit is felt");
    assert!(store.writable().is_err());
    assert!(submit(100).is_err(), "and felt again");

    limit_file_bytes(None);
    let deadline = Instant::now() + PATIENCE;
    while store.writable().is_err() {
        assert!(Instant::now() < deadline, "writing resumes");
        std::thread::yield_now();
    }
    submit(200).expect("written");
    recorder.close();
    thread.join().expect("writer");
    let recovered = store.recover(&[(stream("EVENTS"), 0)]).expect("recover");
    let recorded: Vec<u64> = recovered[0].recorded.iter().map(|r| r.sequence).collect();
    assert!(confirmed.iter().all(|n| recorded.contains(n)), "{confirmed:?} in {recorded:?}");
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
