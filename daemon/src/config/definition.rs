//! A webhook subscription that is defined over the API: the same keys and checks as one of the file, in one flat object.
//!
//! ```json
//! { "url": "https://crm.example/hook", "types": ["orders.>"], "retry": { "schedule": ["5s", "5m"] } }
//! ```
//! The keys are those of `[[subscription]]` and of its `webhook` table, side by side.

use std::collections::BTreeMap;

use figment::value::{Dict, Value};
use serde_json::{Map, Value as Json};

use super::begin::DATE_KEY;
use super::dump::{MASK, is_secret};
use super::layers::DELIVERY;
use super::places::{KeyPath, Places};
use super::raw::{self, Table};
use super::report::Report;
use super::{Config, shape, subscription, webhook};
use crate::domain::{Subscription, SubscriptionId};

/// The keys of a subscription itself; every other one is of its webhook.
const OF_SUBSCRIPTION: [&str; 5] = ["types", "filters", "transforms", "on_plugin_error", "deliver_from"];

/// One thing that is wrong with a definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flaw {
    /// The path of the key, such as `types[1]` or `retry.base`; empty for the definition as a whole.
    pub key: String,
    /// What is wrong and what would be right, without the value of any secret.
    pub reason: String,
}

impl Config {
    /// Checks a definition with the streams and defaults of this configuration.
    ///
    /// # Errors
    /// With everything that is wrong with it; at least one flaw.
    pub fn define(&self, id: &SubscriptionId, definition: &Map<String, Json>) -> Result<Subscription, Vec<Flaw>> {
        let places = Places::default();
        let mut report = Report::new(&places);
        let subscription = self.check_definition(id, definition, &mut report);
        report.finish(subscription).map_err(|error| {
            let flaw = |problem: super::Problem| Flaw { key: flat(&problem.place.key), reason: problem.reason };
            error.problems.into_iter().map(flaw).collect()
        })
    }

    /// The definition of a webhook that stands in the file, in the same shape, with `***` in the place of every secret. Its
    /// signing secret is left out.
    pub fn definition_of_file(&self, id: &SubscriptionId) -> Option<Map<String, Json>> {
        if let Some(settled) = self.layers.of_file.get(id.as_str()) {
            return serde_json::from_str(settled).ok();
        }
        let named = |table: &&Dict| table.get("name").and_then(Value::as_str) == Some(id.as_str());
        self.tables_of_file().find(named).and_then(shown)
    }

    /// The definitions of all webhooks of the file by their names, each as a text of JSON: they take little memory so.
    pub(super) fn definitions_of_file(&self) -> BTreeMap<Box<str>, Box<str>> {
        let text = |table: &Dict| {
            let name = table.get("name").and_then(Value::as_str)?;
            Some((name.into(), Json::Object(shown(table)?).to_string().into()))
        };
        self.tables_of_file().filter_map(text).collect()
    }

    fn tables_of_file(&self) -> impl Iterator<Item = &Dict> {
        let all = self.layers.values.get("subscription").and_then(Value::as_array);
        all.into_iter().flatten().filter_map(Value::as_dict)
    }

    fn check_definition(
        &self,
        id: &SubscriptionId,
        definition: &Map<String, Json>,
        report: &mut Report<'_>,
    ) -> Option<Subscription> {
        let root = KeyPath::default();
        let (mut own, mut endpoint) = (Dict::new(), Dict::new());
        for (key, value) in definition {
            let value = report.check(&root.key(key), Value::serialize(value))?;
            let of = if OF_SUBSCRIPTION.contains(&key.as_str()) { &mut own } else { &mut endpoint };
            of.insert(key.clone(), value);
        }
        own.insert("name".to_owned(), id.as_str().into());
        own.insert("webhook".to_owned(), endpoint.into());
        let raw: Table<raw::Subscription> = shape::read(own.into(), &root, report)?;
        let delivery = self.layers.values.get(DELIVERY).cloned()?;
        let delivery: Table<raw::Delivery> = shape::read(delivery, &KeyPath::top(DELIVERY), report)?;
        let defaults = webhook::Defaults::of(&delivery.0, &self.delivery);
        subscription::one(&root, raw.0, Some(&self.streams), Some(&defaults), report)
    }
}

/// The definition of a webhook as it stands in the file, without what is secret.
fn shown(table: &Dict) -> Option<Map<String, Json>> {
    let endpoint = table.get("webhook").and_then(Value::as_dict)?;
    let own = table.iter().filter(|(key, _)| OF_SUBSCRIPTION.contains(&key.as_str()));
    let both = own.chain(endpoint.iter().filter(|(key, _)| *key != "secret"));
    Some(both.map(|(key, value)| (key.clone(), masked(key, value, false))).collect())
}

