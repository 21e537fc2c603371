//! A webhook subscription that is defined over the API: the same keys and checks as one of the file, in one flat object.
//!
//! ```json
//! { "url": "https://crm.example/hook", "types": ["orders.>"], "retry": { "schedule": ["5s", "5m"] } }
//! ```
//! The keys are those of `[[subscription]]` and of its `webhook` table, side by side.

use figment::value::{Dict, Value};
use serde_json::{Map, Value as Json, json};

use super::dump::{MASK, is_secret};
use super::layers::DELIVERY;
use super::places::{KeyPath, Places};
use super::raw::{self, Table};
use super::report::{Report, short};
use super::{Config, shape, subscription, webhook};
use crate::domain::{Pattern, PluginRef, Subscription, SubscriptionId, Target};

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

    /// The definition of a webhook that stands in the file, in the same shape, as it is in effect: what it delivers, where
    /// to, and by which plugins, with `***` in the place of every secret. Its signing secret is left out.
    pub fn definition_of_file(&self, id: &SubscriptionId) -> Option<Map<String, Json>> {
        let subscription = self.subscriptions.iter().find(|one| one.id == *id)?;
        let Target::Webhook(endpoint) = &subscription.target else { return None };
        let types: Vec<&str> = subscription.types.iter().map(Pattern::as_str).collect();
        let headers: Map<_, _> = endpoint.headers.iter().map(|h| (h.name.to_string(), Json::from(MASK))).collect();
        let plugins = |list: &[PluginRef]| -> Json {
            let one = |used: &PluginRef| json!({ "plugin": used.plugin, "config": masked_text(&used.config) });
            list.iter().map(one).collect()
        };
        let mut shown = Map::new();
        for (key, value) in [
            ("url", json!(endpoint.url)),
            ("types", json!(types)),
            ("filters", plugins(&subscription.filters)),
            ("transforms", plugins(&subscription.transforms)),
            ("headers", headers.into()),
            ("max_in_flight", json!(endpoint.in_flight_max)),
            ("connect_timeout", json!(short(endpoint.connect_timeout))),
            ("timeout", json!(short(endpoint.total_timeout))),
        ] {
            shown.insert(key.to_owned(), value);
        }
        Some(shown)
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

/// A plugin's configuration without what its keys call secret.
fn masked_text(config: &str) -> Json {
    fn mask(value: &mut Json, secret: bool) {
        match value {
            Json::Object(object) => {
                object.iter_mut().for_each(|(key, value)| mask(value, secret || is_secret(key)));
            }
            Json::Array(list) => list.iter_mut().for_each(|value| mask(value, secret)),
            value if secret => *value = MASK.into(),
            _ => {}
        }
    }
    let mut value = serde_json::from_str(config).unwrap_or_default();
    mask(&mut value, false);
    value
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
        let expected = json!({
            "url": "https://a.example/", "types": ["orders.>"], "headers": { "X": "***" }, "max_in_flight": 3,
            "filters": [{ "plugin": "jq", "config": { "expr": ".a", "api_key": "***" } }], "transforms": [],
            "connect_timeout": "5s", "timeout": "15s",
        });
        let settled = config.clone().settled().definition_of_file(&id);
        assert_eq!(settled.map(Json::Object).as_ref(), Some(&shown), "also when its text is gone");
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
