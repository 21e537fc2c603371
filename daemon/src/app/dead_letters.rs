//! Dead letters, published to a stream of the operator's: beside deliveries, and until each is stored there.

use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::config::{Config, DeadLetterSubject};
use crate::domain::{DeliveryId, Subject, SubscriptionId};
use crate::ingest::{self, Nats, Outgoing};
use crate::pipeline::Spec;
use crate::store::{self, DeadLetter, Store, UNPUBLISHED_MAX};
use crate::telemetry::{self, metrics::StoreMetrics};

/// How often the store is asked for what is to be published.
const INTERVAL: Duration = Duration::from_secs(1);
/// The longest pause between two tries while nothing can be published.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// The header that names the subscription.
const SUBSCRIPTION: &str = "Sluiced-Subscription";

/// Checks that the dead letters of the subscriptions can be published, when they are to be.
pub(super) async fn check(config: &Config, nats: &Nats, specs: &[(SubscriptionId, Spec)]) -> Result<(), ingest::Error> {
    let Some(to) = &config.dead_letters.publish_subject else { return Ok(()) };
    // A name that is too long for a subject is told when there is something to publish.
    let subjects = specs.iter().filter_map(|(subscription, _)| to.of(subscription).ok()).collect();
    nats.check_outgoing(subjects).await
}

/// Publishes dead letters.
pub(super) struct Publisher {
    pub(super) store: Store,
    pub(super) nats: Nats,
    pub(super) subject: DeadLetterSubject,
    pub(super) metrics: StoreMetrics,
}

/// What is done with a mark of the store.
type Mark = (u64, DeliveryId);

impl Publisher {
    /// Publishes what is to be published, and tries again what failed, until `stop`.
    pub(super) async fn run(self, stop: CancellationToken) {
        let mut pause = INTERVAL;
        while stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_some() {
            let Some(round) = stop.run_until_cancelled(self.round()).await else { break };
            let before = pause;
            pause = match round {
                Ok(()) => INTERVAL,
                Err(_) => (pause * 2).min(PAUSE_MAX),
            };
            match round {
                Ok(()) if before > INTERVAL => info!("dead letters are published again"),
                Err(reason) if before == INTERVAL => {
                    warn!(reason, "dead letters cannot be published, they wait in the store");
                }
                _ => {}
            }
        }
    }

    /// Goes once through all that is to be published; what fails stays for the next time.
    async fn round(&self) -> Result<(), String> {
        let (mut after, mut failed) = (None, None);
        loop {
            let store = self.store.clone();
            let page = blocking(move || store.unpublished(after)).await?;
            let Some(last) = page.last() else { break };
            after = Some((last.failed_ms, last.delivery));
            let whole = page.len() == UNPUBLISHED_MAX;
            let (mut done, mut sending, mut refused) = (Vec::new(), JoinSet::new(), 0);
            for one in page {
                let mark = (one.failed_ms, one.delivery);
                match one.letter {
                    Ok(Some(letter)) => drop(sending.spawn(self.send(mark, letter))),
                    Ok(None) => done.push(mark),
                    Err(error) => failed = Some(telemetry::chain(&error)),
                }
            }
            while let Some(sent) = sending.join_next().await {
                match sent {
                    Ok(Ok(mark)) => done.push(mark),
                    Ok(Err(reason)) => {
                        failed = Some(reason);
                        refused += 1;
                    }
                    Err(broken) => failed = Some(broken.to_string()),
                }
            }
            let (store, any) = (self.store.clone(), !done.is_empty());
            blocking(move || store.mark_published(&done)).await?;
            // When none of a page can be published, the stream is not there: the rest would fare no better.
            if !whole || (refused > 0 && !any) {
                break;
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Publishes one. Answers its mark when that is done with.
    fn send(&self, mark: Mark, letter: DeadLetter) -> impl Future<Output = Result<Mark, String>> + use<> {
        let (nats, published) = (self.nats.clone(), self.metrics.dead_letters_published.clone());
        let subject = self.subject.of(&letter.subscription);
        async move {
            let subject = subject.map_err(|error| telemetry::chain(&error))?;
            let mut message = message(subject, letter);
            let mut sent = nats.publish_outgoing(&message).await;
            if let Err(ingest::Error::TooLarge(_)) = sent {
                warn!(
                    delivery = %mark.1, bytes = message.body.len(),
                    "a dead letter is larger than nats takes and is published without its body, which stays in the store"
                );
                leave_body(&mut message, &mark.1);
                sent = nats.publish_outgoing(&message).await;
            }
            match sent {
                Ok(()) => drop(published.inc()),
                Err(error @ ingest::Error::TooLarge(_)) => {
                    let error = telemetry::chain(&error);
                    error!(delivery = %mark.1, %error, "a dead letter is never published, it stays in the store");
                }
                Err(error) => return Err(telemetry::chain(&error)),
            }
            Ok(mark)
        }
    }
}

/// A dead letter as a message.
fn message(subject: Subject, letter: DeadLetter) -> Outgoing {
    let id = format!("{}.{}", letter.delivery, letter.failed_ms);
    let mut headers = vec![
        (SUBSCRIPTION, letter.subscription.to_string()),
        ("Sluiced-Event-Id", letter.content.event_id.into_string()),
        ("Sluiced-Event-Type", letter.content.event_type.into_string()),
        ("Sluiced-Stream", letter.position.stream.to_string()),
        ("Sluiced-Sequence", letter.position.sequence.to_string()),
        ("Sluiced-Delivery-Id", letter.delivery.to_string()),
        ("Sluiced-Class", letter.failure.class.into_string()),
        ("Sluiced-Attempts", letter.attempts.to_string()),
        ("Sluiced-Reason", letter.failure.message.into_string()),
    ];
    headers.extend(letter.failure.status.map(|status| ("Sluiced-Status", status.to_string())));
    headers.extend(letter.content.content_type.map(|kind| ("Content-Type", kind.into_string())));
    Outgoing { subject, id, headers, body: letter.content.body }
}

/// Takes the body out of a message, and says how large it is and where it is to be had.
fn leave_body(message: &mut Outgoing, delivery: &DeliveryId) {
    let subscription = message.headers.iter().find(|(name, _)| *name == SUBSCRIPTION).map(|(_, id)| id.as_str());
    let path = format!("/api/v1/subscriptions/{}/dead-letters/{delivery}", subscription.unwrap_or_default());
    let bytes = message.body.len().to_string();
    message.headers.extend([("Sluiced-Body-Omitted", bytes), ("Sluiced-Body-At", path)]);
    message.body = Bytes::new();
}

/// Work on the store, on a thread that may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, store::Error> + Send + 'static,
) -> Result<T, String> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(|error| telemetry::chain(&error)),
        Err(broken) => Err(broken.to_string()),
    }
}
