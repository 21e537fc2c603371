//! Sealed records in a real store, and what becomes of them under another key.

use tempfile::TempDir;

use super::super::Config;
use super::super::keyring::MasterKey;
use super::*;

fn sub(name: &str) -> SubscriptionId {
    SubscriptionId::parse(name).expect("a name")
}

fn keyring(text: char) -> Keyring {
    Keyring::new(&MasterKey::parse(&format!("{text}{}", "A".repeat(42))).expect("a key"))
}

fn open(dir: &TempDir) -> Store {
    Store::open(Config::new(dir.path().join("store"))).expect("store opens")
}

fn secret(byte: u8) -> WebhookSecret {
    WebhookSecret::new([byte; 32]).expect("32 bytes")
}

fn secrets(byte: u8) -> SigningSecrets {
    let previous = vec![PreviousSecret { secret: secret(byte + 1), until_ms: 1_700_000_100_000 }];
    SigningSecrets {
        origin: Origin::Kept,
        created_ms: 1_700_000_000_000,
        rotated_ms: 1_700_000_050_000,
        current: secret(byte),
        previous,
    }
}

fn is(found: Result<Option<SigningSecrets>, Error>, expected: &SigningSecrets) -> bool {
    found.expect("readable").as_ref() == Some(expected)
}

#[test]
fn version_1_has_these_bytes() {
    let current = "aa".repeat(32);
    let previous = "ab".repeat(32);
    let golden = format!("010180d095ffbc31d0d698ffbc3120{current}0120{previous}a0dd9bffbc31");
    assert_eq!(hex::encode(secrets(0xaa).write()), golden);
    assert!(SigningSecrets::read(&secrets(0xaa).write()) == Some(secrets(0xaa)));
    let whole = secrets(1).write();
    assert!((0..whole.len()).all(|end| SigningSecrets::read(&whole[..end]).is_none()), "a cut record is none");
}

#[test]
fn only_the_right_key_is_let_in() {
    let dir = TempDir::new().expect("tempdir");
    let store = open(&dir);
    assert!(!store.knows_master_key().expect("readable"));
    store.adopt(&keyring('A')).expect("the first key is the store's");
    store.put_signing_secrets(&keyring('A'), &[(sub("crm"), secrets(1))]).expect("written");
    drop(store);
    let store = open(&dir);
    assert!(store.knows_master_key().expect("readable"));
    assert!(matches!(store.adopt(&keyring('B')), Err(Error::WrongKey)));
    store.adopt(&keyring('A')).expect("the same key");
    assert!(is(store.signing_secrets(&keyring('A'), &sub("crm")), &secrets(1)));
    assert!(store.signing_secrets(&keyring('A'), &sub("erp")).expect("readable").is_none());
    assert!(matches!(store.signing_secrets(&keyring('B'), &sub("crm")), Err(Error::Sealed { .. })));
}

#[test]
fn a_record_under_the_key_of_another_subscription_does_not_open() {
    let dir = TempDir::new().expect("tempdir");
    let store = open(&dir);
    store.put_signing_secrets(&keyring('A'), &[(sub("crm"), secrets(1))]).expect("written");
    store
        .write_directly(|engine, _, batch| {
            let record = engine.state.get(keys::sealed(&sub("crm"), 1)).map_err(Error::read)?.expect("there");
            batch.insert(keys::sealed(&sub("erp"), 1), record);
            Ok(())
        })
        .expect("written");
    assert!(matches!(store.signing_secrets(&keyring('A'), &sub("erp")), Err(Error::Sealed { .. })));
}

/// A store under key `A` with more records than two steps take.
fn filled(dir: &TempDir) -> (Store, Vec<(SubscriptionId, SigningSecrets)>) {
    let store = open(dir);
    store.adopt(&keyring('A')).expect("adopted");
    let all: Vec<_> =
        (0..REKEY_RECORDS_MAX * 2 + 3).map(|n| (sub(&format!("s{n}")), secrets((n % 200) as u8))).collect();
    store.put_signing_secrets(&keyring('A'), &all).expect("written");
    (store, all)
}

#[test]
fn a_rekey_brings_every_record_under_the_new_key() {
    let dir = TempDir::new().expect("tempdir");
    let (store, all) = filled(&dir);
    assert!(matches!(store.rekey(&keyring('B'), &keyring('C')), Err(Error::WrongKey)));
    assert_eq!(store.rekey(&keyring('A'), &keyring('B')).expect("rekeyed"), Rekeyed::Records(all.len()));
    assert_eq!(store.rekey(&keyring('A'), &keyring('B')).expect("repeated"), Rekeyed::Before);
    drop(store);
    let store = open(&dir);
    assert!(matches!(store.adopt(&keyring('A')), Err(Error::WrongKey)));
    store.adopt(&keyring('B')).expect("the new key");
    assert!(all.iter().all(|(id, secrets)| is(store.signing_secrets(&keyring('B'), id), secrets)));
}

#[test]
fn a_rekey_that_was_cut_short_is_told_and_goes_on() {
    for steps in 0..3 {
        let dir = TempDir::new().expect("tempdir");
        let (store, all) = filled(&dir);
        // What `rekey` does, up to a crash after so many steps.
        store.write_meta(keys::META_REKEY, keyring('B').seal(Purpose::KeyCheck, None, b"")).expect("written");
        let mut after = vec![kind::SEALED];
        for _ in 0..steps {
            after = store.reseal_step(&keyring('A'), &keyring('B'), &after).expect("resealed").expect("more").0;
        }
        drop(store);
        let store = open(&dir);
        for key in ['A', 'B'] {
            assert!(matches!(store.adopt(&keyring(key)), Err(Error::Rekeying)), "{key} is not let in half way");
        }
        assert!(matches!(store.rekey(&keyring('A'), &keyring('C')), Err(Error::Rekeying)), "another new key");
        let left = all.len() - steps * REKEY_RECORDS_MAX;
        assert_eq!(store.rekey(&keyring('A'), &keyring('B')).expect("rekeyed"), Rekeyed::Records(left));
        store.adopt(&keyring('B')).expect("the new key");
        assert!(all.iter().all(|(id, secrets)| is(store.signing_secrets(&keyring('B'), id), secrets)));
    }
}

#[test]
fn what_is_forgotten_makes_room_for_another_key() {
    let dir = TempDir::new().expect("tempdir");
    let (store, all) = filled(&dir);
    assert_eq!(store.forget_sealed().expect("forgotten"), all.len());
    store.adopt(&keyring('B')).expect("any key is right now");
    assert!(store.signing_secrets(&keyring('B'), &all[0].0).expect("readable").is_none());
}
