//! A delivery on its way through an attempt into the store.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::Spec;
use super::traced::{caused_by, describe, header};
use crate::deliver::lane::{Count, Record};
use crate::deliver::{Client, REPLAY_HEADER, Request};
use crate::domain::{
    DeliveryId, Event, Failure, FailureClass, HeadOfLine, Header, JobId, Outcome, Output, Position, Response,
    SubscriptionId,
};
use crate::store::{
    Attempt, Change, Content, DeadLetter, Detail, Disposition, LastFailure, LogEntry, Mark, Parked, add_attempt,
};
use crate::telemetry::clock;
use crate::telemetry::spans::{Kind, Span, Spans};

/// One delivery: an event, or one output of its transforms, for one subscription.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) delivery: DeliveryId,
    pub(super) subscription: SubscriptionId,
    pub(super) position: Position,
    /// Its ledger, when the event is in hand; `None` for a parked delivery.
    pub(super) ledger: Option<usize>,
    /// The replay that brought its event.
    pub(super) replay: Option<JobId>,
    pub(super) part: u32,
    pub(super) parts: u32,
    /// The number of the attempt to come; 1 is the first.
    pub(super) attempt: u32,
    /// When the first attempt was made, in milliseconds since the Unix epoch; 0 before it.
    pub(super) first_attempt_ms: u64,
    /// When the delivery came about, in milliseconds since the Unix epoch.
    pub(super) created_ms: u64,
    /// How many attempts had been made when it was last resent: its retry policy counts from there.
    pub(super) resent_after: u32,
    /// What it is ordered by, in a subscription that keeps order.
    pub(super) order_key: Option<Box<str>>,
    /// The attempts before this one.
    pub(super) history: Vec<Attempt>,
    pub(super) content: Content,
}

impl Job {
    /// The delivery of one output of an event.
    pub(super) fn new(
        subscription: &SubscriptionId,
        ledger: usize,
        event: &Event,
        output: Output,
        part: u32,
        parts: u32,
    ) -> Self {
        Self {
            delivery: DeliveryId::derive(subscription, &event.position, part),
            subscription: subscription.clone(),
            position: event.position.clone(),
            ledger: Some(ledger),
            replay: None,
            part,
            parts,
            attempt: 1,
            first_attempt_ms: 0,
            created_ms: clock::now_ms(),
            resent_after: 0,
            order_key: None,
            history: Vec::new(),
            content: Content {
                event_id: event.id.clone(),
                event_type: output.kind.unwrap_or_else(|| event.kind.clone()),
                event_time_ms: event.time_ms,
                content_type: output.content_type.or_else(|| event.content_type.clone()),
                headers: without_replay(output.headers),
                body: output.data,
            },
        }
    }

    /// The delivery of an event as it came: what a dead letter keeps when its plugins failed.
    pub(super) fn whole(subscription: &SubscriptionId, ledger: usize, event: &Event) -> Self {
        let output =
            Output { data: event.data.clone(), content_type: None, headers: event.headers.clone(), kind: None };
        Self::new(subscription, ledger, event, output, 0, 1)
    }

    /// The same delivery, brought by a replay. It says so in its requests, also in those that are made when it was parked.
    pub(super) fn replayed(mut self, job: JobId) -> Self {
        self.content.headers.push(Header { name: REPLAY_HEADER.into(), value: job.to_string().into() });
        Self { ledger: None, replay: Some(job), ..self }
    }

    /// Was it in the store before this attempt?
    fn was_parked(&self) -> bool {
        self.ledger.is_none() && self.replay.is_none()
    }

    /// The same delivery, ordered by that key.
    pub(super) fn ordered(self, order_key: Option<Box<str>>) -> Self {
        Self { order_key, ..self }
    }

    /// A parked delivery whose next attempt is due.
    pub(super) fn parked(parked: Parked) -> Self {
        Self {
            delivery: parked.delivery,
            subscription: parked.subscription,
            position: parked.position,
            ledger: None,
            replay: None,
            part: parked.part,
            parts: parked.parts,
            attempt: parked.attempts + 1,
            first_attempt_ms: parked.first_attempt_ms,
            created_ms: parked.created_ms,
            resent_after: parked.resent_after,
            order_key: parked.order_key,
            history: parked.history,
            content: parked.content,
        }
    }

