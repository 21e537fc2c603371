//! New subscriptions: what they may have of each stream, and where they begin.

use tracing::info;

use super::{Begun, Error, Joins, Registered, Subscriptions, away, is_lifted, starts_after};
use crate::domain::{Begin, Position, StreamName, SubscriptionId};
use crate::failpoint::{self, Place};
use crate::ingest::{Nats, StreamFacts};
use crate::pipeline::Spec;
use crate::store::{Registering, Registration};
use crate::telemetry::clock;

/// What the streams hold, asked once for all subscriptions that begin together.
#[derive(Default)]
struct Facts(Vec<(StreamName, StreamFacts)>);

impl Facts {
    async fn of(&mut self, nats: &Nats, stream: &StreamName) -> Result<StreamFacts, Error> {
        if let Some((_, facts)) = self.0.iter().find(|(name, _)| name == stream) {
            return Ok(facts.clone());
        }
        let facts = nats.facts(stream).await?;
        self.0.push((stream.clone(), facts.clone()));
        Ok(facts)
    }
}

impl Subscriptions {
    /// Refuses what cannot be had of streams that forget what is acked.
    pub(super) fn check_streams(&self, specs: &[(SubscriptionId, Spec)]) -> Result<(), Error> {
        let nats = &self.shared.nats;
        for stream in nats.streams().iter().filter(|stream| nats.is_forgetful(&stream.name)) {
            for (id, spec) in specs.iter().filter(|(_, spec)| !stream.subjects_for(&spec.types).is_empty()) {
                let (key, reason) = if spec.order.is_kept() {
                    ("ordering", "what fails once could not be read again in its place")
                } else if spec.deliver_from.of(&stream.name) != Begin::Now {
                    ("deliver_from", "it has no history")
                } else {
                    continue;
                };
                return Err(Error::Forgetful { subscription: id.clone(), stream: stream.name.clone(), key, reason });
            }
        }
        Ok(())
    }

    /// What is known of subscriptions, in their order. In each stream in which one is new it is settled where it begins;
    /// where its reader is to begin with history, its position is made durable in the same write: a daemon that ends at any
    /// instant after it leaves one that begins there. What is new of all of them is one write.
    pub(super) async fn register(
        &self,
        specs: &[&(SubscriptionId, Spec)],
        joins: Joins,
    ) -> Result<Vec<Registered>, Error> {
        let (mut all, mut new, mut facts) = (Vec::with_capacity(specs.len()), Vec::new(), Facts::default());
        for (id, spec) in specs {
            let (registered, changed) = self.registered(id, spec, joins, &mut facts).await?;
            if changed {
                let begins = registered.begun.iter().map(|begun| begun.position.clone()).collect();
                let registration = registered.registration.clone();
                new.push(Registering { subscription: id.clone(), registration, begins });
            }
            all.push(registered);
        }
        if !new.is_empty() {
            let store = self.shared.store.clone();
            failpoint::pass(Place::Registering);
            away(move || store.register(&new)).await?;
            failpoint::pass(Place::Registered);
        }
        Ok(all)
    }

    /// What is to be known of a subscription, and whether that is more than the store knows.
    async fn registered(
        &self,
        id: &SubscriptionId,
        spec: &Spec,
        joins: Joins,
        facts: &mut Facts,
    ) -> Result<(Registered, bool), Error> {
        let known = self.shared.store.registration(id)?;
        let now_ms = clock::now_ms();
        let new = || Registration { first_seen_ms: now_ms, updated_ms: now_ms, ..Registration::default() };
        let mut registration = known.clone().unwrap_or_else(new);
        let mut begun = Vec::new();
        for stream in &self.streams {
            if starts_after(&registration, &stream.name).is_some() {
                continue;
            }
            if self.shared.nats.is_forgetful(&stream.name) {
                // Whatever such a stream has, nobody had.
                registration.starts_after.push((stream.name.clone(), 0));
                continue;
            }
            let begin = spec.deliver_from.of(&stream.name);
            let nats = &self.shared.nats;
            let now = facts.of(nats, &stream.name).await?;
            let first = match begin {
                Begin::Now => now.last_sequence + 1,
                Begin::All => now.first_sequence.max(1),
                Begin::Sequence(sequence) => sequence.max(1),
                Begin::Time(at_ms) => nats.sequence_at(&stream.name, at_ms).await?,
            };
            registration.starts_after.push((stream.name.clone(), first - 1));
            if begin != Begin::Now || joins == Joins::Later {
                let position = Position { stream: stream.name.clone(), sequence: first };
                begun.push(Begun { position, last_sequence: now.last_sequence });
            }
        }
        // What disabled it was another endpoint than the one that it has now.
        if registration.disabled.take_if(|disabled| is_lifted(disabled, spec)).is_some() {
            info!(subscription = %id, "another endpoint takes the place of the one that was disabled");
            registration.failing_since_ms = None;
        }
        let changed = known.as_ref() != Some(&registration);
        if changed {
            registration.updated_ms = now_ms;
        }
        Ok((Registered { registration, begun }, changed))
    }
}
