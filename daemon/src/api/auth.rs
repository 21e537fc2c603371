//! Who asks: the admin key, or anybody where none is configured.

use std::fmt;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::{Principal, Problem};

/// The digest of the admin key; the key itself is not kept.
#[derive(Clone, PartialEq, Eq)]
pub struct AdminKey([u8; 32]);

impl AdminKey {
    /// The key with that text.
    pub fn new(text: &str) -> Self {
        Self(Sha256::digest(text.as_bytes()).into())
    }

    /// Compares in a time that tells nothing of the key.
    fn is(&self, text: &[u8]) -> bool {
        Sha256::digest(text).as_slice().ct_eq(&self.0).into()
    }
}

impl fmt::Debug for AdminKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Lets a request pass that has the key, where one is configured, and says who it is from.
pub(super) async fn authenticate(
    State(key): State<Option<Arc<AdminKey>>>,
    mut request: Request,
    next: Next,
) -> Response {
    let principal = match key {
        None => Principal::anybody(),
        Some(key) if presented(request.headers()).any(|text| key.is(text)) => Principal::admin(),
        Some(_) => return Problem::unauthorized().into_response(),
    };
    request.extensions_mut().insert(principal);
    next.run(request).await
}

fn presented(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let bearer = |value: &'_ [u8]| value.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"bearer "));
    let bearers = headers.get_all(AUTHORIZATION).iter().filter(move |value| bearer(value.as_bytes()));
    let tokens = bearers.map(|value| value.as_bytes()[7..].trim_ascii());
    headers.get_all("x-api-key").iter().map(|value| value.as_bytes()).chain(tokens)
}
