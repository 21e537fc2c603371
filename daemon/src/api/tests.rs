//! The routes without a network: the hub over a log in memory, and a publisher that keeps what it is given.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tower::ServiceExt as _;
use utoipa_axum::router::OpenApiRouter;

use super::event_types::EventTypes;
use super::events::clients::Clients;
use super::events::tickets::{TicketLimits, Tickets};
use super::server::Publisher;
use super::{AdminKey, Config, Gate, State, router};
use crate::domain::{Position, StreamName};
use crate::ingest::{self, Publish, Published};
use crate::stream::testing::{MemoryLog, named, parse};
use crate::stream::{Config as HubConfig, NoPlugins};
use crate::telemetry::health::{Condition, Health};
use crate::telemetry::metrics::Metrics;

#[derive(Default)]
struct Kept(Mutex<Vec<Publish>>);

impl Publisher for Kept {
    fn publish(&self, event: Publish) -> BoxFuture<'_, Result<Published, ingest::Error>> {
        let result = match event.kind.as_str() {
            "nobody.takes.it" => Err(ingest::Error::NoStreamFor { subject: event.kind.to_string() }),
            "down" => Err(ingest::Error::Publish("no answer".into())),
            _ => Ok(Published {
                position: Position { stream: StreamName::parse("EVENTS").unwrap(), sequence: 7 },
                duplicate: false,
            }),
        };
        self.0.lock().push(event);
        std::future::ready(result).boxed()
    }

    fn publish_all(&self, events: Vec<Publish>) -> BoxFuture<'_, Vec<Result<Published, ingest::Error>>> {
        futures_util::future::join_all(events.into_iter().map(|event| self.publish(event))).boxed()
    }
}

struct Api {
    router: Router,
    kept: Arc<Kept>,
    log: Arc<MemoryLog>,
    health: Health,
}

fn api(key: Option<&str>, hub: HubConfig) -> Api {
    let config = Config {
        listen: ([127, 0, 0, 1], 0).into(),
        tls: None,
        body_bytes_max: 200,
        cors_origins: vec!["https://board.example".to_owned()],
        drain_timeout: Duration::from_secs(1),
    };
    let log = MemoryLog::new(&["EVENTS"]);
    let (kept, health) = (Arc::new(Kept::default()), Health::new(["nats"]));
    let limits = TicketLimits { lifetime: Duration::from_secs(30), tickets_max: 100, tickets_per_principal_max: 10 };
    let tickets = Tickets::new(limits);
    let state = State {
        publisher: kept.clone(),
        types: EventTypes::none(),
        hub: log.hub(hub, vec![named("board", &["a.*"], Arc::new(NoPlugins))]),
        clients: Clients::new(Duration::from_secs(60)),
        tickets: tickets.clone(),
        metrics: Metrics::new(),
        health: health.clone(),
    };
    let more = OpenApiRouter::default().route("/panics", axum::routing::get(panics));
    let gate = Gate::new(key.map(AdminKey::new)).with_tickets(tickets);
    let router = router(&config, gate, state, more).unwrap();
    Api { router, kept, log, health }
}

async fn panics() -> &'static str {
    panic!("on purpose")
}

async fn send(api: &Api, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::from(body.to_owned())).unwrap();
    api.router.clone().oneshot(request).await.unwrap()
}

async fn get(api: &Api, path: &str, headers: &[(&str, &str)]) -> Response {
    send(api, Method::GET, path, headers, "").await
}

async fn post(api: &Api, body: &Value) -> Response {
    send(api, Method::POST, "/api/v1/events", &[("content-type", "application/json")], &body.to_string()).await
}

async fn json_of(response: Response) -> Value {
    serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap()
}

async fn assert_problem(response: Response, status: u16, code: &str) {
    assert_eq!(response.status(), status);
    assert_eq!(response.headers()["content-type"], "application/problem+json");
    let body = json_of(response).await;
    let word = if status == 400 { &body["errors"][0]["field"] } else { &body["code"] };
    assert_eq!((word, &body["status"]), (&json!(code), &json!(status)), "{body}");
    assert!(body["title"].is_string() && body["detail"].is_string());
}

#[tokio::test]
async fn a_key_opens_the_interface_and_nothing_else_does() {
    let api = api(Some("s3cret"), HubConfig::default());
    let list = "/api/v1/streams";
    for headers in
        [[("x-api-key", "s3cret")], [("authorization", "Bearer s3cret")], [("authorization", "bearer s3cret")]]
    {
        assert_eq!(get(&api, list, &headers).await.status(), 200, "{headers:?}");
    }
    for header in [
        ("x-other", ""),
        ("x-api-key", ""),
        ("x-api-key", "s3cre"),
        ("x-api-key", "s3cret2"),
        ("authorization", "s3cret"),
        ("authorization", "Basic s3cret"),
        ("authorization", "Bearer"),
    ] {
        for path in [list, "/api/v1/events/stream", "/api/v1/streams/board", "/api/v1/nothing"] {
            let response = get(&api, path, &[header]).await;
            assert!(response.headers()["www-authenticate"].to_str().unwrap().starts_with("Bearer"));
            assert_problem(response, 401, "unauthorized").await;
        }
    }
    assert_problem(post(&api, &json!({"type": "a", "data": 1})).await, 401, "unauthorized").await;
    for open in ["/healthz", "/metrics"] {
        assert_eq!(get(&api, open, &[]).await.status(), 200);
    }
}

