//! Traces: what a publisher begins goes through the daemon, whose spans a collector gets, to the receiver.

use std::time::Duration;

use async_nats::HeaderMap;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message as _;
use sluiced_tests::setup::config;
use sluiced_tests::{Behaviour, SECRET, TestDaemon, TestNats, TestReceiver, Webhook, wait_until};
use tokio::time::Instant;

const SOON: Duration = Duration::from_secs(60);
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PUBLISHER: &str = "00f067aa0ba902b7";

#[tokio::test]
async fn a_publishers_trace_goes_through_every_stage_and_on_to_the_receiver_also_out_of_the_store() {
    let (nats, collector) = (TestNats::start().await, TestReceiver::start());
    let receiver = TestReceiver::start_verifying(SECRET);
    receiver.set(Behaviour::fail_times(1, 500));
    let webhook = Webhook::new("crm", &receiver).with("retry", r#"{ schedule = ["1s", "1s", "1s"] }"#);
    let daemon = TestDaemon::start(&nats, &config(&traces(&collector, 0.0), &[webhook])).await;
    publish(&nats, &format!("00-{TRACE}-{PUBLISHER}-01")).await;
    wait_until("every span is there", SOON, async || spans(&collector).len() >= 6).await;

    let spans = spans(&collector);
    assert!(spans.iter().all(|span| hex(&span.trace_id) == TRACE), "one trace: {spans:#?}");
    let of = |name: &str| spans.iter().filter(|span| span.name == name).collect::<Vec<_>>();
    let [receive] = of("receive")[..] else { panic!("one event: {spans:#?}") };
    let [process] = of("process")[..] else { panic!("one subscription: {spans:#?}") };
    let ([first, second], [_, _]) = (&of("attempt")[..], &of("record")[..]) else { panic!("two attempts: {spans:#?}") };
    assert_eq!(hex(&receive.parent_span_id), PUBLISHER);
    assert_eq!(process.parent_span_id, receive.span_id);
    for caused in [of("attempt"), of("record")].concat() {
        assert_eq!(caused.parent_span_id, process.span_id, "{caused:#?}");
        assert!(caused.end_time_unix_nano >= caused.start_time_unix_nano);
    }
    assert_eq!(attribute(receive, "messaging.destination.name"), "events.orders.created");
    assert_eq!(
        (attribute(process, "sluiced.subscription"), attribute(process, "sluiced.verdict")),
        ("crm".into(), "kept".into())
    );
    assert_eq!(
        (attribute(first, "http.response.status_code"), attribute(second, "http.response.status_code")),
        ("500".into(), "200".into())
    );
    assert_eq!(attribute(first, "error.type"), "status");
    assert_eq!((first.status.as_ref().map(|it| it.code), second.status.as_ref().map_or(0, |it| it.code)), (Some(2), 0));

    let sent: Vec<String> = receiver.received().iter().map(|it| it.header("traceparent").to_owned()).collect();
    let expected = [first, second].map(|attempt| format!("00-{TRACE}-{}-01", hex(&attempt.span_id)));
    assert_eq!(sent, expected, "each request names its attempt");
    assert!(receiver.received().iter().all(|it| it.header("tracestate") == "vendor=1"));
    let service = requests(&collector)[0].resource_spans[0].resource.clone().expect("a resource");
    assert!(service.attributes.iter().any(|it| it.key == "service.name"));
    daemon.accounted("crm", 1).await;
}

#[tokio::test]
async fn without_a_collector_the_publishers_trace_goes_to_the_receiver_as_it_came() {
    let nats = TestNats::start().await;
    let receiver = TestReceiver::start_verifying(SECRET);
    let _daemon = TestDaemon::start(&nats, &config("", &[Webhook::new("crm", &receiver)])).await;
    let traceparent = format!("00-{TRACE}-{PUBLISHER}-00");
    publish(&nats, &traceparent).await;
    nats.publish_orders("events.orders.created", 1..2).await;
    wait_until("both arrive", SOON, async || receiver.counts().requests == 2).await;
    let received = receiver.received();
    let with = received.iter().filter(|it| it.headers.contains_key("traceparent")).collect::<Vec<_>>();
    assert_eq!(with.len(), 1, "what came without a trace goes without one");
    assert_eq!((with[0].header("traceparent"), with[0].header("tracestate")), (&*traceparent, "vendor=1"));
}

#[tokio::test]
async fn the_sample_ratio_is_for_events_without_a_trace_only() {
    let (nats, collector) = (TestNats::start().await, TestReceiver::start());
    let receiver = TestReceiver::start_verifying(SECRET);
    let all = traces(&collector, 1.0);
    let mut daemon = TestDaemon::start(&nats, &config(&all, &[Webhook::new("crm", &receiver)])).await;
    nats.publish_orders("events.orders.created", 0..2).await;
    publish(&nats, &format!("00-{TRACE}-{PUBLISHER}-00")).await;
    wait_until("all arrive", SOON, async || receiver.counts().requests == 3).await;
    assert_eq!(daemon.terminate().await.code(), Some(0), "the last spans are sent at the stop");
    let spans = spans(&collector);
    let roots: Vec<_> = spans.iter().filter(|span| span.parent_span_id.is_empty()).collect();
    assert_eq!(roots.iter().map(|span| &*span.name).collect::<Vec<_>>(), ["receive", "receive"]);
    assert_ne!(roots[0].trace_id, roots[1].trace_id);
    assert_eq!(spans.len(), 2 * 4, "who says that his trace is not recorded is heard: {spans:#?}");
}

#[tokio::test]
async fn a_collector_that_is_away_costs_its_spans_and_nothing_else() {
    let (nats, mut collector) = (TestNats::start().await, TestReceiver::start());
    let receiver = TestReceiver::start_verifying(SECRET);
    let text = config(&traces(&collector, 1.0), &[Webhook::new("crm", &receiver)]);
    collector.stop();
    let mut daemon = TestDaemon::start(&nats, &text).await;
    nats.publish_orders("events.orders.created", 0..50).await;
    receiver.wait_for_numbers(0..50, SOON).await;
    wait_until("the log says so", SOON, async || daemon.log().contains("does not take spans, they are lost")).await;
    let began = Instant::now();
    assert_eq!(daemon.terminate().await.code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(15), "the stop took {:?}", began.elapsed());
    assert_eq!(daemon.log().matches("does not take spans").count(), 1, "once in a while");
}

fn traces(collector: &TestReceiver, sample_ratio: f64) -> String {
    format!("[traces]\notlp_url = {:?}\nsample_ratio = {sample_ratio:?}\n", collector.url("/v1/traces"))
}

async fn publish(nats: &TestNats, traceparent: &str) {
    let mut headers = HeaderMap::new();
    headers.insert("Traceparent", traceparent);
    headers.insert("tracestate", "vendor=1");
    nats.publish_with("events.orders.created", headers, r#"{"number": 0}"#).await;
}

fn requests(collector: &TestReceiver) -> Vec<ExportTraceServiceRequest> {
    let received = collector.received();
    assert!(received.iter().all(|it| it.path == "/v1/traces" && it.header("content-type") == "application/x-protobuf"));
    received.iter().map(|it| ExportTraceServiceRequest::decode(&*it.body).expect("a request in protobuf")).collect()
}

/// All spans that the collector has, in the order in which they began.
fn spans(collector: &TestReceiver) -> Vec<Span> {
    let resources = requests(collector).into_iter().flat_map(|request| request.resource_spans);
    let mut spans: Vec<Span> =
        resources.flat_map(|resource| resource.scope_spans).flat_map(|scope| scope.spans).collect();
    spans.sort_by_key(|span| span.start_time_unix_nano);
    spans
}

fn attribute(span: &Span, key: &str) -> String {
    let value = span.attributes.iter().find(|it| it.key == key).and_then(|it| it.value.as_ref()?.value.clone());
    match value {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => panic!("{key} is {other:?} in {span:#?}"),
    }
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}
