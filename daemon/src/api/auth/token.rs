//! Tokens: JSON Web Tokens (RFC 7519) that somebody else issues, each for one owner.

use std::time::Duration;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Validation, decode, decode_header};
use serde_json::{Map, Value};

use super::jwks::{self, KeySet, Keys, Source};
use super::provider;
use crate::api::Principal;
use crate::api::principal::Validity;
use crate::domain::{AllowList, Owner, Scopes, allow};

/// The longest token that is looked at, in bytes.
const TOKEN_BYTES_MAX: usize = 8 << 10;
/// The algorithms that a token may be signed by. `none` is not one of them.
const ALGORITHMS: [Algorithm; 4] = [Algorithm::HS256, Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA];

/// How tokens are verified.
#[derive(Clone)]
pub struct Config {
    /// Where the keys come from.
    pub keys: Source,
    /// Who must have issued a token, when that matters.
    pub issuer: Option<String>,
    /// For one of whom it must have been issued; when none is named, that does not matter.
    pub audience: Vec<String>,
    /// How far the issuer's clock may be off.
    pub leeway: Duration,
    /// The allow-list of a token that names no types; `{sub}` stands for the owner.
    pub default_types: Vec<String>,
    /// What its holder may do.
    pub scopes: Scopes,
}

/// Why a token is refused. None of them repeats a part of the token.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is no token, or too long for one.
    #[error("it is not a JSON Web Token")]
    Malformed,
    /// It is signed by another algorithm, or by none.
    #[error("its algorithm is none of HS256, RS256, ES256 and EdDSA, or no key is for it")]
    Algorithm,
    /// It asks for an extension of the standard that is not understood here.
    #[error("its head has `crit`, which is not understood here")]
    Critical,
    /// Its signature is not one of a known key.
    #[error("its signature is not valid")]
    Signature,
    /// Its time is over.
    #[error("it has expired")]
    Expired,
    /// Its time has not begun.
    #[error("it is not valid yet")]
    Early,
    /// Somebody else issued it.
    #[error("its `iss` is not the issuer that this daemon trusts")]
    Issuer,
    /// It is for somebody else.
    #[error("its `aud` does not name this daemon")]
    Audience,
    /// A claim is missing, or has not the form that it must have.
    #[error("its claim `{0}` is missing or cannot be used")]
    Claim(Box<str>),
    /// The allow-list cannot be made for this owner.
    #[error("its allow-list of types cannot be used: {0}")]
    Types(allow::Error),
    /// The keys cannot be had at the moment.
    #[error("the keys that it could be verified with cannot be had at the moment")]
    Unavailable,
}

/// Verifies tokens.
pub struct Tokens {
    keys: Keys,
    config: Config,
}

impl Tokens {
    /// # Errors
    /// When a file of keys cannot be read.
    pub fn new(config: Config) -> Result<Self, jwks::Error> {
        provider::install();
        Ok(Self { keys: Keys::load(config.keys.clone())?, config })
    }

