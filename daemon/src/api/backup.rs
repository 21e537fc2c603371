//! A backup of the store while the daemon works.

use std::path::PathBuf;

use axum::{Extension, Json};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{error, info};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract;
use super::problem::Code;
use super::{Problem, State};
use crate::domain::SubscriptionId;
use crate::store::{Backup, Error, Store};
use crate::telemetry::chain;

/// What the route works on.
#[derive(Clone)]
pub struct Access {
    /// The store to copy.
    pub store: Store,
    /// The folder below which backups are made; without one none are.
    pub dir: Option<PathBuf>,
}

/// The route, to be served below `/api/v1`.
pub fn routes(access: Access) -> OpenApiRouter<State> {
    operations().layer(Extension(access))
}

/// The operations, not yet bound to what they work on.
pub(super) fn operations() -> OpenApiRouter<State> {
    OpenApiRouter::default().routes(routes!(backup))
}

/// A backup to make.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct NewBackup {
    /// Its name: a plain one, never a path.
    #[schema(pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", example = "2026-11-22")]
    name: String,
}

/// A backup that was made.
#[derive(Serialize, ToSchema)]
struct BackupMade {
    /// The folder that it is in.
    dir: String,
    /// How many entries it has.
    entries: u64,
    /// How many bytes they have.
    data_bytes: u64,
    /// How many large bodies it has beside them.
    bodies: u64,
}

/// Make a backup of the store
///
/// It is answered when the backup is whole and durable. The master key is not part of it.
#[utoipa::path(
    post,
    path = "/backup",
    tag = "operation",
    request_body = NewBackup,
    responses((status = 200, description = "It is whole and durable", body = BackupMade)),
    extensions(("x-problems" = json!(["no_backup_dir", "backup_busy", "backup_exists", "backup_failed"])))
)]
async fn backup(
    Extension(access): Extension<Access>,
    extract::Json(new): extract::Json<NewBackup>,
) -> Result<Json<BackupMade>, Problem> {
    let name = name(&new.name)?;
    let Some(dir) = access.dir.map(|dir| dir.join(&name)) else {
        let detail = "no folder for backups is configured: set store.backup_dir and restart";
        return Err(Problem::new(Code::NoBackupDir, detail));
    };
    let (done, answer) = oneshot::channel();
    let (to, began) = (dir.clone(), Instant::now());
    // A thread of its own and not of the pool, which a stop waits for: a backup that a stop cuts short is none.
    let copy = move || drop(done.send(access.store.backup(&to)));
    let thread = std::thread::Builder::new().name("store-backup".into()).spawn(copy);
    thread.map_err(|_| Problem::internal())?;
    match answer.await {
        Ok(Ok(made)) => {
            let Backup { flush, entries, data_bytes, bodies } = made;
            let took_ms = began.elapsed().as_millis() as u64;
            info!(dir = %dir.display(), flush, entries, data_bytes, bodies, took_ms, "backup made");
            let dir = dir.display().to_string();
            Ok(Json(BackupMade { dir, entries, data_bytes, bodies }))
        }
        Ok(Err(error)) => Err(problem(&name, &error)),
        Err(_) => Err(Problem::internal()),
    }
}

/// The name of the backup: a plain one, never a path.
fn name(text: &str) -> Result<String, Problem> {
    SubscriptionId::parse(text).map(|name| name.as_str().to_owned()).map_err(|_| {
        let detail = "`name` has 1 to 64 letters, digits, `-`, `_` or `.`, of which the first is a letter or a digit";
        Problem::invalid("name", detail)
    })
}

fn problem(name: &str, wrong: &Error) -> Problem {
    match wrong {
        Error::BackupBusy => {
            let detail = "a backup is under way: wait for its end";
            Problem::new(Code::BackupBusy, detail)
        }
        Error::Backup { source, .. } if source.kind() == std::io::ErrorKind::DirectoryNotEmpty => {
            let detail = format!("there is something of the name {name} already: choose another name");
            Problem::new(Code::BackupExists, detail)
        }
        error => {
            error!(error = %chain(error), "a backup failed");
            Problem::unavailable(Code::BackupFailed, "the backup could not be made, the log says why")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_never_a_path() {
        assert_eq!(name("2026-11-22.a").expect("a name"), "2026-11-22.a");
        for wrong in ["", "..", "a/b", "/etc"] {
            assert_eq!(name(wrong).expect_err(wrong).errors()[0].field, "name", "{wrong}");
        }
    }
}
