//! The bare loop: pull, sign, post, acknowledge, and nothing else. What every deliverer on JetStream has to pay, so the
//! measure of what filters, transforms and records add.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use async_nats::jetstream::consumer::{AckPolicy, PullConsumer, pull};
use async_nats::jetstream::{self, Message};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::StreamExt as _;
use hmac::{Hmac, KeyInit as _, Mac as _};
use reqwest::Client;
use serde_json::json;
use sha2::Sha256;
use sluiced_tests::{SECRET, http};
use tokio::io::AsyncReadExt as _;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::clock::now_us;
use crate::setup::{IN_FLIGHT_MAX, STREAM};

/// Its durable consumer.
pub(crate) const CONSUMER: &str = "bare";

const BATCH_MESSAGES: usize = 500;
const HEARTBEAT: Duration = Duration::from_secs(5);
/// A message that does not come within this means that the loop is stuck.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);
/// All in flight, and one and a half batches that wait here.
const ACK_PENDING_MAX: i64 = (BATCH_MESSAGES * 3 / 2 + IN_FLIGHT_MAX) as i64;

#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The NATS server
    #[arg(long)]
    nats: String,
    /// Where to post
    #[arg(long)]
    url: String,
    /// How many messages to take
    #[arg(long)]
    messages: u64,
    /// Of how many messages one is posted; the others are only acknowledged
    #[arg(long, default_value_t = 1)]
    every: u64,
    /// How often each is posted before it is acknowledged
    #[arg(long, default_value_t = 1)]
    copies: u64,
    /// Requests at a time
    #[arg(long, default_value_t = IN_FLIGHT_MAX)]
    in_flight: usize,
}

/// The process: delivers, prints a line, and stays to be looked at until its standard input ends.
pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    let client = async_nats::connect(&arguments.nats).await?;
    let mut messages = consumer(jetstream::new(client.clone())).await?;
    let poster = Poster { client: http::client(), url: arguments.url, keyed: keyed()? };
    let mut posts = JoinSet::new();
    for number in 0..arguments.messages {
        let message = timeout(MESSAGE_TIMEOUT, messages.next()).await?.context("the consumer is gone")??;
        if number % arguments.every > 0 {
            message.ack().await.map_err(anyhow::Error::from_boxed)?;
            continue;
        }
        let message = Arc::new(message);
        for _ in 0..arguments.copies {
            if posts.len() >= arguments.in_flight {
                posts.join_next().await.context("there are some")???;
            }
            posts.spawn(poster.clone().deliver(Arc::clone(&message)));
        }
        finish(message).await?;
    }
    while let Some(posted) = posts.join_next().await {
        posted??;
    }
    client.flush().await?;
    println!("{}", json!("delivered"));
    tokio::io::stdin().read_to_end(&mut Vec::new()).await?;
    Ok(())
}

async fn consumer(jetstream: jetstream::Context) -> Result<pull::Stream> {
    let config = pull::Config {
        durable_name: Some(CONSUMER.to_owned()),
        ack_policy: AckPolicy::Explicit,
        max_ack_pending: ACK_PENDING_MAX,
        ..Default::default()
    };
    let consumer: PullConsumer = jetstream.get_stream(STREAM).await?.create_consumer(config).await?;
    Ok(consumer.stream().max_messages_per_batch(BATCH_MESSAGES).heartbeat(HEARTBEAT).messages().await?)
}

fn keyed() -> Result<Hmac<Sha256>> {
    let secret = STANDARD.decode(SECRET.trim_start_matches("whsec_"))?;
    Ok(Hmac::new_from_slice(&secret)?)
}

#[derive(Clone)]
struct Poster {
    client: Client,
    url: String,
    keyed: Hmac<Sha256>,
}

impl Poster {
    async fn deliver(self, message: Arc<Message>) -> Result<()> {
        let sequence = message.info().map_err(anyhow::Error::from_boxed)?.stream_sequence;
        let id = format!("msg_{sequence}");
        let timestamp = (now_us() / 1_000_000).to_string();
        let mut mac = self.keyed;
        for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", &message.payload] {
            mac.update(part);
        }
        let signature = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
        let request = self.client.post(&self.url).header("content-type", "application/json").header("webhook-id", id);
        let request = request.header("webhook-timestamp", timestamp).header("webhook-signature", signature);
        let mut response = request.body(message.payload.clone()).send().await?;
        ensure!(response.status().is_success(), "the receiver answered {}", response.status());
        while response.chunk().await?.is_some() {}
        finish(message).await
    }
}

/// Acknowledges the message, if this is the last that has it.
async fn finish(message: Arc<Message>) -> Result<()> {
    let Some(message) = Arc::into_inner(message) else { return Ok(()) };
    message.ack().await.map_err(anyhow::Error::from_boxed)
}
