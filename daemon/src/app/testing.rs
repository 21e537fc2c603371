//! Trials of webhooks: a request as a delivery would be made, of which nothing is recorded.

use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use crate::api::testing::{Tester, Trial, Tried};
use crate::deliver::Client;
use crate::deliver::prepared::Request;
use crate::domain::{DeliveryId, SubscriptionId};
use crate::pipeline::feed::Routes;
use crate::telemetry::clock;

/// What stands in the place of the stream in formats that name one.
const STREAM: &str = "TEST";

/// Makes trials with the daemon's own client, so that the address guard and the signatures are those of deliveries.
pub(super) struct Trials {
    pub(super) routes: Arc<ArcSwap<Routes>>,
    pub(super) client: Client,
}

impl Tester for Trials {
    fn test<'a>(&'a self, id: &'a SubscriptionId, trial: Trial) -> BoxFuture<'a, Option<Tried>> {
        async move {
            let endpoint = {
                let routes = self.routes.load();
                let at = routes.lanes.iter().position(|lane| lane.id() == id)?;
                Arc::clone(&routes.specs[at].load().endpoint)
            };
            let (at_ms, began) = (clock::now_ms(), Instant::now());
            let delivery = DeliveryId::from_bytes(rand::random());
            let event_id = format!("test_{:032x}", rand::random::<u128>());
            let request = Request {
                delivery,
                event_id: &event_id,
                event_type: trial.kind.as_str(),
                event_time_ms: at_ms,
                stream: STREAM,
                part: 0,
                parts: 1,
                attempt: 1,
                content_type: Some("application/json"),
                headers: &[],
                replay: None,
                test: true,
                body: Bytes::from(trial.data.to_string()),
                now_ms: at_ms,
            };
            let outcome = self.client.attempt(&endpoint, request).await;
            let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
            Some(Tried { id: delivery.to_string(), at_ms, took_ms, outcome })
        }
        .boxed()
    }
}
