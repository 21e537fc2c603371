//! Which version of a webhook a request speaks of (`ETag`, `If-Match`, `If-None-Match`: RFC 9110), and which requests are the
//! same (`Idempotency-Key`).

use axum::extract::FromRequestParts;
use http::header::{HeaderName, IF_MATCH, IF_NONE_MATCH};
use http::request::Parts;
use http::{HeaderMap, HeaderValue};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

use super::{Webhook, shown};
use crate::api::Problem;

/// The header with a request's own key.
pub(super) const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// The header that says that an answer is a repeated one.
pub(super) const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");
/// The longest key, in characters.
const KEY_CHARS_MAX: usize = 255;
/// How many entity tags one header may name.
const TAGS_MAX: usize = 64;
/// The bytes of a digest that are an entity tag.
const TAG_BYTES: usize = 16;

/// The entity tag of what an answer shows.
pub(super) fn tag(shown: &Map<String, Value>) -> HeaderValue {
    let text = serde_json::to_vec(shown).expect("JSON can be written");
    let digest = hex::encode(&Sha256::digest(text)[..TAG_BYTES]);
    HeaderValue::try_from(format!("\"{digest}\"")).expect("it has only quotes and digits")
}

/// The versions that a request is for: without the header, any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IfMatch(Option<Vec<Box<str>>>);

impl IfMatch {
    /// Is the request for this version of a webhook?
    pub fn allows(&self, webhook: &Webhook) -> bool {
        self.0.as_ref().is_none_or(|tags| names(tags, &tag(&shown(webhook)), false))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Ok(Self(tags(&parts.headers, &IF_MATCH)?))
    }
}

/// The versions that the asker has.
pub(super) struct IfNoneMatch(Option<Vec<Box<str>>>);

impl IfNoneMatch {
    /// Has the asker what is shown?
    pub(super) fn has(&self, tag: &HeaderValue) -> bool {
        self.0.as_ref().is_some_and(|tags| names(tags, tag, true))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for IfNoneMatch {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        Ok(Self(tags(&parts.headers, &IF_NONE_MATCH)?))
    }
}

/// The entity tags of a header. No tag of this daemon has a comma in it.
fn tags(headers: &HeaderMap, name: &HeaderName) -> Result<Option<Vec<Box<str>>>, Problem> {
    let mut all = Vec::new();
    for value in headers.get_all(name) {
        let value = value.to_str().map_err(|_| Problem::invalid(name.as_str(), "it has characters that none has"))?;
        all.extend(value.split(',').map(|tag| tag.trim().into()));
    }
    if all.len() > TAGS_MAX {
        return Err(Problem::invalid(name.as_str(), format!("at most {TAGS_MAX} entity tags")));
    }
    Ok((!all.is_empty()).then_some(all))
}

/// Is the tag one of those? A weak one is as good as a strong one only for reading.
fn names(tags: &[Box<str>], tag: &HeaderValue, weakly: bool) -> bool {
    let is = |one: &str| one == "*" || one.as_bytes() == tag.as_bytes();
    tags.iter().any(|one| is(one) || (weakly && one.strip_prefix("W/").is_some_and(is)))
}

/// The key of a request, as digests: the same for the same asker and key, and for the same body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestKey {
    /// Of who asks, and the key.
    pub key: [u8; 32],
    /// Of the body.
    pub request: [u8; 32],
}

impl RequestKey {
    /// The key of a request, when it has one.
    ///
    /// # Errors
    /// When it cannot be one.
    pub(super) fn of(headers: &HeaderMap, principal: &str, body: &Map<String, Value>) -> Result<Option<Self>, Problem> {
        let mut keys = headers.get_all(IDEMPOTENCY_KEY).iter();
        let (Some(key), None) = (keys.next(), keys.next()) else {
            return match headers.contains_key(IDEMPOTENCY_KEY) {
                false => Ok(None),
                true => Err(Problem::invalid(IDEMPOTENCY_KEY, "`Idempotency-Key` may stand once")),
            };
        };
        let fits =
            !key.is_empty() && key.len() <= KEY_CHARS_MAX && key.as_bytes().iter().all(|b| (0x20..0x7f).contains(b));
        if !fits {
            let detail = format!("`Idempotency-Key` has 1 to {KEY_CHARS_MAX} printable ASCII characters");
            return Err(Problem::invalid(IDEMPOTENCY_KEY, detail));
        }
        let key = Sha256::new().chain_update(principal).chain_update([0]).chain_update(key.as_bytes()).finalize();
        let body = serde_json::to_vec(body).expect("JSON can be written");
        Ok(Some(Self { key: key.into(), request: Sha256::digest(body).into() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: &'static str, value: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.append(name, HeaderValue::from_static(value));
        headers
    }

    #[test]
    fn a_tag_is_that_of_what_is_shown_and_a_weak_one_only_for_reading() {
        let own = tag(&Map::new());
        let text: &'static str = Box::leak(own.to_str().expect("a text").to_owned().into());
        let weak: &'static str = Box::leak(format!("W/{text}").into());
        let of = |value| tags(&headers("if-match", value), &IF_MATCH).expect("tags");
        for (value, strongly, weakly) in
            [(text, true, true), ("*", true, true), (weak, false, true), ("\"other\"", false, false)]
        {
            let tags = of(value).expect("there is one");
            assert_eq!((names(&tags, &own, false), names(&tags, &own, true)), (strongly, weakly), "{value}");
        }
        assert_eq!(of("\"a\" , \"b\"").map(|tags| tags.len()), Some(2));
        assert_eq!(tags(&HeaderMap::new(), &IF_MATCH).expect("none"), None);
    }

    #[test]
    fn a_key_is_of_who_asks_and_of_one_body() {
        let body = |n: u32| Map::from_iter([("n".to_owned(), Value::from(n))]);
        let of = |who: &str, n| {
            RequestKey::of(&headers(IDEMPOTENCY_KEY, "k"), who, &body(n)).expect("a key").expect("there is one")
        };
        assert_eq!(of("a", 1), of("a", 1));
        assert!(of("a", 1).key != of("b", 1).key && of("a", 1).key == of("a", 2).key);
        assert_ne!(of("a", 1).request, of("a", 2).request);
        assert_eq!(RequestKey::of(&HeaderMap::new(), "a", &body(1)).expect("none"), None);
        assert!(RequestKey::of(&headers(IDEMPOTENCY_KEY, ""), "a", &body(1)).is_err());
    }
}
