//! What the daemon is, and whom it takes the asker for.

use std::sync::Arc;

use axum::{Extension, Json};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::principal::Asker;
use super::{Owners, Principal, State};
use crate::domain::{Pattern, Scope};
use crate::telemetry::clock;

/// What is told of the daemon.
#[derive(Clone)]
pub struct Access {
    /// When it was started, in milliseconds since the Unix epoch.
    pub started_ms: u64,
    /// How many webhooks an owner may make.
    pub webhooks_per_owner: usize,
    /// Requests a minute; 0 is no limit.
    pub requests_per_minute: u32,
    /// The largest body, in bytes.
    pub body_bytes_max: usize,
    /// Whose which subscription is.
    pub owners: Owners,
}

/// The route, to be served below `/api/v1`.
pub fn routes(access: Access) -> OpenApiRouter<State> {
    operations().layer(Extension(Arc::new(access)))
}

/// The routes, described.
pub(super) fn operations() -> OpenApiRouter<State> {
    OpenApiRouter::default().routes(routes!(info))
}

/// The daemon.
#[derive(Serialize, ToSchema)]
struct Info {
    /// `sluiced`.
    name: &'static str,
    /// Its version.
    version: &'static str,
    /// The version of the API.
    api_version: &'static str,
    /// When it was started.
    #[schema(format = "date-time")]
    started_at: String,
    /// Whom it takes the asker for.
    principal: Taken,
    /// The limits that an asker meets.
    limits: Met,
}

/// Who asks.
#[derive(Serialize, ToSchema)]
struct Taken {
    /// A name for it.
    name: String,
    /// How it is known: `admin_key`, `api_key`, `token`, `portal_link` or `none`.
    known_by: &'static str,
    /// The owner whose things alone it sees; nothing for the operator.
    owner: Option<String>,
    /// What it may do.
    scopes: Vec<&'static str>,
    /// The patterns of the event types that it may publish, listen to and subscribe to.
    types: Vec<String>,
}

impl From<&Principal> for Taken {
    fn from(principal: &Principal) -> Self {
        Self {
            name: principal.name().to_owned(),
            known_by: principal.kind().as_str(),
            owner: principal.owner().map(ToString::to_string),
            scopes: principal.scopes().iter().map(Scope::as_str).collect(),
            types: principal.types().patterns().iter().map(Pattern::to_string).collect(),
        }
    }
}

/// Some limits.
#[derive(Serialize, ToSchema)]
struct Met {
    /// Requests a minute; nothing is no limit.
    requests_per_minute: Option<u32>,
    /// The largest request body, in bytes.
    body_bytes_max: usize,
    /// Webhooks that an owner may have made; nothing for the operator, who is not limited.
    webhooks_per_owner: Option<usize>,
    /// How many of these the asker has.
    webhooks: Option<usize>,
}

/// Get what the daemon is, and whom it takes you for
#[utoipa::path(
    get,
    path = "/info",
    tag = "operation",
    responses((status = 200, description = "The daemon and the asker", body = Info))
)]
async fn info(Extension(access): Extension<Arc<Access>>, asker: Asker) -> Json<Info> {
    let owner = asker.principal().owner();
    Json(Info {
        name: "sluiced",
        version: env!("CARGO_PKG_VERSION"),
        api_version: "v1",
        started_at: clock::rfc3339(access.started_ms),
        principal: Taken::from(asker.principal()),
        limits: Met {
            requests_per_minute: (access.requests_per_minute > 0).then_some(access.requests_per_minute),
            body_bytes_max: access.body_bytes_max,
            webhooks_per_owner: owner.map(|_| access.webhooks_per_owner),
            webhooks: owner.map(|owner| access.owners.made(owner)),
        },
    })
}
