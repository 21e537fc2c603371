//! The interface's own description: OpenAPI 3.1, made of the handlers, and a page for people made of that.
//!
//! A handler says in `x-problems` which codes it can answer; what every handler can answer is added here, and each status gets
//! a response whose schema names its codes.

mod page;

use std::collections::{BTreeMap, BTreeSet};

use axum::Router;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderValue, Method};
use serde_json::{Map, Value, json};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Components, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, RefOr, SecurityRequirement};
use utoipa::{PartialSchema as _, ToSchema};
use utoipa_axum::router::UtoipaMethodRouter;

use super::access;
use super::problem::{self, Code, FieldError};
use super::{
    State, audit, backup, deliveries, event_types, events, info, jobs, keys, operate, overview, plugins, portal,
    secrets, subscriptions, testing, trace, webhooks,
};
use crate::domain::Scope;
use crate::telemetry::health::Health;
use crate::telemetry::metrics::Metrics;

/// The media type of event streams.
pub(super) const EVENT_STREAM: &str = "text/event-stream";
/// What the routes of the API are served below.
pub(super) const BASE: &str = "/api/v1";
/// The member of an operation in which a handler names its codes.
const PROBLEMS: &str = "x-problems";
/// Codes that every operation can answer.
const ALWAYS: [Code; 2] = [Code::Internal, Code::Starting];
/// Codes of every operation that needs a key.
const WITH_KEY: [Code; 7] = [
    Code::Unauthorized,
    Code::InvalidToken,
    Code::TokenExpired,
    Code::CrossSite,
    Code::NotAcceptable,
    Code::RateLimited,
    Code::JwksUnavailable,
];
/// The member of an operation that names the scope that one must have.
const SCOPE: &str = "x-scope";
/// The parts of the API, in the order of the page.
const TAGS: [(&str, &str); 11] = [
    ("webhooks", "Webhooks that are made over the API."),
    ("subscriptions", "All webhook subscriptions as they run: of the file, and made over the API."),
    ("deliveries", "What became of events."),
    ("dead letters", "Deliveries that were given up, kept with their bodies."),
    ("events", "Publishing events, finding them, listening to them."),
    ("event types", "What is known of the types of events."),
    ("streams", "Named event streams: the SSE subscriptions of the configuration."),
    ("jobs", "Work that takes a while: replaying history, redriving dead letters."),
    ("plugins", "Filters and transforms."),
    ("access", "API keys, sessions of the web console, and the audit log."),
    ("operation", "The daemon itself."),
];

/// The media type that a path below [`BASE`] is answered with.
pub(super) fn answer_type(path: &str) -> &'static str {
    let named = path.strip_prefix("/streams/").is_some_and(|name| !name.contains('/'));
    if named || path == "/events/stream" { EVENT_STREAM } else { "application/json" }
}

/// The whole document, without a daemon that serves it.
pub fn document() -> Value {
    let below = events::routes()
        .merge(events::read::operations())
        .merge(event_types::operations())
        .merge(deliveries::operations())
        .merge(testing::operations())
        .merge(subscriptions::operations())
        .merge(webhooks::operations())
        .merge(secrets::operations())
        .merge(backup::operations())
        .merge(jobs::operations())
        .merge(plugins::operations(0))
        .merge(trace::operations())
        .merge(keys::operations())
        .merge(audit::operations())
        .merge(portal::operations())
        .merge(overview::operations())
        .merge(info::operations());
    let open = operate::routes::<()>(Metrics::new(), Health::new([]));
    whole(open.into_openapi(), below.into_openapi())
}

/// The whole document: of the routes that are open to everybody, and of those below [`BASE`].
pub(super) fn whole(open: OpenApi, below: OpenApi) -> Value {
    let document = base().nest(BASE, below).merge_from(open);
    let mut document = serde_json::to_value(document).expect("its keys are texts");
    let mut shared = Map::new();
    for (path, operations) in document["paths"].as_object_mut().into_iter().flatten() {
        for (method, operation) in operations.as_object_mut().into_iter().flatten() {
            name_operation(operation);
            simplify_body(operation);
            state_scope(method, path, operation);
            state_problems(operation, &mut shared);
        }
    }
    document["components"]["responses"] = Value::Object(shared);
    document
}

