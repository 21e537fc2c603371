//! kill -9: every confirmed change is there afterwards, and no change is there by half.
//!
//! The test runs itself again as a child process, which submits changes and prints the number of each one that was
//! confirmed; the parent kills it when a drawn number of them has come, opens the store and looks.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use super::*;

const DIR: &str = "SLUICED_TEST_CRASH_DIR";
const FIRST: &str = "SLUICED_TEST_CRASH_FIRST";
const ROUNDS: u64 = 5;

/// What the child does with number `n`: most are finished, some parked, some parked and finished later.
fn changes(n: u64) -> Change {
    match n % 10 {
        0 => park(parked("parking", n, n)),
        1 => bury(dead("dying", n, n)),
        2 => Change::Hold { subscription: sub("held"), position: position_at(at(n)) },
        _ => Change::Finished(entry("crm", n)),
    }
}

#[test]
fn child() {
    let (Ok(dir), Ok(first)) = (std::env::var(DIR), std::env::var(FIRST)) else { return };
    let store = Store::open(Config::new(dir)).expect("open");
    let confirmed = |tokens: Vec<u64>, result: Result<(), Error>| {
        result.expect("written");
        let lines: String = tokens.iter().map(|n| format!("done {n}\n")).collect();
        std::io::stdout().lock().write_all(lines.as_bytes()).expect("parent reads");
    };
    let (recorder, thread) = Recorder::start(store, confirmed).expect("start");
    let mut n: u64 = first.parse().expect("number");
    while !thread.is_finished() {
        if recorder.waiting() < 300 {
            recorder.submit(changes(n), n);
            n += 1;
        } else {
            std::thread::yield_now();
        }
    }
}

#[test]
fn nothing_confirmed_is_lost() {
    let dir = TempDir::new().expect("tempdir");
    let path = dir.path().join("store");
    let mut confirmed = HashSet::new();
    for round in 0..ROUNDS {
        let first = 1 + round * 1_000_000;
        let mut child = Command::new(std::env::current_exe().expect("own path"))
            .args(["store::tests::crash::child", "--exact", "--nocapture", "--test-threads=1"])
            .env(DIR, &path)
            .env(FIRST, first.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("child");
        // A number that differs from run to run, so that the kill falls anywhere.
        let enough = 200 + now_ms() % 1_500;
        let mut lines = BufReader::new(child.stdout.take().expect("pipe")).lines();
        let mut came = 0;
        while came < enough {
            let line = lines.next().expect("the child writes until it is killed").expect("line");
            if let Some(n) = line.strip_prefix("done ") {
                confirmed.insert(n.parse::<u64>().expect("number"));
                came += 1;
            }
        }
        child.kill().expect("kill");
        child.wait().expect("wait");
        // What was confirmed before the kill but not read yet.
        for line in lines.map_while(Result::ok) {
            if let Some(Ok(n)) = line.strip_prefix("done ").map(str::parse::<u64>) {
                confirmed.insert(n);
            }
        }
        check(&path, &confirmed);
    }
}

fn check(path: &std::path::Path, confirmed: &HashSet<u64>) {
    let store = Store::open(Config::new(path)).expect("opens after the kill");
    let recovered = store.recover(&[(stream("EVENTS"), 0)]).expect("recover");
    let recorded: HashSet<u64> = recovered.iter().flat_map(|p| p.recorded.iter().map(|r| r.sequence)).collect();
    let held = recovered.iter().find_map(|p| p.position.as_ref()).map_or(0, |p| p.position.sequence);
    let keys = |kind| {
        let engine = store.engine().expect("open");
        let prefix = keys::of_subscription(kind, &sub(if kind == keys::kind::PARKED { "parking" } else { "dying" }));
        let keys = engine.state.scan_prefix(prefix).keys();
        keys.map(|key| keys::parse_timed(&key.expect("key")).expect("timed").0).collect::<HashSet<u64>>()
    };
    let (parked, dead) = (keys(keys::kind::PARKED), keys(keys::kind::DEAD));
    for n in confirmed {
        match n % 10 {
            2 => assert!(held >= *n, "position {held} behind the confirmed {n}"),
            _ => assert!(recorded.contains(n), "{n} was confirmed and is lost"),
        }
    }
    for n in &recorded {
        match n % 10 {
            0 => assert!(parked.contains(n), "{n} is on record without its parked body"),
            1 => assert!(dead.contains(n), "{n} is on record without its dead letter"),
            _ => {}
        }
    }
    assert!(parked.union(&dead).all(|n| recorded.contains(n)), "nothing is parked that is not on record");
    assert_eq!(totals(&store), counts(parked.len() as u64, dead.len() as u64));
    // A position is durable only with all that was submitted before it.
    let round = held - held % 1_000_000;
    assert!(
        (round + 1..held).all(|n| n % 10 == 2 || recorded.contains(&n)),
        "the position passed what is not on record"
    );
}
