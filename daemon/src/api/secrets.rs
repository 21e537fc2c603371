//! The signing secret of a webhook subscription: how old it is, and another one in its place.

use std::sync::Arc;
use std::time::Duration;

use axum::{Extension, Json};
use http::HeaderMap;
use http::header::{CACHE_CONTROL, HeaderValue};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tracing::error;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::document::of_webhook;
use super::extract::{Path, Raw, json_type};
use super::principal::Asker;
use super::problem::Code;
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
pub fn routes(access: Access) -> OpenApiRouter<State> {
    operations().layer(Extension(access))
}

/// The operations, not yet bound to what they work on.
pub(super) fn operations() -> OpenApiRouter<State> {
    OpenApiRouter::default()
        .routes(routes!(show))
        .routes(routes!(rotate))
        .routes(of_webhook(routes!(show), "/webhooks/{id}/secret"))
        .routes(of_webhook(routes!(rotate), "/webhooks/{id}/rotate-secret"))
}

/// All about a signing secret but the secret.
#[derive(Serialize, ToSchema)]
#[schema(as = SecretView)]
struct About {
    /// The subscription's name.
    subscription: String,
    /// Its beginning, to tell it from others.
    preview: String,
    /// `file`: it stands in the configuration; `daemon`: it is kept in the store.
    source: &'static str,
    /// When the subscription got its first secret.
    #[schema(format = DateTime)]
    created_at: String,
    /// When it got this one.
    #[schema(format = DateTime)]
    rotated_at: String,
    /// Until when earlier secrets are valid.
    #[schema(format = DateTime)]
    overlap_until: Option<String>,
    /// The earlier secrets that are still valid.
    previous: Vec<Earlier>,
    /// The secret's text: only in the answer to a rotation.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
}

/// An earlier secret.
#[derive(Serialize, ToSchema)]
#[schema(as = EarlierSecret)]
struct Earlier {
    /// Until when it is signed with too.
    #[schema(format = DateTime)]
    valid_until: String,
}

/// Another secret, if one likes.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the document's word for what is read by hand")]
struct Rotation {
    #[schema(pattern = "^whsec_[A-Za-z0-9+/]{32,86}={0,2}$")]
    /// The new secret: `whsec_` and the Base64 of 24 to 64 bytes; one is made, when it is not said.
    secret: Option<String>,
    /// How long the earlier secret stays valid, up to `30d`: `0s` ends it at once.
    #[schema(pattern = "^[0-9]+(ms|s|m|h|d)( ?[0-9]+(ms|s|m|h|d))*$", example = "24h")]
    overlap: Option<String>,
}

/// Look at a signing secret
///
/// All about it but its text.
#[utoipa::path(
    get,
    path = "/subscriptions/{name}/secret",
    tag = "subscriptions",
    params(("name" = String, Path, description = "The subscription's name")),
    responses((status = 200, description = "All about it", body = About)),
    extensions(("x-problems" = json!(["not_found", "store_unavailable"])))
)]
async fn show(
    Extension(access): Extension<Access>,
    asker: Asker,
    Path(name): Path<String>,
) -> Result<Json<About>, Problem> {
    let id = find(&access, &asker, &name)?;
    let view = blocking(move || access.secrets.view(&id)).await?;
    Ok(Json(about(name, &view)))
}

/// Another signing secret
///
/// From now on. Its text is in the answer, and nowhere afterwards.
#[utoipa::path(
    post,
    path = "/subscriptions/{name}/secret/rotate",
    tag = "subscriptions",
    params(("name" = String, Path, description = "The subscription's name")),
    request_body = Option<Rotation>,
    responses((status = 200, description = "All about it, with its text", body = About)),
    extensions(("x-problems" = json!([
        "not_found", "secret_from_file", "too_many_secrets", "same_secret", "store_unavailable"
    ])))
)]
async fn rotate(
    Extension(access): Extension<Access>,
    asker: Asker,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Raw,
) -> Result<([(http::HeaderName, HeaderValue); 1], Json<About>), Problem> {
    let id = find(&access, &asker, &name)?;
    if !body.trim_ascii().is_empty() {
        json_type(&headers)?;
    }
    let Wish { secret, overlap } = wish(&body)?;
    let (secret, view) = blocking(move || access.secrets.rotate(&id, secret, overlap)).await?;
    let about = About { secret: Some(text_of(&secret)), ..about(name, &view) };
    Ok(([(CACHE_CONTROL, HeaderValue::from_static("no-store"))], Json(about)))
}

fn about(subscription: String, view: &View) -> About {
    let earlier = |until: &u64| Earlier { valid_until: clock::rfc3339(*until) };
    About {
        subscription,
        preview: view.preview.to_string(),
        source: match view.origin {
            Origin::File => "file",
            Origin::Kept => "daemon",
        },
        created_at: clock::rfc3339(view.created_ms),
        rotated_at: clock::rfc3339(view.rotated_ms),
        overlap_until: view.previous_until_ms.iter().max().map(|until| clock::rfc3339(*until)),
        previous: view.previous_until_ms.iter().map(earlier).collect(),
        secret: None,
    }
}

fn find(access: &Access, asker: &Asker, name: &str) -> Result<SubscriptionId, Problem> {
    let lanes = access.lanes.lanes();
    let found = lanes.iter().find(|lane| lane.id().as_str() == name && asker.sees(lane.id()));
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
    match wrong {
        Error::FromFile => Problem::new(
            Code::SecretFromFile,
            "the secret stands in the configuration file: change it there, and the one before stays valid for \
             secret_overlap; or remove it there, and the daemon keeps it and can rotate it",
        ),
        Error::TooMany => Problem::new(
            Code::TooManySecrets,
            "too many earlier secrets are still valid: wait until one has ended, or rotate with \"overlap\": \"0s\" to end \
             all of them at once",
        ),
        Error::Same => Problem::new(Code::SameSecret, "this is the secret that the subscription has already"),
        Error::Unknown => Problem::not_found("the subscription has no secret yet"),
        Error::Store(error) => {
            error!(error = %chain(error), "the store could not serve a request");
            Problem::unavailable(Code::StoreUnavailable, "the store cannot be used at the moment")
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
        for (body, field) in [
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
            assert_eq!(problem.errors()[0].field, field, "{body}");
            assert!(!format!("{problem:?}").contains("hush"), "{problem:?}");
        }
    }
}
