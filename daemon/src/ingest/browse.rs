//! Pages of a stream's events, the newest or the oldest first, and how many there are, without reading what is not asked
//! for.
//!
//! JetStream reads forward only, and has no index by type. But it counts: whoever makes a consumer at a place is told how
//! many messages that match lie from there to the end. So the beginning of a page is found by asking at a few places
//! before its end, and only what lies between is read, without bodies.

use std::time::Duration;

use async_nats::datetime::parse_rfc3339;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull};
use futures_util::StreamExt as _;

use super::connect::{Nats, StreamConfig};
use super::decode::{self, STRUCTURED, starts_with_ignore_case};
use super::{Error, Source};
use crate::domain::{Event, Pattern, StreamName};
use crate::telemetry::clock;

/// How many places are asked at for one page, and how many stretches are read. A page that is not full by then says where
/// to go on.
pub const BROWSE_PLACES_MAX: usize = 32;
/// How long a page of headers may take to come.
const PAGE_TIMEOUT: Duration = Duration::from_secs(10);
/// After how long without a request the server removes a consumer whose removal it was not told of.
const INACTIVE: Duration = Duration::from_secs(10);
/// The most subjects of a stream that are told apart.
pub const SUBJECTS_MAX: u64 = 10_000;

/// Which events of a stream are wanted.
#[derive(Debug, Clone)]
pub struct Stretch<'a> {
    /// The stream.
    pub stream: &'a StreamConfig,
    /// The types, at least one.
    pub types: &'a [Pattern],
    /// The first sequence.
    pub from: u64,
    /// The first sequence after it.
    pub until: u64,
}

/// An event of which the body may not have been read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heading {
    /// The event, with its body only where that says what it is.
    pub event: Event,
    /// How many bytes the message's body has.
    pub bytes: usize,
}

/// A page of headings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headings {
    /// The events, in the order asked for.
    pub events: Vec<Heading>,
    /// Where to go on: the `until` of the next page when the newest come first, its `from` when the oldest do. `None` when
    /// there is no more.
    pub next: Option<u64>,
}

/// How many events of a type a stream has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TypeCount {
    /// The type.
    pub kind: Box<str>,
    /// How many there are.
    pub events: u64,
}

impl Nats {
    /// The newest events of a stretch, newest first, at most `limit`. What is published meanwhile changes nothing below the
    /// stretch's end.
    ///
    /// # Errors
    /// When the stream cannot be read.
    pub async fn newest(&self, stretch: &Stretch<'_>, limit: usize) -> Result<Headings, Error> {
        let name = &stretch.stream.name;
        let mut page = Headings::default();
        let subjects = self.subjects(stretch.stream, stretch.types);
        let facts = self.facts(name).await?;
        let (from, mut until) = (stretch.from.max(facts.first_sequence), stretch.until.min(facts.last_sequence + 1));
        if subjects.is_empty() || from >= until {
            return Ok(page);
        }
        let beyond = match until > facts.last_sequence {
            true => 0,
            false => self.count_from(name, &subjects, sequence(until)).await?,
        };
        let mut left = self.count_from(name, &subjects, sequence(from)).await?.saturating_sub(beyond);
        let mut step = None;
        for _ in 0..BROWSE_PLACES_MAX {
            let wanted = (limit - page.events.len()) as u64;
            if wanted == 0 || left == 0 || until <= from {
                break;
            }
            let start =
                until.saturating_sub(step.take().unwrap_or_else(|| guess(wanted, left, until - from))).max(from);
            let probe = self.probe(name, &subjects, sequence(start)).await?;
            let there = probe.cached_info().num_pending.saturating_sub(beyond);
            let crowded = there > wanted.saturating_mul(4).saturating_add(64) && until - start > wanted;
            if crowded {
                // As if they were spread evenly; never so short a step that it could not hold what is wanted.
                let even = u128::from(until - start) * u128::from(wanted) * 2 / u128::from(there);
                step = Some(u64::try_from(even).unwrap_or(u64::MAX).max(wanted));
            } else {
                let mut found = Vec::new();
                if there > 0 {
                    found = self.headings(stretch, &probe, until, there).await?;
                }
                left = left.saturating_sub(found.len() as u64);
                found.retain(|heading| stretch.types.iter().any(|pattern| pattern.matches(&heading.event.kind)));
                until = start;
                if found.len() as u64 > wanted {
                    found.drain(..found.len() - wanted as usize);
                    until = found[0].event.position.sequence;
                    left = left.max(1);
                }
                page.events.extend(found.into_iter().rev());
            }
            self.end(name, &probe).await;
        }
        page.next = (left > 0 && until > from).then_some(until);
        self.complete(&mut page).await?;
        Ok(page)
    }

