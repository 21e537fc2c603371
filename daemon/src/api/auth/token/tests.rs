//! Tokens, signed here with keys made for the test.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use ring::hmac;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::api::auth::jwks::Fetch;
use crate::telemetry::clock;

const SECRET: &[u8] = b"a secret that only the issuer has";

fn signed(head: &Value, claims: &Value, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", part(head), part(claims));
    let signature = sign(message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
}

fn hs256(claims: &Value) -> String {
    signed(&json!({ "alg": "HS256", "typ": "JWT" }), claims, |message| by_secret(SECRET, message))
}

fn by_secret(secret: &[u8], message: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message).as_ref().to_vec()
}

fn in_s(seconds: i64) -> i64 {
    i64::try_from(clock::now_ms() / 1_000).expect("a time") + seconds
}

fn config(keys: Source) -> Config {
    Config {
        scopes: Scopes::OWNER,
        keys,
        issuer: None,
        audience: Vec::new(),
        leeway: Duration::from_secs(5),
        default_types: vec!["platform.>".to_owned(), "users.{sub}.>".to_owned()],
    }
}

fn tokens() -> Tokens {
    Tokens::new(config(Source::Secret(SECRET.into()))).expect("a secret")
}

async fn verify(tokens: &Tokens, token: &str) -> Result<Principal, Refused> {
    tokens.verify(token.as_bytes()).await
}

#[tokio::test]
async fn a_token_names_its_owner_and_what_that_one_may_see() {
    let principal = verify(&tokens(), &hs256(&json!({ "sub": "u1", "exp": in_s(60) }))).await.expect("valid");
    assert_eq!((principal.owner().map(Owner::as_str), principal.name()), (Some("u1"), "owner:u1"));
    assert!(principal.types().allows("users.u1.x") && !principal.types().allows("users.u2.x"));
    let narrow = json!({ "sub": "u1", "exp": in_s(60), "types": ["a.*", "u.{sub}"] });
    let principal = verify(&tokens(), &hs256(&narrow)).await.expect("valid");
    assert!(principal.types().allows("u.u1") && !principal.types().allows("platform.x"));
    let none = verify(&tokens(), &hs256(&json!({ "sub": "u1", "exp": in_s(60), "types": [] }))).await.expect("valid");
    assert!(!none.types().allows("a"));
}

#[tokio::test]
async fn a_token_is_refused_for_what_is_wrong_with_it() {
    let tokens = tokens();
    for (claims, why) in [
        (json!({ "sub": "u1" }), Refused::Claim("exp".into())),
        (json!({ "exp": in_s(60) }), Refused::Claim("sub".into())),
        (json!({ "sub": 7, "exp": in_s(60) }), Refused::Claim("sub".into())),
        (json!({ "sub": "", "exp": in_s(60) }), Refused::Claim("sub".into())),
        (json!({ "sub": "u1", "exp": "soon" }), Refused::Claim("exp".into())),
        (json!({ "sub": "u1", "exp": in_s(-10) }), Refused::Expired),
        (json!({ "sub": "u1", "exp": in_s(60), "nbf": in_s(30) }), Refused::Early),
        (json!({ "sub": "u1", "exp": in_s(60), "types": "a" }), Refused::Claim("types".into())),
        (json!({ "sub": "u1", "exp": in_s(60), "types": [1] }), Refused::Claim("types".into())),
    ] {
        assert_eq!(verify(&tokens, &hs256(&claims)).await, Err(why), "{claims}");
    }
    let leeway = json!({ "sub": "u1", "exp": in_s(-2), "nbf": in_s(2) });
    assert!(verify(&tokens, &hs256(&leeway)).await.is_ok(), "the issuer's clock may be off a little");
    for widening in ["*", ">", "a.b", "u1.>"] {
        let claims = json!({ "sub": widening, "exp": in_s(60) });
        assert!(matches!(verify(&tokens, &hs256(&claims)).await, Err(Refused::Types(_))), "{widening}");
    }
    let claims = json!({ "sub": "u1", "exp": in_s(60) });
    let other = signed(&json!({ "alg": "HS256" }), &claims, |message| by_secret(b"another", message));
    assert_eq!(verify(&tokens, &other).await, Err(Refused::Signature));
    for alg in ["none", "None", "HS384", "RS256", "ES256", "nonsense"] {
        let token = signed(&json!({ "alg": alg }), &claims, |message| by_secret(SECRET, message));
        assert_eq!(verify(&tokens, &token).await, Err(Refused::Algorithm), "{alg}");
    }
    let critical = signed(&json!({ "alg": "HS256", "crit": ["b64"], "b64": false }), &claims, |m| by_secret(SECRET, m));
    assert_eq!(verify(&tokens, &critical).await, Err(Refused::Critical));
    for broken in ["", "a.b.c", "..", "e30.e30.", &"x.".repeat(9_000)] {
        assert_eq!(verify(&tokens, broken).await, Err(Refused::Malformed), "{broken:.9}");
    }
}

