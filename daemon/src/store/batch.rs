//! Changes of the state tree that are written as one.

use sled::IVec;

/// Keys with their new values; without one the key is removed. Later changes of a key win.
#[derive(Default)]
pub(super) struct Batch(Vec<(IVec, Option<IVec>)>);

impl Batch {
    /// Sets a key.
    pub(super) fn insert(&mut self, key: impl Into<IVec>, value: impl Into<IVec>) {
        self.0.push((key.into(), Some(value.into())));
    }

    /// Removes a key.
    pub(super) fn remove(&mut self, key: impl Into<IVec>) {
        self.0.push((key.into(), None));
    }

    /// The changes, in order.
    pub(super) fn changes(&self) -> &[(IVec, Option<IVec>)] {
        &self.0
    }

    /// As sled takes it.
    pub(super) fn to_sled(&self) -> sled::Batch {
        let mut batch = sled::Batch::default();
        for (key, value) in &self.0 {
            match value {
                Some(value) => batch.insert(key.clone(), value.clone()),
                None => batch.remove(key.clone()),
            }
        }
        batch
    }
}
