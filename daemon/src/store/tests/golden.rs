//! Each record survives its bytes, and the bytes of a released version never change.

use proptest::prelude::*;

use super::super::codec::{self, BodyRef, StoredBody, Traits, Whereabouts};
use super::super::log::{Builder, Group};
use super::*;
use crate::domain::{FailureClass, RangeSet};

fn ranges(spans: &[(u64, u64)]) -> RangeSet {
    let mut set = RangeSet::new();
    for (first, last) in spans {
        set.insert_range(*first, *last);
    }
    set
}

fn position() -> PositionRecord {
    let partly_above = [(1000, ranges(&[(0, 2), (5, 5)])), (1201, ranges(&[(1, 1)]))].into();
    PositionRecord { position: at(1000), recorded_above: ranges(&[(1002, 1002), (1010, 1200)]), partly_above }
}

fn registration() -> Registration {
    Registration {
        first_seen_ms: 1_700_000_000_000,
        starts_after: vec![(stream("EVENTS"), 41)],
        disabled: Some(Disabled { reason: "gone".into(), since_ms: 1_700_000_000_500, endpoint: Some(77) }),
        updated_ms: 1_700_000_000_600,
        failing_since_ms: Some(1_700_000_000_400),
        gaps: vec![GapRecord {
            stream: stream("EVENTS"),
            from: 7,
            available: 90,
            at_ms: 1_700_000_000_300,
            cause: GapCause::Skipped,
            events: 83,
        }],
    }
}

/// What a registration of version 1 says.
fn registration_v1() -> Registration {
    let disabled = Some(Disabled { reason: "gone".into(), since_ms: 0, endpoint: None });
    let updated_ms = 1_700_000_000_000;
    Registration { disabled, updated_ms, failing_since_ms: None, gaps: vec![], ..registration() }
}

/// What a parked delivery of version 1 says.
pub(super) fn parked_v1() -> Parked {
    Parked { created_ms: 1_700_000_000_123, history: vec![], ..parked("crm", 42, 5) }
}

/// What a dead letter of version 1 says.
pub(super) fn dead_v1() -> DeadLetter {
    DeadLetter { created_ms: 1_700_000_000_123, history: vec![], ..dead("crm", 42, 5) }
}

fn place() -> Whereabouts {
    let file = Some(BodyRef { length: 70_000, digest: [1, 2, 3, 4, 5, 6, 7, 8] });
    let traits = Some(traits());
    Whereabouts { dead: true, subscription: sub("crm"), at_ms: 1_700_000_000_000, file, traits }
}

fn traits() -> Traits {
    Traits { class: "status".into(), status: Some(503), bytes: 70_300 }
}

fn entries() -> Vec<LogEntry> {
    let failed = LogEntry {
        part: 1,
        parts: 2,
        attempt: 3,
        status: Some(503),
        disposition: Disposition::Parked,
        class: Some(FailureClass::Status),
        detail: Some(Box::new(Detail {
            took_ms: 45,
            due_ms: Some(1_700_000_030_007),
            message: "busy".into(),
            response: Some(response()),
        })),
        ..entry("crm", 7)
    };
    vec![entry("crm", 5), entry("wall", 6), failed, LogEntry { status: None, attempt: 0, ..entry("crm", 4) }]
}

fn log_value(entries: &[LogEntry]) -> Vec<u8> {
    let mut builder = Builder::default();
    for entry in entries {
        builder.push(entry);
    }
    builder.finish(&Builder::running_after(entries.iter(), &Running::new()))
}

fn log_entries(value: &[u8]) -> Vec<LogEntry> {
    let mut group = Group::read(value).expect("log value");
    let mut entries = Vec::new();
    while let Some(mut section) = group.section().expect("section") {
        let (subscription, stream) = (sub(section.subscription), group.running[section.stream].0.clone());
        while let Some(entry) = section.entry(&subscription, &stream).expect("entry") {
            entries.push(entry);
        }
    }
    entries
}

