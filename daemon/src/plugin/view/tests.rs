//! Tests of what goes into the sandbox and what is let out.

use super::*;
use crate::domain::{Position, StreamName};

fn event() -> Event {
    let header = |name: &str, value: &str| Header { name: name.into(), value: value.into() };
    Event {
        id: "1".into(),
        kind: "orders.created".into(),
        subject: "events.orders.created".into(),
        position: Position { stream: StreamName::parse("EVENTS").unwrap(), sequence: 7 },
        time_ms: 5,
        headers: vec![header("X-Team", "sales"), header("X-Trace", "abc")],
        content_type: Some("application/json".into()),
        data: Bytes::from_static(b"{}"),
        undecodable: None,
    }
}

fn made(headers: &[(&str, &str)]) -> guest::Output {
    let header = |&(name, value): &(&str, &str)| guest::HeaderResult { name: name.into(), value: value.into() };
    guest::Output {
        data: b"made".to_vec(),
        content_type: None,
        headers: headers.iter().map(header).collect(),
        type_: None,
    }
}

fn take(output: guest::Output) -> Result<Output, FaultKind> {
    let limits = Limits::default();
    Allowance::new(&limits).take(vec![output]).map(|mut outputs| outputs.remove(0))
}

fn description(needs_payload: bool, needs_headers: HeaderNeeds) -> Description {
    Description {
        name: "p".into(),
        version: "1".into(),
        summary: "".into(),
        config_schema: "{}".into(),
        needs_payload,
        needs_headers,
    }
}

#[test]
fn only_what_is_asked_for_goes_in() {
    let event = event();
    let part = whole(&event);
    let view = View::new(&event, &part);
    let nothing = description(false, HeaderNeeds::None);
    let headers = view.headers(&nothing.needs_headers);
    let lowered = view.lower(&nothing, &headers);
    assert!(lowered.data.is_empty() && lowered.headers.is_empty());
    let one = description(true, HeaderNeeds::Named(vec!["x-trace".into()]));
    let headers = view.headers(&one.needs_headers);
    let lowered = view.lower(&one, &headers);
    assert_eq!(lowered.data.as_ptr(), event.data.as_ptr(), "the payload is borrowed, not copied");
    assert_eq!(lowered.headers.iter().map(|h| h.name).collect::<Vec<_>>(), ["X-Trace"]);
    assert_eq!(
        (lowered.type_, lowered.sequence, lowered.content_type),
        ("orders.created", 7, Some("application/json"))
    );
}

#[test]
fn a_later_plugin_sees_the_output_of_the_one_before() {
    let event = event();
    let mut output = made(&[("x-team", "ops")]);
    output.type_ = Some("orders.made".into());
    output.content_type = Some("text/plain".into());
    let part = laid_over(&whole(&event), take(output).unwrap());
    let all = description(true, HeaderNeeds::All);
    let view = View::new(&event, &part);
    let headers = view.headers(&all.needs_headers);
    let lowered = view.lower(&all, &headers);
    assert_eq!((lowered.data, lowered.type_, lowered.content_type), (&b"made"[..], "orders.made", Some("text/plain")));
    let pairs: Vec<_> = lowered.headers.iter().map(|h| (h.name, h.value)).collect();
    assert_eq!(pairs, [("X-Trace", "abc"), ("x-team", "ops")]);
    let again = laid_over(&part, take(made(&[("X-Team", "dev"), ("x-more", "1")])).unwrap());
    assert_eq!(again.kind.as_deref(), Some("orders.made"), "what is not set stays");
    let pairs: Vec<_> = again.headers.iter().map(|h| (&*h.name, &*h.value)).collect();
    assert_eq!(pairs, [("X-Team", "dev"), ("x-more", "1")]);
}

#[test]
fn what_cannot_be_delivered_is_refused() {
    let reason = |output| match take(output) {
        Err(FaultKind::Output { reason }) => reason,
        other => panic!("not refused: {other:?}"),
    };
    assert!(take(made(&[("x-ok", "a b\tc")])).is_ok());
    assert!(reason(made(&[("x y", "")])).contains("not a header name"));
    assert!(reason(made(&[("", "")])).contains("not a header name"));
    assert!(reason(made(&[("x", "a\r\nb: c")])).contains("control"));
    assert!(reason(guest::Output { content_type: Some("a\nb".into()), ..made(&[]) }).contains("content type"));
    assert!(reason(guest::Output { type_: Some("a..b".into()), ..made(&[]) }).contains("event type"));
}

#[test]
fn too_much_is_refused_over_all_inputs_together() {
    let limits = Limits { outputs_max: 3, output_bytes_max: 17, output_headers_max: 1, ..Limits::default() };
    let refused = |result: Result<Vec<Output>, FaultKind>| match result {
        Err(FaultKind::Output { reason }) => reason,
        other => panic!("not refused: {other:?}"),
    };
    let mut allowance = Allowance::new(&limits);
    assert!(allowance.take(vec![made(&[("x", "y")]), made(&[])]).is_ok(), "10 bytes");
    assert!(allowance.take(vec![made(&[])]).is_ok(), "14 bytes");
    assert!(refused(allowance.take(vec![made(&[])])).contains("more than 3 outputs"));
    let mut allowance = Allowance::new(&limits);
    assert!(refused(allowance.take(vec![made(&[("x", "a long value..")])])).contains("more than 17 bytes"));
    assert!(refused(Allowance::new(&limits).take(vec![made(&[("x", ""), ("y", "")])])).contains("more than 1 headers"));
}
