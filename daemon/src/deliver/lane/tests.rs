//! What a lane does with its queue, its slots and its waking.

use bytes::Bytes;
use futures_util::FutureExt as _;

use super::*;
use crate::domain::{AckSink, AckToken, DeliveryId, Position, Settlement, StreamName};
use crate::store::{self, Content, DeadLetter, Disposition, LastFailure, LogEntry, Recorder, Resent};
use crate::telemetry::metrics::Metrics;

#[derive(Default)]
struct Settled(Mutex<Vec<(u64, Settlement)>>);

impl AckSink for Settled {
    fn settle(&self, sequence: u64, settlement: Settlement) {
        self.0.lock().push((sequence, settlement));
    }
}

struct Bench {
    lane: Arc<Lane>,
    settled: Arc<Settled>,
}

fn stream(name: &str) -> StreamName {
    StreamName::parse(name).expect("name")
}

fn bench(ledgers: Vec<Ledger>) -> Bench {
    let limits = Limits { in_flight_max: 2, queue_events_max: 2, rate: None, ordered: false };
    let id = SubscriptionId::parse("s").expect("id");
    let lane = Lane::new(id, Metrics::new().subscription("s"), limits, ledgers, Arc::default());
    Bench { lane: Arc::new(lane), settled: Arc::default() }
}

impl Bench {
    fn offer(&self, stream: &StreamName, sequence: u64) -> Offered {
        let event = Event {
            id: "e".into(),
            kind: "k".into(),
            subject: "k".into(),
            position: Position { stream: stream.clone(), sequence },
            time_ms: 0,
            headers: Vec::new(),
            content_type: None,
            data: Bytes::new(),
            undecodable: None,
        };
        let token = AckToken::new(Arc::clone(&self.settled) as Arc<dyn AckSink>, sequence);
        let share = token.share();
        token.done();
        self.lane.offer(&Arc::new(event), share)
    }

    fn was_woken(&self) -> bool {
        self.lane.woken().now_or_never().is_some()
    }

    fn settled(&self) -> Vec<(u64, Settlement)> {
        std::mem::take(&mut *self.settled.0.lock())
    }

    fn save_position(&self, durable: bool) {
        self.lane.state().ledgers[0].position_change().expect("a change");
        completed(vec![Token::Position { lane: Arc::clone(&self.lane), ledger: 0 }], durable);
    }

    fn record(&self, sequence: u64) -> Record {
        self.lane.state().take_slot();
        self.lane.metrics.in_flight.inc();
        self.lane.state().submitted();
        let event = Some((0, sequence));
        Record {
            event,
            part: 0,
            parts: 1,
            due_ms: None,
            count: Count::Delivered,
            order: None,
            change: Change::Barrier,
            span: Default::default(),
        }
    }
}

#[test]
fn a_full_lane_says_so_and_has_room_again_at_half() {
    let a = stream("A");
    let b = bench(vec![Ledger::live(a.clone(), 0)]);
    b.offer(&a, 1);
    assert!(b.was_woken());
    b.offer(&a, 2);
    assert!(!b.was_woken(), "the worker is awake");
    let Offered::Full(share) = b.offer(&a, 3) else { panic!("not full") };
    assert!(
        !b.lane.could_go_on()
            && b.lane.is_stuck(Duration::ZERO, false)
            && !b.lane.is_stuck(Duration::from_secs(60), true)
    );
    assert!(b.lane.state().pop().is_some_and(|(_, relieved)| relieved));
    assert!(b.lane.could_go_on());
    drop(share);
    assert_eq!(b.settled(), [(3, Settlement::Nak)]);
}

#[test]
fn a_hold_empties_the_queue_and_can_be_repeated() {
    let a = stream("A");
    let b = bench(vec![Ledger::live(a.clone(), 0)]);
    b.offer(&a, 1);
    b.offer(&a, 2);
    b.lane.hold();
    b.lane.hold();
    assert!(b.lane.state().pop().is_none() && !b.lane.could_go_on());
    assert_eq!(b.lane.state().ledgers[0].cursor(), Some(1));
    b.save_position(false);
    assert_eq!(b.settled(), [], "the store refused the position");
    b.lane.state().take_lost();
    b.save_position(true);
    assert_eq!(b.settled(), [(1, Settlement::Ack), (2, Settlement::Ack)]);
}

#[test]
fn a_hold_for_one_stream_rewinds_the_reader_of_another() {
    let (a, other) = (stream("A"), stream("B"));
    let b = bench(vec![Ledger::held_at(a.clone(), 5, crate::domain::RangeSet::new(), 9), Ledger::live(other, 0)]);
    b.lane.state().ledgers[0].read_through(7);
    b.offer(&a, 6);
    assert!(!b.lane.state().take_rewound());
    b.lane.hold();
    assert_eq!(b.lane.state().ledgers[0].cursor(), Some(6));
    assert!(b.lane.state().take_rewound() && !b.lane.state().take_rewound());
}

