//! Webhooks that are made over the API, and those of the configuration file, which are only shown: the same keys as a `[[subscription]]` of the file and its `webhook` table,
//! side by side in one object.

mod listing;
mod schema;
mod version;

use std::sync::Arc;

use axum::Extension;
use axum::response::{IntoResponse as _, Response};
use futures_util::future::BoxFuture;
use http::header::{CACHE_CONTROL, ETAG, HeaderValue, LOCATION};
use http::{HeaderMap, StatusCode};
use serde_json::{Map, Value, json};
use tracing::error;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use listing::{Page, Place, Wanted};
pub use version::{IfMatch, RequestKey};

use self::version::{IDEMPOTENCY_KEY, IfNoneMatch, REPLAYED, tag};
use super::extract::{Json, Path};
use super::permit;
use super::principal::Asker;
use super::problem::{Code, FieldError};
use super::trail::Changed;
use super::{Problem, State};
use crate::domain::{Owner, SubscriptionId};
use crate::telemetry::{chain, clock};

/// The longest name, in characters.
pub const NAME_CHARS_MAX: usize = 100;
/// What stands in an answer in the place of a header's value. Sent back, it stands for the value that is kept.
const MASK: &str = "***";

/// The key of the signing secret in what is asked for.
const SECRET: &str = "secret";
/// The key of a definition whose value is a private key.
const SIGNING_KEY: &str = "ed25519_key";

/// The keys of a webhook's definition.
pub type Definition = Map<String, Value>;

/// A webhook as it is kept.
#[derive(Clone)]
pub struct Webhook {
    /// Its id for life: delivery ids are made from it.
    pub id: SubscriptionId,
    /// What it is called.
    pub name: Box<str>,
    /// Whose it is; without one it is the operator's.
    pub owner: Option<Owner>,
    /// When it was made, in milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// When it was changed last, in milliseconds since the Unix epoch.
    pub updated_ms: u64,
    /// Its definition, without its secret.
    pub definition: Definition,
    /// Why it does not run, when its definition no longer fits the daemon's configuration.
    pub broken: Option<Box<str>>,
    /// Whether it stands in the configuration file, which then has the say.
    pub is_of_file: bool,
    /// Whether it is not disabled.
    pub is_active: bool,
}

/// One thing that is wrong with a definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flaw {
    /// The path of the key; empty for the definition as a whole.
    pub key: String,
    /// What is wrong and what would be right.
    pub reason: String,
}

/// Why a change was not made.
#[derive(Debug)]
pub enum Refused {
    /// The definition cannot be used.
    Flaws(Vec<Flaw>),
    /// There is no such webhook.
    Unknown,
    /// It stands in the configuration file.
    OfFile,
    /// It is not as the asker saw it.
    Changed,
    /// A request with the same key and another body was answered.
    KeyReused,
    /// A request with the same key is being done.
    KeyInUse,
    /// The owner has as many webhooks as one may have: so many.
    TooMany(usize),
    /// The store, NATS or the daemon cannot take it at the moment.
    Unavailable(Box<dyn std::error::Error + Send + Sync>),
}

/// A webhook that was made, with what its maker is told only once.
pub struct Made {
    /// The webhook.
    pub webhook: Webhook,
    /// The text of its signing secret.
    pub secret: String,
    /// Whether it was made by an earlier request with the same key.
    pub is_repeated: bool,
}

/// Who keeps the webhooks and runs them. Each change is durable and in effect when it is answered.
pub trait Webhooks: Send + Sync + 'static {
    /// A page of them.
    fn page(&self, wanted: Wanted) -> BoxFuture<'_, Result<Page, Refused>>;
    /// One of them.
    fn one<'a>(&'a self, id: &'a SubscriptionId) -> BoxFuture<'a, Result<Webhook, Refused>>;
    /// Makes one; without a secret in the definition it gets a new one.
    fn make(&self, new: New) -> BoxFuture<'_, Result<Made, Refused>>;
    /// Gives one another definition. `edit` makes it of the one that is kept; a secret in it takes the place of the old
    /// one.
    fn change<'a>(&'a self, id: &'a SubscriptionId, edit: Edit) -> BoxFuture<'a, Result<Webhook, Refused>>;
    /// Ends one and forgets it.
    fn remove<'a>(&'a self, id: &'a SubscriptionId, if_match: IfMatch) -> BoxFuture<'a, Result<(), Refused>>;
}

