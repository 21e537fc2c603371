//! The vectors are those of the Standard Webhooks project's own libraries.

use super::*;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const PUBLIC: &str = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=";
const OTHER_SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

const SENT_S: u64 = 1_614_265_330;
const BODY: &[u8] = br#"{"test": 2432232314}"#;
const V1: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
const V1A: &str = "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==";

/// A request with the headers of the vectors.
#[derive(Clone, Copy)]
struct Request<'a> {
    id: Option<&'a str>,
    timestamp: Option<&'a str>,
    signature: Option<&'a str>,
    body: &'a [u8],
}

const RIGHT: Request<'_> = Request {
    id: Some("msg_p5jXN8AQM9LWM0D4loKWxJek"),
    timestamp: Some("1614265330"),
    signature: Some(V1),
    body: BODY,
};

impl<'a> Request<'a> {
    fn signed(self, signature: &'a str) -> Self {
        Self { signature: Some(signature), ..self }
    }

    fn judged(self, keys: &str, now_s: u64) -> Result<Verified<'a>, Error> {
        let header = |name: &str| match name {
            ID => self.id,
            TIMESTAMP => self.timestamp,
            SIGNATURE => self.signature,
            other => panic!("nobody needs {other}"),
        };
        let now = UNIX_EPOCH + Duration::from_secs(now_s);
        Verifier::new(keys).expect("keys").verify_at(header, self.body, now)
    }

    fn error(self) -> Option<Error> {
        self.judged(SECRET, SENT_S).err()
    }
}

#[test]
fn the_published_vectors_verify() {
    let verified = Verified { id: "msg_p5jXN8AQM9LWM0D4loKWxJek", timestamp_s: SENT_S };
    assert_eq!(RIGHT.judged(SECRET, SENT_S), Ok(verified));
    assert_eq!(RIGHT.signed(V1A).judged(PUBLIC, SENT_S), Ok(verified));
    let other = Request {
        id: Some("msg_27UH4WbU6Z5A5EzD8u03UvzRbpk"),
        timestamp: Some("1649367553"),
        signature: Some("v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw="),
        body: br#"{"email":"test@example.com","username":"test_user"}"#,
    };
    assert_eq!(other.judged(OTHER_SECRET, 1_649_367_553).map(|verified| verified.timestamp_s), Ok(1_649_367_553));
}

#[test]
fn one_of_several_keys_and_one_of_several_signatures_are_enough() {
    let both = format!("{OTHER_SECRET} {SECRET}\n{PUBLIC}");
    for signature in [V1, V1A] {
        assert!(RIGHT.signed(signature).judged(&both, SENT_S).is_ok());
    }
    let wrong = "v1,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc=";
    for list in
        [format!("{wrong} v2,{} {V1} {wrong}", &V1[3..]), format!("{V1A} {V1}"), format!(" {V1} "), format!("x {V1}")]
    {
        assert!(RIGHT.signed(&list).error().is_none(), "{list}");
    }
    // An older sender's secret alone is not believed any more once it is taken out.
    assert_eq!(RIGHT.judged(OTHER_SECRET, SENT_S), Err(Error::Mismatch));
}