#[tokio::test]
async fn every_error_is_a_problem() {
    let api = api(None, HubConfig::default());
    assert_problem(get(&api, "/nothing", &[]).await, 404, "not_found").await;
    assert_problem(get(&api, "/api/v1/nothing", &[]).await, 404, "not_found").await;
    assert_problem(get(&api, "/api/v1/streams/nobody", &[]).await, 404, "not_found").await;
    let response = send(&api, Method::DELETE, "/api/v1/events", &[], "").await;
    assert_eq!(response.headers()["allow"], "POST");
    assert_problem(response, 405, "method_not_allowed").await;
    assert_problem(send(&api, Method::POST, "/healthz", &[], "").await, 405, "method_not_allowed").await;
    assert_problem(get(&api, "/api/v1/panics", &[]).await, 500, "internal").await;
    let stream = "/api/v1/events/stream";
    assert_problem(get(&api, &format!("{stream}?types=a..b"), &[]).await, 400, "types").await;
    assert_problem(get(&api, &format!("{stream}?types="), &[]).await, 400, "types").await;
    for id in ["garbage", "EVENTS:x", "OTHER:3", "\u{e9}"] {
        assert_problem(get(&api, stream, &[("last-event-id", id)]).await, 400, "last_event_id").await;
    }
    assert_problem(get(&api, &format!("{stream}?last_event_id=1"), &[]).await, 400, "last_event_id").await;
}

#[tokio::test]
async fn publishes_what_is_well_formed() {
    let api = api(None, HubConfig::default());
    let response = post(&api, &json!({"type": "orders.created", "data": {"n": 1}, "idempotency_key": "k1"})).await;
    assert_eq!(response.status(), StatusCode::ACCEPTED);
    let expected = json!({"id": "k1", "stream": "EVENTS", "sequence": 7, "duplicate": false});
    assert_eq!(json_of(response).await, expected);
    let text = json!({"type": "a", "data": "x\ny", "content_type": "text/plain; charset=utf-8"});
    assert_eq!(json_of(post(&api, &text).await).await["id"], "EVENTS:7");
    post(&api, &json!({"type": "a", "data": "x"})).await;
    let kept: Vec<(String, String)> =
        api.kept.0.lock().iter().map(|p| (p.content_type.clone(), String::from_utf8_lossy(&p.data).into())).collect();
    let own = |kind: &str, data: &str| (kind.to_owned(), data.to_owned());
    let json_text = own("application/json", "\"x\"");
    assert_eq!(kept, [own("application/json", "{\"n\":1}"), own("text/plain; charset=utf-8", "x\ny"), json_text]);
}

#[tokio::test]
async fn refuses_what_is_not() {
    let api = api(None, HubConfig::default());
    for (body, code) in [
        (json!({"type": "a"}), "body"),
        (json!({"type": "a", "data": 1, "more": 1}), "body"),
        (json!([]), "body"),
        (json!({"type": "a.*", "data": 1}), "type"),
        (json!({"type": "", "data": 1}), "type"),
        (json!({"type": "a", "data": 1, "idempotency_key": "a\nb"}), "idempotency_key"),
        (json!({"type": "a", "data": 1, "idempotency_key": ""}), "idempotency_key"),
        (json!({"type": "a", "data": "x", "content_type": "text/pl\r\nain"}), "content_type"),
        (json!({"type": "a", "data": 1, "content_type": "text/plain"}), "data"),
    ] {
        assert_problem(post(&api, &body).await, 400, code).await;
    }
    let json_type = [("content-type", "application/json")];
    assert_problem(send(&api, Method::POST, "/api/v1/events", &json_type, "{").await, 400, "body").await;
    let large = json!({"type": "a", "data": "x".repeat(300)});
    assert_problem(post(&api, &large).await, 413, "body_too_large").await;
    assert_problem(send(&api, Method::POST, "/api/v1/events", &[], "{}").await, 415, "unsupported_media_type").await;
    assert!(api.kept.0.lock().is_empty());
    assert_problem(post(&api, &json!({"type": "nobody.takes.it", "data": 1})).await, 422, "no_stream").await;
    let down = post(&api, &json!({"type": "down", "data": 1})).await;
    assert!(down.headers().contains_key("retry-after"));
    assert_problem(down, 503, "nats_unavailable").await;
}