/// A webhook that is to be made.
pub struct New {
    /// What it is called.
    pub name: Box<str>,
    /// Whose it is to be; without one it is the operator's.
    pub owner: Option<Owner>,
    /// Its definition.
    pub definition: Definition,
    /// Whether it counts against the limit of webhooks of one owner: what the operator makes does not.
    pub limited: bool,
    /// The request's own key: with one that was answered already, nothing is made.
    pub key: Option<RequestKey>,
}

/// A change of a webhook.
pub struct Edit {
    /// Its name, when it is to change.
    pub name: Option<Box<str>>,
    /// Whose it is to be, when that is to change.
    pub owner: Option<Option<Owner>>,
    /// The keys to set; `null` takes a key out.
    pub keys: Definition,
    /// All keys that are not named go.
    pub replaces: bool,
    /// The versions that it is for.
    pub if_match: IfMatch,
}

impl Edit {
    /// The definition that becomes of `kept`.
    pub fn apply(self, kept: &Definition) -> Definition {
        let mut definition = if self.replaces { Map::new() } else { kept.clone() };
        for (key, mut value) in self.keys {
            match key.as_str() {
                "headers" => unmask(&mut value, kept.get("headers")),
                SIGNING_KEY if value == MASK => value = kept.get(SIGNING_KEY).cloned().unwrap_or(value),
                _ => {}
            }
            if value.is_null() {
                definition.remove(&key);
            } else {
                definition.insert(key, value);
            }
        }
        definition
    }
}

/// Puts the values that are kept in the place of masks.
fn unmask(headers: &mut Value, kept: Option<&Value>) {
    let Some(headers) = headers.as_object_mut() else { return };
    for (name, value) in headers.iter_mut().filter(|(_, value)| value.as_str() == Some(MASK)) {
        if let Some(kept) = kept.and_then(|kept| kept.get(name)) {
            *value = kept.clone();
        }
    }
}

/// The routes, to be served below `/api/v1`.
pub fn routes(webhooks: Arc<dyn Webhooks>) -> OpenApiRouter<State> {
    operations().layer(Extension(webhooks))
}

/// The operations, not yet bound to what they work on.
pub(super) fn operations() -> OpenApiRouter<State> {
    OpenApiRouter::default().routes(routes!(listing::list, make)).routes(routes!(one, replace, change, remove))
}

/// As an answer shows it: without its private key, and without the values of its headers, which are often credentials.
fn shown(webhook: &Webhook) -> Map<String, Value> {
    let mut shown = Map::new();
    shown.insert("id".to_owned(), json!(webhook.id.as_str()));
    shown.insert("name".to_owned(), json!(webhook.name));
    shown.insert("owner".to_owned(), json!(webhook.owner.as_ref().map(Owner::as_str)));
    shown.insert("active".to_owned(), json!(webhook.is_active));
    for (key, value) in &webhook.definition {
        let mut value = value.clone();
        if let Some(headers) = value.as_object_mut().filter(|_| key == "headers") {
            headers.values_mut().for_each(|value| *value = MASK.into());
        }
        if key == SIGNING_KEY {
            value = MASK.into();
        }
        shown.insert(key.clone(), value);
    }
    shown.insert("managed_by".to_owned(), json!(if webhook.is_of_file { "file" } else { "api" }));
    if let Some(reason) = &webhook.broken {
        shown.insert("broken".to_owned(), json!(reason));
    }
    if !webhook.is_of_file {
        shown.insert("created_at".to_owned(), json!(clock::rfc3339(webhook.created_ms)));
        shown.insert("updated_at".to_owned(), json!(clock::rfc3339(webhook.updated_ms)));
    }
    shown
}

type Registry = Extension<Arc<dyn Webhooks>>;

