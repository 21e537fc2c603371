//! What a plugin says of itself, and its configuration checked against that.

use jsonschema::{PatternOptions, Validator};
use serde_json::Value;

use super::bindings::v1::sluiced::plugin::types as guest;
use super::error::Error;

/// What a plugin says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// The plugin's own name; its users know it by its file's name.
    pub name: Box<str>,
    /// Its own version.
    pub version: Box<str>,
    /// One line on what it does.
    pub summary: Box<str>,
    /// The JSON Schema (2020-12) of its configuration, as a JSON text.
    pub config_schema: Box<str>,
    /// Does it read the payload?
    pub needs_payload: bool,
    /// Which headers it reads.
    pub needs_headers: HeaderNeeds,
}

/// Which headers of an event a plugin reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderNeeds {
    /// None of them.
    None,
    /// All of them.
    All,
    /// Those with these names, whatever their case.
    Named(Vec<Box<str>>),
}

impl HeaderNeeds {
    /// Does the plugin read the header of that name?
    pub fn includes(&self, name: &str) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Named(names) => names.iter().any(|wanted| wanted.eq_ignore_ascii_case(name)),
        }
    }
}

impl From<guest::Description> for Description {
    fn from(said: guest::Description) -> Self {
        Self {
            name: said.name.into(),
            version: said.version.into(),
            summary: said.summary.into(),
            config_schema: said.config_schema.into(),
            needs_payload: said.needs_payload,
            needs_headers: match said.needs_headers {
                guest::HeaderNeeds::None => HeaderNeeds::None,
                guest::HeaderNeeds::All => HeaderNeeds::All,
                guest::HeaderNeeds::Named(names) => {
                    HeaderNeeds::Named(names.into_iter().map(String::into_boxed_str).collect())
                }
            },
        }
    }
}

/// Checks configurations against a plugin's schema.
pub(super) struct ConfigCheck {
    validator: Validator,
}

impl ConfigCheck {
    /// A check against that schema, a JSON text.
    ///
    /// # Errors
    /// When the text is not JSON, or not a JSON Schema.
    pub(super) fn new(plugin: &str, schema: &str) -> Result<Self, Error> {
        let schema: Value =
            serde_json::from_str(schema).map_err(|source| Error::SchemaText { plugin: plugin.into(), source })?;
        // Only patterns that match in linear time: a schema comes from a plugin, and nothing of a plugin may block.
        let validator = jsonschema::options()
            .with_pattern_options(PatternOptions::regex())
            .build(&schema)
            .map_err(|error| Error::Schema { plugin: plugin.into(), reason: error.to_string().into() })?;
        Ok(Self { validator })
    }

    /// Does that configuration, a JSON text, fit?
    ///
    /// # Errors
    /// When it is not JSON or does not fit the schema; the error names the first offending place.
    pub(super) fn check(&self, plugin: &str, config: &str) -> Result<(), Error> {
        let config: Value =
            serde_json::from_str(config).map_err(|source| Error::ConfigText { plugin: plugin.into(), source })?;
        let Err(error) = self.validator.validate(&config) else { return Ok(()) };
        let pointer = match error.instance_path().as_str() {
            "" => "/",
            pointer => pointer,
        };
        let reason = error.masked().to_string().into();
        Err(Error::Config { plugin: plugin.into(), pointer: pointer.into(), reason })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMA: &str = r#"{
        "type": "object",
        "properties": {"expr": {"type": "string"}, "list": {"type": "array", "items": {"pattern": "^/"}}},
        "required": ["expr"],
        "additionalProperties": false
    }"#;

    fn refusal(config: &str) -> String {
        let check = ConfigCheck::new("p", SCHEMA).unwrap();
        check.check("p", config).unwrap_err().to_string()
    }

    #[test]
    fn a_config_that_does_not_fit_is_refused_with_pointer_and_reason() {
        assert!(ConfigCheck::new("p", SCHEMA).unwrap().check("p", r#"{"expr": "."}"#).is_ok());
        assert_eq!(
            refusal(r#"{"expr": 17}"#),
            r#"the configuration of the plugin `p` at `/expr`: value is not of type "string""#
        );
        assert_eq!(refusal("{}"), r#"the configuration of the plugin `p` at `/`: "expr" is a required property"#);
        assert!(refusal(r#"{"expr": ".", "list": ["/a", "b"]}"#).contains("`/list/1`"));
        assert!(refusal(r#"{"expr": ".", "exrp": 1}"#).contains("'exrp' was unexpected"));
        assert!(refusal("{").contains("is not JSON"));
    }

    #[test]
    fn values_are_not_shown() {
        assert!(!refusal(r#"{"expr": ["hunter2"]}"#).contains("hunter2"));
    }

    #[test]
    fn a_schema_that_is_none_is_refused() {
        assert!(matches!(ConfigCheck::new("p", "{"), Err(Error::SchemaText { .. })));
        assert!(matches!(ConfigCheck::new("p", r#"{"type": 5}"#), Err(Error::Schema { .. })));
    }

    #[test]
    fn headers_are_compared_without_regard_to_case() {
        let needs = HeaderNeeds::Named(vec!["X-Team".into()]);
        assert!(needs.includes("x-team"));
        assert!(!needs.includes("x-tea"));
        assert!(HeaderNeeds::All.includes("any"));
        assert!(!HeaderNeeds::None.includes("any"));
    }
}
