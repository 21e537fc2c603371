//! Plugins: what there is, uploads, going back, shadow mode, dry runs.
//!
//! A version is named by the SHA-256 of its WebAssembly. What is sent is compiled away from deliveries, and checked against
//! every subscription that uses the plugin, before it takes the place of the version that runs. How far it is, or why it was
//! refused, stands under `candidate`.

mod dry_run;
mod schema;
mod shown;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::DefaultBodyLimit;
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use futures_util::future::BoxFuture;
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tracing::error;
use utoipa::ToSchema;
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouterExt as _};
use utoipa_axum::routes;

use self::shown::shown;
use super::extract::{self, Path, Raw};
use super::problem::Code;
use super::{Problem, State, trace};
use crate::domain::SubscriptionId;
use crate::plugin::{Chain, Error, Heard, Plugin, Trial, is_name};
use crate::store::{PluginOrigin, PluginRecord};
use crate::telemetry::chain;

pub use dry_run::Role;
pub use shown::described;

/// How long a request waits for its plugin to be compiled and checked, when it does not say so itself,
const WAIT_DEFAULT: Duration = Duration::from_secs(10);
/// and the longest that it may say.
const WAIT_MAX: Duration = Duration::from_secs(120);
/// How many subscriptions a refusal names.
const UNFIT_NAMED_MAX: usize = 10;

/// A plugin as the daemon has it.
#[derive(Clone)]
pub struct Listed {
    /// Its name.
    pub name: Box<str>,
    /// What the version that runs says of itself and is; empty before there is one.
    pub about: Map<String, Value>,
    /// Its versions.
    pub record: Option<PluginRecord>,
    /// A version that is to take its place, or was refused.
    pub candidate: Option<Candidate>,
    /// The version that runs beside it without effect.
    pub trial: Option<Arc<Trial>>,
    /// Who uses it; and after how many faults in a row it was set aside there.
    pub used_by: Vec<(SubscriptionId, Option<u32>)>,
}

/// A version on its way.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Its SHA-256, in hexadecimal digits.
    pub digest: Box<str>,
    /// Where it came from.
    pub origin: PluginOrigin,
    /// Since when it is as far as it is, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// How far it is.
    pub stage: Stage,
}

/// How far a version on its way is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// It is compiled, or loaded from the cache.
    Compiling,
    /// It is configured for every subscription that uses the plugin.
    Checking,
    /// It was refused, and the version before it stays.
    Refused(Box<str>),
}

/// Which version.
pub enum Version {
    /// One that is sent.
    Sent(Bytes),
    /// One that is kept, by its digest.
    Kept(Box<str>),
    /// The one that ran before the current one.
    Previous,
    /// The one in shadow mode.
    Shadow,
}

/// What a version is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// Run, in the place of the current one.
    Current,
    /// Run beside the current one, without effect.
    Shadow,
}

/// Subscriptions that cannot use a plugin, with the reason.
pub type Unfit = Vec<(SubscriptionId, Box<str>)>;

/// Why something was not done.
#[derive(Debug)]
pub enum Refused {
    /// There is no such plugin.
    Unknown,
    /// There is no such version: it was never there, or is kept no more.
    NoVersion,
    /// It is not a plugin that can be run.
    Broken(Error),
    /// These subscriptions cannot use it, which can use the version that runs.
    Unfit(Unfit),
    /// These subscriptions use it.
    InUse(Vec<SubscriptionId>),
    /// It lies in the plugin directory.
    OfFile,
    /// Another version is on its way.
    Busy,
    /// The daemon cannot do it at the moment.
    Unavailable(Box<dyn std::error::Error + Send + Sync>),
}

/// Who keeps the plugins and runs them.
pub trait Plugins: Send + Sync + 'static {
    /// All, in the order of their names.
    fn all(&self) -> Vec<Listed>;
    /// One of them.
    fn one(&self, name: &str) -> Option<Listed>;
    /// Takes in the file of a plugin that nobody has used, so that there is something to be told of it. The work goes on when
    /// the future is dropped.
    fn look_at(&self, name: &str) -> BoxFuture<'static, Result<(), Refused>>;
    /// Gives a version a place. The work goes on when the future is dropped.
    fn place(&self, name: &str, version: Version, place: Place) -> BoxFuture<'static, Result<(), Refused>>;
    /// Ends a plugin's shadow mode.
    fn end_shadow(&self, name: &str) -> BoxFuture<'static, Result<(), Refused>>;
    /// Forgets a plugin that nobody uses, with its versions.
    fn remove(&self, name: &str) -> BoxFuture<'static, Result<(), Refused>>;
    /// A plugin in a role, with that configuration, that nobody else uses; of a version that is kept, or the one that runs.
    fn rehearse(&self, wanted: Rehearsal) -> BoxFuture<'static, Result<(Arc<Plugin>, Chain), Refused>>;
}

