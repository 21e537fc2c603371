//! Pieces of configuration that most tests share.

use std::fmt::Write as _;

use crate::events::SECRET;
use crate::receiver::TestReceiver;

/// The stream of most tests: `EVENTS` with `events.>`, made by the daemon.
pub const EVENTS: &str = r#"
[[stream]]
name = "EVENTS"
subjects = ["events.>"]
type_prefix = "events."
create = true
"#;

/// A webhook subscription to every type, as configuration text.
#[derive(Debug, Clone)]
pub struct Webhook {
    name: String,
    url: String,
    plugins: String,
    settings: String,
}

impl Webhook {
    /// A subscription that delivers every event to `receiver`, signed with [`SECRET`].
    pub fn new(name: &str, receiver: &TestReceiver) -> Self {
        let url = receiver.url(&format!("/{name}"));
        Self { name: name.to_owned(), url, plugins: String::new(), settings: String::new() }
    }

    /// Sets a key of the webhook, with its value as TOML.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl std::fmt::Display) -> Self {
        writeln!(self.settings, "{key} = {value}").expect("a text can be written to");
        self
    }

    /// Sets a key of the subscription, with its value as TOML: filters, transforms, a policy.
    #[must_use]
    pub fn subscribed_with(mut self, key: &str, value: impl std::fmt::Display) -> Self {
        writeln!(self.plugins, "{key} = {value}").expect("a text can be written to");
        self
    }

    /// The table of the configuration.
    pub fn toml(&self) -> String {
        let Self { name, url, plugins, settings } = self;
        format!(
            "\n[[subscription]]\nname = {name:?}\ntypes = [\">\"]\n{plugins}[subscription.webhook]\nurl = {url:?}\n\
             secret = {SECRET:?}\n{settings}"
        )
    }
}

/// A whole configuration: what stands before the stream, the stream [`EVENTS`], and the webhooks.
pub fn config(head: &str, webhooks: &[Webhook]) -> String {
    let tables: String = webhooks.iter().map(Webhook::toml).collect();
    format!("{head}\n{EVENTS}{tables}")
}
