//! Whether a webhook is active: the store keeps that with what else it knows of a subscription.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::{Registry, Stopping, blocking, flaw, unavailable};
use crate::api::subscriptions::Lanes;
use crate::api::webhooks::{Refused, Webhook};
use crate::deliver::health::Resume;
use crate::domain::SubscriptionId;
use crate::store::{Disabled, Registration};

/// The key that says whether anything is to be delivered.
const ACTIVE: &str = "active";
/// Why a webhook is disabled that was made inactive.
const INACTIVE: &str = "made inactive over the API";

impl Registry {
    /// Is it not disabled, as far as the store can say?
    pub(super) fn is_active(&self, id: &SubscriptionId) -> bool {
        self.store.registration(id).ok().flatten().is_none_or(|known| known.disabled.is_none())
    }

    /// Says where what runs is found, once it is.
    pub(in crate::app) fn run_on(&self, lanes: Arc<dyn Lanes>) {
        // It is called once; a second place would change nothing.
        drop(self.lanes.set(lanes));
    }

    /// Has a webhook that is about to be made begin disabled. It is durable before the definition is: whenever the daemon
    /// ends, there is no instant at which the webhook could run.
    pub(super) async fn begin_inactive(&self, id: &SubscriptionId, now_ms: u64) -> Result<(), Refused> {
        let disabled = Some(Disabled { reason: INACTIVE.into(), since_ms: now_ms, endpoint: None });
        let known = Registration { first_seen_ms: now_ms, updated_ms: now_ms, disabled, ..Registration::default() };
        let (store, id) = (self.store.clone(), id.clone());
        blocking(move || store.put_registration(&id, &known).map_err(unavailable)).await
    }

    /// Enables or disables a webhook that runs, durably.
    pub(super) async fn set_active(&self, webhook: &mut Webhook, active: Option<bool>) -> Result<(), Refused> {
        let Some(active) = active.filter(|active| *active != webhook.is_active) else { return Ok(()) };
        let lanes = self.lanes.get().ok_or_else(|| unavailable(Stopping))?;
        let lane = lanes.lanes().into_iter().find(|lane| *lane.id() == webhook.id);
        let lane = lane.ok_or_else(|| unavailable(Stopping))?;
        let set = match active {
            true => lanes.enable(&lane, Resume::Stop),
            false => lanes.disable(&lane, INACTIVE.into()),
        };
        set.await.map_err(unavailable)?;
        webhook.is_active = active;
        Ok(())
    }
}

/// Takes out of a definition whether it is to be active.
pub(super) fn take_active(definition: &mut Map<String, Value>) -> Result<Option<bool>, Refused> {
    match definition.remove(ACTIVE) {
        None => Ok(None),
        Some(Value::Bool(active)) => Ok(Some(active)),
        Some(_) => Err(flaw(ACTIVE, "must be true or false".to_owned())),
    }
}
