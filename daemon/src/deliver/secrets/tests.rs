//! Transitions from one secret to the next, and what is signed with meanwhile.

use proptest::prelude::*;
use tempfile::TempDir;

use super::super::signing::{Signed, verify};
use super::*;
use crate::store::MasterKey;

const DAY: Duration = Duration::from_secs(24 * 3600);

fn secret(byte: u8) -> WebhookSecret {
    WebhookSecret::new([byte; 32]).expect("32 bytes")
}

fn sub(name: &str) -> SubscriptionId {
    SubscriptionId::parse(name).expect("a name")
}

fn file(byte: u8, overlap: Duration) -> Wanted {
    Wanted { secret: Some(secret(byte)), overlap }
}

fn kept() -> Wanted {
    Wanted { secret: None, overlap: DAY }
}

/// Those of the secrets 0 to 9 that verify what is sent at a time in milliseconds.
fn valid_at(secrets: &SigningSecrets, now_ms: u64) -> Vec<u8> {
    let (mut out, timestamp) = (bytes::BytesMut::new(), (now_ms / 1_000).to_string());
    signer(secrets).sign_into(b"msg_1", timestamp.as_bytes(), now_ms, b"body", &mut out);
    let signatures = std::str::from_utf8(&out).expect("ascii");
    let signed = Signed { id: "msg_1", timestamp: &timestamp, signatures, body: b"body" };
    (0..10).filter(|byte| verify(&secret(*byte), &signed, now_ms / 1_000, 0).is_ok()).collect()
}

#[test]
fn a_secret_that_changes_in_the_file_stays_valid_for_the_overlap() {
    let first = settled(None, &file(1, DAY), 1_000);
    assert_eq!(valid_at(&first, 1_000), [1]);
    assert!(settled(Some(&first), &file(1, DAY), 5_000) == first, "nothing changes, nothing is written");
    let second = settled(Some(&first), &file(2, Duration::from_secs(10)), 5_000);
    assert_eq!((second.created_ms, second.rotated_ms), (1_000, 5_000));
    assert_eq!(valid_at(&second, 14_999), [1, 2]);
    assert_eq!(valid_at(&second, 15_000), [2]);
    let back = settled(Some(&second), &file(1, DAY), 6_000);
    assert_eq!(valid_at(&back, 6_000), [1, 2], "each once, also when the old one comes back");
    assert_eq!(back.previous.len(), 1);
    let at_once = settled(Some(&second), &file(3, Duration::ZERO), 6_000);
    assert_eq!(valid_at(&at_once, 6_000), [3], "no overlap ends all earlier ones");
}

#[test]
fn the_newest_signature_comes_first() {
    let first = settled(None, &file(1, DAY), 1_000);
    let second = settled(Some(&first), &file(2, DAY), 2_000);
    let expected = [secret(2), secret(1)].map(|secret| Signer::new([&secret]).sign("a", 3, b"x")).join(" ");
    assert_eq!(signer(&second).sign("a", 3, b"x"), expected);
}

#[test]
fn a_secret_that_leaves_the_file_is_kept() {
    let first = settled(None, &file(1, DAY), 1_000);
    assert!(matches!(rotated(&first, &secret(2), DAY, 2_000), Err(Error::FromFile)));
    let taken_over = settled(Some(&first), &kept(), 2_000);
    assert_eq!((taken_over.origin, valid_at(&taken_over, 2_000)), (Origin::Kept, vec![1]));
    let next = rotated(&taken_over, &secret(2), DAY, 3_000).expect("the daemon's own may be rotated");
    assert_eq!(valid_at(&next, 3_000), [1, 2]);
    assert!(matches!(rotated(&next, &secret(2), DAY, 3_000), Err(Error::Same)));
}

