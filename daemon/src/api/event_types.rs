//! The catalogue of event types: what each is for, the JSON Schema of its payload, an example.

mod catalogue;

pub use catalogue::{Definition, EVENT_TYPES_MAX, EventType, EventTypes, Flaw, SCHEMA_BYTES_MAX};

use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json as Answer};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tracing::{error, info};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::catalogue::{Known, Refused};
use super::cursor::{self, Question};
use super::extract::{Json, Path, Query};
use super::paging::limit;
use super::principal::Asker;
use super::problem::{Code, FieldError};
use super::trail::Changed;
use super::{Problem, State};
use crate::domain::Subject;
use crate::telemetry::{chain, clock};

/// The routes, to be served below `/api/v1`.
pub fn routes(types: EventTypes) -> OpenApiRouter<State> {
    operations().layer(Extension(types))
}

/// The routes, with nothing to work on yet.
pub(super) fn operations() -> OpenApiRouter<State> {
    OpenApiRouter::default().routes(routes!(list)).routes(routes!(one, put, remove))
}

/// An event type, as it is described.
#[derive(Serialize, ToSchema)]
#[schema(as = EventType)]
struct Shown {
    r#type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    /// The JSON Schema of its payload.
    #[serde(skip_serializing_if = "Option::is_none")]
    schema: Option<Value>,
    /// A payload.
    #[serde(skip_serializing_if = "Option::is_none")]
    example: Option<Value>,
    /// Whether an event of this type that does not fit its schema is refused when it is published over the API.
    enforce: bool,
    /// `file`: it stands in the configuration, and is read only here; `api`.
    managed_by: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    created_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime)]
    updated_at: Option<String>,
}

impl Shown {
    fn of(name: &Subject, known: &Known) -> Self {
        let definition = known.kind.definition();
        Self {
            r#type: name.to_string(),
            description: definition.description.as_deref().map(ToOwned::to_owned),
            schema: definition.schema.clone(),
            example: definition.example.clone(),
            enforce: definition.enforce,
            managed_by: if known.times.is_some() { "api" } else { "file" },
            created_at: known.times.map(|(created_ms, _)| clock::rfc3339(created_ms)),
            updated_at: known.times.map(|(_, updated_ms)| clock::rfc3339(updated_ms)),
        }
    }
}

/// A description of an event type.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = EventTypeDefinition)]
struct Described {
    /// What it is for.
    #[schema(max_length = 1000)]
    description: Option<String>,
    /// The JSON Schema of its payload. It refers to nothing outside itself.
    #[schema(value_type = Option<serde_json::Map<String, Value>>)]
    schema: Option<Value>,
    /// A payload, which must fit the schema.
    #[schema(value_type = Option<serde_json::Value>)]
    example: Option<Value>,
    /// Refuse an event of this type that does not fit its schema when it is published over the API.
    #[serde(default)]
    enforce: bool,
}

/// Which page.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct Listing {
    /// How many event types the page is to have.
    #[param(minimum = 1, maximum = 100, default = 50)]
    limit: Option<usize>,
    /// Where to go on: the `next` of the page before.
    cursor: Option<String>,
}

/// A page of event types.
#[derive(Serialize, ToSchema)]
#[schema(as = EventTypePage)]
struct Page {
    /// In the order of their names.
    event_types: Vec<Shown>,
    /// The `cursor` of the next page; `null` when there is none.
    next: Option<String>,
}