/// The entries as version 1 has them.
pub(super) fn entries_v1() -> Vec<LogEntry> {
    entries().into_iter().map(|entry| LogEntry { detail: None, ..entry }).collect()
}

fn lines(found: &[(&str, Vec<u8>)]) -> Vec<String> {
    found.iter().map(|(name, bytes)| format!("{name} {}", hex::encode(bytes))).collect()
}

/// A record of version 1.
pub(super) fn v1(name: &str) -> Vec<u8> {
    let line = include_str!("golden_v1.txt").lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    hex::decode(line.expect("a golden line")).expect("hexadecimal")
}

#[test]
fn version_2_has_these_bytes() {
    let file = Some(BodyRef { length: 70_000, digest: [9; 8] });
    let resent = Parked { resent_after: 3, order_key: Some("eu-7".into()), ..parked("crm", 42, 5) };
    let found = [
        ("registration", codec::write_registration(&registration())),
        ("position", codec::write_position(&position())),
        ("parked", codec::write_parked(&resent, None)),
        ("parked with file", codec::write_parked(&resent, file)),
        ("dead", codec::write_dead(&dead("crm", 42, 5), None)),
        ("log", log_value(&entries())),
        ("counts", codec::write_counts(Counts { parked: 3, dead: 400, dead_bytes: 70_300 })),
        ("whereabouts", codec::write_whereabouts(&place())),
        ("dead by time", codec::write_dead_index(&sub("crm"), &traits())),
    ];
    let golden: Vec<&str> = include_str!("golden_v2.txt").lines().collect();
    assert_eq!(lines(&found), golden);
}

#[test]
fn what_has_only_a_version_1_has_these_bytes() {
    assert_eq!(hex::encode(codec::write_number(300)), hex::encode(v1("number")));
}

#[test]
fn version_1_is_read() {
    assert_eq!(codec::read_registration(&v1("registration")).expect("read"), registration_v1());
    let whole = PositionRecord { partly_above: Default::default(), ..position() };
    assert_eq!(codec::read_position(stream("EVENTS"), &v1("position")).expect("read"), whole);
    let (one, letter) = (parked_v1(), dead_v1());
    let (read, body) = codec::read_parked(sub("crm"), 5, one.delivery, &v1("parked")).expect("read");
    assert_eq!(body, StoredBody::Inline(one.content.body.clone()));
    assert_eq!(Parked { content: one.content.clone(), ..read }, one);
    let (_, body) = codec::read_parked(sub("crm"), 5, one.delivery, &v1("parked with file")).expect("read");
    assert_eq!(body, StoredBody::File(BodyRef { length: 70_000, digest: [9; 8] }));
    let (read, body) = codec::read_dead(sub("crm"), 5, letter.delivery, &v1("dead")).expect("read");
    assert_eq!(body, StoredBody::Inline(letter.content.body.clone()));
    assert_eq!(DeadLetter { content: letter.content.clone(), ..read }, letter);
    assert_eq!(codec::read_counts(&v1("counts")).expect("read"), counts(3, 400));
    let bare = Whereabouts { traits: None, ..place() };
    assert_eq!(codec::read_whereabouts(&v1("whereabouts")).expect("read"), bare);
    let mut read = log_entries(&v1("log"));
    read.sort_by_key(|entry| entry.position.sequence);
    let mut expected = entries_v1();
    expected.sort_by_key(|entry| entry.position.sequence);
    assert_eq!(read, expected);
}

