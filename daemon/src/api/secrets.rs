//! The signing secret of a webhook subscription: how old it is, and another one in its place.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::Path;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use bytes::Bytes;
use http::StatusCode;
use http::header::{CACHE_CONTROL, HeaderValue};
use serde_json::{Value, json};
use tracing::error;

use super::subscriptions::Lanes;
use super::{Problem, State};
use crate::deliver::secrets::{Error, Secrets, View};
use crate::deliver::signing::{parse_secret, text_of};
use crate::domain::{SubscriptionId, WebhookSecret};
use crate::store::Origin;
use crate::telemetry::{chain, clock};

/// The longest overlap that a rotation may ask for, as in the configuration.
const OVERLAP_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// What the routes work on.
#[derive(Clone)]
pub struct Access {
    /// The lanes.
    pub lanes: Arc<dyn Lanes>,
    /// Their secrets.
    pub secrets: Secrets,
}

/// The routes, to be served below `/api/v1`.
pub fn routes(access: Access) -> Router<State> {
    Router::new()
        .route("/subscriptions/{name}/secret", get(show))
        .route("/subscriptions/{name}/secret/rotate", post(rotate))
        .layer(Extension(access))
}

/// `GET /api/v1/subscriptions/{name}/secret`: all about the secret but the secret.
async fn show(Extension(access): Extension<Access>, Path(name): Path<String>) -> Result<Response, Problem> {
    let id = find(&access, &name)?;
    let view = blocking(move || access.secrets.view(&id)).await?;
    Ok(Json(fields(&name, &view)).into_response())
}

/// `POST /api/v1/subscriptions/{name}/secret/rotate`: another secret from now on. Its text is in the answer, and nowhere
/// afterwards.
async fn rotate(
    Extension(access): Extension<Access>,
    Path(name): Path<String>,
    body: Bytes,
) -> Result<Response, Problem> {
    let id = find(&access, &name)?;
    let Wish { secret, overlap } = wish(&body)?;
    let (secret, view) = blocking(move || access.secrets.rotate(&id, secret, overlap)).await?;
    let mut fields = fields(&name, &view);
    fields["secret"] = Value::String(text_of(&secret));
    let mut response = Json(fields).into_response();
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

fn fields(name: &str, view: &View) -> Value {
    let previous: Vec<Value> =
        view.previous_until_ms.iter().map(|until| json!({ "valid_until": clock::rfc3339(*until) })).collect();
    json!({
        "subscription": name,
        "preview": view.preview,
        "source": match view.origin { Origin::File => "file", Origin::Kept => "daemon" },
        "created_at": clock::rfc3339(view.created_ms),
        "rotated_at": clock::rfc3339(view.rotated_ms),
        "overlap_until": view.previous_until_ms.iter().max().map(|until| clock::rfc3339(*until)),
        "previous": previous,
    })
}

fn find(access: &Access, name: &str) -> Result<SubscriptionId, Problem> {
    let lanes = access.lanes.lanes();
    let found = lanes.iter().find(|lane| lane.id().as_str() == name);
    found
        .map(|lane| lane.id().clone())
        .ok_or_else(|| Problem::not_found(format!("there is no webhook subscription {name}")))
}

/// What a rotation asks for.
struct Wish {
    secret: Option<WebhookSecret>,
    overlap: Option<Duration>,
}

/// Reads it by hand: no error may repeat a part of the body, which may hold a secret.
fn wish(body: &[u8]) -> Result<Wish, Problem> {
    let mut wish = Wish { secret: None, overlap: None };
    if body.trim_ascii().is_empty() {
        return Ok(wish);
    }
    let not_an_object = || Problem::invalid("body", "the body is not a JSON object of `overlap` and `secret`");
    let Ok(Value::Object(fields)) = serde_json::from_slice(body) else { return Err(not_an_object()) };
    for (name, value) in &fields {
        match (name.as_str(), value) {
            ("overlap" | "secret", Value::Null) => {}
            ("overlap", Value::String(text)) => wish.overlap = Some(overlap(text)?),
            ("secret", Value::String(text)) => {
                let secret = parse_secret(text).map_err(|error| Problem::invalid("secret", error.to_string()))?;
                wish.secret = Some(secret);
            }
            ("overlap" | "secret", _) => return Err(Problem::invalid("body", "`overlap` and `secret` are texts")),
            _ => return Err(not_an_object()),
        }
    }
    Ok(wish)
}

fn overlap(text: &str) -> Result<Duration, Problem> {
    let overlap = humantime::parse_duration(text).ok().filter(|overlap| *overlap <= OVERLAP_MAX);
    overlap.ok_or_else(|| {
        Problem::invalid("overlap", "`overlap` is a duration from \"0s\" (the earlier secret ends at once) to \"30d\"")
    })
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Problem> {
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(problem(&error)),
        Err(_) => Err(Problem::internal()),
    }
}

fn problem(wrong: &Error) -> Problem {
    let conflict =
        |code, detail: &str| Problem::new(StatusCode::CONFLICT, code, "The secret cannot be rotated", detail);
    match wrong {
        Error::FromFile => conflict(
            "secret_from_file",
            "the secret stands in the configuration file: change it there, and the one before stays valid for \
             secret_overlap; or remove it there, and the daemon keeps it and can rotate it",
        ),
        Error::TooMany => conflict(
            "too_many_secrets",
            "too many earlier secrets are still valid: wait until one has ended, or rotate with \"overlap\": \"0s\" to end \
             all of them at once",
        ),
        Error::Same => conflict("same_secret", "this is the secret that the subscription has already"),
        Error::Unknown => Problem::not_found("the subscription has no secret yet"),
        Error::Store(error) => {
            error!(error = %chain(error), "the store could not serve a request");
            Problem::unavailable("store_unavailable", "the store cannot be used at the moment")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_may_be_empty_or_name_both() {
        for empty in ["", " \n", "{}", r#"{"overlap": null, "secret": null}"#] {
            let wish = wish(empty.as_bytes()).expect(empty);
            assert!(wish.secret.is_none() && wish.overlap.is_none(), "{empty}");
        }
        let both = r#"{"overlap": "0s", "secret": "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"}"#;
        let wish = wish(both.as_bytes()).expect("valid");
        assert_eq!((wish.overlap, wish.secret.map(|secret| secret.bytes().len())), (Some(Duration::ZERO), Some(24)));
    }

    #[test]
    fn what_is_wrong_is_told_without_repeating_it() {
        for (body, code) in [
            ("hush", "body"),
            ("[\"hush\"]", "body"),
            (r#"{"hush": 1}"#, "body"),
            (r#"{"secret": ["hush"]}"#, "body"),
            (r#"{"secret": "hush"}"#, "secret"),
            (r#"{"secret": "whsec_hush"}"#, "secret"),
            (r#"{"overlap": "hush"}"#, "overlap"),
            (r#"{"overlap": "31d"}"#, "overlap"),
        ] {
            let problem = wish(body.as_bytes()).err().expect(body);
            assert_eq!(problem.code(), code, "{body}");
            assert!(!format!("{problem:?}").contains("hush"), "{problem:?}");
        }
    }
}
