//! The table of the module, row by row.

use super::*;
use crate::domain::webhook::Statuses;

const HOUR: Duration = Duration::from_secs(3_600);

fn status(code: u16) -> StatusCode {
    StatusCode::from_u16(code).expect("a status")
}

#[test]
fn every_status_has_its_outcome() {
    for code in 100..1_000 {
        let outcome = answered("crm.example", status(code), &StatusRules::default(), None, None);
        match (code, &outcome) {
            (200..=299, Outcome::Delivered { status, .. }) => assert_eq!(*status, code),
            (410, Outcome::Final(failure)) => assert_eq!(failure.class, FailureClass::Gone),
            (408 | 425 | 429 | 100..=199 | 500..=999, Outcome::Retry(failure))
            | (300..=499, Outcome::Final(failure)) => {
                assert_eq!((failure.class, failure.status), (FailureClass::Status, Some(code)));
            }
            _ => panic!("{code} became {outcome:?}"),
        }
    }
}

#[test]
fn a_rule_of_the_endpoint_is_over_the_usual() {
    let list = |entries: &[&str]| entries.iter().map(|text| Statuses::parse(text).expect("a status")).collect();
    let rules = StatusRules::new(list(&["4xx", "302", "5xx"]), list(&["429", "501", "400-404"])).expect("clear");
    for (code, retried) in
        [(302, true), (303, false), (405, true), (404, false), (429, false), (500, true), (501, false), (410, false)]
    {
        let outcome = answered("crm.example", status(code), &rules, None, None);
        assert_eq!(matches!(outcome, Outcome::Retry(_)), retried, "{code}");
    }
    assert!(matches!(answered("crm.example", status(204), &rules, None, None), Outcome::Delivered { .. }));
}

#[test]
fn a_refusal_says_what_the_receiver_said() {
    let response = Response { body: "no such\nhook".into(), ..Response::default() };
    let outcome = answered("crm.example", status(422), &StatusRules::default(), None, Some(Box::new(response)));
    let Outcome::Final(failure) = outcome else { panic!("final") };
    assert_eq!(&*failure.message, "crm.example answered 422 Unprocessable Entity: no such hook");
}

#[test]
fn retry_after_is_read_and_capped() {
    // 1994-11-06 08:49:37 UTC.
    let now_ms = 784_111_777_000;
    for (code, value, expected) in [
        (429, "7", Some(7_000)),
        (503, " 7 ", Some(7_000)),
        (429, "Sun, 06 Nov 1994 08:50:37 GMT", Some(60_000)),
        (429, "Sun, 06 Nov 1994 08:49:37 GMT", None),
        (429, "Sun, 06 Nov 1994 07:00:00 GMT", None),
        (429, "Sat, 06 Nov 2094 08:49:37 GMT", Some(3_600_000)),
        (429, "86400", Some(3_600_000)),
        (429, "99999999999999999999999999", Some(3_600_000)),
        (429, "0", None),
        (429, "-5", None),
        (429, "+5", None),
        (429, "1.5", None),
        (429, "soon", None),
        (429, "", None),
        (500, "7", None),
        (200, "7", None),
        (301, "7", None),
    ] {
        assert_eq!(retry_after_ms(status(code), value.as_bytes(), now_ms, HOUR), expected, "{code} {value:?}");
    }
    assert_eq!(retry_after_ms(status(429), b"\xff", now_ms, HOUR), None);
    assert_eq!(retry_after_ms(status(429), b"Sun, 06 Nov 1994 08:49:37 GMT", u64::MAX, HOUR), None);
}

/// An error that passes another one on, as the layers of the client do.
#[derive(Debug, thiserror::Error)]
#[error("wrapped")]
struct Wrapped(#[source] Box<dyn Error + Send + Sync>);

fn class_of(error: impl Into<Box<dyn Error + Send + Sync>>) -> (FailureClass, bool) {
    let wrapped = Wrapped(Box::new(Wrapped(error.into())));
    match failed("crm.example", &wrapped) {
        Outcome::Retry(failure) => (failure.class, true),
        Outcome::Final(failure) => (failure.class, false),
        Outcome::Delivered { .. } => panic!("an error delivers nothing"),
    }
}

#[test]
fn errors_are_told_apart_by_type_however_deep() {
    use std::io::ErrorKind;
    let errno = |errno: Errno| io::Error::from_raw_os_error(errno.raw_os_error());
    let refused = Refused { reason: "private" };
    assert_eq!(class_of(io::Error::from(ErrorKind::ConnectionRefused)), (FailureClass::Network, true));
    assert_eq!(class_of(io::Error::from(ErrorKind::TimedOut)), (FailureClass::Timeout, true));
    assert_eq!(class_of(errno(Errno::TIMEDOUT)), (FailureClass::Timeout, true));
    assert_eq!(class_of(errno(Errno::HOSTUNREACH)), (FailureClass::Network, true));
    assert_eq!(class_of(errno(Errno::MFILE)), (FailureClass::Internal, true));
    assert_eq!(class_of(errno(Errno::ADDRNOTAVAIL)), (FailureClass::Internal, true));
    assert_eq!(class_of(connect::TimedOut(HOUR)), (FailureClass::Timeout, true));
    assert_eq!(class_of(refused), (FailureClass::AddressRefused, false));
    assert_eq!(class_of(resolve::Error::Refused(refused)), (FailureClass::AddressRefused, false));
    assert_eq!(class_of(resolve::Error::Busy), (FailureClass::Internal, true));
    assert_eq!(class_of(resolve::Error::Nothing), (FailureClass::Network, true));
    assert_eq!(class_of(RefusedPort { port: 25 }), (FailureClass::AddressRefused, false));
    assert_eq!(class_of(proxy::Error::Refused(StatusCode::BAD_GATEWAY)), (FailureClass::Network, true));
    assert_eq!(class_of(proxy::Error::Refused(StatusCode::FORBIDDEN)), (FailureClass::Internal, true));
    assert_eq!(class_of(proxy::Error::Io(ErrorKind::ConnectionRefused.into())), (FailureClass::Internal, true));
    assert_eq!(class_of(proxy::Error::NotHttp), (FailureClass::Internal, true));
    assert_eq!(class_of(resolve::Error::Lookup(io::Error::other("x").into())), (FailureClass::Network, true));
    assert_eq!(class_of(resolve::Error::Lookup(errno(Errno::MFILE).into())), (FailureClass::Internal, true));
    assert_eq!(class_of("a text that says timeout"), (FailureClass::Network, true));
    // What hides within an I/O error counts, not the I/O error around it.
    let tls = io::Error::new(ErrorKind::InvalidData, rustls::Error::HandshakeNotComplete);
    let Outcome::Retry(failure) = failed("crm.example", &tls) else { panic!("retry") };
    assert_eq!(&*failure.message, "no secure connection to crm.example: handshake not complete");
    assert_eq!(class_of(io::Error::other(refused)), (FailureClass::AddressRefused, false));
}