    /// How many attempts have been made, when one that took so long is the last; without one, those before.
    fn attempts(&self, took: Option<Duration>) -> u32 {
        if took.is_some() { self.attempt } else { self.attempt - 1 }
    }

    fn log(&self, disposition: Disposition, attempt: u32) -> LogEntry {
        LogEntry {
            subscription: self.subscription.clone(),
            position: self.position.clone(),
            part: self.part,
            parts: self.parts,
            attempt,
            status: None,
            at_ms: clock::now_ms(),
            disposition,
            class: None,
            detail: None,
        }
    }

    fn log_failure(
        &self,
        disposition: Disposition,
        took: Option<Duration>,
        due_ms: Option<u64>,
        failure: &Failure,
    ) -> LogEntry {
        let mut log = self.log(disposition, self.attempts(took));
        log.status = failure.status;
        log.class = Some(failure.class);
        log.detail = Some(Box::new(Detail {
            took_ms: took.map_or(0, millis),
            due_ms,
            message: failure.message.clone(),
            response: failure.response.as_deref().cloned(),
        }));
        log
    }

    /// The attempts so far, with the one that failed now and took so long. One that was not made adds nothing.
    fn history_with(&self, took: Option<Duration>, failure: &Failure) -> Vec<Attempt> {
        let mut history = self.history.clone();
        if let Some(took) = took {
            let took_ms = millis(took);
            let attempt = Attempt {
                number: self.attempt,
                at_ms: clock::now_ms().saturating_sub(took_ms),
                took_ms,
                status: failure.status,
                class: Some(failure.class.as_str().into()),
                message: failure.message.clone(),
                response: failure.response.as_deref().cloned(),
            };
            add_attempt(&mut history, attempt);
        }
        history
    }

    /// The span of its outcome becoming durable.
    pub(super) fn recording(&self, spans: &Spans) -> Span {
        spans.begin("record", Kind::Internal, |name| header(&self.content.headers, name), None)
    }

    fn record(&self, count: Count, due_ms: Option<u64>, change: Change) -> Record {
        let event = self.ledger.map(|ledger| (ledger, self.position.sequence));
        let order = self.order_key.clone().map(|key| (self.delivery, key));
        let change = match self.replay {
            Some(job) => Change::Replayed { outcome: Box::new(change), job, mark: self.mark(count) },
            None => change,
        };
        Record { event, part: self.part, parts: self.parts, due_ms, count, order, change, span: Span::default() }
    }

    fn mark(&self, count: Count) -> Mark {
        let disposition = match count {
            Count::Delivered | Count::DeliveredParked => Disposition::Delivered,
            Count::Parked | Count::ParkedAgain => Disposition::Parked,
            Count::Failed | Count::FailedParked => Disposition::Dead,
        };
        Mark { sequence: self.position.sequence, part: self.part, parts: self.parts, disposition }
    }

    /// The receiver took it. What it answered is kept where that was captured.
    fn delivered(&self, status: u16, took: Duration, response: Option<&Response>) -> Record {
        let mut log = self.log(Disposition::Delivered, self.attempt);
        log.status = Some(status);
        log.detail = response.map(|response| {
            let (took_ms, response) = (millis(took), Some(response.clone()));
            Box::new(Detail { took_ms, response, ..Detail::default() })
        });
        if self.ledger.is_some() {
            return self.record(Count::Delivered, None, Change::Finished(log));
        }
        // A replayed delivery may have a dead letter from before: it has arrived after all.
        let count = if self.was_parked() { Count::DeliveredParked } else { Count::Delivered };
        self.record(count, None, Change::FinishParked { delivery: self.delivery, log })
    }

