//! Jobs on record.

use super::super::jobs;
use super::*;
use crate::domain::{JobId, JobState, RangeSet};

fn job(id: u64, task: JobTask) -> JobRecord {
    JobRecord {
        id: JobId::from_number(id),
        subscription: sub("crm"),
        task,
        dry_run: false,
        rate: 50,
        state: JobState::Running,
        reason: None,
        created_ms: 1_700_000_000_000,
        updated_ms: 1_700_000_001_000,
        ran_ms: 900,
        counts: JobCounts {
            seen: 12,
            filtered: 2,
            faulted: 1,
            pending: 1,
            deliveries: 9,
            delivered: 7,
            parked: 1,
            failed: 1,
        },
    }
}

fn replay() -> JobTask {
    let mut recorded_above = RangeSet::new();
    recorded_above.insert_range(25, 30);
    recorded_above.insert(33);
    JobTask::Replay(ReplayTask {
        stream: stream("EVENTS"),
        from: 5,
        to: 900,
        available: Some(11),
        next: 23,
        recorded_above,
        marks: vec![
            Mark { sequence: 24, part: 1, parts: 2, disposition: Disposition::Parked },
            Mark { sequence: 32, part: 0, parts: 1, disposition: Disposition::Delivered },
        ],
    })
}

fn redrive() -> JobTask {
    JobTask::Redrive(RedriveTask {
        status: Some(503),
        class: Some("status".into()),
        since_ms: 0,
        until_ms: 1_700_000_000_000,
        after: Some((1_699_999_999_000, DeliveryId::from_bytes([7; 16]))),
    })
}

#[test]
fn version_2_of_jobs_has_these_bytes_and_version_1_is_read() {
    let mut cancelled = job(0x0018_bcfe_5680_0007, redrive());
    cancelled.dry_run = true;
    cancelled.state = JobState::Cancelled;
    cancelled.reason = Some("gone".into());
    for (job, bytes) in [(job(7, replay()), REPLAY), (cancelled, REDRIVE)] {
        let written = jobs::write(&job);
        assert_eq!(hex::encode(&written), bytes);
        assert_eq!(jobs::read(&jobs::key(job.id), &written).expect("read"), job);
        for end in 0..written.len() {
            assert!(jobs::read(&jobs::key(job.id), &written[..end]).is_err(), "cut at {end}");
        }
    }
    let JobTask::Replay(task) = replay() else { unreachable!("it is one") };
    let unmarked = job(7, JobTask::Replay(ReplayTask { marks: vec![], ..task }));
    let read = jobs::read(&jobs::key(unmarked.id), &hex::decode(REPLAY_V1).expect("hexadecimal"));
    assert_eq!(read.expect("read"), unmarked);
}

#[test]
fn an_outcome_of_a_replay_and_its_mark_are_one_write_and_the_place_takes_the_mark_over() {
    let dir = TempDir::new().expect("a folder");
    let store = open(&dir);
    let JobTask::Replay(task) = replay() else { unreachable!("it is one") };
    let task = ReplayTask { marks: vec![], ..task };
    let place = |next| job(7, JobTask::Replay(ReplayTask { next, ..task.clone() }));
    let marks = |store: &Store| match store.jobs().expect("read").remove(0).task {
        JobTask::Replay(task) => task.marks.iter().map(|mark| (mark.sequence, mark.part)).collect::<Vec<_>>(),
        JobTask::Redrive(_) => panic!("it is a replay"),
    };
    let outcome = |sequence, part| Change::Replayed {
        outcome: Box::new(Change::Finished(entry("crm", sequence))),
        job: JobId::from_number(7),
        mark: Mark { sequence, part, parts: 2, disposition: Disposition::Delivered },
    };
    store.commit(&[Change::Job(Box::new(place(23)))]).expect("written");
    // 26 is on record by the place, and 23 comes twice: the store did not know how its group ended.
    store.commit(&[outcome(23, 0), outcome(26, 0), outcome(24, 1), outcome(23, 0)]).expect("written");
    assert_eq!(marks(&store), [(23, 0), (24, 1)]);
    store.commit(&[outcome(40, 0), Change::Job(Box::new(place(24)))]).expect("written");
    drop(store);
    assert_eq!(marks(&open(&dir)), [(24, 1), (40, 0)], "a place keeps the marks that it does not tell of");
}

const REPLAY: &str = "020363726d00320772756e6e696e670080d095ffbc31e8d795ffbc3184070c0201010907010101064556454e5453058407010b170204050600020201020212000100";
const REPLAY_V1: &str = "010363726d00320772756e6e696e670080d095ffbc31e8d795ffbc3184070c0201010907010101064556454e5453058407010b170204050600";
const REDRIVE: &str = "020363726d01320963616e63656c6c65640104676f6e6580d095ffbc31e8d795ffbc3184070c020101090701010201f70301067374617475730080d095ffbc310198c895ffbc3107070707070707070707070707070707";

#[test]
fn jobs_are_kept_in_order_and_forgotten() {
    let dir = TempDir::new().expect("a folder");
    let store = open(&dir);
    let (first, second) = (job(7, replay()), job(0x0100_0000_0000_0001, redrive()));
    let changes = [&second, &first].map(|job| Change::Job(Box::new(job.clone())));
    store.commit(&changes).expect("written");
    assert_eq!(store.jobs().expect("read"), [first.clone(), second.clone()]);
    let done = JobRecord { state: JobState::Done, ..first };
    store.commit(&[Change::Job(Box::new(done.clone())), Change::ForgetJob(second.id)]).expect("written");
    drop(store);
    assert_eq!(open(&dir).jobs().expect("read"), [done]);
}