#[test]
fn no_more_secrets_are_valid_than_are_signed_with() {
    let mut known = SigningSecrets { origin: Origin::Kept, ..settled(None, &file(0, DAY), 1_000) };
    for byte in 1..=PREVIOUS_SECRETS_MAX as u8 {
        known = rotated(&known, &secret(byte), DAY, 1_000).expect("there is room");
    }
    assert!(matches!(rotated(&known, &secret(9), DAY, 1_000), Err(Error::TooMany)));
    let at_once = rotated(&known, &secret(9), Duration::ZERO, 1_000).expect("without overlap there is always room");
    assert_eq!(valid_at(&at_once, 1_000), [9]);
    let from_file = settled(Some(&known), &file(9, DAY), 1_000);
    assert_eq!(valid_at(&from_file, 1_000), [1, 2, 3, 4, 9], "a file is obeyed, the oldest goes");
    assert!(rotated(&known, &secret(9), DAY, 1_000 + DAY.as_millis() as u64).is_ok(), "what has ended counts no more");
}

#[test]
fn what_is_in_effect_is_on_record() {
    let dir = TempDir::new().expect("tempdir");
    let key = MasterKey::generate();
    let open = || {
        let store = Store::open(store::Config::new(dir.path().join("store"))).expect("store opens");
        Secrets::new(store, Keyring::new(&key)).expect("the right key")
    };
    let secrets = open();
    let signing = secrets.signing(&sub("crm"));
    assert!(matches!(secrets.rotate(&sub("erp"), None, None), Err(Error::Unknown)));
    secrets.settle(&[(sub("crm"), kept())]).expect("settled");
    let first = secrets.view(&sub("crm")).expect("on record");
    let (new, view) = secrets.rotate(&sub("crm"), None, None).expect("rotated");
    assert_ne!(first.preview, view.preview);
    assert!(super::super::signing::text_of(&new).starts_with(view.preview.trim_end_matches('…')));
    assert_eq!(view.previous_until_ms, [view.rotated_ms + DAY.as_millis() as u64], "the definition's overlap");
    let signed = signing.load().sign("a", 3, b"x");
    drop((secrets, signing));
    let secrets = open();
    secrets.settle(&[(sub("crm"), kept())]).expect("settled");
    assert_eq!(secrets.view(&sub("crm")).expect("on record"), view);
    assert_eq!(secrets.signing(&sub("crm")).load().sign("a", 3, b"x"), signed, "the same after a restart");
    secrets.forget(&sub("crm")).expect("forgotten");
    assert!(matches!(secrets.view(&sub("crm")), Err(Error::Unknown)));
}

proptest! {
    /// Whatever the order of changes, what verifies is the current secret, and each earlier one until the end that it was
    /// given, as long as no later change was without overlap.
    #[test]
    fn every_order_of_changes_signs_with_the_right_ones(
        steps in proptest::collection::vec((0u8..10, prop::sample::select(vec![0u64, 5, 50, 500]), 0u64..100), 1..20),
    ) {
        let mut known = settled(None, &file(0, DAY), 0);
        let (mut now_s, mut model, mut current) = (0, Vec::<(u8, u64)>::new(), 0);
        for (byte, overlap_s, wait_s) in steps {
            now_s += wait_s;
            known = settled(Some(&known), &file(byte, Duration::from_secs(overlap_s)), now_s * 1_000);
            if byte != current {
                model.retain(|(other, until_s)| overlap_s > 0 && *other != byte && now_s < *until_s);
                if overlap_s > 0 {
                    model.insert(0, (current, now_s + overlap_s));
                }
                model.truncate(PREVIOUS_SECRETS_MAX);
                current = byte;
            }
            for later_s in [0, 4, 5, 49, 50, 499, 500] {
                let at_s = now_s + later_s;
                let mut expected: Vec<u8> =
                    model.iter().filter(|(_, until_s)| at_s < *until_s).map(|(byte, _)| *byte).collect();
                expected.push(current);
                expected.sort_unstable();
                prop_assert_eq!(valid_at(&known, at_s * 1_000), expected);
            }
        }
    }
}