/// What is to be tried out.
pub struct Rehearsal {
    /// The plugin.
    pub name: Box<str>,
    /// The digest of the version, when it is not the one that runs.
    pub digest: Option<Box<str>>,
    /// The role; without one it is a transform if it can.
    pub role: Option<Role>,
    /// The configuration, a JSON text.
    pub config: Box<str>,
    /// Where its log lines go.
    pub heard: Heard,
}

/// What the routes work on.
#[derive(Clone)]
pub struct Access {
    /// The plugins.
    pub plugins: Arc<dyn Plugins>,
    /// Where events are read for dry runs.
    pub events: Arc<dyn trace::Events>,
    /// The largest plugin that is taken, in bytes.
    pub file_bytes_max: usize,
}

/// The routes, to be served below `/api/v1`.
pub fn routes(access: Access) -> OpenApiRouter<State> {
    operations(access.file_bytes_max).layer(Extension(access))
}

/// The operations, not yet bound to what they work on.
pub(super) fn operations(file_bytes_max: usize) -> OpenApiRouter<State> {
    let large = DefaultBodyLimit::max(file_bytes_max);
    OpenApiRouter::default()
        .routes(routes!(list))
        .routes(routes!(one, remove, upload).layer(large))
        .routes(routes!(rollback))
        .routes(routes!(dry_run::run))
        .routes(routes!(shadow, begin_shadow, end_shadow).layer(large))
        .routes(routes!(promote))
}

/// List the plugins
#[utoipa::path(
    get,
    path = "/plugins",
    tag = "plugins",
    responses((status = 200, description = "All of them", body = schema::PluginList))
)]
async fn list(Extension(access): Extension<Access>) -> Response {
    let all: Vec<_> = access.plugins.all().iter().map(|listed| shown(listed, false)).collect();
    Json(json!({ "plugins": all })).into_response()
}

/// Get a plugin
///
/// With its configuration's schema and the differences of shadow mode.
#[utoipa::path(
    get,
    path = "/plugins/{name}",
    tag = "plugins",
    params(("name" = String, Path, description = "The plugin's name")),
    responses((status = 200, description = "The plugin", body = schema::Plugin)),
    extensions(("x-problems" = json!(["not_found"])))
)]
async fn one(
    Extension(access): Extension<Access>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let find = || access.plugins.one(&name).ok_or_else(|| problem(&name, Refused::Unknown));
    if find()?.about.is_empty() {
        // Why it cannot be taken in stands under its candidate.
        drop(tokio::time::timeout(wait(&headers), access.plugins.look_at(&name)).await);
    }
    Ok(Json(shown(&find()?, true)).into_response())
}

/// Send a version of a plugin
///
/// It takes the place of the version that runs when it is compiled and every subscription that uses the plugin can use it.
/// `Prefer: wait=SECONDS` says how long the request waits for that.
#[utoipa::path(
    put,
    path = "/plugins/{name}",
    tag = "plugins",
    params(("name" = String, Path, description = "The plugin's name"), ("Prefer" = Option<String>, Header, description = "`wait=SECONDS` or `respond-async`")),
    request_body(content = [u8], content_type = "application/wasm", description = "A WebAssembly component"),
    responses(
        (status = 200, description = "It runs", body = schema::Plugin),
        (status = 201, description = "It runs, and is the plugin's first", body = schema::Plugin),
        (status = 202, description = "It is on its way: see `candidate`", body = schema::Plugin),
    ),
    extensions(("x-problems" = json!(["plugin_unfit", "plugin_busy", "unavailable"])))
)]
async fn upload(
    Extension(access): Extension<Access>,
    Path(name): Path<String>,
    headers: HeaderMap,
    Raw(body): Raw,
) -> Result<Response, Problem> {
    if !is_name(&name) {
        return Err(problem(&name, Refused::Broken(Error::Name { name: name.as_str().into() })));
    }
    let status = if access.plugins.one(&name).is_some() { StatusCode::OK } else { StatusCode::CREATED };
    place(&access, &name, Version::Sent(body), Place::Current, &headers, status).await
}

/// A version that is kept.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct KeptVersion {
    /// The SHA-256 of its WebAssembly, in hexadecimal digits.
    digest: Option<Box<str>>,
}

