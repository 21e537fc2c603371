//! A filter that keeps events whose field has at least a given value, and a transform that marks them.
//!
//! This is what `sluiced plugin new` makes: an example to change. A plugin needs only one of both roles; take out the
//! other's `impl`, and leave it out of `export!` at the end.

use serde::Deserialize;
use sluiced_sdk::{Context, Error, Event, Filter, Output, Plugin, Transform, Verdict};

/// The configuration. These comments become descriptions in its JSON Schema.
#[derive(Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The field to look at.
    field: String,
    /// The least value that counts as large.
    min: f64,
}

/// The plugin: whatever `new` makes of a configuration.
pub struct AtLeast(Config);

impl Plugin for AtLeast {
    type Config = Config;
    const SUMMARY: &'static str = "Keeps, or marks, events whose field has at least a given value.";

    fn new(config: Config) -> Result<Self, Error> {
        if config.field.is_empty() {
            return Err(Error::new(
                "`field` is empty: name the field to look at, for example \"amount\"",
            ));
        }
        Ok(Self(config))
    }
}

impl AtLeast {
    fn value(&self, payload: &serde_json::Value) -> Result<f64, Error> {
        let field = &self.0.field;
        payload[field].as_f64().context(format!("`{field}` is not a number"))
    }
}

impl Filter for AtLeast {
    fn keep(&mut self, event: &Event) -> Result<Verdict, Error> {
        let value = self.value(&event.json()?)?;
        if value >= self.0.min {
            return Ok(Verdict::Keep);
        }
        sluiced_sdk::debug!("dropping {}", event.id);
        Ok(Verdict::drop_because(format!("{value} is less than {}", self.0.min)))
    }
}

impl Transform for AtLeast {
    fn apply(&mut self, event: Event) -> Result<Vec<Output>, Error> {
        let mut payload: serde_json::Value = event.json()?;
        payload["large"] = (self.value(&payload)? >= self.0.min).into();
        Ok(vec![Output::json(&payload)?])
    }
}

sluiced_sdk::export!(filter + transform: AtLeast);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_just_enough_is_kept() {
        let mut plugin = AtLeast::new(Config { field: "amount".into(), min: 100.0 }).unwrap();
        let event = sluiced_sdk::test::event("orders.created").json(r#"{"amount": 100}"#).build();
        assert_eq!(plugin.keep(&event).unwrap(), Verdict::Keep);
    }

    /// The same files that `sluiced plugin test` runs on the component, run natively.
    #[test]
    fn fixtures() {
        sluiced_sdk::test::Fixtures::new("fixtures")
            .filter::<AtLeast>()
            .transform::<AtLeast>()
            .run();
    }
}