#[test]
fn what_was_changed_is_refused() {
    let cut = &V1[..V1.len() - 4];
    let first_bytes = "v1,g0hM9Q==";
    for (request, why) in [
        (Request { body: br#"{"test": 2432232315}"#, ..RIGHT }, Error::Mismatch),
        (Request { body: b"", ..RIGHT }, Error::Mismatch),
        (Request { id: Some("msg_other"), ..RIGHT }, Error::Mismatch),
        (Request { timestamp: Some("1614265331"), ..RIGHT }, Error::Mismatch),
        (Request { timestamp: Some("01614265330"), ..RIGHT }, Error::Mismatch),
        (RIGHT.signed(first_bytes), Error::Mismatch),
        (RIGHT.signed("v1,"), Error::Mismatch),
        (RIGHT.signed(cut), Error::Mismatch),
        (RIGHT.signed("v1,not base64"), Error::Unsigned),
        (RIGHT.signed(&V1[3..]), Error::Unsigned),
        (RIGHT.signed(V1A), Error::Unsigned),
        (RIGHT.signed("v1a,AAAA"), Error::Unsigned),
        (RIGHT.signed(""), Error::Unsigned),
        (Request { id: None, ..RIGHT }, Error::Missing { header: ID }),
        (Request { timestamp: None, ..RIGHT }, Error::Missing { header: TIMESTAMP }),
        (Request { signature: None, ..RIGHT }, Error::Missing { header: SIGNATURE }),
    ] {
        assert_eq!(request.error(), Some(why), "{:?}", request.signature);
    }
    assert_eq!(RIGHT.judged(PUBLIC, SENT_S), Err(Error::Unsigned));
    let other = "whpk_HRqkRQ8PMxH1MFv1K5gnZNQ0zhRPS2HjKTO0p0vHTUA=";
    assert_eq!(RIGHT.signed(V1A).judged(other, SENT_S), Err(Error::Mismatch));
}

#[test]
fn a_time_is_right_within_the_tolerance_in_both_directions() {
    for (now_s, why) in [
        (SENT_S + 300, None),
        (SENT_S + 301, Some(Error::Old { age_s: 301 })),
        (SENT_S - 300, None),
        (SENT_S - 301, Some(Error::Future { ahead_s: 301 })),
        (0, Some(Error::Future { ahead_s: SENT_S })),
    ] {
        assert_eq!(RIGHT.judged(SECRET, now_s).err(), why, "at {now_s}");
    }
    for odd in ["", "soon", "1614265330.0", "+1614265330", "-1", " 1614265330", "99999999999999999999"] {
        assert_eq!(Request { timestamp: Some(odd), ..RIGHT }.error(), Some(Error::Timestamp), "{odd:?}");
    }
    let far = Request { timestamp: Some("18446744073709551615"), ..RIGHT };
    assert!(matches!(far.error(), Some(Error::Future { .. })));
    let strict = Verifier::new(SECRET).expect("a key").tolerance(Duration::ZERO);
    let header = |name: &str| {
        if name == ID {
            RIGHT.id
        } else if name == TIMESTAMP {
            RIGHT.timestamp
        } else {
            Some(V1)
        }
    };
    let at = |now_s| strict.verify_at(header, BODY, UNIX_EPOCH + Duration::from_secs(now_s)).is_ok();
    assert_eq!([at(SENT_S - 1), at(SENT_S), at(SENT_S + 1)], [false, true, false]);
    assert!(matches!(strict.verify(header, BODY), Err(Error::Old { .. })), "the real time is later than 2021");
}

/// `id.time.body` can be cut at other full stops: were that believed, a recorded request would become another one.
#[test]
fn an_id_with_a_full_stop_is_refused() {
    let keyed = Hmac::<Sha256>::new_from_slice(&STANDARD.decode(&SECRET[6..]).expect("base64")).expect("a key");
    let tag = keyed.chain_update(b"msg_1.1614260000.1614265330.body").finalize().into_bytes();
    let signature = format!("v1,{}", STANDARD.encode(tag));
    let spliced = Request { id: Some("msg_1.1614260000"), body: b"body", ..RIGHT }.signed(&signature);
    assert_eq!(spliced.error(), Some(Error::Id));
    assert_eq!(Request { id: Some(""), ..RIGHT }.error(), Some(Error::Id));
}

#[test]
fn a_request_with_very_many_signatures_costs_no_more_than_one_with_some() {
    let filler = "v1,AAAA ".repeat(SIGNATURES_MAX - 1);
    assert_eq!(RIGHT.signed(&format!("{filler}{V1}")).error(), None);
    assert_eq!(RIGHT.signed(&format!("{filler}v1,AAAA {V1}")).error(), Some(Error::Mismatch));
}

#[test]
fn what_is_no_key_is_refused_and_never_shown() {
    let of = |bytes: usize| format!("whsec_{}", STANDARD.encode(vec![7; bytes]));
    for (text, why) in [
        (String::new(), Some(KeyError::None)),
        (" \n".to_owned(), Some(KeyError::None)),
        (SECRET[6..].to_owned(), Some(KeyError::Prefix)),
        ("whsec_".to_owned(), Some(KeyError::Length)),
        (of(23), Some(KeyError::Length)),
        (of(24), None),
        (of(64), None),
        (of(65), Some(KeyError::Length)),
        (of(32).trim_end_matches('=').to_owned(), None),
        ("whsec_not-base64".to_owned(), Some(KeyError::Base64)),
        ("whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbc=".to_owned(), Some(KeyError::Private)),
        ("whpk_AAAA".to_owned(), Some(KeyError::Length)),
        (format!("{SECRET} whsec_AAAA"), Some(KeyError::Length)),
    ] {
        assert_eq!(Verifier::new(&text).err(), why, "{text}");
    }
    assert!(!KeyError::Private.to_string().contains("6Xb"));
    let shown = format!("{:?}", Verifier::new(SECRET).expect("a key"));
    assert!(!shown.contains("MfKQ") && shown.contains("300"), "{shown}");
}

#[test]
fn errors_say_what_is_wrong() {
    assert_eq!(Error::Missing { header: ID }.to_string(), "the header `webhook-id` is missing");
    assert!(Error::Old { age_s: 400 }.to_string().starts_with("it was sent 400 s ago"));
    assert!(Error::Mismatch.to_string().contains("no signature matches"));
}