/// Get a webhook
#[utoipa::path(
    get,
    path = "/webhooks/{id}",
    tag = "webhooks",
    params(
        ("id" = String, Path, description = "The webhook's id"),
        ("If-None-Match" = Option<String>, Header, description = "An `ETag` that the asker has already"),
    ),
    responses(
        (
            status = 200,
            description = "The webhook",
            body = schema::Shown,
            headers(("ETag" = String, description = "This version, for `If-Match`"))
        ),
        (status = 304, description = "It is as the asker has it"),
    ),
    extensions(("x-problems" = json!(["not_found", "unavailable"])))
)]
async fn one(
    Extension(webhooks): Registry,
    asker: Asker,
    Path(id): Path<String>,
    if_none_match: IfNoneMatch,
) -> Result<Response, Problem> {
    let webhook = webhooks.one(&parse(&asker, &id)?).await.map_err(problem)?;
    let response = answer(shown(&webhook));
    match if_none_match.has(&response.headers()[ETAG]) {
        true => Ok((StatusCode::NOT_MODIFIED, [(ETAG, response.headers()[ETAG].clone())]).into_response()),
        false => Ok(response),
    }
}

/// What is shown, with its entity tag.
fn answer(shown: Definition) -> Response {
    ([(ETAG, tag(&shown))], axum::Json(shown)).into_response()
}

/// Make a webhook
///
/// The answer holds the signing secret, for the only time.
#[utoipa::path(
    post,
    path = "/webhooks",
    tag = "webhooks",
    params(("Idempotency-Key" = Option<String>, Header, max_length = 255, pattern = "^[ -~]+$", description = "A key of the request's own: sent again within a day, with the same body, it is answered alike and done once")),
    request_body = schema::New,
    responses((
        status = 201,
        description = "It runs. `Idempotent-Replayed: true` says that an earlier request with the same key made it",
        body = schema::Shown,
        headers(
            ("ETag" = String, description = "This version, for `If-Match`"),
            ("Location" = String, description = "Its path"),
        )
    )),
    extensions(("x-problems" = json!([
        "types_not_allowed", "operator_only", "webhooks_per_owner_max", "idempotency_key_reused", "idempotency_key_in_use", "unavailable"
    ])))
)]
async fn make(
    Extension(webhooks): Registry,
    asker: Asker,
    headers: HeaderMap,
    Json(body): Json<Definition>,
) -> Result<Response, Problem> {
    let key = RequestKey::of(&headers, asker.principal().name(), &body)?;
    let with_secret = body.contains_key(SECRET);
    let Body { name, owner, definition } = read(body)?;
    let name = name.ok_or_else(|| Problem::invalid("name", "`name` is missing: say what it is called"))?;
    let definition = without_nulls(definition);
    permit::definition(&asker, &definition, None)?;
    let (owner, limited) = (permit::owner_of_new(&asker, owner)?, asker.principal().owner().is_some());
    let new = New { name, owner, definition, limited, key };
    let made = webhooks.make(new).await.map_err(problem)?;
    let mut shown = shown(&made.webhook);
    let tag = tag(&shown);
    shown.insert("secret".to_owned(), json!(made.secret));
    let location = format!("/api/v1/webhooks/{}", made.webhook.id);
    let no_store = (CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let mut response = (StatusCode::CREATED, [(LOCATION, location)], [no_store], axum::Json(shown)).into_response();
    response.headers_mut().insert(ETAG, tag);
    if made.is_repeated {
        response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
        return Ok(response);
    }
    Ok(changed(None, &made.webhook, with_secret).beside(response))
}

/// Replace a webhook
///
/// What is not named goes back to its default; the secret stays unless it is named.
#[utoipa::path(
    put,
    path = "/webhooks/{id}",
    tag = "webhooks",
    params(
        ("id" = String, Path, description = "The webhook's id"),
        ("If-Match" = Option<String>, Header, description = "Only when the webhook is still as this `ETag` says"),
    ),
    request_body = schema::Whole,
    responses((
        status = 200,
        description = "As it runs now",
        body = schema::Shown,
        headers(("ETag" = String, description = "This version, for `If-Match`"))
    )),
    extensions(("x-problems" = json!(["types_not_allowed", "operator_only", "not_found", "managed_by_file", "precondition_failed", "unavailable"])))
)]
async fn replace(
    webhooks: Registry,
    asker: Asker,
    id: Path<String>,
    if_match: IfMatch,
    Json(body): Json<Definition>,
) -> Result<Response, Problem> {
    edit(webhooks, &asker, id, if_match, body, true).await
}

