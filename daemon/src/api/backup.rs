//! A backup of the store while the daemon works.

use std::path::PathBuf;

use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Json, Router};
use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{error, info};

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
pub fn routes(access: Access) -> Router<State> {
    Router::new().route("/backup", post(backup)).layer(Extension(access))
}

/// `POST /api/v1/backup` with `{"name": "…"}`: makes a backup of that name, and answers when it is whole and durable.
async fn backup(Extension(access): Extension<Access>, body: Bytes) -> Result<Response, Problem> {
    let name = name(&body)?;
    let Some(dir) = access.dir.map(|dir| dir.join(&name)) else {
        let detail = "no folder for backups is configured: set store.backup_dir and restart";
        return Err(Problem::new(StatusCode::CONFLICT, "no_backup_dir", "Backups are not set up", detail));
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
            Ok(Json(json!({ "dir": dir, "entries": entries, "data_bytes": data_bytes, "bodies": bodies }))
                .into_response())
        }
        Ok(Err(error)) => Err(problem(&name, &error)),
        Err(_) => Err(Problem::internal()),
    }
}

/// The name of the backup: a plain one, never a path.
fn name(body: &[u8]) -> Result<String, Problem> {
    let wrong = || {
        let detail =
            "send {\"name\": \"…\"}: 1 to 64 letters, digits, `-`, `_` or `.`, beginning with a letter or digit";
        Problem::invalid("name", detail)
    };
    let body: Value = serde_json::from_slice(body).map_err(|_| wrong())?;
    let fields = body.as_object().filter(|fields| fields.keys().all(|key| key == "name")).ok_or_else(wrong)?;
    let name = fields.get("name").and_then(Value::as_str).ok_or_else(wrong)?;
    SubscriptionId::parse(name).map(|name| name.as_str().to_owned()).map_err(|_| wrong())
}

fn problem(name: &str, wrong: &Error) -> Problem {
    match wrong {
        Error::BackupBusy => {
            let detail = "a backup is under way: wait for its end";
            Problem::new(StatusCode::CONFLICT, "backup_busy", "One backup at a time", detail)
        }
        Error::Backup { source, .. } if source.kind() == std::io::ErrorKind::DirectoryNotEmpty => {
            let detail = format!("there is something of the name {name} already: choose another name");
            Problem::new(StatusCode::CONFLICT, "backup_exists", "Backups are never overwritten", detail)
        }
        error => {
            error!(error = %chain(error), "a backup failed");
            Problem::unavailable("backup_failed", "the backup could not be made, the log says why")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_never_a_path() {
        assert_eq!(name(br#"{"name": "2026-11-22.a"}"#).expect("a name"), "2026-11-22.a");
        for wrong in
            ["", "{}", r#"{"name": ".."}"#, r#"{"name": "a/b"}"#, r#"{"name": "/etc"}"#, r#"{"name": "a", "x": 1}"#]
        {
            assert_eq!(name(wrong.as_bytes()).expect_err(wrong).code(), "name", "{wrong}");
        }
    }
}
