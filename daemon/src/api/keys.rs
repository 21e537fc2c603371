//! API keys: made by the operator for programs, kept as digests, shown once.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use http::StatusCode;
use http::header::{CACHE_CONTROL, HeaderValue, LOCATION};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::warn;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::principal::Validity;
use super::problem::Code;
use super::subscriptions::blocking;
use super::trail::Changed;
use super::{Principal, Problem, State, extract};
use crate::domain::{AllowList, Owner, Scope, Scopes};
use crate::store::{self, API_KEYS_MAX, ApiKey, Store};
use crate::telemetry::{chain, clock};

/// What the text of every key begins with.
const TEXT_PREFIX: &str = "slk_";
/// How many random bytes follow, in hexadecimal digits.
const TEXT_RANDOM_BYTES: usize = 24;
/// How many characters of the text are shown to know it by.
const SHOWN_CHARS: usize = 12;
/// What the id of every key begins with; 16 hexadecimal digits follow.
const ID_PREFIX: &str = "key_";
/// The longest name of a key, in characters.
const NAME_CHARS_MAX: usize = 100;
/// How often the time of a key's last use is written, at most.
const USE_INTERVAL_MS: u64 = 60_000;

/// The API keys. Cloning shares them.
#[derive(Clone)]
pub struct ApiKeys {
    store: Store,
    by_digest: Arc<RwLock<HashMap<[u8; 32], Arc<Entry>>>>,
    /// Held during a change: one at a time.
    changing: Arc<Mutex<()>>,
}

/// A key and when it was used.
struct Entry {
    api_key: ApiKey,
    principal: Principal,
    /// Set when it is removed, for what it opened and goes on.
    removed: CancellationToken,
    /// When it was used last; 0 is never.
    used_ms: AtomicU64,
    /// What of that is in the store.
    written_ms: AtomicU64,
}

impl ApiKeys {
    /// The keys that are kept.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn load(store: Store) -> Result<Self, store::Error> {
        let entries = store.api_keys()?.into_iter().map(|(api_key, used_ms)| (api_key.digest, entry(api_key, used_ms)));
        let by_digest = Arc::new(RwLock::new(entries.collect()));
        Ok(Self { store, by_digest, changing: Arc::default() })
    }

    /// Who holds the key with that digest. Looking for a digest tells nobody how much of a key is right.
    ///
    /// # Errors
    /// When the key has expired.
    pub(super) fn find(&self, digest: &[u8; 32], now_ms: u64) -> Result<Option<Principal>, Problem> {
        let Some(entry) = self.by_digest.read().get(digest).cloned() else { return Ok(None) };
        if entry.api_key.expires_ms.is_some_and(|expires_ms| expires_ms <= now_ms) {
            return Err(Problem::new(Code::Unauthorized, "the API key has expired"));
        }
        entry.used_ms.fetch_max(now_ms, Ordering::Relaxed);
        let written_ms = entry.written_ms.load(Ordering::Relaxed);
        let due = now_ms.saturating_sub(written_ms) >= USE_INTERVAL_MS;
        let mine = || entry.written_ms.compare_exchange(written_ms, now_ms, Ordering::Relaxed, Ordering::Relaxed);
        if due && mine().is_ok() {
            let (store, id) = (self.store.clone(), entry.api_key.id.clone());
            // Nobody waits for it: at worst the time of the last use is a minute old.
            drop(tokio::task::spawn_blocking(move || {
                if let Err(error) = store.put_api_key_use(&id, now_ms) {
                    warn!(error = %chain(&error), "the last use of an API key is not on record");
                }
            }));
        }
        Ok(Some(entry.principal.clone()))
    }

    fn all(&self) -> Vec<Arc<Entry>> {
        let mut all: Vec<_> = self.by_digest.read().values().cloned().collect();
        all.sort_by(|a, b| (a.api_key.created_ms, &a.api_key.id).cmp(&(b.api_key.created_ms, &b.api_key.id)));
        all
    }

    fn one(&self, id: &str) -> Result<Arc<Entry>, Problem> {
        let book = self.by_digest.read();
        let found = book.values().find(|entry| *entry.api_key.id == *id).cloned();
        found.ok_or_else(|| Problem::not_found("there is no API key of that id"))
    }
}