/// Operations on a subscription at the path of a webhook, whose id stands in the place of the name.
pub(super) fn of_webhook(operations: UtoipaMethodRouter<State>, path: &str) -> UtoipaMethodRouter<State> {
    let (schemas, mut paths, handlers) = operations;
    for mut item in std::mem::take(&mut paths.paths).into_values() {
        for operation in [&mut item.get, &mut item.post].into_iter().flatten() {
            operation.tags = Some(vec!["webhooks".to_owned()]);
            for parameter in operation.parameters.iter_mut().flatten() {
                if let RefOr::T(parameter) = parameter
                    && parameter.name == "name"
                {
                    parameter.name = "id".to_owned();
                    let description = "The webhook's id, or the name of a subscription of the file";
                    parameter.description = Some(description.to_owned());
                }
            }
        }
        paths.paths.insert(path.to_owned(), item);
    }
    (schemas, paths, handlers)
}

/// All but the routes.
fn base() -> OpenApi {
    let mut components = Components::new();
    let key = SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("X-API-Key")));
    components.add_security_scheme("key", key);
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some("The same key, or a token."));
    components.add_security_scheme("bearer", SecurityScheme::Http(bearer.build()));
    components.schemas.insert("FieldError".to_owned(), FieldError::schema());
    components.schemas.insert(problem::Body::name().into_owned(), problem::Body::schema());
    let info = InfoBuilder::new()
        .title("sluiced")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(
            "An event router daemon: NATS JetStream in, signed webhooks and Server-Sent Events out. Every error is a problem \
             (RFC 9457) with a stable `code`.",
        ))
        .license(Some(LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build()));
    let tags = TAGS.map(|(name, description)| {
        utoipa::openapi::tag::TagBuilder::new().name(name).description(Some(description)).build()
    });
    let none: [&str; 0] = [];
    OpenApiBuilder::new()
        .info(info.build())
        .tags(Some(tags))
        .components(Some(components))
        .security(Some([SecurityRequirement::new("key", none), SecurityRequirement::new("bearer", none)]))
        .build()
}

/// Puts the scope that an operation asks for into it, and the code of whoever lacks it.
fn state_scope(method: &str, path: &str, operation: &mut Value) {
    let Some(path) = path.strip_prefix(BASE) else { return };
    let method = Method::from_bytes(method.to_ascii_uppercase().as_bytes());
    let Some(route) = method.ok().and_then(|method| access::route(&method, path)) else { return };
    let code = match route.scope {
        Scope::Admin => Code::OperatorOnly,
        _ => Code::InsufficientScope,
    };
    operation[SCOPE] = route.scope.as_str().into();
    match &mut operation[PROBLEMS] {
        Value::Array(codes) => codes.push(code.as_str().into()),
        none => *none = json!([code.as_str()]),
    }
}

/// Handlers of different parts have the same names: the part makes them one of a kind.
fn name_operation(operation: &mut Value) {
    let (part, name) = (operation["tags"][0].as_str(), operation["operationId"].as_str());
    if let (Some(part), Some(name)) = (part, name) {
        operation["operationId"] = format!("{}_{name}", part.replace(' ', "_")).into();
    }
}

/// A body that may be left out is not one that may be `null`.
fn simplify_body(operation: &mut Value) {
    let Some(body) = operation.get_mut("requestBody") else { return };
    let mut required = true;
    for media in body["content"].as_object_mut().into_iter().flat_map(Map::values_mut) {
        let parts = media["schema"]["oneOf"].as_array().cloned().unwrap_or_default();
        if let Some(null) = parts.iter().position(|part| part["type"] == "null") {
            required = false;
            media["schema"] = parts[1 - null.min(1)].clone();
        }
    }
    body["required"] = required.into();
}

