//! What handlers take out of a request. They stand in the place of axum's own extractors, whose refusals are not problems.

use std::error::Error as _;
use std::ops::Deref;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Request};
use http::request::Parts;
use http::{HeaderMap, header};
use serde::de::DeserializeOwned;

use super::Problem;
use super::problem::Code;

/// The parts of the path that the route names.
pub(super) struct Path<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match axum::extract::Path::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(rejection) => Err(Problem::invalid("path", rejection.body_text())),
        }
    }
}

/// The query, whose parameters must all be known.
pub(super) struct Query<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        match axum::extract::Query::from_request_parts(parts, state).await {
            Ok(axum::extract::Query(value)) => Ok(Self(value)),
            // The text of the rejection itself is about this program.
            Err(rejection) => Err(Problem::invalid(
                "query",
                rejection.source().map_or_else(|| rejection.body_text(), ToString::to_string),
            )),
        }
    }
}

/// A body of JSON, whole, and said to be JSON.
pub(super) struct Json<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        // A page of another origin can send any text without asking first, but not this type.
        json_type(request.headers())?;
        Ok(Self(parse(&Raw::from_request(request, state).await?)?))
    }
}

/// A body of JSON, or none at all, which stands for the defaults.
pub(super) struct JsonOrNone<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned + Default> FromRequest<S> for JsonOrNone<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let typed = json_type(request.headers());
        let body = Raw::from_request(request, state).await?;
        if body.trim_ascii().is_empty() {
            return Ok(Self(T::default()));
        }
        typed?;
        Ok(Self(parse(&body)?))
    }
}

/// A body of any type, whole.
pub(super) struct Raw(pub(super) Bytes);

impl Deref for Raw {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl<S: Send + Sync> FromRequest<S> for Raw {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        let body: Result<Bytes, BytesRejection> = Bytes::from_request(request, state).await;
        body.map(Self).map_err(|rejection| Problem::of_body(&rejection))
    }
}

/// A body as JSON.
///
/// # Errors
/// When it is not, or has not the shape that is asked for.
pub(super) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    // A structure can be read from a list of its values too, of which the description of the API says nothing.
    if body.trim_ascii_start().starts_with(b"[") {
        return Err(Problem::invalid("body", "must be a JSON object"));
    }
    serde_json::from_slice(body).map_err(|error| Problem::invalid("body", error.to_string()))
}

/// Is the body said to be JSON?
///
/// # Errors
/// When it is not.
pub(super) fn json_type(headers: &HeaderMap) -> Result<(), Problem> {
    match headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).is_some_and(is_json) {
        true => Ok(()),
        false => Err(Problem::new(Code::UnsupportedMediaType, "send it with Content-Type: application/json")),
    }
}

/// Does a media type stand for JSON?
pub(super) fn is_json(media_type: &str) -> bool {
    let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || essence.ends_with("+json")
}
