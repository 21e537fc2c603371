//! Spans of what happens to an event, sent to a collector over OTLP (OpenTelemetry), in traces that publishers begin and
//! receivers go on with (W3C Trace Context: `traceparent` and `tracestate`).
//!
//! A trace is recorded when whoever began it says so. Of events that come without one, some are traced: which ones follows
//! from an event's place in its stream, so that every part of the daemon comes to the same answer.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
/// Whose work a span is.
pub use opentelemetry::trace::SpanKind as Kind;
use opentelemetry::trace::{Span as _, Status, TraceContextExt as _, Tracer as _, TracerProvider as _};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_http::HttpClient;
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracer, SdkTracerProvider, Span as Recorded,
};

/// The header that says which span caused something.
pub const TRACEPARENT: &str = "traceparent";
/// The header in which vendors pass on what is theirs.
pub const TRACESTATE: &str = "tracestate";
/// The most spans that wait to be sent; further ones are dropped.
const QUEUE_SPANS_MAX: usize = 16_384;
/// The most spans in one request.
const BATCH_SPANS_MAX: usize = 1_024;
/// How long a span waits for others to be sent with.
const SEND_INTERVAL: Duration = Duration::from_secs(1);
/// How long the last spans may take to be sent when the daemon stops.
const LAST_TIMEOUT: Duration = Duration::from_secs(5);

/// Why spans cannot be sent.
#[derive(Debug, thiserror::Error)]
#[error("spans cannot be sent")]
pub struct Error(#[from] ExporterBuildError);

/// Where spans are sent, and of what.
#[derive(Debug, Clone)]
pub struct Collector {
    /// The URL, such as `http://127.0.0.1:4318/v1/traces`.
    pub url: String,
    /// Headers of the requests.
    pub headers: HashMap<String, String>,
    /// What the daemon is called there (`service.name`).
    pub service_name: String,
    /// The part of the events without a trace that are traced: 0 to 1.
    pub sample_ratio: f64,
}

/// Makes spans. Cloning shares it; the default makes none.
#[derive(Clone, Default)]
pub struct Spans(Option<Arc<Recording>>);

struct Recording {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    context: TraceContextPropagator,
    /// Of 2⁶⁴ lots, how many are traced.
    traced_below: u128,
}

impl Spans {
    /// Sends spans to a collector by way of that client, from a thread of its own.
    ///
    /// # Errors
    /// When the URL is none.
    pub fn to(collector: Collector, client: impl HttpClient + 'static) -> Result<Self, Error> {
        let Collector { url, headers, service_name, sample_ratio } = collector;
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(client)
            .with_endpoint(url)
            .with_headers(headers)
            .build()?;
        let config = BatchConfigBuilder::default()
            .with_max_queue_size(QUEUE_SPANS_MAX)
            .with_max_export_batch_size(BATCH_SPANS_MAX)
            .with_scheduled_delay(SEND_INTERVAL)
            .build();
        let resource = Resource::builder_empty()
            .with_service_name(service_name)
            .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")));
        let provider = SdkTracerProvider::builder()
            .with_span_processor(BatchSpanProcessor::builder(exporter).with_batch_config(config).build())
            .with_sampler(Sampler::AlwaysOn)
            .with_resource(resource.build())
            .build();
        let tracer = provider.tracer("sluiced");
        let context = TraceContextPropagator::new();
        let traced_below = (sample_ratio.clamp(0.0, 1.0) * 2_f64.powi(64)) as u128;
        Ok(Self(Some(Arc::new(Recording { provider, tracer, context, traced_below }))))
    }

    /// Begins a span of what `header` says caused it; without a cause, one of an event at that place, when it is one of those
    /// that are traced. A place is anything that is the same for the same event.
    pub fn begin<'a>(
        &self,
        name: &'static str,
        kind: Kind,
        header: impl Fn(&str) -> Option<&'a str>,
        place: Option<u64>,
    ) -> Span {
        let Some(recording) = &self.0 else { return Span::default() };
        let carried = Headers { parent: header(TRACEPARENT), state: header(TRACESTATE) };
        let cause = recording.context.extract_with_context(&Context::new(), &carried);
        let traced = match cause.span().span_context() {
            caused if caused.is_valid() => caused.is_sampled(),
            _ => place.is_some_and(|place| u128::from(lot(place)) < recording.traced_below),
        };
        if !traced {
            return Span::default();
        }
        let builder = recording.tracer.span_builder(name).with_kind(kind);
        Span(Some(Box::new(builder.start_with_context(&recording.tracer, &cause))))
    }

    /// Sends what is left. Blocks.
    pub fn finish(&self) {
        if let Some(recording) = &self.0 {
            // Nobody is left who could do something about it; whoever sends has logged it.
            drop(recording.provider.shutdown_with_timeout(LAST_TIMEOUT));
        }
    }
}

/// Spreads places evenly (the finaliser of SplitMix64).
fn lot(place: u64) -> u64 {
    let mixed = (place ^ (place >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

struct Headers<'a> {
    parent: Option<&'a str>,
    state: Option<&'a str>,
}

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        if key == TRACEPARENT { self.parent } else { self.state.filter(|_| key == TRACESTATE) }
    }

    fn keys(&self) -> Vec<&str> {
        vec![TRACEPARENT, TRACESTATE]
    }
}

/// Something that is going on. It ends when it is dropped; one that is not recorded costs nothing.
#[derive(Default)]
pub struct Span(Option<Box<Recorded>>);

impl Span {
    /// Is it recorded?
    pub fn is_recorded(&self) -> bool {
        self.0.is_some()
    }

    /// Says something of it, by a name of OpenTelemetry's conventions or one that begins with `sluiced.`.
    pub fn set(&mut self, name: &'static str, value: impl Into<Value>) {
        if let Some(span) = &mut self.0 {
            span.set_attribute(KeyValue::new(name, value));
        }
    }

    /// It failed.
    pub fn fail(&mut self, reason: impl fmt::Display) {
        if let Some(span) = &mut self.0 {
            span.set_status(Status::error(reason.to_string()));
        }
    }

    /// What to send with whatever it causes: `traceparent`, and `tracestate` where there is one.
    pub fn headers(&self) -> Option<(String, Option<String>)> {
        let context = self.0.as_ref()?.span_context();
        let flags = context.trace_flags().to_u8();
        let parent = format!("00-{}-{}-{flags:02x}", context.trace_id(), context.span_id());
        let state = context.trace_state().header();
        Some((parent, (!state.is_empty()).then_some(state)))
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Span").field(&self.headers()).finish()
    }
}