/// Go back to an earlier version of a plugin
///
/// To the one that ran before, or to the one that the body names.
#[utoipa::path(
    post,
    path = "/plugins/{name}/rollback",
    tag = "plugins",
    params(("name" = String, Path, description = "The plugin's name"), ("Prefer" = Option<String>, Header, description = "`wait=SECONDS` or `respond-async`")),
    request_body = Option<KeptVersion>,
    responses(
        (status = 200, description = "It runs", body = schema::Plugin),
        (status = 202, description = "It is on its way: see `candidate`", body = schema::Plugin),
    ),
    extensions(("x-problems" = json!(["not_found", "no_version", "plugin_unfit", "plugin_busy", "unavailable"])))
)]
async fn rollback(
    Extension(access): Extension<Access>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Raw,
) -> Result<Response, Problem> {
    let version = digest(&body)?.map_or(Version::Previous, Version::Kept);
    place(&access, &name, version, Place::Current, &headers, StatusCode::OK).await
}

/// Look at a plugin's shadow mode
#[utoipa::path(
    get,
    path = "/plugins/{name}/shadow",
    tag = "plugins",
    params(("name" = String, Path, description = "The plugin's name")),
    responses((status = 200, description = "What it has found", body = schema::PluginShadow)),
    extensions(("x-problems" = json!(["not_found", "no_version"])))
)]
async fn shadow(Extension(access): Extension<Access>, Path(name): Path<String>) -> Result<Response, Problem> {
    let listed = access.plugins.one(&name).ok_or_else(|| problem(&name, Refused::Unknown))?;
    let trial = listed.trial.ok_or_else(|| problem(&name, Refused::NoVersion))?;
    Ok(Json(shown::trial(&trial, true)).into_response())
}

/// Run a version beside the current one, without effect
///
/// A component as the body, or `{"digest": "…"}` of a version that is kept.
#[utoipa::path(
    put,
    path = "/plugins/{name}/shadow",
    tag = "plugins",
    params(("name" = String, Path, description = "The plugin's name"), ("Prefer" = Option<String>, Header, description = "`wait=SECONDS` or `respond-async`")),
    request_body(content = [u8], content_type = "application/wasm", description = "A WebAssembly component"),
    responses(
        (status = 200, description = "It runs beside the current one", body = schema::Plugin),
        (status = 202, description = "It is on its way: see `candidate`", body = schema::Plugin),
    ),
    extensions(("x-problems" = json!(["not_found", "no_version", "plugin_busy", "unavailable"])))
)]
async fn begin_shadow(
    Extension(access): Extension<Access>,
    Path(name): Path<String>,
    headers: HeaderMap,
    Raw(body): Raw,
) -> Result<Response, Problem> {
    let version = match body.first() {
        Some(b'{') => digest(&body)?.map(Version::Kept),
        _ => Some(Version::Sent(body)),
    };
    let version = version.ok_or_else(no_digest)?;
    place(&access, &name, version, Place::Shadow, &headers, StatusCode::OK).await
}

/// End a plugin's shadow mode
#[utoipa::path(
    delete,
    path = "/plugins/{name}/shadow",
    tag = "plugins",
    params(("name" = String, Path, description = "The plugin's name")),
    responses((status = 204, description = "It has ended")),
    extensions(("x-problems" = json!(["not_found", "no_version", "plugin_busy", "unavailable"])))
)]
async fn end_shadow(Extension(access): Extension<Access>, Path(name): Path<String>) -> Result<StatusCode, Problem> {
    access.plugins.end_shadow(&name).await.map_err(|refused| problem(&name, refused))?;
    Ok(StatusCode::NO_CONTENT)
}

/// Let the version in shadow mode take the place of the current one
#[utoipa::path(
    post,
    path = "/plugins/{name}/shadow/promote",
    tag = "plugins",
    params(("name" = String, Path, description = "The plugin's name"), ("Prefer" = Option<String>, Header, description = "`wait=SECONDS` or `respond-async`")),
    responses(
        (status = 200, description = "It runs", body = schema::Plugin),
        (status = 202, description = "It is on its way: see `candidate`", body = schema::Plugin),
    ),
    extensions(("x-problems" = json!(["not_found", "no_version", "plugin_unfit", "plugin_busy", "unavailable"])))
)]
async fn promote(
    Extension(access): Extension<Access>,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    place(&access, &name, Version::Shadow, Place::Current, &headers, StatusCode::OK).await
}

/// Forget a plugin that nobody uses, with its versions
#[utoipa::path(
    delete,
    path = "/plugins/{name}",
    tag = "plugins",
    params(("name" = String, Path, description = "The plugin's name")),
    responses((status = 204, description = "It is forgotten")),
    extensions(("x-problems" = json!(["not_found", "plugin_in_use", "plugin_of_file", "plugin_busy", "unavailable"])))
)]
async fn remove(Extension(access): Extension<Access>, Path(name): Path<String>) -> Result<StatusCode, Problem> {
    access.plugins.remove(&name).await.map_err(|refused| problem(&name, refused))?;
    Ok(StatusCode::NO_CONTENT)
}