fn entry(api_key: ApiKey, used_ms: Option<u64>) -> Arc<Entry> {
    // What does not parse any more opens nothing.
    let types = AllowList::of(api_key.types.iter().map(|text| &**text), api_key.owner.as_ref());
    let types = types.unwrap_or_else(|_| AllowList::new(Vec::new()));
    let removed = CancellationToken::new();
    let validity = Validity { expires_ms: api_key.expires_ms, revoked: Some(removed.clone()), session: None };
    let principal = Principal::key(&api_key.id, api_key.owner.clone(), types, api_key.scopes).valid(validity);
    let used_ms = used_ms.unwrap_or(0);
    Arc::new(Entry { api_key, principal, removed, used_ms: used_ms.into(), written_ms: used_ms.into() })
}

/// The routes, to be served below `/api/v1`.
pub fn routes(api_keys: ApiKeys) -> OpenApiRouter<State> {
    operations().layer(Extension(api_keys))
}

/// The routes, described.
pub(super) fn operations() -> OpenApiRouter<State> {
    OpenApiRouter::default().routes(routes!(list_keys, make)).routes(routes!(one, remove))
}

/// A key to make.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewApiKey {
    /// What it is called: 1 to 100 characters.
    #[schema(min_length = 1, max_length = 100, example = "deploy pipeline")]
    name: String,
    /// What it may do: `read`, `write`, `publish`, and `admin` for what is the operator's alone. Without any, `read`.
    #[schema(example = json!(["read", "publish"]))]
    scopes: Option<Vec<String>>,
    /// Whose things alone it opens; without it everybody's.
    #[schema(min_length = 1, max_length = 128)]
    owner: Option<String>,
    /// The event types that it may publish, listen to and subscribe to: at most 64 patterns, in which `{sub}` stands for the
    /// owner. Without it all.
    #[schema(max_items = 64)]
    types: Option<Vec<String>>,
    /// When it ends (RFC 3339); without it never.
    #[schema(format = "date-time")]
    expires_at: Option<String>,
}

/// A key as it is kept.
#[derive(Serialize, ToSchema)]
struct ApiKeyShown {
    /// Its id.
    id: String,
    /// What it is called.
    name: String,
    /// What its text begins with.
    prefix: String,
    /// What it may do.
    scopes: Vec<&'static str>,
    /// Whose things alone it opens.
    owner: Option<String>,
    /// The event types that it opens.
    types: Vec<String>,
    /// When it was made.
    #[schema(format = "date-time")]
    created_at: String,
    /// When it ends.
    #[schema(format = "date-time")]
    expires_at: Option<String>,
    /// When it was used last, to the minute after a restart.
    #[schema(format = "date-time")]
    last_used_at: Option<String>,
}

impl From<&Entry> for ApiKeyShown {
    fn from(entry: &Entry) -> Self {
        let api_key = &entry.api_key;
        let used_ms = entry.used_ms.load(Ordering::Relaxed);
        Self {
            id: api_key.id.to_string(),
            name: api_key.label.to_string(),
            prefix: api_key.prefix.to_string(),
            scopes: api_key.scopes.iter().map(Scope::as_str).collect(),
            owner: api_key.owner.as_ref().map(ToString::to_string),
            types: api_key.types.iter().map(ToString::to_string).collect(),
            created_at: clock::rfc3339(api_key.created_ms),
            expires_at: api_key.expires_ms.map(clock::rfc3339),
            last_used_at: (used_ms > 0).then(|| clock::rfc3339(used_ms)),
        }
    }
}

/// A key that was made, with its text.
#[derive(Serialize, ToSchema)]
struct ApiKeyMade {
    #[serde(flatten)]
    shown: ApiKeyShown,
    /// Its text, for the only time. It is sent as `X-API-Key` or as a bearer token.
    key: String,
}