/// A value as JSON, without what is secret; `secret` when a key above it says so. The values of plain headers hide too:
/// many receivers take their credentials there.
fn masked(key: &str, value: &Value, secret: bool) -> Json {
    // It says where a key stands, and holds none.
    let secret = key != "order_key" && (secret || is_secret(key));
    match value {
        Value::Dict(_, dict) if let Some(Value::String(_, date)) = dict.get(DATE_KEY) => date.as_str().into(),
        Value::Dict(_, dict) => dict
            .iter()
            .map(|(name, value)| {
                let value = if key == "order_key" { plain(value) } else { masked(name, value, secret) };
                (name.clone(), value)
            })
            .collect::<Map<_, _>>()
            .into(),
        Value::Array(_, list) => list.iter().map(|one| masked("", one, secret)).collect(),
        _ if secret => MASK.into(),
        other => plain(other),
    }
}

fn plain(value: &Value) -> Json {
    serde_json::to_value(value).unwrap_or_default()
}

/// The key as it stands in the flat object.
fn flat(key: &str) -> String {
    match key.strip_prefix("webhook") {
        Some("") => String::new(),
        Some(rest) => rest.trim_start_matches('.').to_owned(),
        None => key.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Overrides, load};

    fn config() -> Config {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let text = "[[stream]]\nname = \"EVENTS\"\nsubjects = [\"events.>\"]\ntype_prefix = \"events.\"\n";
        std::fs::write(file.path(), text).expect("written");
        load(Some(file.path()), std::iter::empty(), Overrides::default()).expect("valid")
    }

    fn define(text: &str) -> Result<Subscription, Vec<Flaw>> {
        let id = SubscriptionId::parse("wh_1").expect("valid");
        let definition = serde_json::from_str(text).expect("an object");
        config().define(&id, &definition)
    }

    fn keys(flaws: &[Flaw]) -> Vec<&str> {
        let mut keys: Vec<&str> = flaws.iter().map(|flaw| flaw.key.as_str()).collect();
        keys.sort_unstable();
        keys
    }

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    #[test]
    fn the_keys_of_the_file_stand_side_by_side() {
        let text = format!(
            r#"{{"url":"https://crm.example/hook","types":["orders.>"],"secret":"{SECRET}","max_in_flight":3,
                "retry":{{"schedule":["5s","5m"]}},"headers":{{"X-Team":"sales"}}}}"#
        );
        let subscription = define(&text).expect("valid");
        assert_eq!(subscription.id.as_str(), "wh_1");
        let crate::domain::Target::Webhook(endpoint) = subscription.target else { panic!("a webhook") };
        assert_eq!((endpoint.in_flight_max.get(), endpoint.retry.attempts_max()), (3, 3));
        assert_eq!(&*endpoint.headers[0].value, "sales");
    }

    #[test]
    fn a_webhook_of_the_file_is_shown_in_the_same_shape_without_its_secrets() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let text = format!(
            r#"
            [[stream]]
            name = "EVENTS"
            subjects = ["events.>"]
            type_prefix = "events."
            [[subscription]]
            name = "crm"
            types = ["orders.>"]
            filters = [{{ plugin = "jq", config = {{ expr = ".a", api_key = "hush" }} }}]
            webhook = {{ url = "https://a.example/", secret = "{SECRET}", headers = {{ X = "hush" }}, max_in_flight = 3, ordering = "key", order_key = {{ token = 2 }} }}
            "#
        );
        std::fs::write(file.path(), text).expect("written");
        let config = load(Some(file.path()), std::iter::empty(), Overrides::default()).expect("valid");
        let id = SubscriptionId::parse("crm").expect("valid");
        let shown = Json::Object(config.definition_of_file(&id).expect("it is there"));
        let expected = serde_json::json!({
            "url": "https://a.example/", "types": ["orders.>"], "headers": { "X": "***" }, "max_in_flight": 3,
            "ordering": "key", "order_key": { "token": 2 },
            "filters": [{ "plugin": "jq", "config": { "expr": ".a", "api_key": "***" } }],
        });
        assert_eq!(shown, expected);
        assert!(config.definition_of_file(&SubscriptionId::parse("other").expect("valid")).is_none());
    }

    #[test]
    fn every_flaw_is_told_with_its_key() {
        // What has no shape is told first, what has it is then checked.
        let shapeless = define(r#"{"url":7,"types":"orders","nonsense":1,"sse":{}}"#).expect_err("broken");
        assert_eq!(keys(&shapeless), ["nonsense", "sse", "types", "url"]);
        let text = r#"{"url":"https://x","types":[">"],"filters":[{"plugin":"jq","memory_mib_max":1025}]}"#;
        assert_eq!(keys(&define(text).expect_err("too much")), ["filters[0].memory_mib_max"]);
        let text = r#"{"url":"ftp://x","types":["a..b"],"retry":{"base":"soon"},"max_in_flight":0}"#;
        assert_eq!(keys(&define(text).expect_err("broken")), ["max_in_flight", "retry.base", "types[0]", "url"]);
    }
}