    /// Who the token says that its holder is.
    ///
    /// # Errors
    /// When it is not valid now, or its claims cannot be used.
    pub async fn verify(&self, token: &[u8]) -> Result<Principal, Refused> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Refused::Malformed);
        }
        let head = decode_header(token).map_err(|error| match error.kind() {
            ErrorKind::Json(_) if names_algorithm(token) => Refused::Algorithm,
            _ => Refused::Malformed,
        })?;
        if !ALGORITHMS.contains(&head.alg) {
            return Err(Refused::Algorithm);
        }
        if head.crit.is_some() {
            return Err(Refused::Critical);
        }
        let keys = self.keys.current().await.map_err(|_| Refused::Unavailable)?;
        let verified = self.claims(token, &keys, head.alg, head.kid.as_deref());
        let claims = match verified {
            // Its key may be a new one. One that does not name its key may be of a new one as well.
            Err(Refused::Algorithm | Refused::Signature) => match self.keys.newer(&keys).await {
                Some(newer) => self.claims(token, &newer, head.alg, head.kid.as_deref()),
                None => verified,
            },
            verified => verified,
        }?;
        self.principal(&claims)
    }

    /// The claims of a token that one of the keys has signed, and that is valid now.
    fn claims(
        &self,
        token: &[u8],
        keys: &KeySet,
        algorithm: Algorithm,
        key_id: Option<&str>,
    ) -> Result<Map<String, Value>, Refused> {
        let mut validation = Validation::new(algorithm);
        validation.leeway = self.config.leeway.as_secs();
        validation.validate_nbf = true;
        let mut required = vec!["exp", "sub"];
        if let Some(issuer) = &self.config.issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        if self.config.audience.is_empty() {
            validation.validate_aud = false;
        } else {
            validation.set_audience(&self.config.audience);
            required.push("aud");
        }
        validation.set_required_spec_claims(&required);
        let mut refused = Refused::Algorithm;
        for key in keys.candidates(algorithm, key_id) {
            match decode::<Map<String, Value>>(token, &key.key, &validation) {
                Ok(data) => return Ok(data.claims),
                Err(error) => refused = told(error.kind()),
            }
            if refused != Refused::Signature {
                break;
            }
        }
        Err(refused)
    }

    fn principal(&self, claims: &Map<String, Value>) -> Result<Principal, Refused> {
        let claim = |name: &str| Refused::Claim(name.into());
        let sub = claims.get("sub").and_then(Value::as_str).ok_or_else(|| claim("sub"))?;
        let owner = Owner::parse(sub).map_err(|_| claim("sub"))?;
        let types = match claims.get("types") {
            None | Some(Value::Null) => {
                AllowList::of(self.config.default_types.iter().map(String::as_str), Some(&owner))
            }
            Some(Value::Array(types)) => {
                let texts: Option<Vec<&str>> = types.iter().map(Value::as_str).collect();
                AllowList::of(texts.ok_or_else(|| claim("types"))?, Some(&owner))
            }
            Some(_) => return Err(claim("types")),
        };
        // It is taken for as long as the issuer's clock may be behind.
        let expires_s = claims.get("exp").and_then(Value::as_f64).ok_or_else(|| claim("exp"))?;
        let expires =
            Duration::try_from_secs_f64(expires_s).unwrap_or(Duration::MAX).saturating_add(self.config.leeway);
        let expires_ms = Some(u64::try_from(expires.as_millis()).unwrap_or(u64::MAX));
        let principal = Principal::token(owner, types.map_err(Refused::Types)?, self.config.scopes);
        Ok(principal.valid(Validity { expires_ms, ..Validity::default() }))
    }
}

fn told(kind: &ErrorKind) -> Refused {
    match kind {
        ErrorKind::InvalidSignature => Refused::Signature,
        ErrorKind::ExpiredSignature => Refused::Expired,
        ErrorKind::ImmatureSignature => Refused::Early,
        ErrorKind::InvalidIssuer => Refused::Issuer,
        ErrorKind::InvalidAudience => Refused::Audience,
        ErrorKind::MissingRequiredClaim(claim) | ErrorKind::InvalidClaimFormat(claim) => {
            Refused::Claim(claim.as_str().into())
        }
        ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm | ErrorKind::InvalidKeyFormat => {
            Refused::Algorithm
        }
        _ => Refused::Malformed,
    }
}

/// Has the token a head with an algorithm, be it one that nobody knows?
fn names_algorithm(token: &[u8]) -> bool {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;

    let head = token.split(|byte| *byte == b'.').next().unwrap_or_default();
    let head = URL_SAFE_NO_PAD.decode(head).ok().and_then(|head| serde_json::from_slice::<Value>(&head).ok());
    head.is_some_and(|head| head.get("alg").is_some())
}

#[cfg(test)]
mod tests;
