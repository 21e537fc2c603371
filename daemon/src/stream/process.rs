//! What a named stream's plugins do, as this stage needs it.

use futures_util::future::BoxFuture;

use crate::domain::{Event, Output};
use crate::plugin::{Chain, Passed};

/// What the plugins made of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Processed {
    /// It goes on as these outputs; one or more.
    Kept(Vec<Output>),
    /// It ends here.
    Dropped,
    /// A plugin failed and the subscription does not let such an event pass: it is dropped, and counted as a fault.
    Faulted,
}

/// The plugins of one named stream. Several events may be run at once.
pub trait Process: Send + Sync + 'static {
    /// Are there no plugins? Then every event goes on as it is, and `run` is not called.
    fn is_empty(&self) -> bool;

    /// Runs one event through the plugins.
    fn run<'a>(&'a self, event: &'a Event) -> BoxFuture<'a, Processed>;

    /// The plugins themselves, for one who asks what they say of an event and why.
    fn chain(&self) -> Option<&Chain> {
        None
    }
}

impl Process for Chain {
    fn is_empty(&self) -> bool {
        Self::is_empty(self)
    }

    fn run<'a>(&'a self, event: &'a Event) -> BoxFuture<'a, Processed> {
        Box::pin(async move {
            match Self::run(self, event).await.passed {
                Passed::Kept(outputs) => Processed::Kept(outputs),
                Passed::Dropped { .. } => Processed::Dropped,
                Passed::Faulted { .. } => Processed::Faulted,
            }
        })
    }

    fn chain(&self) -> Option<&Chain> {
        Some(self)
    }
}

/// No plugins.
#[cfg(test)]
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct NoPlugins;

#[cfg(test)]
impl Process for NoPlugins {
    fn is_empty(&self) -> bool {
        true
    }

    fn run<'a>(&'a self, event: &'a Event) -> BoxFuture<'a, Processed> {
        let output = Output { data: event.data.clone(), content_type: None, headers: Vec::new(), kind: None };
        Box::pin(std::future::ready(Processed::Kept(vec![output])))
    }
}
