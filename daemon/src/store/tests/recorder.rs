//! Groups, order, and what becomes of tokens.

use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread::JoinHandle;

use super::*;

type Done = (Vec<u64>, Result<(), Error>);

const PATIENCE: Duration = Duration::from_secs(20);

fn start(store: &Store) -> (Recorder<u64>, JoinHandle<()>, Receiver<Done>) {
    let (send, receive) = sync_channel(10_000);
    let (recorder, thread) =
        Recorder::start(store.clone(), move |tokens, result| drop(send.send((tokens, result)))).expect("start");
    (recorder, thread, receive)
}

#[test]
fn many_changes_take_few_flushes_and_tokens_come_back_in_order() {
    let dir = TempDir::new().expect("tempdir");
    let store = open(&dir);
    let (recorder, thread, done) = start(&store);
    for n in 1..=2_000 {
        recorder.submit(Change::Finished(entry("crm", n)), n);
    }
    recorder.submit(Change::Barrier, 2_001);
    recorder.close();
    thread.join().expect("writer");
    let groups: Vec<Done> = done.iter().collect();
    assert!(groups.iter().all(|(_, result)| result.is_ok()));
    assert!(groups.iter().all(|(tokens, _)| tokens.len() <= 256));
    let tokens: Vec<u64> = groups.iter().flat_map(|(tokens, _)| tokens.iter().copied()).collect();
    assert_eq!(tokens, (1..=2_001).collect::<Vec<_>>());
    assert!(groups.len() < 200, "{} flushes", groups.len());
    assert_eq!(store.recover(&[(stream("EVENTS"), 0)]).expect("recover")[0].recorded.len(), 2_000);
}

#[test]
fn a_lonely_change_is_flushed_after_the_delay_and_a_hurried_one_at_once() {
    let dir = TempDir::new().expect("tempdir");
    let store = open(&dir);
    let (recorder, _thread, done) = start(&store);
    recorder.submit(Change::Finished(entry("crm", 1)), 1);
    assert_eq!(done.recv_timeout(PATIENCE).expect("flushed").0, [1]);
    recorder.close();
    drop(store);
    drop(_thread.join());
    let patient = Store::open(Config { flush_delay_ms_max: 3_600_000, ..config(&dir) }).expect("open");
    let (recorder, _thread, done) = start(&patient);
    recorder.submit(Change::Finished(entry("crm", 2)), 2);
    recorder.submit(Change::Barrier, 3);
    assert_eq!(done.recv_timeout(Duration::from_millis(50)).err(), Some(RecvTimeoutError::Timeout));
    recorder.hurry();
    assert_eq!(done.recv_timeout(PATIENCE).expect("flushed").0, [2, 3]);
}

#[test]
fn the_last_handle_ends_the_writer_after_a_flush() {
    let dir = TempDir::new().expect("tempdir");
    let store = open(&dir);
    let (recorder, thread, done) = start(&store);
    let other = recorder.clone();
    recorder.submit(Change::Finished(entry("crm", 1)), 1);
    drop(recorder);
    other.submit(Change::Finished(entry("crm", 2)), 2);
    drop(other);
    thread.join().expect("writer");
    assert_eq!(done.iter().flat_map(|(tokens, _)| tokens).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn a_full_queue_refuses_and_hands_the_token_back() {
    let dir = TempDir::new().expect("tempdir");
    let small = Config { queue_ops_max: 3, flush_delay_ms_max: 3_600_000, ..config(&dir) };
    let store = Store::open(small).expect("open");
    let ledger = store.inner.ledger.lock();
    let (recorder, thread, done) = start(&store);
    // The writer takes these three and then waits for the ledger; the next three fill the queue again.
    for n in 1..=3 {
        recorder.submit(Change::Finished(entry("crm", n)), n);
    }
    recorder.hurry();
    let deadline = Instant::now() + PATIENCE;
    while recorder.waiting() > 0 {
        assert!(Instant::now() < deadline, "the writer takes what is hurried");
        std::thread::yield_now();
    }
    for n in 4..=8 {
        recorder.submit(Change::Finished(entry("crm", n)), n);
    }
    drop(ledger);
    recorder.close();
    thread.join().expect("writer");
    let mut refused = Vec::new();
    let mut kept = Vec::new();
    for (tokens, result) in done.iter() {
        match result {
            Ok(()) => kept.extend(tokens),
            Err(Error::QueueFull) => refused.extend(tokens),
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!((kept, refused), (vec![1, 2, 3, 4, 5, 6], vec![7, 8]));
}

#[test]
fn after_the_end_tokens_are_dropped() {
    let dir = TempDir::new().expect("tempdir");
    let store = open(&dir);
    let (recorder, thread, done) = start(&store);
    let late = recorder.clone();
    recorder.close();
    thread.join().expect("writer");
    late.submit(Change::Barrier, 1);
    assert!(done.try_recv().is_err());
}
