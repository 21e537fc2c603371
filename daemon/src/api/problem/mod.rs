//! Errors as callers see them: RFC 9457 problem details with a stable code.

mod code;

pub use code::Code;

use axum::extract::rejection::BytesRejection;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

/// The media type of a problem.
pub const MEDIA_TYPE: &str = "application/problem+json";
/// What a problem's type begins with; its code follows. The repository's page of a code has the same name.
pub const TYPE_PREFIX: &str = "urn:sluiced:problem:";
/// After how many seconds to try again what is not possible at the moment, when nothing else is said.
const RETRY_AFTER_S: u32 = 2;

/// What went wrong with a request, for its sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    code: Code,
    detail: String,
    errors: Vec<FieldError>,
    retry_after_s: Option<u32>,
}

/// One part of a request that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// Its name, or its path in the body, such as `retry.base`; `body` is the body as a whole.
    pub field: String,
    /// What is wrong with it, and what would be right.
    pub detail: String,
}

/// Problem details (RFC 9457).
#[derive(Serialize, ToSchema)]
#[schema(as = Problem)]
pub(super) struct Body<'a> {
    /// A stable URI of the kind of problem: `urn:sluiced:problem:` and the code.
    r#type: String,
    /// The status of the answer.
    status: u16,
    /// The stable word that programs go by.
    code: &'a str,
    /// The code, for people.
    title: &'a str,
    /// What it was this time.
    detail: &'a str,
    /// Each part of the request that cannot be used.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    #[schema(required = false)]
    errors: &'a [FieldError],
}

impl Problem {
    /// A problem: `detail` says what it was this time.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), errors: Vec::new(), retry_after_s: None }
    }

    /// The same, with the seconds after which to try again.
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after_s = Some(seconds);
        self
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.code.status()
    }

    /// The stable code.
    pub fn code(&self) -> Code {
        self.code
    }

    /// What it was this time.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The parts of the request that cannot be used.
    pub fn errors(&self) -> &[FieldError] {
        &self.errors
    }

    /// No such thing.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(Code::NotFound, detail)
    }

    /// A parameter, header or part of the body that cannot be used: `field` names it.
    pub fn invalid(field: impl Into<String>, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        let errors = vec![FieldError { field: field.into(), detail: detail.clone() }];
        Self { errors, ..Self::new(Code::InvalidRequest, detail) }
    }

    /// Several parts of the request that cannot be used.
    pub fn invalid_all(errors: Vec<FieldError>) -> Self {
        let told = |error: &FieldError| match error.field.as_str() {
            "" => error.detail.clone(),
            field => format!("{field}: {}", error.detail),
        };
        let detail = errors.iter().map(told).collect::<Vec<_>>().join("; ");
        Self { errors, ..Self::new(Code::InvalidRequest, detail) }
    }

    /// The same, with the parts of the request that it is about.
    pub fn about(mut self, errors: Vec<FieldError>) -> Self {
        self.errors = errors;
        self
    }

    /// Something that the daemon needs does not work at the moment.
    pub fn unavailable(code: Code, detail: impl Into<String>) -> Self {
        Self::new(code, detail).retry_after(RETRY_AFTER_S)
    }

    /// A body that did not come whole, or is larger than may be.
    pub(super) fn of_body(rejection: &BytesRejection) -> Self {
        match rejection.status() {
            StatusCode::PAYLOAD_TOO_LARGE => {
                Self::new(Code::BodyTooLarge, "the body is larger than this daemon accepts")
            }
            _ => Self::invalid("body", "the body did not come whole"),
        }
    }

    pub(super) fn internal() -> Self {
        Self::new(Code::Internal, "the log says more")
    }

    pub(super) fn unauthorized() -> Self {
        Self::new(Code::Unauthorized, "send the key as X-API-Key, or as Authorization: Bearer")
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (code, status) = (self.code.as_str(), self.code.status());
        let body = Body {
            r#type: format!("{TYPE_PREFIX}{code}"),
            status: status.as_u16(),
            code,
            title: self.code.title(),
            detail: &self.detail,
            errors: &self.errors,
        };
        let mut response = (status, axum::Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"sluiced\""));
        }
        if let Some(seconds) = self.retry_after_s {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        // For the audit log.
        response.extensions_mut().insert(self.code);
        response
    }
}