    /// The oldest events of a stretch, oldest first, at most `limit`.
    ///
    /// # Errors
    /// When the stream cannot be read.
    pub async fn oldest(&self, stretch: &Stretch<'_>, limit: usize) -> Result<Headings, Error> {
        let name = &stretch.stream.name;
        let mut page = Headings::default();
        let subjects = self.subjects(stretch.stream, stretch.types);
        if subjects.is_empty() || stretch.from >= stretch.until {
            return Ok(page);
        }
        let probe = self.probe(name, &subjects, sequence(stretch.from)).await?;
        let there = probe.cached_info().num_pending;
        if there > 0 {
            page.events = self.headings(stretch, &probe, stretch.until, there.min(limit as u64)).await?;
        }
        self.end(name, &probe).await;
        let read = page.events.len();
        page.next = page.events.last().map(|last| last.event.position.sequence + 1);
        page.next = page.next.filter(|next| read == limit && there > limit as u64 && *next < stretch.until);
        page.events.retain(|heading| stretch.types.iter().any(|pattern| pattern.matches(&heading.event.kind)));
        self.complete(&mut page).await?;
        Ok(page)
    }

    /// How many events of these types were stored at that time or later, in milliseconds since the Unix epoch. Types that
    /// overlap may count some of others too.
    ///
    /// # Errors
    /// When the stream cannot be asked.
    pub async fn count_since(&self, stream: &StreamConfig, types: &[Pattern], at_ms: u64) -> Result<u64, Error> {
        let subjects = self.subjects(stream, types);
        if subjects.is_empty() {
            return Ok(0);
        }
        let fail = |source| Error::Consumer { action: "make", stream: stream.name.clone(), source };
        let start_time = parse_rfc3339(&clock::rfc3339(at_ms)).map_err(fail)?;
        self.count_from(&stream.name, &subjects, DeliverPolicy::ByStartTime { start_time }).await
    }

    /// The types that a stream has events of, the most frequent first, and whether these are all: a stream with more than
    /// [`SUBJECTS_MAX`] subjects is not taken apart.
    ///
    /// # Errors
    /// When the stream cannot be asked.
    pub async fn types_of(&self, stream: &StreamConfig, types: &[Pattern]) -> Result<(Vec<TypeCount>, bool), Error> {
        let name = &stream.name;
        let fail = |source: Source| Error::Stream { action: "read the subjects of", stream: name.clone(), source };
        let known = self.jetstream.get_stream(name.as_str()).await.map_err(|e| fail(e.into()))?;
        if known.cached_info().state.subjects_count > SUBJECTS_MAX {
            return Ok((Vec::new(), false));
        }
        let mut subjects = known.info_with_subjects(">").await.map_err(|e| fail(e.into()))?;
        let mut found = Vec::new();
        while let Some(subject) = subjects.next().await {
            let (subject, events) = subject.map_err(|e| fail(e.into()))?;
            let kind = stream.event_type(&subject);
            if types.iter().any(|pattern| pattern.matches(kind)) {
                found.push(TypeCount { kind: kind.into(), events: events as u64 });
            }
        }
        found.sort_by(|a, b| b.events.cmp(&a.events).then_with(|| a.kind.cmp(&b.kind)));
        Ok((found, true))
    }

    /// Reads the bodies of events that cannot be known without.
    async fn complete(&self, page: &mut Headings) -> Result<(), Error> {
        for heading in &mut page.events {
            let structured = heading.event.content_type.as_deref();
            if structured.is_some_and(|text| starts_with_ignore_case(text, STRUCTURED))
                && let Some(event) = self.event(&heading.event.position).await?
            {
                heading.event = event;
            }
        }
        Ok(())
    }

    /// The subjects that a consumer is to filter by. They may take in more than the types, where these overlap.
    fn subjects(&self, stream: &StreamConfig, types: &[Pattern]) -> Vec<String> {
        self.filter_for(stream, types).iter().map(ToString::to_string).collect()
    }