/// Gives a version a place, and answers when it has it, or with 202 when that takes longer than the request waits.
async fn place(
    access: &Access,
    name: &str,
    version: Version,
    place: Place,
    headers: &HeaderMap,
    done: StatusCode,
) -> Result<Response, Problem> {
    let placing = access.plugins.place(name, version, place);
    let status = match tokio::time::timeout(wait(headers), placing).await {
        Ok(Ok(())) => done,
        Ok(Err(refused)) => return Err(problem(name, refused)),
        Err(_) => StatusCode::ACCEPTED,
    };
    let listed = access.plugins.one(name).ok_or_else(|| problem(name, Refused::Unknown))?;
    let location = format!("/api/v1/plugins/{name}");
    Ok((status, [(http::header::LOCATION, location)], Json(shown(&listed, true))).into_response())
}

/// How long a request wants to wait: `Prefer: wait=SECONDS` or `Prefer: respond-async` (RFC 7240).
fn wait(headers: &HeaderMap) -> Duration {
    let preferences = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok());
    let mut preferences = preferences.flat_map(|value| value.split([',', ';'])).map(str::trim);
    let wanted = preferences.find_map(|preference| match preference.strip_prefix("wait=") {
        Some(seconds) => seconds.parse().ok().map(Duration::from_secs),
        None => (preference == "respond-async").then_some(Duration::ZERO),
    });
    wanted.unwrap_or(WAIT_DEFAULT).min(WAIT_MAX)
}

/// The digest in a body that may be empty.
fn digest(body: &[u8]) -> Result<Option<Box<str>>, Problem> {
    if body.trim_ascii().is_empty() {
        return Ok(None);
    }
    let asked: KeptVersion = extract::parse(body)?;
    Ok(asked.digest.map(|digest| digest.to_ascii_lowercase().into()))
}

fn no_digest() -> Problem {
    Problem::invalid("digest", "send {\"digest\": \"…\"}: the SHA-256 of a version, as /api/v1/plugins/NAME lists it")
}

fn problem(name: &str, refused: Refused) -> Problem {
    match refused {
        Refused::Unknown => Problem::not_found(format!("there is no plugin `{name}`")),
        Refused::NoVersion => {
            let detail = format!("`{name}` has no such version: GET /api/v1/plugins/{name} lists those that are kept");
            Problem::new(Code::NoVersion, detail)
        }
        Refused::Broken(error) => Problem::invalid("plugin", chain(&error)),
        Refused::Unfit(unfit) => {
            let named = unfit.iter().take(UNFIT_NAMED_MAX).map(|(id, reason)| format!("{id}: {reason}"));
            let named = named.collect::<Vec<_>>().join("; ");
            let detail = match unfit.len().saturating_sub(UNFIT_NAMED_MAX) {
                0 => named,
                more => format!("{named}; and {more} more"),
            };
            Problem::new(Code::PluginUnfit, detail)
        }
        Refused::InUse(users) => {
            let users: Vec<&str> = users.iter().take(UNFIT_NAMED_MAX).map(SubscriptionId::as_str).collect();
            let detail = format!("take `{name}` out of these subscriptions first: {}", users.join(", "));
            Problem::new(Code::PluginInUse, detail)
        }
        Refused::OfFile => {
            let detail = format!("remove {name}.wasm from the plugin directory first");
            Problem::new(Code::PluginOfFile, detail)
        }
        Refused::Busy => {
            let detail = format!("another version of `{name}` is on its way: see its `candidate`");
            Problem::new(Code::PluginBusy, detail).retry_after(2)
        }
        Refused::Unavailable(reason) => {
            error!(plugin = name, error = %chain(&*reason), "a plugin could not be changed");
            Problem::unavailable(Code::Unavailable, "the change was not made: try again")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_says_how_long_it_waits() {
        let wait_of = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("prefer", http::HeaderValue::from_static(text));
            wait(&headers)
        };
        assert_eq!(wait(&HeaderMap::new()), WAIT_DEFAULT);
        assert_eq!(wait_of("respond-async"), Duration::ZERO);
        assert_eq!(wait_of("handling=strict, wait=3"), Duration::from_secs(3));
        assert_eq!(wait_of("wait=100000"), WAIT_MAX);
        assert_eq!(wait_of("wait=soon"), WAIT_DEFAULT);
    }

    #[test]
    fn a_digest_may_be_missing_but_not_be_something_else() {
        assert_eq!(digest(b" ").expect("nothing"), None);
        assert_eq!(digest(b"{}").expect("nothing"), None);
        assert_eq!(digest(br#"{"digest": "AB"}"#).expect("a digest").as_deref(), Some("ab"));
        for wrong in [&b"{"[..], br#"{"digest": 1}"#, br#"{"version": "1"}"#] {
            assert_eq!(digest(wrong).expect_err("none").code(), Code::InvalidRequest);
        }
    }
}
