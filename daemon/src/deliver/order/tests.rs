//! Who may begin, and who waits for whom.

use std::num::NonZeroU32;

use bytes::Bytes;

use super::*;
use crate::domain::{KeySource, StreamName, SubscriptionId};

fn event(sequence: u64) -> Arc<Event> {
    Arc::new(Event {
        id: "e".into(),
        kind: "k".into(),
        subject: "k".into(),
        position: Position { stream: StreamName::parse("S").expect("a name"), sequence },
        time_ms: 0,
        headers: Vec::new(),
        content_type: None,
        data: Bytes::new(),
        undecodable: None,
    })
}

fn by_key() -> Gate {
    Gate::new(Order::ByKey(KeySource::Token(NonZeroU32::MIN)))
}

fn delivery(sequence: u64) -> DeliveryId {
    DeliveryId::derive(&SubscriptionId::parse("s").expect("an id"), &event(sequence).position, 0)
}

fn next(gate: &mut Gate) -> Option<(u64, Box<str>)> {
    gate.next_waiting().map(|waiting| (waiting.event.position.sequence, waiting.key))
}

#[test]
fn events_of_a_key_begin_one_after_the_other_and_others_go_past_them() {
    let mut gate = by_key();
    assert!(gate.admit("a", event(1)).is_some());
    assert!(gate.admit("a", event(2)).is_none() && gate.admit("b", event(3)).is_some());
    assert!(gate.admit("a", event(4)).is_none());
    assert_eq!(next(&mut gate), None);
    gate.leave("b");
    assert_eq!(next(&mut gate), None, "a is still busy");
    gate.leave("a");
    assert!(gate.admit("a", event(5)).is_none(), "not before those that wait");
    assert_eq!(next(&mut gate), Some((2, "a".into())));
    assert_eq!(next(&mut gate), None);
    gate.leave("a");
    assert_eq!(next(&mut gate), Some((4, "a".into())));
    assert_eq!((gate.waiting(), gate.is_working()), (1, true));
}

#[test]
fn a_parked_delivery_keeps_its_key_busy() {
    let mut gate = by_key();
    assert!(gate.admit("a", event(1)).is_some());
    gate.parked("a", delivery(1));
    gate.leave("a");
    assert!(gate.admit("a", event(2)).is_none());
    assert_eq!((next(&mut gate), gate.blocked_keys()), (None, 1));
    assert_eq!(gate.take_deferrable(|_| false), [event(2).position.clone()]);
    assert_eq!(gate.take_deferrable(|_| true), [], "told once");
    gate.unparked("a", &delivery(9));
    assert_eq!(gate.blocked_keys(), 1, "that was another one");
    gate.unparked("a", &delivery(1));
    assert_eq!((next(&mut gate), gate.blocked_keys()), (Some((2, "a".into())), 0));
}

#[test]
fn what_goes_back_is_the_next_of_its_key() {
    let mut gate = by_key();
    assert!(gate.admit("a", event(1)).is_some() && gate.admit("a", event(3)).is_none());
    gate.put_back("a", event(1));
    let waiting = gate.next_waiting().expect("the key is free");
    assert!(waiting.again && waiting.event.position.sequence == 1);
    assert!(gate.admit("a", event(2)).is_none(), "an older one that came back");
    gate.leave("a");
    assert_eq!(next(&mut gate), Some((2, "a".into())));
    gate.leave("a");
    assert_eq!(next(&mut gate), Some((3, "a".into())));
}

#[test]
fn a_full_window_takes_nothing_more_until_it_is_half_empty() {
    let mut gate = by_key();
    assert!(gate.admit("a", event(1)).is_some());
    let limit = WINDOW_EVENTS_MAX as u64;
    for sequence in 2..=limit + 1 {
        assert!(gate.has_room() && gate.admit("a", event(sequence)).is_none());
    }
    for _ in 0..limit / 2 {
        assert!(!gate.has_room());
        gate.leave("a");
        assert!(next(&mut gate).is_some());
    }
    assert!(gate.has_room());
}

#[test]
fn a_strict_order_takes_nothing_while_anything_is_under_way() {
    let mut gate = Gate::new(Order::Strict);
    assert!(gate.has_room() && gate.admit("", event(1)).is_some());
    assert!(!gate.has_room());
    gate.parked("an older key", delivery(1));
    gate.leave("");
    assert!(!gate.has_room(), "whatever its key was");
    gate.unparked("an older key", &delivery(1));
    assert!(gate.has_room());
}

#[test]
fn what_waits_goes_on_under_another_order() {
    let mut gate = by_key();
    assert!(gate.admit("a", event(1)).is_some() && gate.admit("a", event(2)).is_none());
    assert!(gate.admit("a", event(3)).is_none());
    gate.leave("a");
    gate.change(Order::Strict);
    assert_eq!(next(&mut gate), Some((2, "".into())));
    assert_eq!(next(&mut gate), None);
    gate.leave("");
    gate.change(Order::None);
    assert_eq!(next(&mut gate), Some((3, "".into())));
    assert!(!gate.is_working() && gate.has_room());
}