/// Change a webhook
///
/// What is not named stays, `null` takes a key out.
#[utoipa::path(
    patch,
    path = "/webhooks/{id}",
    tag = "webhooks",
    params(
        ("id" = String, Path, description = "The webhook's id"),
        ("If-Match" = Option<String>, Header, description = "Only when the webhook is still as this `ETag` says"),
    ),
    request_body = schema::Change,
    responses((
        status = 200,
        description = "As it runs now",
        body = schema::Shown,
        headers(("ETag" = String, description = "This version, for `If-Match`"))
    )),
    extensions(("x-problems" = json!(["types_not_allowed", "operator_only", "not_found", "managed_by_file", "precondition_failed", "unavailable"])))
)]
async fn change(
    webhooks: Registry,
    asker: Asker,
    id: Path<String>,
    if_match: IfMatch,
    Json(body): Json<Definition>,
) -> Result<Response, Problem> {
    edit(webhooks, &asker, id, if_match, body, false).await
}

async fn edit(
    Extension(webhooks): Registry,
    asker: &Asker,
    Path(id): Path<String>,
    if_match: IfMatch,
    body: Definition,
    replaces: bool,
) -> Result<Response, Problem> {
    let with_secret = body.contains_key(SECRET);
    let Body { name, owner, definition: keys } = read(body)?;
    let id = parse(asker, &id)?;
    let before = webhooks.one(&id).await.map_err(problem)?;
    permit::definition(asker, &keys, Some(&before.definition).filter(|_| !replaces))?;
    let owner = permit::owner_of_changed(asker, owner)?;
    let edit = Edit { name, owner, keys, replaces, if_match };
    let after = webhooks.change(&id, edit).await.map_err(problem)?;
    Ok(changed(Some(&before), &after, with_secret).beside(answer(shown(&after))))
}

/// What the audit log is told of a change. A URL may be a credential: it is not told, as the secrets are not.
fn changed(before: Option<&Webhook>, after: &Webhook, with_secret: bool) -> Changed {
    let state = |webhook: &Webhook| {
        let mut state = webhook.definition.clone();
        state.insert("name".to_owned(), json!(webhook.name));
        state.insert("owner".to_owned(), json!(webhook.owner.as_ref().map(Owner::as_str)));
        state.insert("active".to_owned(), json!(webhook.is_active));
        state
    };
    let changed = Changed::between(&before.map(state).unwrap_or_default(), &state(after), &["url", SIGNING_KEY]);
    if with_secret { changed.and(SECRET) } else { changed }
}

/// Remove a webhook
///
/// It ends, and is forgotten with its deliveries.
#[utoipa::path(
    delete,
    path = "/webhooks/{id}",
    tag = "webhooks",
    params(
        ("id" = String, Path, description = "The webhook's id"),
        ("If-Match" = Option<String>, Header, description = "Only when the webhook is still as this `ETag` says"),
    ),
    responses((status = 204, description = "It is forgotten")),
    extensions(("x-problems" = json!(["not_found", "managed_by_file", "precondition_failed", "unavailable"])))
)]
async fn remove(
    Extension(webhooks): Registry,
    asker: Asker,
    Path(id): Path<String>,
    if_match: IfMatch,
) -> Result<StatusCode, Problem> {
    webhooks.remove(&parse(&asker, &id)?, if_match).await.map_err(problem)?;
    Ok(StatusCode::NO_CONTENT)
}

/// What a body says.
struct Body {
    name: Option<Box<str>>,
    /// Whose it is to be, when the body says so; `null` is the operator's.
    owner: Option<Option<Owner>>,
    definition: Definition,
}