/// List the event types
///
/// Those that are described: in the configuration, or over the API. Others can be published and subscribed to as well.
#[utoipa::path(
    get,
    path = "/event-types",
    tag = "event types",
    params(Listing),
    responses((status = 200, description = "A page of event types", body = Page)),
    extensions(("x-problems" = json!(["invalid_request"])))
)]
async fn list(
    Extension(types): Extension<EventTypes>,
    asker: Asker,
    Query(asked): Query<Listing>,
) -> Result<Answer<Page>, Problem> {
    let limit = limit(asked.limit)?;
    let question = Question::of(&["event-types"]);
    let after = asked.cursor.as_deref().map(|cursor| question.place(cursor)).transpose()?;
    let after = after.map(|name| Subject::parse(&name).map_err(|_| cursor::wrong())).transpose()?;
    let all = types.all();
    let mut visible = all
        .iter()
        .filter(|(name, _)| asker.principal().types().allows(name.as_str()))
        .filter(|(name, _)| after.as_ref().is_none_or(|after| name.as_str() > after.as_str()));
    let event_types: Vec<Shown> = visible.by_ref().take(limit).map(|(name, known)| Shown::of(name, known)).collect();
    let more = visible.next().is_some();
    let next = event_types.last().filter(|_| more).map(|last| question.cursor(&last.r#type));
    Ok(Answer(Page { event_types, next }))
}

/// Get an event type
#[utoipa::path(
    get,
    path = "/event-types/{type}",
    tag = "event types",
    params(("type" = String, Path, description = "The event type")),
    responses((status = 200, description = "What it is", body = Shown)),
    extensions(("x-problems" = json!(["not_found"])))
)]
async fn one(
    Extension(types): Extension<EventTypes>,
    asker: Asker,
    Path(name): Path<String>,
) -> Result<Answer<Shown>, Problem> {
    let visible = Subject::parse(&name).ok().filter(|name| asker.principal().types().allows(name.as_str()));
    let found = visible.and_then(|name| Some(Shown::of(&name, &types.get(name.as_str())?)));
    found.map(Answer).ok_or_else(|| missing(&name))
}

/// Describe an event type
///
/// Anew, or in the place of what was said of it before.
#[utoipa::path(
    put,
    path = "/event-types/{type}",
    tag = "event types",
    params(("type" = String, Path, description = "The event type: tokens with dots between them")),
    request_body = Described,
    responses(
        (status = 200, description = "It is described otherwise now", body = Shown),
        (status = 201, description = "It is described", body = Shown),
    ),
    extensions(("x-problems" = json!([
        "invalid_request", "operator_only", "event_type_of_file", "event_types_max", "store_unavailable"
    ])))
)]
async fn put(
    Extension(types): Extension<EventTypes>,
    Path(name): Path<String>,
    Json(described): Json<Described>,
) -> Result<Response, Problem> {
    let name = Subject::parse(&name).map_err(|error| Problem::invalid("type", error.to_string()))?;
    let Described { description, schema, example, enforce } = described;
    let definition = Definition { description: description.map(Into::into), schema, example, enforce };
    let kind = EventType::new(definition).map_err(|flaws| {
        let error = |flaw: Flaw| FieldError { field: flaw.key.to_owned(), detail: flaw.reason };
        Problem::invalid_all(flaws.into_iter().map(error).collect())
    })?;
    let before = types.get(name.as_str()).map(|known| Shown::of(&name, &known));
    let known = types.put(&name, kind).await.map_err(|error| refused(&name, &error))?;
    info!(r#type = %name, "event type described");
    let status = if before.is_some() { StatusCode::OK } else { StatusCode::CREATED };
    let after = Shown::of(&name, &known);
    let changed = Changed::of(before.as_ref(), &after);
    Ok(changed.beside((status, Answer(after)).into_response()))
}

/// Forget an event type
///
/// Its description: events of the type can be published as before, and nothing is asked of them any more.
#[utoipa::path(
    delete,
    path = "/event-types/{type}",
    tag = "event types",
    params(("type" = String, Path, description = "The event type")),
    responses((status = 204, description = "It is no longer described")),
    extensions(("x-problems" = json!(["operator_only", "not_found", "event_type_of_file", "store_unavailable"])))
)]
async fn remove(Extension(types): Extension<EventTypes>, Path(name): Path<String>) -> Result<StatusCode, Problem> {
    let known = Subject::parse(&name).map_err(|_| missing(&name))?;
    types.remove(&known).await.map_err(|error| refused(&known, &error))?;
    info!(r#type = %known, "event type forgotten");
    Ok(StatusCode::NO_CONTENT)
}

fn missing(name: &str) -> Problem {
    Problem::not_found(format!("the event type {name} is not described"))
}

fn refused(name: &Subject, refused: &Refused) -> Problem {
    match refused {
        Refused::Unknown => missing(name.as_str()),
        Refused::OfFile => {
            let detail = format!("{name} is described in the configuration file: change it there");
            Problem::new(Code::EventTypeOfFile, detail)
        }
        Refused::TooMany => {
            let detail = format!("there are {EVENT_TYPES_MAX} described event types: remove some first");
            Problem::new(Code::EventTypesMax, detail)
        }
        Refused::Store(error) => {
            error!(error = %chain(error), "the store could not serve a request");
            Problem::unavailable(Code::StoreUnavailable, "the store cannot be written at the moment")
        }
    }
}
