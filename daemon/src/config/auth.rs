//! `[auth]`: the admin key, and whose tokens are trusted.

use std::time::Duration;

use super::places::KeyPath;
use super::report::Report;
use super::valid::{all, bounds, plain_url};
use super::{Auth, Jwt, JwtKeys, Secret, Server, raw};
use crate::domain::Scope;
use crate::domain::allow::{self, ALLOWED_PATTERNS_MAX};

/// How far the issuer's clock may be off when nothing is said.
const LEEWAY_DEFAULT: Duration = Duration::from_secs(60);

/// What the holder of a token can be allowed: never what is the operator's.
const OWNER_SCOPES: [(&str, Scope); 3] = [("read", Scope::Read), ("write", Scope::Write), ("publish", Scope::Publish)];

pub(super) fn auth(raw: raw::Auth, report: &mut Report<'_>) -> Option<Auth> {
    let at = KeyPath::top("auth");
    let admin_key = match raw.admin_key {
        None => Some(None),
        Some(key) => {
            let max = bounds::ADMIN_KEY_BYTES_MAX;
            let usable = (1..=max).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
            let key = usable.then(|| Secret(key.into()));
            let reason = || format!("must be 1 to {max} visible ASCII characters without spaces");
            report.check(&at.key("admin_key"), key.ok_or_else(reason)).map(Some)
        }
    };
    let jwt = match raw.jwt {
        None => Some(None),
        Some(raw) => jwt(&at.key("jwt"), raw.0, report).map(Some),
    };
    let types = at.key("default_types");
    if raw.default_types.len() > ALLOWED_PATTERNS_MAX {
        let reason = format_args!("has {} patterns, {ALLOWED_PATTERNS_MAX} is the limit", raw.default_types.len());
        report.problem(&types, reason);
    }
    let default_types = all(raw
        .default_types
        .into_iter()
        .enumerate()
        .map(|(i, text)| report.check(&types.index(i), allow::check(&text)).map(|()| text)));
    let scopes = at.key("owner_scopes");
    let scope = |(i, word): (usize, &String)| report.word(&scopes.index(i), word, &OWNER_SCOPES);
    let owner_scopes = all(raw.owner_scopes.iter().enumerate().map(scope)).map(|scopes| scopes.into_iter().collect());
    Some(Auth { admin_key: admin_key?, jwt: jwt?, default_types: default_types?, owner_scopes: owner_scopes? })
}

fn jwt(at: &KeyPath, raw: raw::Jwt, report: &mut Report<'_>) -> Option<Jwt> {
    let keys = match (raw.hs256_secret, raw.public_key_file, raw.jwks_file, raw.jwks_url) {
        (Some(secret), None, None, None) => {
            let (bounds, bytes) = (bounds::HS256_SECRET_BYTES, secret.len());
            let usable = bounds.contains(&bytes);
            let reason = || {
                let (min, max) = (bounds.start(), bounds.end());
                format!(
                    "has {bytes} bytes, and HS256 asks for {min} to {max}: a shorter secret can be guessed from a token"
                )
            };
            let secret = usable.then(|| JwtKeys::Hs256(Secret(secret.into()))).ok_or_else(reason);
            report.check(&at.key("hs256_secret"), secret)
        }
        (None, Some(file), None, None) => report.path(&at.key("public_key_file"), &file).map(JwtKeys::PublicKeyFile),
        (None, None, Some(file), None) => report.path(&at.key("jwks_file"), &file).map(JwtKeys::JwksFile),
        (None, None, None, Some(url)) => report.check(&at.key("jwks_url"), plain_url(&url)).map(JwtKeys::JwksUrl),
        _ => {
            let reason = "must have exactly one of hs256_secret, public_key_file, jwks_file and jwks_url";
            report.problem(at, reason);
            None
        }
    };
    let issuer = raw.issuer.filter(|issuer| !issuer.is_empty());
    let audience = raw.audience.map(raw::Texts::all).unwrap_or_default();
    let leeway = match raw.leeway {
        None => Some(LEEWAY_DEFAULT),
        Some(text) => report.duration(&at.key("leeway"), &text, &bounds::LEEWAY),
    };
    Some(Jwt { keys: keys?, issuer, audience, leeway: leeway? })
}

/// Whoever can reach a public address could otherwise publish, read and register everything.
pub(super) fn public_needs_key(server: Option<&Server>, auth: Option<&Auth>, report: &mut Report<'_>) {
    let (Some(server), Some(auth)) = (server, auth) else { return };
    let open = auth.admin_key.is_none() && auth.jwt.is_none();
    if !server.listen.ip().to_canonical().is_loopback() && open {
        let reason = format!(
            "{} is not loopback, and there is no auth.admin_key: set SLUICED_AUTH__ADMIN_KEY, or listen on 127.0.0.1",
            server.listen.ip()
        );
        report.problem(&KeyPath::top("server").key("listen"), reason);
    }
}
