//! Tokens of each algorithm, by key file and by a set of keys at a URL.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use parking_lot::Mutex;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
    RsaPublicKeyComponents,
};
use serde_json::{Value, json};
use sluiced_tests::setup::config;
use sluiced_tests::{Behaviour, Reply, TestDaemon, TestNats, TestReceiver, wait_until};

use super::{ask, by_secret, in_s, signed};

const WHO: &str = "/api/v1/info";
/// A key of 2048 bits that serves tests and nothing else.
const RSA_PRIVATE: &[u8] = include_bytes!("rsa-private.der");
const RSA_PUBLIC: &str = include_str!("rsa-public.pem");

fn rs256(claims: &Value) -> String {
    let key = RsaKeyPair::from_pkcs8(RSA_PRIVATE).expect("a key");
    signed(&json!({ "alg": "RS256", "kid": "rsa" }), claims, |message| {
        let mut signature = vec![0; key.public().modulus_len()];
        key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).expect("signs");
        signature
    })
}

fn claims() -> Value {
    json!({ "sub": "u1", "exp": in_s(60), "iss": "https://id.example/", "aud": ["other", "sluiced"] })
}

#[tokio::test]
async fn a_public_key_in_a_file_verifies_and_is_never_a_secret() {
    let nats = TestNats::start().await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("rsa-public.pem");
    std::fs::write(&file, RSA_PUBLIC).expect("written");
    let auth = format!(
        "[auth]\njwt = {{ public_key_file = {file:?}, issuer = \"https://id.example/\", audience = \"sluiced\", \
         leeway = \"5s\" }}\n"
    );
    let daemon = TestDaemon::start(&nats, &config(&auth, &[])).await;
    let told = ask(&daemon, Some(&rs256(&claims())), "GET", WHO, None).await;
    assert_eq!((told.status, &told.json()["principal"]["owner"]), (200, &json!("u1")), "{told:?}");
    let with = |key: &str, value: Value| {
        let mut claims = claims();
        claims[key] = value;
        claims
    };
    let confused = |secret: &[u8]| signed(&json!({ "alg": "HS256" }), &claims(), |message| by_secret(secret, message));
    let unsigned = signed(&json!({ "alg": "none" }), &claims(), |_| Vec::new());
    for (token, code) in [
        (rs256(&with("exp", json!(in_s(-10)))), "token_expired"),
        (rs256(&with("exp", json!(null))), "invalid_token"),
        (rs256(&with("nbf", json!(in_s(60)))), "invalid_token"),
        (rs256(&with("iss", json!("https://other/"))), "invalid_token"),
        (rs256(&with("aud", json!("other"))), "invalid_token"),
        (rs256(&with("sub", json!(null))), "invalid_token"),
        (confused(RSA_PUBLIC.as_bytes()), "invalid_token"),
        (confused(RSA_PRIVATE), "invalid_token"),
        (unsigned, "invalid_token"),
        ("a.b.c".to_owned(), "invalid_token"),
        ("nonsense".to_owned(), "unauthorized"),
    ] {
        let answer = ask(&daemon, Some(&token), "GET", WHO, None).await;
        assert_eq!((answer.status, &*answer.code()), (401, code), "{token}");
        assert!(answer.headers["www-authenticate"].to_str().expect("a text").starts_with("Bearer"));
        assert!(!token.split('.').any(|part| part.len() > 8 && answer.body.contains(part)), "it is not repeated");
    }
}

/// The public keys of an issuer, as they are published.
fn set(name: &str, ec: &EcdsaKeyPair, ed: &Ed25519KeyPair) -> String {
    let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let point = ec.public_key().as_ref();
    let rsa = RsaKeyPair::from_pkcs8(RSA_PRIVATE).expect("a key");
    let rsa = RsaPublicKeyComponents::<Vec<u8>>::from(rsa.public());
    json!({ "keys": [
        { "kty": "RSA", "kid": "rsa", "n": text(&rsa.n), "e": text(&rsa.e) },
        { "kty": "EC", "crv": "P-256", "x": text(&point[1..33]), "y": text(&point[33..]), "kid": format!("{name}-ec") },
        { "kty": "OKP", "crv": "Ed25519", "x": text(ed.public_key().as_ref()), "kid": format!("{name}-ed") },
    ] })
    .to_string()
}

fn keys() -> (EcdsaKeyPair, Ed25519KeyPair) {
    let rng = SystemRandom::new();
    let ec = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &rng).expect("a key");
    let ec = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, ec.as_ref(), &rng).expect("a key");
    let ed = Ed25519KeyPair::generate_pkcs8(&rng).expect("a key");
    (ec, Ed25519KeyPair::from_pkcs8(ed.as_ref()).expect("a key"))
}

#[tokio::test]
async fn a_set_of_keys_at_a_url_verifies_each_algorithm_and_is_renewed_for_a_new_key() {
    let (nats, issuer) = (TestNats::start().await, TestReceiver::start());
    let (ec, ed) = keys();
    let published = Arc::new(Mutex::new(set("1", &ec, &ed)));
    let now = Arc::clone(&published);
    issuer.set(Behaviour::custom(move |_| Reply { body: now.lock().clone().into(), ..Reply::status(200) }));
    let auth = format!("[auth]\njwt = {{ jwks_url = {:?} }}\n[delivery]\nallow_cidrs = []\n", issuer.url("/jwks.json"));
    let daemon = TestDaemon::start(&nats, &config(&auth, &[])).await;
    let es256 = |key: &EcdsaKeyPair, kid: &str| {
        signed(&json!({ "alg": "ES256", "kid": kid }), &claims(), |message| {
            key.sign(&SystemRandom::new(), message).expect("signs").as_ref().to_vec()
        })
    };
    let eddsa = signed(&json!({ "alg": "EdDSA" }), &claims(), |message| ed.sign(message).as_ref().to_vec());
    for token in [rs256(&claims()), es256(&ec, "1-ec"), eddsa] {
        assert_eq!(ask(&daemon, Some(&token), "GET", WHO, None).await.status, 200, "{token}");
    }
    assert_eq!(issuer.received().len(), 1, "the set is kept");
    // The issuer takes other keys. They are asked for as soon as that is allowed again.
    let (other_ec, other_ed) = keys();
    *published.lock() = set("2", &other_ec, &other_ed);
    let new = es256(&other_ec, "2-ec");
    wait_until("the new keys are known", Duration::from_secs(90), async || {
        ask(&daemon, Some(&new), "GET", WHO, None).await.status == 200
    })
    .await;
    assert_eq!(issuer.received().len(), 2, "however often it was asked");
    assert_eq!(ask(&daemon, Some(&es256(&ec, "1-ec")), "GET", WHO, None).await.code(), "invalid_token");
}