fn read(mut definition: Definition) -> Result<Body, Problem> {
    let name = match definition.remove("name") {
        None | Some(Value::Null) => None,
        Some(Value::String(name)) if !name.trim().is_empty() && name.chars().count() <= NAME_CHARS_MAX => Some(name),
        Some(_) => {
            let detail = format!("`name` must be a text of 1 to {NAME_CHARS_MAX} characters");
            return Err(Problem::invalid("name", detail));
        }
    };
    let owner = match definition.remove("owner") {
        None => None,
        Some(Value::Null) => Some(None),
        Some(Value::String(text)) => {
            let owner = Owner::parse(&text);
            Some(Some(owner.map_err(|error| Problem::invalid("owner", format!("`owner`: {error}")))?))
        }
        Some(_) => return Err(Problem::invalid("owner", "`owner` must be a text")),
    };
    Ok(Body { name: name.map(Into::into), owner, definition })
}

/// A key that is `null` is one that is not said.
fn without_nulls(mut definition: Definition) -> Definition {
    definition.retain(|_, value| !value.is_null());
    definition
}

/// An id of a webhook that the asker may see, or of none.
fn parse(asker: &Asker, id: &str) -> Result<SubscriptionId, Problem> {
    SubscriptionId::parse(id).ok().filter(|id| asker.sees(id)).ok_or_else(unknown)
}

fn unknown() -> Problem {
    Problem::not_found("there is no webhook of that id")
}

fn problem(refused: Refused) -> Problem {
    match refused {
        Refused::Unknown => unknown(),
        Refused::OfFile => {
            Problem::new(Code::ManagedByFile, "change it in the configuration file, which is then read again")
        }
        Refused::Changed => {
            Problem::new(Code::PreconditionFailed, "get it again, and send the change with its new ETag")
        }
        Refused::KeyReused => {
            Problem::new(Code::IdempotencyKeyReused, format!("`{IDEMPOTENCY_KEY}` was sent before with another body"))
        }
        Refused::KeyInUse => {
            let detail = format!("a request with the same `{IDEMPOTENCY_KEY}` has not ended yet");
            Problem::new(Code::IdempotencyKeyInUse, detail).retry_after(1)
        }
        Refused::TooMany(most) => {
            let detail = format!("{most} webhooks are the limit of one owner: remove one first");
            Problem::new(Code::WebhooksPerOwnerMax, detail)
        }
        Refused::Flaws(flaws) => {
            let error = |Flaw { key, reason }| FieldError { field: key, detail: reason };
            Problem::invalid_all(flaws.into_iter().map(error).collect())
        }
        Refused::Unavailable(reason) => {
            error!(error = %chain(&*reason), "a webhook could not be changed");
            Problem::unavailable(Code::Unavailable, "the change was not made: try again")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Definition {
        serde_json::from_value(value).expect("an object")
    }

    #[test]
    fn a_change_sets_and_takes_out_keys_and_a_mask_keeps_a_value() {
        let kept = object(json!({"url": "https://a.example", "timeout": "5s", "headers": {"A": "1", "B": "2"}}));
        let keys = object(json!({"timeout": null, "headers": {"A": "***", "C": "3"}}));
        let edit = Edit { name: None, owner: None, keys: keys.clone(), replaces: false, if_match: IfMatch::default() };
        let changed = edit.apply(&kept);
        assert_eq!(Value::from(changed), json!({"url": "https://a.example", "headers": {"A": "1", "C": "3"}}));
        let replaced =
            Edit { name: None, owner: None, keys, replaces: true, if_match: IfMatch::default() }.apply(&kept);
        assert_eq!(Value::from(replaced), json!({"headers": {"A": "1", "C": "3"}}));
    }

    #[test]
    fn answers_show_no_header_values() {
        let webhook = Webhook {
            id: SubscriptionId::parse("wh_1").expect("valid"),
            name: "crm".into(),
            owner: None,
            created_ms: 0,
            updated_ms: 0,
            definition: object(json!({"headers": {"Authorization": "Bearer 1"}})),
            broken: None,
            is_of_file: false,
            is_active: true,
        };
        let text = Value::from(shown(&webhook)).to_string();
        assert!(text.contains("Authorization") && !text.contains("Bearer"), "{text}");
    }
}