    async fn count_from(&self, stream: &StreamName, subjects: &[String], place: DeliverPolicy) -> Result<u64, Error> {
        let probe = self.probe(stream, subjects, place).await?;
        self.end(stream, &probe).await;
        Ok(probe.cached_info().num_pending)
    }

    /// A consumer of headers at a place, which knows how many there are.
    async fn probe(
        &self,
        stream: &StreamName,
        subjects: &[String],
        deliver_policy: DeliverPolicy,
    ) -> Result<PullConsumer, Error> {
        let config = pull::Config {
            description: Some("sluiced: a page of events".to_owned()),
            deliver_policy,
            ack_policy: AckPolicy::None,
            filter_subjects: subjects.to_vec(),
            headers_only: true,
            inactive_threshold: INACTIVE,
            memory_storage: true,
            num_replicas: 1,
            ..Default::default()
        };
        let made = self.jetstream.create_consumer_on_stream(config, stream.as_str()).await;
        made.map_err(|e| Error::Consumer { action: "make", stream: stream.clone(), source: e.into() })
    }

    /// Removes a consumer; where that fails, the server does it later.
    async fn end(&self, stream: &StreamName, probe: &PullConsumer) {
        drop(self.jetstream.delete_consumer_from_stream(&probe.cached_info().name, stream.as_str()).await);
    }

    /// All that lies before `until`, or the first `messages` of it, in stream order.
    async fn headings(
        &self,
        stretch: &Stretch<'_>,
        probe: &PullConsumer,
        until: u64,
        messages: u64,
    ) -> Result<Vec<Heading>, Error> {
        let name = &stretch.stream.name;
        let read = async {
            let mut found = Vec::with_capacity(usize::try_from(messages).unwrap_or(0).min(1_024));
            let batch = usize::try_from(messages).unwrap_or(usize::MAX);
            let mut batch = probe.fetch().max_messages(batch).messages().await?;
            while let Some(message) = batch.next().await {
                let message = message?.message;
                let stored = message.reply.as_deref().and_then(decode::stored).ok_or("a message without its place")?;
                if stored.delivery != found.len() as u64 + 1 {
                    return Err::<_, Source>("a message was lost on its way".into());
                }
                found.push((stored.sequence, heading(stretch.stream, &message, stored)));
            }
            found.retain(|(sequence, _)| *sequence < until);
            Ok(found.into_iter().map(|(_, heading)| heading).collect())
        };
        let fail = |source| Error::Read { stream: name.clone(), source };
        match tokio::time::timeout(PAGE_TIMEOUT, read).await {
            Ok(found) => found.map_err(fail),
            Err(elapsed) => Err(fail(elapsed.into())),
        }
    }
}

fn sequence(start_sequence: u64) -> DeliverPolicy {
    DeliverPolicy::ByStartSequence { start_sequence: start_sequence.max(1) }
}

/// How far to go back for so many, when `left` lie evenly in so long a stretch: a little further than it takes.
fn guess(wanted: u64, left: u64, stretch: u64) -> u64 {
    if left <= wanted {
        return stretch;
    }
    let even = u128::from(stretch) * u128::from(wanted) / u128::from(left);
    u64::try_from(even + even / 4).unwrap_or(u64::MAX).saturating_add(1).max(wanted).min(stretch)
}

/// A message whose body was left behind.
fn heading(stream: &StreamConfig, message: &async_nats::Message, stored: decode::Stored) -> Heading {
    let size = message.headers.as_ref().and_then(|headers| headers.get("Nats-Msg-Size"));
    let bytes = size.and_then(|size| size.as_str().parse().ok()).unwrap_or(message.payload.len());
    Heading { event: decode::event(stream, message, stored), bytes }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guess_goes_a_little_further_than_an_even_spread_asks_for_and_never_past_the_beginning() {
        assert_eq!(guess(100, 1_000_000, 1_000_000), 126);
        assert_eq!(guess(100, 1_000, 1_000_000), 125_001);
        assert_eq!(guess(100, 100, 1_000_000), 1_000_000, "all that there are fit on the page");
        assert_eq!(guess(100, 101, 1_000), 1_000);
        assert_eq!(guess(1, u64::MAX, u64::MAX), 2);
    }
}