#[test]
fn a_skipped_event_wakes_a_reader_that_has_read_everything() {
    let a = stream("A");
    let b = bench(vec![Ledger::live(a.clone(), 0)]);
    b.lane.hold();
    assert!(b.was_woken());
    b.offer(&a, 1);
    assert!(b.was_woken(), "it can be probed with");
    b.offer(&a, 2);
    assert!(!b.was_woken());
}

#[test]
fn a_record_that_the_store_refused_keeps_its_slot_and_is_handed_in_again() {
    let a = stream("A");
    let b = bench(vec![Ledger::live(a.clone(), 0)]);
    b.offer(&a, 1);
    let record = b.record(1);
    assert!(b.was_woken(), "by the offer");
    completed(vec![Token::Record(Arc::clone(&b.lane), record)], false);
    assert!(b.was_woken(), "or nobody would hand it in again in a lane where nothing else happens");
    assert!(b.lane.state().refused_at.is_some() && b.lane.state().in_flight() == 1);
    let lost = b.lane.state().take_lost();
    assert_eq!(b.settled(), []);
    assert!(!b.lane.state().is_settled());
    completed(lost.into_iter().map(|record| Token::Record(Arc::clone(&b.lane), record)).collect(), true);
    assert_eq!(b.settled(), [(1, Settlement::Ack)]);
    assert!(b.lane.state().is_settled() && b.lane.state().free_slots() == 2);
    assert_eq!(b.lane.metrics.delivered.get(), 1);
}

#[test]
fn a_worker_is_woken_when_a_position_is_durable() {
    let a = stream("A");
    let b = bench(vec![Ledger::live(a, 0)]);
    b.lane.hold();
    assert!(b.was_woken());
    b.save_position(true);
    assert!(b.was_woken(), "the next change may wait");
}

#[test]
fn what_is_parked_is_told_right_where_a_resend_meets_a_replay() {
    let dir = tempfile::TempDir::new().expect("tempdir");
    let store = Store::open(store::Config::new(dir.path().join("store"))).expect("opens");
    let b = bench(vec![Ledger::live(stream("A"), 0)]);
    let done = Arc::new(Mutex::new(Vec::new()));
    let (results, of) = (Arc::clone(&done), store.clone());
    let (recorder, writer) = Recorder::start(store.clone(), move |tokens, result| {
        results.lock().push(result.is_ok());
        concluded(tokens, true, &of);
    })
    .expect("starts");
    let letter = dead_letter(b.lane.id());
    let (delivery, log) = (letter.delivery, log_of(&letter, Disposition::Dead));
    recorder.submit(Change::Dead { letter: Box::new(letter.clone()), log }, Token::Nobody);
    recorder.hurry();
    while done.lock().is_empty() {
        std::thread::yield_now();
    }
    // The replay has the delivery under way when its dead letter is sent again, and arrives first.
    assert_eq!(store.resend(b.lane.id(), &[delivery]).expect("resent"), [Resent::Parked]);
    b.lane.resent(1, 0);
    b.lane.read_parked(&store);
    assert_eq!(b.lane.metrics.parked.get(), 1);
    {
        let mut state = b.lane.state();
        state.claim(delivery);
        state.take_slot();
        state.submitted();
    }
    let change = Change::FinishParked { delivery, log: log_of(&letter, Disposition::Delivered) };
    let (event, count) = (None, Count::Delivered);
    let record = Record {
        event,
        part: 0,
        parts: 1,
        due_ms: None,
        count,
        order: None,
        change: change.clone(),
        span: Default::default(),
    };
    recorder.submit(change, Token::Record(Arc::clone(&b.lane), record));
    recorder.close();
    writer.join().expect("ends");
    assert_eq!(*done.lock(), [true, true]);
    assert_eq!((b.lane.metrics.parked.get(), store.counts(b.lane.id()).parked), (0, 0));
}

fn dead_letter(subscription: &SubscriptionId) -> DeadLetter {
    let position = Position { stream: stream("A"), sequence: 1 };
    let content = Content {
        event_id: "e".into(),
        event_type: "k".into(),
        event_time_ms: 0,
        content_type: None,
        headers: Vec::new(),
        body: Bytes::new(),
    };
    DeadLetter {
        delivery: DeliveryId::derive(subscription, &position, 0),
        subscription: subscription.clone(),
        position,
        part: 0,
        parts: 1,
        failed_ms: 1,
        attempts: 1,
        first_attempt_ms: 1,
        failure: LastFailure { class: "status".into(), status: Some(422), message: "no".into() },
        content,
        created_ms: 1,
        resent_after: 0,
        history: Vec::new(),
    }
}

fn log_of(letter: &DeadLetter, disposition: Disposition) -> LogEntry {
    LogEntry {
        subscription: letter.subscription.clone(),
        position: letter.position.clone(),
        part: 0,
        parts: 1,
        attempt: 1,
        status: None,
        at_ms: 1,
        disposition,
        class: None,
        detail: None,
    }
}
