//! The spans of an event's way: `receive` (once an event), then for each subscription `process`, and for each delivery
//! `attempt` and `record`. Each names the one before as its cause, by the headers that travel with the event and with the
//! delivery, also into the store and out of it again.

use std::borrow::Cow;
use std::sync::Arc;

use super::Spec;
use super::job::{Job, with_attributes};
use crate::domain::{Event, Header, Outcome, Output, SubscriptionId};
use crate::telemetry::spans::{Kind, Span, Spans, TRACEPARENT, TRACESTATE};

pub(super) fn header<'a>(headers: &'a [Header], name: &str) -> Option<&'a str> {
    headers.iter().find(|header| header.name.eq_ignore_ascii_case(name)).map(|header| &*header.value)
}

/// The headers of what a span causes: they name it in the place of its own cause.
pub(super) fn caused_by<'a>(span: &Span, headers: &'a [Header]) -> Cow<'a, [Header]> {
    let Some((parent, state)) = span.headers() else { return Cow::Borrowed(headers) };
    let others = |header: &&Header| ![TRACEPARENT, TRACESTATE].iter().any(|own| header.name.eq_ignore_ascii_case(own));
    let state = state.map(|state| Header { name: TRACESTATE.into(), value: state.into() });
    let parent = Header { name: TRACEPARENT.into(), value: parent.into() };
    Cow::Owned(headers.iter().filter(others).cloned().chain([parent]).chain(state).collect())
}

/// What is to be known of an attempt (OpenTelemetry's conventions for HTTP clients).
pub(super) fn describe(span: &mut Span, job: &Job, host: &str, outcome: &Outcome) {
    span.set("http.request.method", "POST");
    span.set("server.address", host.to_owned());
    span.set("http.request.resend_count", i64::from(job.attempt - 1));
    span.set("sluiced.subscription", job.subscription.to_string());
    span.set("sluiced.delivery", job.delivery.to_string());
    match outcome {
        Outcome::Delivered { status, .. } => span.set("http.response.status_code", i64::from(*status)),
        Outcome::Retry(failure) | Outcome::Final(failure) => {
            if let Some(status) = failure.status {
                span.set("http.response.status_code", i64::from(status));
            }
            span.set("error.type", failure.class.as_str());
            span.fail(&failure.message);
        }
    }
}

/// The span of the daemon taking an event from its stream, and the event as what follows is to see it.
pub(super) fn receive(spans: &Spans, event: Arc<Event>) -> (Span, Arc<Event>) {
    let mut span = spans.begin("receive", Kind::Consumer, |name| event.header(name), Some(event.position.sequence));
    if !span.is_recorded() {
        return (span, event);
    }
    span.set("messaging.system", "nats");
    span.set("messaging.operation.type", "receive");
    span.set("messaging.destination.name", event.subject.to_string());
    span.set("messaging.message.id", event.id.to_string());
    span.set("sluiced.event.type", event.kind.to_string());
    span.set("sluiced.position", place(&event));
    let headers = caused_by(&span, &event.headers).into_owned();
    let event = Arc::new(Event { headers, ..Event::clone(&event) });
    (span, event)
}

/// The span of one subscription deciding what becomes of an event.
pub(super) fn process(spans: &Spans, subscription: &SubscriptionId, event: &Event) -> Span {
    let mut span = spans.begin("process", Kind::Internal, |name| event.header(name), Some(event.position.sequence));
    if span.is_recorded() {
        span.set("sluiced.subscription", subscription.to_string());
        span.set("sluiced.position", place(event));
    }
    span
}

/// What is sent of an output: with the attributes of a CloudEvent where the endpoint takes those, and with the trace that it
/// belongs to, unless a transform has set another one.
pub(super) fn outgoing(spec: &Spec, span: &Span, event: &Event, output: Output) -> Output {
    let mut output = if spec.endpoint.is_cloudevents() { with_attributes(event, output) } else { output };
    if header(&output.headers, TRACEPARENT).is_some() {
        return output;
    }
    if span.is_recorded() {
        output.headers = caused_by(span, &output.headers).into_owned();
    } else {
        let own = [TRACEPARENT, TRACESTATE];
        let carried = |header: &&Header| own.iter().any(|name| header.name.eq_ignore_ascii_case(name));
        output.headers.extend(event.headers.iter().filter(carried).cloned());
    }
    output
}

fn place(event: &Event) -> String {
    format!("{}:{}", event.position.stream, event.position.sequence)
}
