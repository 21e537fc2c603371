//! `schema`: keeps the events whose payload fits a JSON Schema, and says of the others why they do not.

use jsonschema::Validator;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use sluiced_sdk::{Error, Event, Filter, Plugin, Verdict};

/// What a subscription says about this plugin.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The JSON Schema (2020-12 unless its `$schema` says another draft). References to other documents are not followed.
    pub schema: Value,
    /// Keep the events that do not fit, and drop those that do. Default false.
    #[serde(default)]
    pub invert: bool,
}

/// The schema, compiled.
pub struct Schema {
    validator: Validator,
    invert: bool,
}

/// How many reasons are told of one event.
const REASONS_MAX: usize = 3;

impl Plugin for Schema {
    type Config = Config;

    const SUMMARY: &'static str = "Keeps the events whose payload fits a JSON Schema.";

    fn new(config: Config) -> Result<Self, Error> {
        let validator = jsonschema::validator_for(&config.schema)
            .map_err(|error| Error::new(format!("`schema` is not a JSON Schema: {error}")))?;
        Ok(Self { validator, invert: config.invert })
    }
}

impl Filter for Schema {
    fn keep(&mut self, event: &Event) -> Result<Verdict, Error> {
        let payload: Value = match event.json() {
            Ok(payload) => payload,
            Err(_) if self.invert => return Ok(Verdict::Keep),
            Err(error) => return Ok(Verdict::drop_because(error.to_string())),
        };
        if self.invert {
            let fits = self.validator.is_valid(&payload);
            return Ok(if fits { Verdict::drop_because("the payload fits the schema") } else { Verdict::Keep });
        }
        let mut reasons = self.validator.iter_errors(&payload).map(|error| match error.instance_path().as_str() {
            "" => error.to_string(),
            place => format!("{place}: {error}"),
        });
        let told: Vec<String> = reasons.by_ref().take(REASONS_MAX).collect();
        if told.is_empty() {
            return Ok(Verdict::Keep);
        }
        let more = reasons.count();
        let rest = if more > 0 { format!("; and {more} more") } else { String::new() };
        Ok(Verdict::drop_because(format!("{}{rest}", told.join("; "))))
    }
}

sluiced_sdk::export!(filter: Schema);

#[cfg(test)]
mod tests {
    use serde_json::json;
    use sluiced_sdk::test::{Fixtures, event};

    use super::*;

    fn keep(config: &Value, payload: &str) -> Result<Verdict, String> {
        let mut schema: Schema =
            sluiced_sdk::component::make(&config.to_string()).map_err(|error| error.to_string())?;
        schema.keep(&event("a").json(payload).build()).map_err(|error| error.to_string())
    }

    #[test]
    fn fixtures() {
        Fixtures::new("fixtures").filter::<Schema>().run();
    }

    #[test]
    fn the_first_reasons_are_told_and_the_others_counted() {
        let config = json!({ "schema": { "items": { "type": "integer" } } });
        assert_eq!(keep(&config, "[1,2]"), Ok(Verdict::Keep));
        let Ok(Verdict::Drop(Some(reason))) = keep(&config, r#"["a","b","c","d","e"]"#) else { panic!("dropped") };
        assert!(reason.starts_with("/0: ") && reason.ends_with("; and 2 more"), "{reason}");
    }

    #[test]
    fn inverted_it_keeps_what_does_not_fit() {
        let config = json!({ "schema": { "required": ["id"] }, "invert": true });
        assert_eq!(keep(&config, "{}"), Ok(Verdict::Keep));
        assert_eq!(keep(&config, "not json"), Ok(Verdict::Keep));
        assert!(matches!(keep(&config, r#"{"id":1}"#), Ok(Verdict::Drop(Some(_)))));
    }

    #[test]
    fn a_wrong_schema_is_told() {
        let error = keep(&json!({ "schema": { "type": "integre" } }), "1").unwrap_err();
        assert!(error.contains("not a JSON Schema"), "{error}");
    }
}
