//! NATS at the start: connected to, its streams opened, and waited for as long as it cannot be reached.

use std::time::Duration;

use tracing::{debug, warn};

use super::managed::Managed;
use super::{Error, announce, dead_letters, parts};
use crate::config::Config;
use crate::domain::{Pattern, StreamName, SubscriptionId};
use crate::ingest::{self, Live, Nats};
use crate::pipeline::Spec;
use crate::store::{Store, StreamBinding};
use crate::telemetry::chain;
use crate::telemetry::health::{Condition, Health};

/// The first and the longest pause between two tries; each is twice the one before.
const RETRY_DELAY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));

/// A stream that is ready to be read.
pub(super) struct OpenStream {
    pub(super) name: StreamName,
    pub(super) live: Live,
    /// Nothing at or below it comes again, and above it the log is read.
    pub(super) floor: u64,
    /// It has taken the place of an older stream of that name.
    pub(super) replaced: bool,
}

/// The floors of streams, by their names.
pub(super) fn floors(streams: &[OpenStream]) -> Vec<(StreamName, u64)> {
    streams.iter().map(|open| (open.name.clone(), open.floor)).collect()
}

/// NATS, reached.
pub(super) struct Reached {
    /// The nats-server of the daemon's own, if it runs one.
    pub(super) broker: Option<Managed>,
    pub(super) nats: Nats,
    pub(super) streams: Vec<OpenStream>,
}

/// Connects and opens the streams. It waits without end for a server that cannot be reached or is not ready: readiness says
/// what it waits for.
///
/// # Errors
/// With whatever does not pass by itself: what the configuration and NATS do not agree about.
pub(super) async fn reach(
    config: &Config,
    store: &Store,
    specs: &[(SubscriptionId, Spec)],
    health: &Health,
) -> Result<Reached, Error> {
    let broker = match config.nats.managed {
        true => Some(Managed::start(parts::managed(config)).await?),
        false => None,
    };
    let mut to = parts::nats(config, specs);
    if let Some(broker) = &broker {
        to.urls = vec![broker.url().to_owned()];
        announce(&config.data_dir, "nats-url", broker.url())?;
    }
    let wanted = Wanted::by(specs);
    let (mut pause, mut told) = (RETRY_DELAY.0, None);
    // A stream is found to be another one only once, also when what follows has to be tried again.
    let mut replaced = Vec::new();
    loop {
        let tried = async {
            let nats = Nats::connect(to.clone()).await?;
            dead_letters::check(config, &nats, specs).await?;
            let mut streams = Vec::new();
            for stream in nats.streams() {
                streams.push(open_stream(&nats, store, stream, &wanted, &mut replaced).await?);
            }
            Ok::<_, Error>((nats, streams))
        };
        let error = match tried.await {
            Ok((nats, streams)) => {
                health.set("nats", Condition::Ready);
                return Ok(Reached { broker, nats, streams });
            }
            Err(Error::Ingest(error)) if error.is_passing() => chain(&error),
            Err(error) => return Err(error),
        };
        health.set("nats", Condition::Failing(format!("{error}, trying again")));
        if told.as_ref() == Some(&error) {
            debug!(error, "nats does not answer, trying again");
        } else {
            warn!(error, "nats does not answer, trying again");
        }
        told = Some(error);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_DELAY.1);
    }
}

/// What the webhook subscriptions want of the streams.
struct Wanted {
    /// Every event type that one of them asks for.
    types: Vec<Pattern>,
    /// The longest time for which one of them retries.
    horizon: Duration,
}

impl Wanted {
    fn by(specs: &[(SubscriptionId, Spec)]) -> Self {
        let mut types: Vec<Pattern> = specs.iter().flat_map(|(_, spec)| spec.types.iter().cloned()).collect();
        types.sort();
        types.dedup();
        let horizon = specs.iter().map(|(_, spec)| spec.retry.horizon()).max().unwrap_or_default();
        Self { types, horizon }
    }
}

/// Opens a stream's consumer, and says from which floor on the store's log is to be read.
async fn open_stream(
    nats: &Nats,
    store: &Store,
    stream: &ingest::StreamConfig,
    wanted: &Wanted,
    replaced: &mut Vec<StreamName>,
) -> Result<OpenStream, Error> {
    let facts = nats.facts(&stream.name).await?;
    if store.bind_stream(&stream.name, facts.identity)? == StreamBinding::Replaced {
        warn!(stream = %stream.name, "the stream was made anew, what the store knew of the old one no longer counts");
        replaced.push(stream.name.clone());
    }
    if !facts.keeps_acked {
        warn!(
            stream = %stream.name,
            "the stream has work-queue or interest retention and forgets what is acked: what an endpoint cannot take is \
             parked with its body, up to delivery.max_overflow deliveries of a subscription; beyond it the stream waits"
        );
    }
    if let Some(age_max) = facts.age_max.filter(|age_max| *age_max < wanted.horizon) {
        let (age_max, horizon) = (humantime::format_duration(age_max), humantime::format_duration(wanted.horizon));
        warn!(
            stream = %stream.name, %age_max, %horizon,
            "the stream keeps events for less long than deliveries are retried: a subscription that is held for longer has a gap"
        );
    }
    let checkpoint = store.checkpoint(&stream.name)?;
    let live = Live::open(nats.clone(), stream.clone(), facts.identity, &wanted.types, checkpoint).await?;
    let floor = live.floor_before().max(checkpoint.unwrap_or(0));
    let replaced = replaced.contains(&stream.name);
    Ok(OpenStream { name: stream.name.clone(), live, floor, replaced })
}
