//! The traits that an author implements.

use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use crate::{Error, Event, Output, Verdict};

/// What every plugin is: something made of a configuration.
///
/// The plugin's name and version are those of the crate that calls [`export!`](crate::export).
pub trait Plugin: Sized {
    /// The configuration. Its JSON Schema comes from `schemars`, and the doc comments on its fields become the schema's
    /// descriptions. Put `#[serde(deny_unknown_fields)]` on it, so that a misspelt key is refused.
    type Config: DeserializeOwned + JsonSchema;

    /// One line on what the plugin does.
    const SUMMARY: &'static str;

    /// Does it read [`Event::data`]? When not, the daemon does not copy the payload into the sandbox.
    const NEEDS_PAYLOAD: bool = true;

    /// Which headers it reads.
    const NEEDS_HEADERS: Headers = Headers::None;

    /// Makes the plugin. Do here whatever need not be done for each event: compile, parse, build tables.
    ///
    /// # Errors
    /// What is wrong with the configuration and how to put it right, for whoever wrote it.
    fn new(config: Self::Config) -> Result<Self, Error>;
}

/// A plugin that decides whether an event goes on.
pub trait Filter: Plugin {
    /// Judges one event. Keep no state that matters: an instance may be thrown away between two events.
    ///
    /// # Errors
    /// A fault of the plugin or of the event; the subscription's `on_plugin_error` decides what becomes of the event.
    fn keep(&mut self, event: &Event) -> Result<Verdict, Error>;
}

/// A plugin that makes what is delivered out of an event.
pub trait Transform: Plugin {
    /// Makes zero or more outputs of one event; zero drops it. Keep no state that matters: an instance may be thrown
    /// away between two events.
    ///
    /// # Errors
    /// A fault of the plugin or of the event; the subscription's `on_plugin_error` decides what becomes of the event.
    fn apply(&mut self, event: Event) -> Result<Vec<Output>, Error>;
}

/// Which of an event's headers a plugin wants to see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Headers {
    /// None of them.
    None,
    /// All of them.
    All,
    /// Those with these names, whatever their case.
    Named(&'static [&'static str]),
}