/// Puts a response for each status of its codes into an operation, in the place of the codes. Responses that many have are
/// `shared`.
fn state_problems(operation: &mut Value, shared: &mut Map<String, Value>) {
    let codes = codes(operation);
    let Some(operation) = operation.as_object_mut() else { return };
    operation.remove(PROBLEMS);
    let mut by_status: BTreeMap<u16, Vec<Code>> = BTreeMap::new();
    for code in codes {
        by_status.entry(code.status().as_u16()).or_default().push(code);
    }
    let responses = operation.entry("responses").or_insert_with(|| json!({}));
    for (status, codes) in by_status {
        let words: Vec<&str> = codes.iter().map(|code| code.as_str()).collect();
        let response = &mut responses[status.to_string()];
        if response.is_null() {
            let name = words.join("-");
            shared.entry(name.as_str()).or_insert_with(|| {
                let mut response = json!({ "description": "" });
                state(&mut response, status, &codes);
                response
            });
            *response = json!({ "$ref": format!("#/components/responses/{name}") });
        } else {
            state(response, status, &codes);
        }
    }
}

/// Says in a response of that status which codes it can have.
fn state(response: &mut Value, status: u16, codes: &[Code]) {
    let told = codes.iter().map(|code| format!("`{}`: {}.", code.as_str(), code.title()));
    let told: Vec<String> = [response["description"].as_str().unwrap_or_default().to_owned()]
        .into_iter()
        .filter(|text| !text.is_empty())
        .chain(told)
        .collect();
    response["description"] = told.join(" ").into();
    let words: Vec<&str> = codes.iter().map(|code| code.as_str()).collect();
    response["content"][problem::MEDIA_TYPE] = json!({ "schema": {
            "allOf": [{ "$ref": "#/components/schemas/Problem" }],
            "properties": { "status": { "const": status }, "code": { "enum": words } },
        } });
    if codes.iter().any(|code| code.waits()) {
        response["headers"]["Retry-After"] =
            json!({ "description": "After how many seconds to try again", "schema": { "type": "integer" } });
    }
}

/// All codes that an operation can answer.
fn codes(operation: &Value) -> BTreeSet<Code> {
    let named = operation[PROBLEMS].as_array().into_iter().flatten().filter_map(Value::as_str);
    let mut codes: BTreeSet<Code> =
        named.map(|word| Code::parse(word).unwrap_or_else(|| panic!("there is no code {word:?}"))).collect();
    codes.extend(ALWAYS);
    let is_open = operation["security"].as_array().is_some_and(|any| any.iter().any(|all| *all == json!({})));
    if !is_open {
        codes.extend(WITH_KEY);
    }
    if let Some(body) = operation["requestBody"].as_object() {
        codes.extend([Code::InvalidRequest, Code::BodyTooLarge]);
        if body["content"].get("application/json").is_some() {
            codes.insert(Code::UnsupportedMediaType);
        }
    }
    if operation["parameters"].as_array().is_some_and(|parameters| !parameters.is_empty()) {
        codes.insert(Code::InvalidRequest);
    }
    codes
}

/// The routes of the document and of its page: open to everybody, as they say nothing of what the daemon holds.
pub(super) fn routes<S: Clone + Send + Sync + 'static>(document: &Value) -> Router<S> {
    let text = Bytes::from(serde_json::to_vec(document).expect("JSON can be written"));
    let shown = text.clone();
    Router::new()
        .route(&format!("{BASE}/openapi.json"), get(async move || answer("application/json", text.clone())))
        .route("/docs", get(async move || page::answer(&shown)))
        .route("/docs/page.css", get(async || answer("text/css; charset=utf-8", Bytes::from_static(page::STYLE))))
}

fn answer(kind: &'static str, body: Bytes) -> Response {
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}