#[tokio::test]
async fn says_whether_it_is_ready_and_why_not() {
    let api = api(Some("s3cret"), HubConfig::default());
    let response = get(&api, "/readyz", &[]).await;
    assert_eq!(response.status(), 503);
    let expected = json!({"ready": false, "components": {"nats": {"ready": false, "cause": "not started yet"}}});
    assert_eq!(json_of(response).await, expected);
    api.health.set("nats", Condition::Ready);
    assert_eq!(get(&api, "/readyz", &[]).await.status(), 200);
    let metrics = get(&api, "/metrics", &[]).await;
    assert!(metrics.headers()["content-type"].to_str().unwrap().starts_with("application/openmetrics-text"));
}

#[tokio::test(start_paused = true)]
async fn streams_events_within_limits() {
    let api = api(None, HubConfig { clients_per_principal_max: 2, ..HubConfig::default() });
    (0..5).for_each(|_| {
        api.log.append("EVENTS", "a.x");
    });
    let path = "/api/v1/events/stream?types=a.*,b.%3E&last_event_id=EVENTS:1";
    let response = get(&api, path, &[("last-event-id", "EVENTS:3")]).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut body = response.into_body().into_data_stream();
    let mut text = Vec::new();
    while parse(&text).len() < 2 {
        text.extend_from_slice(&body.next().await.unwrap().unwrap());
    }
    assert_eq!(parse(&text)[0], (api.log.place("EVENTS", 4), "a.x".to_owned(), "4".to_owned()));
    let _board = get(&api, "/api/v1/streams/board", &[]).await;
    let list = json_of(get(&api, "/api/v1/streams", &[]).await).await;
    assert_eq!(list, json!({"streams": [{"name": "board", "types": ["a.*"], "clients": 1, "lag": 0}]}));
    let refused = get(&api, "/api/v1/streams/board", &[]).await;
    assert!(refused.headers().contains_key("retry-after"));
    assert_problem(refused, 429, "clients_per_principal_max").await;
    drop(body);
    assert_eq!(get(&api, path, &[]).await.status(), 200);
}

#[tokio::test]
async fn pages_of_allowed_origins_may_ask() {
    let api = api(Some("s3cret"), HubConfig::default());
    let preflight = |origin: &'static str| {
        let headers = [
            ("origin", origin),
            ("access-control-request-method", "GET"),
            ("access-control-request-headers", "last-event-id"),
        ];
        let api = &api;
        async move { send(api, Method::OPTIONS, "/api/v1/events/stream", &headers, "").await }
    };
    let allowed = preflight("https://board.example").await;
    assert_eq!(allowed.status(), 200);
    assert_eq!(allowed.headers()["access-control-allow-origin"], "https://board.example");
    assert!(!preflight("https://other.example").await.headers().contains_key("access-control-allow-origin"));
}

#[tokio::test]
async fn the_interface_describes_itself_to_everybody() {
    let api = api(Some("s3cret"), HubConfig::default());
    let document = json_of(get(&api, "/api/v1/openapi.json", &[]).await).await;
    assert_eq!(document["openapi"], "3.1.0");
    let publish = &document["paths"]["/api/v1/events"]["post"];
    let shared = publish["responses"]["400"]["$ref"].as_str().unwrap().trim_start_matches('#').to_owned();
    let shared = document.pointer(&shared).unwrap();
    let codes = &shared["content"]["application/problem+json"]["schema"]["properties"]["code"];
    assert_eq!(codes["enum"], json!(["invalid_request"]), "{publish}");
    assert!(publish.get("x-problems").is_none() && publish["responses"]["422"].is_object(), "{publish}");
    let healthz = &document["paths"]["/healthz"]["get"];
    assert!(healthz["responses"].get("401").is_none() && publish["responses"]["401"].is_object());

    let page = get(&api, "/docs", &[]).await;
    let policy = page.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    let text = String::from_utf8(page.into_body().collect().await.unwrap().to_bytes().into()).unwrap();
    assert!(text.contains("Publish an event") && !text.contains("<script") && !text.contains("://"), "{text}");
    assert_eq!(get(&api, "/docs/page.css", &[]).await.status(), 200);
}

#[tokio::test]
async fn an_answer_comes_in_a_type_that_is_accepted_or_not_at_all() {
    let api = api(None, HubConfig::default());
    for accept in ["*/*", "application/*;q=0.1", "text/html, application/json"] {
        assert_eq!(get(&api, "/api/v1/streams", &[("accept", accept)]).await.status(), 200, "{accept}");
    }
    for accept in ["text/html", "application/json;q=0", "text/event-stream"] {
        assert_problem(get(&api, "/api/v1/streams", &[("accept", accept)]).await, 406, "not_acceptable").await;
    }
    let stream = "/api/v1/events/stream";
    assert_eq!(get(&api, stream, &[("accept", "text/event-stream")]).await.status(), 200);
    assert_problem(get(&api, stream, &[("accept", "application/json")]).await, 406, "not_acceptable").await;
}