#[test]
fn records_survive_their_bytes() {
    assert_eq!(codec::read_registration(&codec::write_registration(&registration())).expect("read"), registration());
    let bytes = codec::write_position(&position());
    assert_eq!(codec::read_position(stream("EVENTS"), &bytes).expect("read"), position());
    assert_eq!(codec::read_whereabouts(&codec::write_whereabouts(&place())).expect("read"), place());
    let index = codec::write_dead_index(&sub("crm"), &traits());
    assert_eq!(codec::read_dead_index(&index).expect("read"), (sub("crm"), traits()));
    let (one, letter) = (parked("crm", 42, 5), dead("crm", 42, 5));
    let (mut read, body) =
        codec::read_parked(sub("crm"), 5, one.delivery, &codec::write_parked(&one, None)).expect("read");
    assert_eq!(body, StoredBody::Inline(one.content.body.clone()));
    read.content.body = one.content.body.clone();
    assert_eq!(read, one);
    let (mut read, _) =
        codec::read_dead(sub("crm"), 5, letter.delivery, &codec::write_dead(&letter, None)).expect("read");
    read.content.body = letter.content.body.clone();
    assert_eq!(read, letter);
}

#[test]
fn cut_or_unknown_records_are_errors_and_no_panics() {
    let whole = codec::write_parked(&parked("crm", 42, 5), None);
    let delivery = parked("crm", 42, 5).delivery;
    for end in 0..whole.len() {
        assert!(codec::read_parked(sub("crm"), 5, delivery, &whole[..end]).is_err(), "cut at {end}");
    }
    let mut newer = whole;
    newer[0] = 3;
    assert!(codec::read_parked(sub("crm"), 5, delivery, &newer).is_err());
    let value = log_value(&entries());
    for end in 0..value.len() {
        // A cut may fall between two sections, and is then only shorter: sled's own checksums guard against that.
        let Ok(mut group) = Group::read(&value[..end]) else { continue };
        while let Ok(Some(_)) = group.section() {}
    }
}

proptest! {
    #[test]
    fn log_entries_survive_their_bytes(
        parts in proptest::collection::vec(
            (0usize..4, any::<u64>(), 0u32..3, 0u32..5, proptest::option::of(100u16..600), any::<u64>(), 0usize..3, 0usize..9, any::<bool>()),
            1..60,
        )
    ) {
        let names = ["a", "b", "c.d", "e"];
        let classes = [
            FailureClass::Network, FailureClass::Timeout, FailureClass::Status, FailureClass::Gone,
            FailureClass::AddressRefused, FailureClass::Plugin, FailureClass::Undecodable, FailureClass::Internal,
        ];
        let mut entries: Vec<LogEntry> = parts
            .into_iter()
            .map(|(name, sequence, part, attempt, status, at_ms, streams, class, detail)| LogEntry {
                subscription: sub(names[name]),
                position: Position { stream: stream(["A", "B", "C"][streams]), sequence },
                part,
                parts: part + 1,
                attempt,
                status,
                at_ms,
                disposition: [Disposition::Delivered, Disposition::Dropped, Disposition::Dead][streams],
                class: classes.get(class).copied(),
                detail: detail.then(|| Box::new(Detail { took_ms: at_ms / 2, message: "busy".into(), ..Detail::default() })),
            })
            .collect();
        let read = log_entries(&log_value(&entries));
        // Sections keep the order within a subscription and stream.
        entries.sort_by(|a, b| (&a.subscription, &a.position.stream).cmp(&(&b.subscription, &b.position.stream)));
        let mut sorted = read;
        sorted.sort_by(|a, b| (&a.subscription, &a.position.stream).cmp(&(&b.subscription, &b.position.stream)));
        prop_assert_eq!(sorted, entries);
    }

    #[test]
    fn positions_survive_their_bytes(sequence in 1u64..1000, spans in proptest::collection::vec((0u64..5000, 0u64..50), 0..20)) {
        let spans: Vec<_> = spans.into_iter().map(|(start, more)| (sequence + start, sequence + start + more)).collect();
        let partly_above = spans.iter().map(|(start, _)| (*start, ranges(&spans))).collect();
        let record = PositionRecord { recorded_above: ranges(&spans), partly_above, ..position_at(at(sequence)) };
        let read = codec::read_position(stream("EVENTS"), &codec::write_position(&record)).expect("read");
        prop_assert_eq!(read, record);
    }
}
