//! The web console at `/`: the files that `cargo xtask build` made of `console/`, compiled in. A daemon that was built
//! without them serves a page that says how to get them.

use std::sync::LazyLock;

use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderName,
    IF_NONE_MATCH, REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderMap, HeaderValue, StatusCode};
use sha2::{Digest as _, Sha256};

use super::Problem;

/// Every file with its path below `console/dist`.
static FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/console.rs"));
/// What stands at `/` when there are none.
const ABSENT: &[u8] = include_bytes!("console/absent.html");
/// The first parts of the paths that are the console's own: it reads the address by itself.
const PAGES: [&str; 10] =
    ["events", "event-types", "webhooks", "deliveries", "plugins", "streams", "jobs", "keys", "audit", "portal"];
/// The folder whose files' names change with what is in them.
const HASHED: &str = "assets/";
/// Nothing is loaded from elsewhere, and no script or style stands in the page.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; \
                      font-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";
const OPENER_POLICY: HeaderName = HeaderName::from_static("cross-origin-opener-policy");

/// A file as it is served.
struct File {
    path: &'static str,
    kind: &'static str,
    body: &'static [u8],
    /// The same, compressed.
    gzip: Option<&'static [u8]>,
    /// A strong validator, in quotes.
    etag: String,
}

/// The files, in the order of their paths.
static SERVED: LazyLock<Vec<File>> = LazyLock::new(|| {
    let packed = |path: &str| FILES.iter().find(|(other, _)| other.strip_suffix(".gz") == Some(path));
    let plain = FILES.iter().filter(|(path, _)| !path.ends_with(".gz"));
    let served = plain.map(|(path, body)| file(path, body, packed(path).map(|(_, gzip)| *gzip)));
    let served: Vec<File> = served.collect();
    if served.is_empty() { vec![file("index.html", ABSENT, None)] } else { served }
});

fn file(path: &'static str, body: &'static [u8], gzip: Option<&'static [u8]>) -> File {
    let etag = format!("\"{}\"", hex::encode(&Sha256::digest(body)[..12]));
    File { path, kind: kind(path), body, gzip, etag }
}

fn kind(path: &str) -> &'static str {
    match path.rsplit('.').next().unwrap_or_default() {
        "html" => "text/html; charset=utf-8",
        "js" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "svg" => "image/svg+xml",
        "json" | "webmanifest" => "application/json",
        "txt" => "text/plain; charset=utf-8",
        "png" => "image/png",
        "woff2" => "font/woff2",
        _ => "application/octet-stream",
    }
}

/// The routes: open to everybody, as they say nothing of what the daemon holds.
pub(super) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let index = || get(async |request: Request| answer(&request, "index.html"));
    let named = || get(async |request: Request| answer(&request, request.uri().path().trim_start_matches('/')));
    let router = Router::new()
        .route("/", index())
        .route("/favicon.svg", named())
        .route("/licences.txt", named())
        .route("/assets/{*path}", named());
    PAGES.iter().fold(router, |router, page| {
        router.route(&format!("/{page}"), index()).route(&format!("/{page}/{{*rest}}"), index())
    })
}

fn answer(request: &Request, path: &str) -> Response {
    let Some(file) = SERVED.iter().find(|file| file.path == path) else {
        return Problem::not_found("the console has no such file").into_response();
    };
    let asked = request.headers();
    let gzip = file.gzip.filter(|_| takes_gzip(asked));
    // Two encodings of one file are two representations, each with its own validator (RFC 9110, 8.8.3).
    let etag = match gzip {
        Some(_) => format!("{}-gz\"", file.etag.trim_end_matches('"')),
        None => file.etag.clone(),
    };
    let known = asked.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let fresh = known.flat_map(|value| value.split(',')).any(|tag| tag.trim().trim_start_matches("W/") == etag);
    let body = if fresh { &[] } else { gzip.unwrap_or(file.body) };
    let mut response = Bytes::from_static(body).into_response();
    if fresh {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let headers = response.headers_mut();
    let keep = if file.path.starts_with(HASHED) { "public, max-age=31536000, immutable" } else { "no-cache" };
    for (name, value) in [
        (CONTENT_TYPE, file.kind),
        (CACHE_CONTROL, keep),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (OPENER_POLICY, "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(ETAG, HeaderValue::try_from(etag).expect("hexadecimal digits stand in a header"));
    if file.gzip.is_some() {
        headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    }
    if gzip.is_some() && !fresh {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

/// Does the asker take gzip? A weight of 0 is a no.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|one| {
        let mut parts = one.split(';').map(str::trim);
        let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        named && !parts.any(|part| part.strip_prefix("q=").is_some_and(|weight| weight.parse() == Ok(0.0)))
    })
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use tower::ServiceExt as _;

    use super::*;

    async fn ask(path: &str, headers: &[(&str, &str)]) -> Response {
        let mut request = Request::builder().uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(axum::body::Body::empty()).expect("a request");
        routes::<()>().oneshot(request).await.expect("an answer")
    }

    #[tokio::test]
    async fn every_page_is_the_one_document_and_nothing_may_be_loaded_from_elsewhere() {
        for path in ["/", "/webhooks", "/webhooks/wh_1/edit", "/events/EVENTS:4", "/portal"] {
            let response = ask(path, &[]).await;
            assert_eq!(response.status(), StatusCode::OK, "{path}");
            assert_eq!(response.headers()[CONTENT_SECURITY_POLICY], POLICY, "{path}");
            assert_eq!(response.headers()[CACHE_CONTROL], "no-cache", "{path}");
            let body = to_bytes(response.into_body(), 1 << 20).await.expect("a body");
            let text = String::from_utf8_lossy(&body);
            assert!(text.contains("<title>sluiced"), "{path}: {text}");
            assert!(!text.contains("<style") && !text.contains("style=") && !text.contains("<script>"), "{path}");
        }
        for path in ["/nonsense", "/assets/none.js", "/api", "/assets/../index.html"] {
            assert_eq!(ask(path, &[]).await.status(), StatusCode::NOT_FOUND, "{path}");
        }
    }

    #[tokio::test]
    async fn what_a_browser_has_is_not_sent_again() {
        let first = ask("/", &[]).await;
        let etag = first.headers()[ETAG].to_str().expect("a text").to_owned();
        let again = ask("/", &[("if-none-match", &format!("\"other\", W/{etag}"))]).await;
        assert_eq!(again.status(), StatusCode::NOT_MODIFIED);
        assert!(to_bytes(again.into_body(), 1).await.expect("a body").is_empty());
    }

    #[test]
    fn gzip_is_sent_to_whom_takes_it() {
        let takes = |value: &str| {
            takes_gzip(&HeaderMap::from_iter([(ACCEPT_ENCODING, HeaderValue::from_str(value).expect("a value"))]))
        };
        assert!(takes("gzip") && takes("br, GZIP;q=0.5") && takes("deflate , gzip"));
        assert!(!takes("gzip;q=0") && !takes("br") && !takes("") && !takes_gzip(&HeaderMap::new()));
    }

    #[test]
    fn hashed_files_are_kept_for_good() {
        for file in SERVED.iter().filter(|file| file.path.starts_with(HASHED)) {
            let stem = file.path.rsplit('/').next().expect("a name");
            assert!(stem.contains('-'), "{stem} has no hash in its name");
        }
    }
}
