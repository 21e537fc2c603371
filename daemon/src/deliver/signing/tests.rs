//! The vectors are those of the Standard Webhooks project's own libraries.

use proptest::prelude::*;

use super::*;

#[test]
fn signs_the_published_vector() {
    let secret = parse_secret("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD").expect("a secret");
    let body = br#"{"email":"test@example.com","username":"test_user"}"#;
    assert_eq!(
        Signer::new([&secret]).sign("msg_27UH4WbU6Z5A5EzD8u03UvzRbpk", 1_649_367_553, body),
        "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw="
    );
}

#[test]
fn signs_once_for_each_secret() {
    let (first, second) = (generate().0, generate().0);
    let both = Signer::new([&first, &second]).sign("msg_1", 7, b"body");
    let each = [&first, &second].map(|secret| Signer::new([secret]).sign("msg_1", 7, b"body"));
    assert_eq!(both, each.join(" "));
}

#[test]
fn verifies_only_what_was_signed_and_is_recent() {
    let (secret, other) = (generate().0, generate().0);
    let both = format!("v2,AAAA v1,!! {}", Signer::new([&other, &secret]).sign("msg_1", 1_000, b"body"));
    let right = Signed { id: "msg_1", timestamp: "1000", signatures: &both, body: b"body" };
    assert_eq!(verify(&secret, &right, 1_000, 300), Ok(()));
    assert_eq!(verify(&other, &right, 1_000, 300), Ok(()));
    let cut = &both[..both.len() - 4];
    for (signed, now_s, why) in [
        (right, 1_300, None),
        (right, 1_301, Some(Unverified::Old)),
        (right, 700, None),
        (right, 699, Some(Unverified::Future)),
        (Signed { timestamp: "soon", ..right }, 1_000, Some(Unverified::Timestamp)),
        (Signed { timestamp: "18446744073709551615", ..right }, 1_000, Some(Unverified::Future)),
        (Signed { timestamp: "1001", ..right }, 1_000, Some(Unverified::Signature)),
        (Signed { id: "msg_2", ..right }, 1_000, Some(Unverified::Signature)),
        (Signed { body: b"Body", ..right }, 1_000, Some(Unverified::Signature)),
        (Signed { signatures: cut, ..right }, 1_000, Some(Unverified::Signature)),
        (Signed { signatures: "", ..right }, 1_000, Some(Unverified::Signature)),
    ] {
        assert_eq!(verify(&secret, &signed, now_s, 300).err(), why, "{signed:?} at {now_s}");
    }
}

#[test]
fn signs_bodies_in_the_older_style() {
    // The vector is test case 2 of RFC 4231.
    let hash = |key: &[u8], body: &[u8]| {
        let mut mac = keyed(key);
        mac.update(body);
        hex::encode(mac.finalize().into_bytes())
    };
    assert_eq!(
        hash(b"Jefe", b"what do ya want for nothing?"),
        "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    );
    let ((secret, text), older) = (generate(), generate().0);
    let signer = Signer::new([&secret, &older]);
    assert_eq!(signer.sign_body(BodyKey::Bytes, b"body"), Some(format!("sha256={}", hash(secret.bytes(), b"body"))));
    assert_eq!(signer.sign_body(BodyKey::Text, b"body"), Some(format!("sha256={}", hash(text.as_bytes(), b"body"))));
}

#[test]
fn bodies_are_not_signed_with_nothing() {
    let nothing = Signer::new([]);
    assert_eq!([BodyKey::Bytes, BodyKey::Text].map(|key| nothing.sign_body(key, b"body")), [None, None]);
}

#[test]
fn a_generated_secret_survives_its_text() {
    let (secret, text) = generate();
    assert_eq!(secret.bytes().len(), 32);
    assert!(parse_secret(&text) == Ok(secret.clone()));
    assert!(generate().0 != secret);
    assert!(parse_secret(text.trim_end_matches('=')) == Ok(secret));
}

#[test]
fn refuses_what_is_no_secret() {
    let of = |bytes: usize| format!("whsec_{}", STANDARD.encode(vec![7; bytes]));
    for (text, expected) in [
        (String::new(), Some(Error::Prefix)),
        ("C2FVsBQIhrscChlQIMV+b5sSYspob7oD".to_owned(), Some(Error::Prefix)),
        ("whsec_".to_owned(), Some(Error::Length)),
        ("whsec_not base64!".to_owned(), Some(Error::Base64)),
        (of(23), Some(Error::Length)),
        (of(24), None),
        (of(64), None),
        (of(65), Some(Error::Length)),
    ] {
        assert_eq!(parse_secret(&text).err(), expected, "{text}");
    }
}

proptest! {
    #[test]
    fn another_implementation_makes_the_same_signature(
        key in proptest::collection::vec(any::<u8>(), 24..=64), id in "[a-z0-9_]{1,40}", timestamp_s in 0u32.., body in ".*",
    ) {
        let secret = WebhookSecret::new(key.clone()).expect("24 to 64 bytes");
        let other = standardwebhooks::Webhook::from_bytes(key).expect("any key");
        let expected = other.sign(&id, i64::from(timestamp_s), body.as_bytes()).expect("signs");
        let timestamp = timestamp_s.to_string();
        let signed = Signed { id: &id, timestamp: &timestamp, signatures: &expected, body: body.as_bytes() };
        prop_assert_eq!(verify(&secret, &signed, u64::from(timestamp_s), 0), Ok(()));
        prop_assert_eq!(Signer::new([&secret]).sign(&id, u64::from(timestamp_s), body.as_bytes()), expected);
    }
}