/// The keys.
#[derive(Serialize, ToSchema)]
struct ApiKeyList {
    /// All of them, the oldest first: there are at most 1000.
    keys: Vec<ApiKeyShown>,
}

/// List the API keys
#[utoipa::path(
    get,
    path = "/keys",
    tag = "access",
    responses((status = 200, description = "All of them", body = ApiKeyList))
)]
async fn list_keys(Extension(api_keys): Extension<ApiKeys>) -> Json<ApiKeyList> {
    Json(ApiKeyList { keys: api_keys.all().iter().map(|entry| ApiKeyShown::from(&**entry)).collect() })
}

/// Get an API key
#[utoipa::path(
    get,
    path = "/keys/{id}",
    tag = "access",
    params(("id" = String, Path, description = "The key's id")),
    responses((status = 200, description = "The key, without its text", body = ApiKeyShown)),
    extensions(("x-problems" = json!(["not_found"])))
)]
async fn one(
    Extension(api_keys): Extension<ApiKeys>,
    extract::Path(id): extract::Path<String>,
) -> Result<Json<ApiKeyShown>, Problem> {
    Ok(Json(ApiKeyShown::from(&*api_keys.one(&id)?)))
}

/// Make an API key
///
/// The answer holds its text, for the only time.
#[utoipa::path(
    post,
    path = "/keys",
    tag = "access",
    request_body = NewApiKey,
    responses((status = 201, description = "It is valid from now on", body = ApiKeyMade)),
    extensions(("x-problems" = json!(["api_keys_max", "store_unavailable"])))
)]
async fn make(
    Extension(api_keys): Extension<ApiKeys>,
    extract::Json(new): extract::Json<NewApiKey>,
) -> Result<Response, Problem> {
    let _changing = api_keys.changing.lock().await;
    if api_keys.by_digest.read().len() >= API_KEYS_MAX {
        let detail = format!("{API_KEYS_MAX} API keys are the limit: remove one first");
        return Err(Problem::new(Code::ApiKeysMax, detail));
    }
    let mut random = [0; TEXT_RANDOM_BYTES];
    rand::fill(&mut random);
    let text = format!("{TEXT_PREFIX}{}", hex::encode(random));
    let api_key = checked(new, &text)?;
    let (store, kept) = (api_keys.store.clone(), api_key.clone());
    blocking(move || store.put_api_key(&kept)).await?;
    let made = entry(api_key, None);
    api_keys.by_digest.write().insert(made.api_key.digest, Arc::clone(&made));
    let location = format!("/api/v1/keys/{}", made.api_key.id);
    let answer = ApiKeyMade { shown: ApiKeyShown::from(&*made), key: text };
    let changed = Changed::of(None, &answer.shown);
    let mut response = (StatusCode::CREATED, [(LOCATION, location)], Json(answer)).into_response();
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(changed.beside(response))
}

/// Remove an API key
///
/// It opens nothing from now on, and the event streams that it opened end.
#[utoipa::path(
    delete,
    path = "/keys/{id}",
    tag = "access",
    params(("id" = String, Path, description = "The key's id")),
    responses((status = 204, description = "It is forgotten")),
    extensions(("x-problems" = json!(["not_found", "store_unavailable"])))
)]
async fn remove(
    Extension(api_keys): Extension<ApiKeys>,
    extract::Path(id): extract::Path<String>,
) -> Result<StatusCode, Problem> {
    let _changing = api_keys.changing.lock().await;
    let entry = api_keys.one(&id)?;
    let store = api_keys.store.clone();
    blocking(move || store.remove_api_key(&id)).await?;
    api_keys.by_digest.write().remove(&entry.api_key.digest);
    entry.removed.cancel();
    Ok(StatusCode::NO_CONTENT)
}

