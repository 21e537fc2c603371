//! `POST /api/v1/plugins/{name}/dry-run`: what a plugin makes of one event. Nothing is delivered, recorded or counted.

use axum::Extension;
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::time::Instant;
use tracing::warn;
use utoipa::ToSchema;

use super::{Access, Refused, Rehearsal, problem, shown};
use crate::api::extract::{Json, Path};
use crate::api::{Code, Problem};
use crate::domain::{Event, Header, Position, StreamName, Subject, Verdict};
use crate::plugin::{Heard, Passed, Said};
use crate::telemetry::{chain, clock};

/// What a plugin is used as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, ToSchema)]
#[schema(as = PluginRole)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It says whether an event goes on.
    Filter,
    /// It makes outputs of it.
    Transform,
}

/// What to try out, and on which event.
#[derive(Deserialize, ToSchema)]
#[schema(as = DryRun)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    /// The role; without one the plugin is a transform if it can.
    role: Option<Role>,
    /// The plugin's configuration.
    #[serde(default)]
    #[schema(value_type = Object)]
    config: Map<String, Value>,
    /// A version that is kept; without it the one that runs.
    digest: Option<Box<str>>,
    /// The event itself,
    event: Option<Given>,
    /// or where it is.
    stream: Option<String>,
    /// Its place in the stream.
    sequence: Option<u64>,
}

/// An event as it is sent for a dry run.
#[derive(Deserialize, ToSchema)]
#[schema(as = DryRunEvent)]
#[serde(deny_unknown_fields)]
struct Given {
    /// Its type.
    #[schema(
        max_length = 512,
        pattern = r"^[^\u0000-\u0020\u007f-\u00a0.*>]+(\.[^\u0000-\u0020\u007f-\u00a0.*>]+)*$",
        example = "orders.created"
    )]
    r#type: String,
    /// Its id.
    id: Option<Box<str>>,
    /// Its payload: any JSON, or a text where `content_type` is not of JSON,
    data: Option<Value>,
    /// or any bytes, in Base64.
    data_base64: Option<String>,
    /// Its payload's media type.
    content_type: Option<Box<str>>,
    /// Its headers, as pairs of name and value.
    #[serde(default)]
    #[schema(value_type = Vec<Vec<String>>)]
    headers: Vec<(Box<str>, Box<str>)>,
}

/// Try a plugin out on one event
///
/// Nothing is delivered, recorded or counted.
#[utoipa::path(
    post,
    path = "/plugins/{name}/dry-run",
    tag = "plugins",
    params(("name" = String, Path, description = "The plugin's name")),
    request_body = Asked,
    responses((status = 200, description = "What the plugin makes of it", body = super::schema::DryRunResult)),
    extensions(("x-problems" = json!(["not_found", "no_version", "nats_unavailable", "unavailable"])))
)]
pub(super) async fn run(
    Extension(access): Extension<Access>,
    Path(name): Path<String>,
    Json(asked): Json<Asked>,
) -> Result<Response, Problem> {
    let event = match (asked.event, asked.stream, asked.sequence) {
        (Some(given), None, None) => given.event()?,
        (None, Some(stream), Some(sequence)) => stored(&access, &stream, sequence).await?,
        _ => return Err(Problem::invalid("event", "send either `event`, or `stream` and `sequence`")),
    };
    let heard = Heard::default();
    let wanted = Rehearsal {
        name: name.as_str().into(),
        digest: asked.digest.map(|digest| digest.to_ascii_lowercase().into()),
        role: asked.role,
        config: Value::Object(asked.config).to_string().into(),
        heard: heard.clone(),
    };
    let (plugin, chain) = access.plugins.rehearse(wanted).await.map_err(|refused| match refused {
        Refused::Broken(error) => Problem::invalid("config", crate::telemetry::chain(&error)),
        refused => problem(&name, refused),
    })?;
    // What it logged while it was configured is part of the answer too.
    let began = Instant::now();
    let ran = chain.run(&event).await;
    let took_us = began.elapsed().as_micros() as u64;
    let is_filter = chain.plugins().any(|(role, ..)| role == "filter");
    let said = match ran.passed {
        Passed::Kept(_) if is_filter => Said::Verdict(Verdict::Keep),
        Passed::Dropped { reason, .. } if is_filter => Said::Verdict(Verdict::Drop(reason)),
        Passed::Kept(outputs) => Said::Outputs(outputs),
        Passed::Dropped { .. } => Said::Outputs(Vec::new()),
        Passed::Faulted { fault, .. } => Said::Fault(fault),
    };
    let lines = heard.take().into_iter().map(|line| json!({ "level": line.level, "line": line.text }));
    let mut answer = json!({
        "plugin": name,
        "version": plugin.description().version,
        "digest": plugin.digest(),
        "role": if is_filter { "filter" } else { "transform" },
        "event": { "id": event.id, "type": event.kind, "bytes": event.data.len() },
        "took_us": took_us,
        "memory_bytes": chain.memory_bytes(),
        "log": lines.collect::<Vec<_>>(),
    });
    if let (Value::Object(answer), Value::Object(said)) = (&mut answer, shown::said(&said)) {
        answer.extend(said);
    }
    Ok(axum::Json(answer).into_response())
}

/// The event at a place of a stream.
async fn stored(access: &Access, stream: &str, sequence: u64) -> Result<Event, Problem> {
    let unknown = || Problem::not_found(format!("there is no event {stream}:{sequence}"));
    let stream = StreamName::parse(stream).map_err(|_| unknown())?;
    if !access.events.streams().contains(&stream) {
        return Err(Problem::not_found(format!("there is no stream {stream} in the configuration")));
    }
    let position = Position { stream: stream.clone(), sequence };
    match access.events.event(&position).await {
        Ok(event) => event.ok_or_else(unknown),
        Err(error) => {
            warn!(%stream, sequence, error = %chain(&error), "an event could not be read for a dry run");
            Err(Problem::unavailable(Code::NatsUnavailable, "the stream cannot be read: try again"))
        }
    }
}

impl Given {
    fn event(self) -> Result<Event, Problem> {
        let kind =
            Subject::parse(&self.r#type).map_err(|error| Problem::invalid("type", format!("`type`: {error}")))?;
        let data = match (self.data, self.data_base64) {
            (Some(_), Some(_)) => return Err(Problem::invalid("data", "send `data` or `data_base64`, not both")),
            (None, None) => Vec::new(),
            (Some(Value::String(text)), None) if self.content_type.as_deref().is_some_and(|t| !t.contains("json")) => {
                text.into_bytes()
            }
            (Some(data), None) => data.to_string().into_bytes(),
            (None, Some(text)) => STANDARD
                .decode(text)
                .map_err(|error| Problem::invalid("data_base64", format!("`data_base64`: {error}")))?,
        };
        let stream = StreamName::parse("DRY-RUN").expect("it is a stream's name");
        let headers = self.headers.into_iter().map(|(name, value)| Header { name, value }).collect();
        Ok(Event {
            id: self.id.unwrap_or_else(|| "dry-run".into()),
            kind: kind.as_str().into(),
            subject: kind.as_str().into(),
            position: Position { stream, sequence: 0 },
            time_ms: clock::now_ms(),
            headers,
            content_type: self.content_type.or_else(|| Some("application/json".into())),
            data: data.into(),
            undecodable: None,
        })
    }
}
