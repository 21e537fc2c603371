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
fn version_1_of_jobs_has_these_bytes() {
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
}

const REPLAY: &str = "010363726d00320772756e6e696e670080d095ffbc31e8d795ffbc3184070c0201010907010101064556454e5453058407010b170204050600";
const REDRIVE: &str = "010363726d01320963616e63656c6c65640104676f6e6580d095ffbc31e8d795ffbc3184070c020101090701010201f70301067374617475730080d095ffbc310198c895ffbc3107070707070707070707070707070707";

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
