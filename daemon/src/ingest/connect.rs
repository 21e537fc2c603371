//! The daemon's one NATS connection, and the facts of its streams.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::{RawMessageErrorKind, RetentionPolicy, StorageType};
use tracing::{info, warn};

use super::Error;
use crate::domain::{Pattern, StreamName, cover_of_at_most};

/// How long a reply from JetStream's API may take.
const API_TIMEOUT: Duration = Duration::from_secs(10);
/// The first and the longest wait between two attempts to connect again.
const RECONNECT_DELAY_MS: (u64, u64) = (50, 2_000);
/// The filter subjects of one consumer: nats-server compares each with each other whenever the consumer is made or changed.
pub(super) const FILTER_SUBJECTS_MAX: usize = 256;
/// How long an idempotency key is remembered by a stream that the daemon creates.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// Where NATS is, who we are there, and which streams we read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The servers' URLs.
    pub urls: Vec<String>,
    /// A credentials file (JWT and nkey seed).
    pub credentials_file: Option<PathBuf>,
    /// A token.
    pub token: Option<Hidden>,
    /// A user name with its password.
    pub user: Option<(String, Hidden)>,
    /// A CA certificate file (PEM) for the server's TLS.
    pub ca_file: Option<PathBuf>,
    /// The durable consumer's name; daemons that share a store must use the same one.
    pub consumer_name: String,
    /// The most messages that JetStream hands out unacknowledged, per stream.
    pub ack_pending_max: u32,
    /// After how long JetStream sends a message again that was neither acked nor reported as in progress.
    pub ack_wait: Duration,
    /// The streams.
    pub streams: Vec<StreamConfig>,
}

/// A text that must not reach a log: no `Debug` output, no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Hidden(pub String);

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// One stream that the daemon reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamConfig {
    /// Its name.
    pub name: StreamName,
    /// The subjects it takes.
    pub subjects: Vec<Pattern>,
    /// What to cut off a subject to get the event type.
    pub type_prefix: Box<str>,
    /// Make it when it does not exist.
    pub create: bool,
}

impl StreamConfig {
    /// The event type of a subject of this stream.
    pub fn event_type<'a>(&self, subject: &'a str) -> &'a str {
        subject.strip_prefix(&*self.type_prefix).filter(|rest| !rest.is_empty()).unwrap_or(subject)
    }

    /// The subjects of this stream that patterns over event types ask for.
    pub fn subjects_for<'a>(&self, types: impl IntoIterator<Item = &'a Pattern>) -> Vec<Pattern> {
        types
            .into_iter()
            .filter_map(|pattern| pattern.prefixed(&self.type_prefix).ok())
            .filter(|subject| self.subjects.iter().any(|own| own.overlaps(subject)))
            .collect()
    }
}

/// What matters about a stream as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamFacts {
    /// The first sequence that is still there.
    pub first_sequence: u64,
    /// The last sequence that was given out.
    pub last_sequence: u64,
    /// When it was made, in nanoseconds since the Unix epoch: tells a stream from another one of the same name.
    pub identity: u64,
    /// How many messages it holds.
    pub messages: u64,
    /// How many bytes these are, headers included.
    pub bytes: u64,
    /// Does it keep acked messages, so that it can be read again?
    pub keeps_acked: bool,
    /// How long it keeps a message; `None` is for ever.
    pub age_max: Option<Duration>,
}

/// The daemon's connection to NATS. Cloning shares it.
#[derive(Clone)]
pub struct Nats {
    pub(super) jetstream: jetstream::Context,
    pub(super) client: async_nats::Client,
    pub(super) config: Arc<Config>,
    /// The streams that forget what is acked.
    forgetful: Arc<[StreamName]>,
}