#[tokio::test]
async fn issuer_and_audience_count_when_they_are_named() {
    let named = Config {
        issuer: Some("https://id".to_owned()),
        audience: vec!["sluiced".to_owned()],
        ..config(Source::Secret(SECRET.into()))
    };
    let tokens = Tokens::new(named).expect("a secret");
    let of = |iss: Value, aud: Value| hs256(&json!({ "sub": "u1", "exp": in_s(60), "iss": iss, "aud": aud }));
    for (token, expected) in [
        (of(json!("https://id"), json!("sluiced")), None),
        (of(json!("https://id"), json!(["x", "sluiced"])), None),
        (of(json!("https://other"), json!("sluiced")), Some(Refused::Issuer)),
        (of(json!("https://id"), json!("x")), Some(Refused::Audience)),
        (of(json!(null), json!("sluiced")), Some(Refused::Claim("iss".into()))),
        (of(json!("https://id"), json!(null)), Some(Refused::Claim("aud".into()))),
    ] {
        assert_eq!(verify(&tokens, &token).await.err(), expected);
    }
    let any = self::tokens();
    assert!(verify(&any, &of(json!("x"), json!("y"))).await.is_ok(), "unless they are named, they do not matter");
}

/// A key pair of P-256 and one of Ed25519, and the set that publishes them.
struct Issuer {
    ec: EcdsaKeyPair,
    ed: Ed25519KeyPair,
}

impl Issuer {
    fn new() -> Self {
        let rng = SystemRandom::new();
        let ec = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &rng).expect("a key");
        let ec = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, ec.as_ref(), &rng).expect("a key");
        let ed = Ed25519KeyPair::generate_pkcs8(&rng).expect("a key");
        Self { ec, ed: Ed25519KeyPair::from_pkcs8(ed.as_ref()).expect("a key") }
    }

    fn set(&self, name: &str) -> String {
        let point = self.ec.public_key().as_ref();
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let (x, y) = (text(&point[1..33]), text(&point[33..]));
        let ed = text(self.ed.public_key().as_ref());
        json!({ "keys": [
            { "kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": format!("{name}-ec"), "use": "sig", "alg": "ES256" },
            { "kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": "enc", "use": "enc" },
            { "kty": "OKP", "crv": "Ed25519", "x": ed, "kid": format!("{name}-ed") },
            { "kty": "oct", "k": text(SECRET), "kid": "oct" },
            { "kty": "unheard-of" },
        ] })
        .to_string()
    }

    fn es256(&self, kid: &str) -> String {
        let rng = SystemRandom::new();
        let head = json!({ "alg": "ES256", "kid": kid });
        let sign = |message: &[u8]| self.ec.sign(&rng, message).expect("signs").as_ref().to_vec();
        signed(&head, &json!({ "sub": "u1", "exp": in_s(60) }), sign)
    }

    fn eddsa(&self) -> String {
        let sign = |message: &[u8]| self.ed.sign(message).as_ref().to_vec();
        signed(&json!({ "alg": "EdDSA" }), &json!({ "sub": "u1", "exp": in_s(60) }), sign)
    }
}

/// Where a set is published; nothing is an outage.
#[derive(Clone, Default)]
struct Published {
    set: Arc<Mutex<Option<String>>>,
    asked: Arc<AtomicUsize>,
}

impl Fetch for Published {
    fn fetch(&self) -> BoxFuture<'_, Result<Bytes, Box<dyn std::error::Error + Send + Sync>>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let set = self.set.lock().clone();
        async move { set.map(Bytes::from).ok_or_else(|| "out of order".into()) }.boxed()
    }
}