    /// It is given up: after an attempt that took so long, or without one.
    pub(super) fn dead(&self, took: Option<Duration>, failure: &Failure) -> Record {
        let letter = DeadLetter {
            delivery: self.delivery,
            subscription: self.subscription.clone(),
            position: self.position.clone(),
            part: self.part,
            parts: self.parts,
            failed_ms: clock::now_ms(),
            attempts: self.attempts(took),
            first_attempt_ms: self.first_attempt_ms(took),
            failure: LastFailure::from(failure),
            content: self.content.clone(),
            created_ms: self.created_ms,
            resent_after: self.resent_after,
            history: self.history_with(took, failure),
        };
        let log = self.log_failure(Disposition::Dead, took, None, failure);
        let count = if self.was_parked() { Count::FailedParked } else { Count::Failed };
        self.record(count, None, Change::Dead { letter: Box::new(letter), log })
    }

    /// It waits for its next attempt: after one that took so long and failed, or because one could not be made.
    pub(super) fn park(&self, took: Option<Duration>, due_ms: u64, failure: &Failure) -> Record {
        let parked = Parked {
            delivery: self.delivery,
            subscription: self.subscription.clone(),
            position: self.position.clone(),
            part: self.part,
            parts: self.parts,
            due_ms,
            attempts: self.attempts(took),
            first_attempt_ms: self.first_attempt_ms(took),
            last_failure: Some(LastFailure::from(failure)),
            content: self.content.clone(),
            created_ms: self.created_ms,
            resent_after: self.resent_after,
            order_key: self.order_key.clone(),
            history: self.history_with(took, failure),
        };
        let log = self.log_failure(Disposition::Parked, took, Some(due_ms), failure);
        let count = if self.was_parked() { Count::ParkedAgain } else { Count::Parked };
        self.record(count, Some(due_ms), Change::Park { parked: Box::new(parked), log })
    }

    fn first_attempt_ms(&self, took: Option<Duration>) -> u64 {
        match took {
            Some(took) if self.first_attempt_ms == 0 => clock::now_ms().saturating_sub(millis(took)),
            _ => self.first_attempt_ms,
        }
    }

    /// What follows from an attempt's outcome: delivered, parked or dead. `draw` is a random number from 0 up to 1.
    pub(super) fn conclude(&self, spec: &Spec, outcome: &Outcome, took: Duration, draw: f64) -> Record {
        let waits = self.order_key.is_some() && spec.head_of_line == HeadOfLine::Wait;
        match outcome {
            Outcome::Delivered { status, response } => self.delivered(*status, took, response.as_deref()),
            Outcome::Final(failure) | Outcome::Retry(failure) if waits => {
                let delay = spec.retry.endless_delay(self.attempt.saturating_sub(self.resent_after), draw);
                let wait_ms = millis(delay).max(failure.retry_after_ms.unwrap_or(0));
                self.park(Some(took), clock::now_ms().saturating_add(wait_ms), failure)
            }
            Outcome::Final(failure) => self.dead(Some(took), failure),
            Outcome::Retry(failure) => match spec.retry.delay(self.attempt.saturating_sub(self.resent_after), draw) {
                None => self.dead(Some(took), failure),
                Some(delay) => {
                    let wait_ms = millis(delay).max(failure.retry_after_ms.unwrap_or(0));
                    self.park(Some(took), clock::now_ms().saturating_add(wait_ms), failure)
                }
            },
        }
    }
}

/// A publisher or a transform cannot pass an event off as replayed.
fn without_replay(mut headers: Vec<Header>) -> Vec<Header> {
    headers.retain(|header| !header.name.eq_ignore_ascii_case(REPLAY_HEADER));
    headers
}

