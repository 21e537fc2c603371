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

/// A webhook subscription, to every type unless it is told otherwise, as configuration text.
#[derive(Debug, Clone)]
pub struct Webhook {
    name: String,
    url: String,
    types: Vec<String>,
    plugins: String,
    settings: String,
    secret: Option<String>,
}

impl Webhook {
    /// A subscription that delivers every event to `receiver`, signed with [`SECRET`].
    pub fn new(name: &str, receiver: &TestReceiver) -> Self {
        Self::to(name, &receiver.url(&format!("/{name}")))
    }

    /// A subscription that delivers every event to a URL, signed with [`SECRET`].
    pub fn to(name: &str, url: &str) -> Self {
        let (plugins, settings, secret) = (String::new(), String::new(), Some(SECRET.to_owned()));
        Self { name: name.to_owned(), url: url.to_owned(), types: vec![">".to_owned()], plugins, settings, secret }
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
        self.subscribed_with("filters", format_args!("[{{ plugin = {plugin:?}, config = {config} }}]"))
    }

    /// A transform: a plugin and its configuration, a TOML table.
    #[must_use]
    pub fn transform(self, plugin: &str, config: &str) -> Self {
        self.subscribed_with("transforms", format_args!("[{{ plugin = {plugin:?}, config = {config} }}]"))
    }

    /// One attempt at once and one after each of these waits, to the millisecond.
    #[must_use]
    pub fn retry_after(self, waits: &[&str]) -> Self {
        self.with("retry", format_args!("{{ schedule = {waits:?}, jitter = 0 }}"))
    }

    /// Signed with this secret, or with one that the daemon makes.
    #[must_use]
    pub fn secret(mut self, secret: Option<&str>) -> Self {
        self.secret = secret.map(str::to_owned);
        self
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
        let Self { name, url, types, plugins, settings, secret } = self;
        let secret = secret.as_ref().map(|secret| format!("secret = {secret:?}\n")).unwrap_or_default();
        format!(
            "\n[[subscription]]\nname = {name:?}\ntypes = {types:?}\n{plugins}[subscription.webhook]\nurl = {url:?}\n\
             {secret}{settings}"
        )
    }
}

/// A whole configuration: what stands before the stream, the stream [`EVENTS`], and the webhooks.
pub fn config(head: &str, webhooks: &[Webhook]) -> String {
    let tables: String = webhooks.iter().map(Webhook::toml).collect();
    format!("{head}\n{EVENTS}{tables}")
}