/// A new key of that text.
fn checked(new: NewApiKey, text: &str) -> Result<ApiKey, Problem> {
    let name = new.name.trim();
    if name.is_empty() || name.chars().count() > NAME_CHARS_MAX || name.chars().any(char::is_control) {
        return Err(Problem::invalid("name", format!("`name` must be a text of 1 to {NAME_CHARS_MAX} characters")));
    }
    let scopes = scopes(new.scopes.as_deref())?;
    let owner = new.owner.as_deref().map(Owner::parse).transpose();
    let owner = owner.map_err(|error| Problem::invalid("owner", error.to_string()))?;
    if owner.is_some() && scopes.has(Scope::Admin) {
        return Err(Problem::invalid("scopes", "`admin` is the operator's alone: leave it out, or the owner"));
    }
    let types = new.types.unwrap_or_else(|| vec![">".to_owned()]);
    AllowList::of(types.iter().map(String::as_str), owner.as_ref())
        .map_err(|error| Problem::invalid("types", error.to_string()))?;
    let now_ms = clock::now_ms();
    let expires_ms = match new.expires_at.as_deref().map(clock::parse_rfc3339) {
        None => None,
        Some(Some(expires_ms)) if expires_ms > now_ms => Some(expires_ms),
        Some(_) => {
            let detail = "`expires_at` must be a time that is still to come, such as 2030-01-31T12:00:00Z";
            return Err(Problem::invalid("expires_at", detail));
        }
    };
    Ok(ApiKey {
        id: format!("{ID_PREFIX}{:016x}", rand::random::<u64>()).into(),
        label: name.into(),
        digest: Sha256::digest(text.as_bytes()).into(),
        prefix: text.get(..SHOWN_CHARS).unwrap_or_default().into(),
        scopes,
        owner,
        types: types.into_iter().map(Into::into).collect(),
        created_ms: now_ms,
        expires_ms,
    })
}

fn scopes(words: Option<&[String]>) -> Result<Scopes, Problem> {
    let Some(words) = words else { return Ok([Scope::Read].into_iter().collect()) };
    let known = |word: &String| {
        Scope::parse(word).ok_or_else(|| {
            let all = Scope::ALL.map(Scope::as_str).join(", ");
            Problem::invalid("scopes", format!("{word:?} is no scope: there are {all}"))
        })
    };
    let scopes = words.iter().map(known).collect::<Result<Scopes, _>>()?;
    if scopes.iter().next().is_none() {
        return Err(Problem::invalid("scopes", "`scopes` must name at least one"));
    }
    Ok(scopes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(text: &str) -> Result<ApiKey, Problem> {
        checked(serde_json::from_str(text).expect("a body"), "slk_0123456789")
    }

    #[test]
    fn a_key_is_kept_as_a_digest_and_a_prefix() {
        let key = new(r#"{"name": "ci", "scopes": ["publish"], "owner": "u1", "types": ["u.{sub}"]}"#).expect("valid");
        assert_eq!((&*key.prefix, key.expires_ms), ("slk_01234567", None));
        assert_eq!(key.digest, <[u8; 32]>::from(Sha256::digest(b"slk_0123456789")));
        let entry = entry(key, Some(7));
        assert!(entry.principal.types().allows("u.u1") && !entry.principal.may(Scope::Read));
        assert_eq!(entry.principal.owner().map(Owner::as_str), Some("u1"));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_field() {
        for (body, field) in [
            (r#"{"name": " "}"#, "name"),
            (r#"{"name": "x", "scopes": []}"#, "scopes"),
            (r#"{"name": "x", "scopes": ["all"]}"#, "scopes"),
            (r#"{"name": "x", "scopes": ["admin"], "owner": "a"}"#, "scopes"),
            (r#"{"name": "x", "owner": ""}"#, "owner"),
            (r#"{"name": "x", "owner": "a.b", "types": ["u.{sub}"]}"#, "types"),
            (r#"{"name": "x", "types": ["u.{sub}"]}"#, "types"),
            (r#"{"name": "x", "expires_at": "2001-01-01T00:00:00Z"}"#, "expires_at"),
            (r#"{"name": "x", "expires_at": "soon"}"#, "expires_at"),
        ] {
            let problem = new(body).expect_err(body);
            assert_eq!((problem.code(), &*problem.errors()[0].field), (Code::InvalidRequest, field), "{body}");
        }
    }
}
