//! Where requests go and how: names, the guard, the proxy, TLS, and the bound on connections.

use std::time::Duration;

use bytes::Bytes;
use sluiced::deliver::attempt::Config;
use sluiced::deliver::{Client, Prepared, Request, signing};
use sluiced::domain::{
    AnswerRules, DeliveryId, Endpoint, Failure, HeadOfLine, HealthPolicy, Order, Outcome, RequestShape, RetryPolicy,
};
use sluiced::telemetry::metrics::ClientMetrics;
use sluiced_tests::SECRET;

mod connections;
mod names;
mod proxy;
mod tls;

const SOON: Duration = Duration::from_secs(60);

/// Loopback, which the guard refuses by default.
fn loopback() -> Config {
    Config { allow_cidrs: vec!["127.0.0.0/8".parse().expect("a network")], ..Config::default() }
}

fn client(config: &Config) -> Client {
    Client::new(config, &ClientMetrics::default()).expect("a client")
}

fn endpoint(url: &str) -> Endpoint {
    Endpoint {
        url: url.into(),
        secret: signing::parse_secret(SECRET).ok(),
        secret_overlap: Duration::ZERO,
        headers: Vec::new(),
        retry: RetryPolicy::default(),
        in_flight_max: std::num::NonZeroU32::MIN,
        rate_limit: None,
        order: Order::None,
        head_of_line: HeadOfLine::default(),
        connect_timeout: Duration::from_secs(5),
        total_timeout: Duration::from_secs(10),
        tls: None,
        request: RequestShape::default(),
        answer: AnswerRules::default(),
        health: HealthPolicy::default(),
    }
}

async fn attempt(client: &Client, endpoint: &Endpoint) -> Outcome {
    let prepared = Prepared::new(endpoint).expect("valid");
    client.attempt(&prepared, request()).await
}

fn request() -> Request<'static> {
    Request {
        delivery: DeliveryId::from_bytes([7; 16]),
        event_id: "e-1",
        event_type: "orders.created",
        event_time_ms: 1_800_000_000_000,
        stream: "EVENTS",
        part: 0,
        parts: 1,
        attempt: 1,
        replay: None,
        test: false,
        content_type: None,
        headers: &[],
        body: Bytes::from_static(b"{}"),
        now_ms: 1_800_000_000_000,
    }
}

/// The failure of an outcome that is worth another attempt.
fn retried(outcome: Outcome) -> Failure {
    match outcome {
        Outcome::Retry(failure) => failure,
        other => panic!("not retried: {other:?}"),
    }
}

fn is_delivered(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Delivered { status: 200, .. })
}