fn replay_of(headers: &[Header]) -> Option<&str> {
    headers.iter().find(|header| &*header.name == REPLAY_HEADER).map(|header| &*header.value)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// An attempt under way. Unlike a plain future it can be asked which job it is: what a stop cuts short is parked.
pub(super) struct InAir {
    pub(super) job: Arc<Job>,
    began: Instant,
    attempt: Pin<Box<dyn Future<Output = Outcome> + Send>>,
}

impl InAir {
    pub(super) fn new(client: Client, spans: &Spans, spec: &Spec, job: Arc<Job>) -> Self {
        let endpoint = Arc::clone(&spec.endpoint);
        let of = Arc::clone(&job);
        let mut span = spans.begin("attempt", Kind::Client, |name| header(&job.content.headers, name), None);
        let attempt = Box::pin(async move {
            let headers = caused_by(&span, &of.content.headers);
            let request = Request {
                delivery: of.delivery,
                event_id: &of.content.event_id,
                event_type: &of.content.event_type,
                event_time_ms: of.content.event_time_ms,
                stream: of.position.stream.as_str(),
                part: of.part,
                parts: of.parts,
                attempt: of.attempt,
                content_type: of.content.content_type.as_deref(),
                headers: &headers,
                replay: replay_of(&of.content.headers),
                test: false,
                body: of.content.body.clone(),
                now_ms: clock::now_ms(),
            };
            let outcome = client.attempt(&endpoint, request).await;
            if span.is_recorded() {
                describe(&mut span, &of, endpoint.host(), &outcome);
            }
            outcome
        });
        Self { job, began: Instant::now(), attempt }
    }
}

/// An attempt that ended.
pub(super) struct Landed {
    pub(super) job: Arc<Job>,
    pub(super) outcome: Outcome,
    pub(super) took: Duration,
}

impl Future for InAir {
    type Output = Landed;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Landed> {
        let outcome = std::task::ready!(self.attempt.as_mut().poll(cx));
        Poll::Ready(Landed { job: Arc::clone(&self.job), outcome, took: self.began.elapsed() })
    }
}

/// The failure of a delivery that no attempt was made for.
pub(super) fn failure(class: FailureClass, message: impl Into<Box<str>>) -> Failure {
    Failure { class, status: None, message: message.into(), retry_after_ms: None, response: None }
}

/// An output with the attributes of the CloudEvent that its event came as, for an endpoint that is sent CloudEvents: no
/// other header of a publisher goes to receivers. What the transforms set wins, and where they gave it another type, the
/// publisher's is not its type any more.
pub(super) fn with_attributes(event: &Event, mut output: Output) -> Output {
    let renamed = output.kind.as_deref().is_some_and(|kind| kind != &*event.kind);
    for header in &event.headers {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        let attribute = header.name.get(..3).is_some_and(|prefix| prefix.eq_ignore_ascii_case("ce-"));
        let set = output.headers.iter().any(|own| is(&own.name));
        if attribute && !set && !(renamed && is("ce-type")) {
            output.headers.push(header.clone());
        }
    }
    output
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Header, StreamName};

    #[test]
    fn an_output_keeps_the_attributes_of_its_event_save_those_that_a_transform_replaced() {
        let header = |name: &str, value: &str| Header { name: name.into(), value: value.into() };
        let stream = StreamName::parse("EVENTS").expect("a name");
        let event = Event {
            id: "c-1".into(),
            kind: "sold".into(),
            subject: "events.sold".into(),
            position: Position { stream, sequence: 1 },
            time_ms: 0,
            headers: vec![header("Ce-Type", "com.sold"), header("ce-source", "/a"), header("x-secret", "hush")],
            content_type: None,
            data: Default::default(),
            undecodable: None,
        };
        let output = |kind: Option<&str>, headers: Vec<Header>| {
            let output = Output { data: event.data.clone(), content_type: None, headers, kind: kind.map(Into::into) };
            let headers = with_attributes(&event, output).headers;
            headers.iter().map(|header| format!("{}={}", header.name, header.value)).collect::<Vec<_>>()
        };
        assert_eq!(output(None, Vec::new()), ["Ce-Type=com.sold", "ce-source=/a"]);
        assert_eq!(output(Some("sold"), Vec::new()), ["Ce-Type=com.sold", "ce-source=/a"]);
        assert_eq!(output(Some("sold.twice"), Vec::new()), ["ce-source=/a"]);
        assert_eq!(output(None, vec![header("CE-Source", "/b")]), ["CE-Source=/b", "Ce-Type=com.sold"]);
    }
}