#[tokio::test(start_paused = true)]
async fn keys_at_a_url_are_kept_renewed_for_unknown_ones_and_outlive_an_outage() {
    let (first, second, published) = (Issuer::new(), Issuer::new(), Published::default());
    let tokens = Tokens::new(config(Source::JwksUrl(Arc::new(published.clone())))).expect("nothing is fetched yet");
    let asked = || published.asked.load(Ordering::Relaxed);
    assert_eq!(verify(&tokens, &first.es256("1-ec")).await, Err(Refused::Unavailable));
    *published.set.lock() = Some(first.set("1"));
    assert_eq!(verify(&tokens, &first.es256("1-ec")).await, Err(Refused::Unavailable), "not asked again at once");
    tokio::time::advance(Duration::from_secs(11)).await;
    assert!(verify(&tokens, &first.es256("1-ec")).await.is_ok() && verify(&tokens, &first.eddsa()).await.is_ok());
    assert_eq!(asked(), 2);
    let by_name =
        signed(&json!({ "alg": "HS256", "kid": "oct" }), &json!({ "sub": "u1", "exp": in_s(60) }), |message| {
            by_secret(SECRET, message)
        });
    assert_eq!(verify(&tokens, &by_name).await, Err(Refused::Algorithm), "what is published is no secret");

    *published.set.lock() = Some(second.set("2"));
    assert_eq!(verify(&tokens, &second.es256("2-ec")).await, Err(Refused::Algorithm), "not asked that often");
    assert_eq!(asked(), 2);
    tokio::time::advance(Duration::from_secs(11)).await;
    let many = (0..20).map(|_| verify_owned(&tokens, second.es256("2-ec")));
    assert!(futures_util::future::join_all(many).await.iter().all(Result::is_ok));
    assert_eq!(asked(), 3, "one asks for all");
    assert!(verify(&tokens, &first.es256("1-ec")).await.is_err(), "the first ones are gone");

    *published.set.lock() = None;
    tokio::time::advance(Duration::from_secs(3_600)).await;
    assert!(verify(&tokens, &second.es256("2-ec")).await.is_ok(), "what is there stays");
}

async fn verify_owned(tokens: &Tokens, token: String) -> Result<Principal, Refused> {
    verify(tokens, &token).await
}

#[tokio::test(start_paused = true)]
async fn a_file_of_keys_is_read_again_and_a_broken_one_changes_nothing() {
    let (first, second) = (Issuer::new(), Issuer::new());
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), first.set("1")).expect("written");
    let tokens = Tokens::new(config(Source::JwksFile(file.path().into()))).expect("keys");
    assert!(verify(&tokens, &first.es256("1-ec")).await.is_ok());
    let secret =
        signed(&json!({ "alg": "HS256", "kid": "oct" }), &json!({ "sub": "u1", "exp": in_s(60) }), |message| {
            by_secret(SECRET, message)
        });
    assert!(verify(&tokens, &secret).await.is_ok(), "a file that only the operator writes may hold a secret");
    std::fs::write(file.path(), "{\"keys\": \"broken\"}").expect("written");
    tokio::time::advance(Duration::from_secs(2)).await;
    assert!(verify(&tokens, &first.es256("1-ec")).await.is_ok());
    std::fs::write(file.path(), second.set("second")).expect("written");
    tokio::time::advance(Duration::from_secs(2)).await;
    assert!(verify(&tokens, &second.es256("second-ec")).await.is_ok());
    assert!(verify(&tokens, &first.es256("1-ec")).await.is_err());
}

#[tokio::test]
async fn a_public_key_is_no_secret() {
    let issuer = Issuer::new();
    // SubjectPublicKeyInfo of an Ed25519 key (RFC 8410).
    let mut der = hex::decode("302a300506032b6570032100").expect("hexadecimal");
    der.extend_from_slice(issuer.ed.public_key().as_ref());
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der));
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(file.path(), &pem).expect("written");
    let tokens = Tokens::new(config(Source::PublicKeyFile(file.path().into()))).expect("a key");
    assert!(verify(&tokens, &issuer.eddsa()).await.is_ok());
    let claims = json!({ "sub": "u1", "exp": in_s(60) });
    for secret in [pem.as_bytes(), issuer.ed.public_key().as_ref()] {
        let token = signed(&json!({ "alg": "HS256" }), &claims, |message| by_secret(secret, message));
        assert_eq!(verify(&tokens, &token).await, Err(Refused::Algorithm));
    }
    for (text, why) in [("", "no public key"), ("-----BEGIN PRIVATE KEY-----", "private key"), ("\0\0", "no public")] {
        std::fs::write(file.path(), text).expect("written");
        let error = Tokens::new(config(Source::PublicKeyFile(file.path().into()))).err().expect(text);
        assert!(error.to_string().contains(why), "{error}");
    }
}
