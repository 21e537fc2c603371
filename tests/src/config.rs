//! The text of a daemon's configuration, made of the few parts that tests differ in.

use std::fmt::{self, Write as _};

use crate::events::SECRET;

/// The stream `EVENTS` of `events.>`; an event's type is its subject less `events.`. The daemon creates it.
pub const EVENTS: &str = "\
[[stream]]
name = \"EVENTS\"
subjects = [\"events.>\"]
type_prefix = \"events.\"
create = true
";

/// A webhook subscription, as a table of the configuration when it is displayed.
#[derive(Debug, Clone)]
pub struct Hook {
    name: String,
    types: Vec<String>,
    settings: Vec<String>,
    webhook: Vec<String>,
}

impl Hook {
    /// A subscription to every event, signed with [`SECRET`].
    pub fn new(name: &str, url: &str) -> Self {
        let webhook = vec![format!("url = {url:?}"), format!("secret = {SECRET:?}")];
        Self { name: name.to_owned(), types: vec![">".to_owned()], settings: Vec::new(), webhook }
    }

    /// Only events of these types.
    #[must_use]
    pub fn types(mut self, types: &[&str]) -> Self {
        self.types = types.iter().map(ToString::to_string).collect();
        self
    }

    /// A filter: a plugin and its configuration, a TOML table.
    #[must_use]
    pub fn filter(self, plugin: &str, config: &str) -> Self {
        self.set("filters", &format!("[{{ plugin = {plugin:?}, config = {config} }}]"))
    }

    /// A transform: a plugin and its configuration, a TOML table.
    #[must_use]
    pub fn transform(self, plugin: &str, config: &str) -> Self {
        self.set("transforms", &format!("[{{ plugin = {plugin:?}, config = {config} }}]"))
    }

    /// A key of the subscription, its value as TOML.
    #[must_use]
    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.settings.push(format!("{key} = {value}"));
        self
    }

    /// A key of its webhook, its value as TOML.
    #[must_use]
    pub fn webhook(mut self, key: &str, value: &str) -> Self {
        self.webhook.push(format!("{key} = {value}"));
        self
    }

    /// One attempt at once and one after each of these waits, to the millisecond.
    #[must_use]
    pub fn retry_after(self, waits: &[&str]) -> Self {
        self.webhook("retry", &format!("{{ schedule = {waits:?}, jitter = 0 }}"))
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "[[subscription]]\nname = {:?}\ntypes = {:?}", self.name, self.types)?;
        for setting in &self.settings {
            writeln!(f, "{setting}")?;
        }
        writeln!(f, "[subscription.webhook]")?;
        for setting in &self.webhook {
            writeln!(f, "{setting}")?;
        }
        Ok(())
    }
}

/// A configuration with the stream [`EVENTS`] and these subscriptions.
pub fn with_hooks(hooks: &[Hook]) -> String {
    hooks.iter().fold(EVENTS.to_owned(), |mut text, hook| {
        let _ = write!(text, "{hook}");
        text
    })
}
