//! The vector is the one that libraries of Standard Webhooks share; another library makes sure of the rest.

use ed25519_dalek::Verifier as _;
use proptest::prelude::*;

use super::*;
use crate::deliver::signing;

const PRIVATE: &str = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";
const PUBLIC: &str = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=";

#[test]
fn signs_the_published_vector() {
    let key = parse_private(PRIVATE).expect("a key");
    assert_eq!(PublicKey::of(&key).text(), PUBLIC);
    let body = br#"{"test": 2432232314}"#;
    let signature = Signer::new(&key).sign(&[b"msg_p5jXN8AQM9LWM0D4loKWxJek", b".", b"1614265330", b".", body]);
    assert_eq!(
        signature,
        "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg=="
    );
    assert_eq!(signature.len(), SIGNATURE_BYTES);
}

#[test]
fn verifies_beside_other_signatures_and_only_what_was_signed() {
    let (key, text) = generate();
    assert!(parse_private(&text) == Ok(key.clone()));
    let public = PublicKey::parse(&PublicKey::of(&key).text()).expect("its own text");
    let secret = signing::generate().0;
    let own = Signer::new(&key).sign(&[b"msg_1", b".", b"1000", b".", b"body"]);
    let both = format!("{} {own}", signing::Signer::new([&secret]).sign("msg_1", 1_000, b"body"));
    let right = Signed { id: "msg_1", timestamp: "1000", signatures: &both, body: b"body" };
    assert_eq!(public.verify(&right, 1_000, 300), Ok(()));
    assert_eq!(signing::verify(&secret, &right, 1_000, 300), Ok(()), "the other signature stands beside it");
    for (signed, now_s, why) in [
        (right, 1_301, Unverified::Old),
        (right, 699, Unverified::Future),
        (Signed { id: "msg_2", ..right }, 1_000, Unverified::Signature),
        (Signed { body: b"Body", ..right }, 1_000, Unverified::Signature),
        (Signed { signatures: "v1a,AAAA v1a,!! v1,x", ..right }, 1_000, Unverified::Signature),
    ] {
        assert_eq!(public.verify(&signed, now_s, 300), Err(why), "{signed:?} at {now_s}");
    }
    assert_eq!(PublicKey::of(&generate().0).verify(&right, 1_000, 300), Err(Unverified::Signature));
}

#[test]
fn refuses_what_is_no_key_and_never_shows_it() {
    let seed = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbc=";
    assert!(parse_private(seed) == parse_private(PRIVATE), "the seed alone is enough");
    assert!(parse_private(PRIVATE.trim_end_matches('=')) == parse_private(PRIVATE));
    let halves = format!("whsk_{}", STANDARD.encode([7; 64]));
    for (text, why) in [
        ("", Error::Prefix),
        (PUBLIC, Error::Prefix),
        ("whsk_%", Error::Base64),
        ("whsk_AAAA", Error::Length),
        (&*halves, Error::Key),
    ] {
        assert_eq!(parse_private(text).err(), Some(why), "{text}");
        assert!(!why.to_string().contains("AAAA"));
    }
    assert_eq!(PublicKey::parse(PRIVATE).err(), Some(Error::Prefix));
    assert_eq!(PublicKey::parse("whpk_AAAA").err(), Some(Error::Length));
}

proptest! {
    #[test]
    fn what_is_signed_verifies(seed: [u8; 32], body in proptest::collection::vec(any::<u8>(), 0..100)) {
        let key = Ed25519Key::new(seed);
        let text = Signer::new(&key).sign(&[b"id", b".", b"1", b".", &body]);
        let bytes = STANDARD.decode(text.strip_prefix("v1a,").expect("a version")).expect("base64");
        let signature = Signature::from_slice(&bytes).expect("64 bytes");
        let message = [b"id.1.", &body[..]].concat();
        prop_assert!(SigningKey::from_bytes(&seed).verifying_key().verify(&message, &signature).is_ok());
    }
}
