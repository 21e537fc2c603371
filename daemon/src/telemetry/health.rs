//! What the daemon's parts say of their own condition: the source of `/readyz`.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// Whether a part can do its work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// It can.
    Ready,
    /// It can, and there is something that an operator should know: a text without secrets.
    Noted(String),
    /// It cannot, and why: a text for an operator, without secrets.
    Failing(String),
}

impl Condition {
    /// `Ready`, or `Failing` with the error and its sources.
    pub fn of<T, E: std::error::Error>(result: &Result<T, E>) -> Self {
        match result {
            Ok(_) => Self::Ready,
            Err(error) => Self::Failing(super::chain(error)),
        }
    }
}

/// The condition of every part by its name. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Health(Arc<Mutex<BTreeMap<&'static str, Condition>>>);

impl Health {
    /// The parts that must be ready before the daemon is; each counts as failing until it says otherwise.
    pub fn new(components: impl IntoIterator<Item = &'static str>) -> Self {
        let starting = || Condition::Failing("not started yet".to_owned());
        Self(Arc::new(Mutex::new(components.into_iter().map(|name| (name, starting())).collect())))
    }

    /// Says how a part is now.
    pub fn set(&self, component: &'static str, condition: Condition) {
        self.0.lock().insert(component, condition);
    }

    /// Nothing more is to be said of a part that is not asked for by name.
    pub fn clear(&self, component: &'static str) {
        self.0.lock().remove(component);
    }

    /// Is every part ready?
    pub fn is_ready(&self) -> bool {
        self.0.lock().values().all(|condition| !matches!(condition, Condition::Failing(_)))
    }

    /// Every part with its condition, by name.
    pub fn report(&self) -> Vec<(&'static str, Condition)> {
        self.0.lock().iter().map(|(name, condition)| (*name, condition.clone())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_ready_when_every_part_is() {
        let health = Health::new(["nats", "store"]);
        assert!(!health.is_ready());
        health.set("nats", Condition::Ready);
        assert!(!health.is_ready());
        health.set("store", Condition::Ready);
        assert!(health.is_ready());
        let broken: Result<(), std::fmt::Error> = Err(std::fmt::Error);
        health.set("store", Condition::of(&broken));
        assert!(!health.is_ready());
        assert_eq!(health.report()[0], ("nats", Condition::Ready));
        health.set("store", Condition::Noted("large".to_owned()));
        assert!(health.is_ready(), "a note is no failure");
        health.clear("store");
        assert_eq!(health.report().len(), 1);
    }
}