impl Nats {
    /// Connects, checks the server's version, and makes or checks every configured stream.
    ///
    /// # Errors
    /// When the server cannot be reached or used, or a stream is missing or has other subjects.
    pub async fn connect(config: Config) -> Result<Self, Error> {
        let url = config.urls.join(",");
        let servers = config
            .urls
            .iter()
            .map(|u| u.parse::<async_nats::ServerAddr>())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|source| Error::Setting { setting: "url", source: source.into() })?;
        let client = options(&config)?
            .connect(servers)
            .await
            .map_err(|source| Error::Connect { url: url.clone(), source: source.into() })?;
        let version = client.server_info().version;
        if !client.is_server_compatible(2, 10, 0) {
            return Err(Error::ServerTooOld { url, version });
        }
        info!(url, version, "connected to nats");
        let mut jetstream = jetstream::new(client.clone());
        jetstream.set_timeout(API_TIMEOUT);
        let mut nats = Self { jetstream, client, config: Arc::new(config), forgetful: Arc::default() };
        nats.jetstream.query_account().await.map_err(|e| Error::JetStream(e.into()))?;
        let mut forgetful = Vec::new();
        for stream in &nats.config.streams {
            nats.ensure_stream(stream).await?;
            if !nats.facts(&stream.name).await?.keeps_acked {
                forgetful.push(stream.name.clone());
            }
        }
        nats.forgetful = forgetful.into();
        Ok(nats)
    }

    /// The streams as configured.
    pub fn streams(&self) -> &[StreamConfig] {
        &self.config.streams
    }

    /// The configured stream of that name.
    pub fn stream(&self, name: &StreamName) -> Option<&StreamConfig> {
        self.config.streams.iter().find(|s| s.name == *name)
    }

    /// Did the stream forget what is acked when the daemon connected? It has work-queue or interest retention, and nothing
    /// that was acked can be read again.
    pub fn is_forgetful(&self, name: &StreamName) -> bool {
        self.forgetful.contains(name)
    }

    /// The subjects that a consumer of a stream asks for, for the sake of those event types. Where the stream keeps what is
    /// acked, others may come too.
    pub(super) fn filter_for<'a>(
        &self,
        stream: &StreamConfig,
        types: impl IntoIterator<Item = &'a Pattern>,
    ) -> Vec<Pattern> {
        let max = if self.is_forgetful(&stream.name) { usize::MAX } else { FILTER_SUBJECTS_MAX };
        cover_of_at_most(max, stream.subjects_for(types))
    }

    /// Is the connection up at this moment?
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// What a stream holds now.
    ///
    /// # Errors
    /// When the stream is gone or JetStream does not answer.
    pub async fn facts(&self, name: &StreamName) -> Result<StreamFacts, Error> {
        let fail = |source| Error::Stream { action: "read the facts of", stream: name.clone(), source };
        let stream = self.jetstream.get_stream(name.as_str()).await.map_err(|e| fail(e.into()))?;
        let info = stream.cached_info();
        Ok(StreamFacts {
            first_sequence: info.state.first_sequence,
            last_sequence: info.state.last_sequence,
            identity: identity(info),
            messages: info.state.messages,
            bytes: info.state.bytes,
            keeps_acked: info.config.retention == RetentionPolicy::Limits,
            age_max: (!info.config.max_age.is_zero()).then_some(info.config.max_age),
        })
    }

    /// When the event at a sequence was stored, in milliseconds since the Unix epoch; `None` when it is not there.
    ///
    /// # Errors
    /// When the stream is gone or JetStream does not answer.
    pub async fn time_of(&self, name: &StreamName, sequence: u64) -> Result<Option<u64>, Error> {
        let fail = |source| Error::Stream { action: "read an event of", stream: name.clone(), source };
        let stream = self.jetstream.get_stream(name.as_str()).await.map_err(|e| fail(e.into()))?;
        match stream.get_raw_message(sequence).await {
            Ok(message) => Ok(u64::try_from(message.time.unix_timestamp_nanos() / 1_000_000).ok()),
            Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
            Err(error) => Err(fail(error.into())),
        }
    }

    /// Sends out what is still buffered: acks at the end of a run.
    pub async fn flush(&self) {
        if let Err(error) = self.client.flush().await {
            warn!(%error, "could not flush the nats connection");
        }
    }

    async fn ensure_stream(&self, config: &StreamConfig) -> Result<(), Error> {
        let fail = |action, source| Error::Stream { action, stream: config.name.clone(), source };
        match self.jetstream.get_stream(config.name.as_str()).await {
            Ok(stream) => check_subjects(config, &stream.cached_info().config.subjects),
            Err(error) => match error.kind() {
                GetStreamErrorKind::JetStream(e) if e.error_code() == ErrorCode::STREAM_NOT_FOUND && config.create => {
                    let new = jetstream::stream::Config {
                        name: config.name.as_str().to_owned(),
                        subjects: config.subjects.iter().map(ToString::to_string).collect(),
                        storage: StorageType::File,
                        duplicate_window: DUPLICATE_WINDOW,
                        allow_direct: true,
                        ..Default::default()
                    };
                    self.jetstream.create_stream(new).await.map_err(|e| fail("create", e.into()))?;
                    info!(stream = %config.name, "created the stream");
                    Ok(())
                }
                GetStreamErrorKind::JetStream(e) if e.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                    Err(Error::NoStream { stream: config.name.clone() })
                }
                _ => Err(fail("look up", error.into())),
            },
        }
    }
}

/// What tells a stream from another one of its name: when it was made, in nanoseconds since the Unix epoch.
pub(super) fn identity(info: &jetstream::stream::Info) -> u64 {
    u64::try_from(info.created.unix_timestamp_nanos()).unwrap_or_default()
}

fn check_subjects(config: &StreamConfig, has: &[String]) -> Result<(), Error> {
    let own: Vec<Pattern> = has.iter().filter_map(|s| Pattern::parse(s).ok()).collect();
    let taken = |need: &Pattern| own.iter().any(|o| o.contains(need));
    if config.subjects.iter().all(taken) {
        return Ok(());
    }
    let needs = config.subjects.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    Err(Error::Subjects { stream: config.name.clone(), has: has.join(" "), needs })
}

fn options(config: &Config) -> Result<async_nats::ConnectOptions, Error> {
    let mut options = async_nats::ConnectOptions::new()
        .name("sluiced")
        .ping_interval(Duration::from_secs(10))
        .connection_timeout(Duration::from_secs(5))
        .reconnect_delay_callback(|attempts| {
            let (first, longest) = RECONNECT_DELAY_MS;
            let doublings = u32::try_from(attempts.min(10)).unwrap_or(10);
            Duration::from_millis((first << doublings).min(longest))
        })
        .event_callback(|event| async move {
            match event {
                async_nats::Event::Connected => info!("nats connection is up"),
                async_nats::Event::Closed => info!("nats connection is closed"),
                async_nats::Event::LameDuckMode => info!("nats server announces its shutdown"),
                async_nats::Event::Disconnected => warn!("nats connection is down"),
                other => warn!(event = %other, "nats connection event"),
            }
        });
    if let Some(token) = &config.token {
        options = options.token(token.0.clone());
    }
    if let Some((user, password)) = &config.user {
        options = options.user_and_password(user.clone(), password.0.clone());
    }
    if let Some(file) = &config.ca_file {
        options = options.add_root_certificates(file.clone());
    }
    if let Some(file) = &config.credentials_file {
        let fail = |source: std::io::Error| Error::Setting { setting: "credentials_file", source: source.into() };
        let text = std::fs::read_to_string(file).map_err(fail)?;
        options = options.credentials(&text).map_err(fail)?;
    }
    Ok(options)
}
