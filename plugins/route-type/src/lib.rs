//! `route-type`: gives an event another type, and headers, made of what stands in its payload.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};
use sluiced_sdk::{Context, Error, Event, Output, Plugin, Transform};

/// What a subscription says about this plugin.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The new event type, for example "orders.{/country}.{/status}": a JSON pointer (RFC 6901) in braces stands for the
    /// text, number or truth value there. Without it the type stays.
    pub r#type: Option<String>,
    /// Headers to set, each a text of the same form.
    #[serde(default)]
    pub headers: Map<String, Value>,
    /// What stands for a place where there is nothing. Without it such an event is an error.
    pub missing: Option<String>,
}

/// A part of a template.
enum Piece {
    Text(String),
    Pointer(String),
}

struct Template(Vec<Piece>);

/// The templates, parsed.
pub struct RouteType {
    kind: Option<Template>,
    headers: Vec<(String, Template)>,
    missing: Option<String>,
}

impl Plugin for RouteType {
    type Config = Config;

    const SUMMARY: &'static str = "Gives an event another type, and headers, made of its payload.";

    fn new(config: Config) -> Result<Self, Error> {
        if config.r#type.is_none() && config.headers.is_empty() {
            return Err(Error::new("there is nothing to do: give a `type` or `headers`"));
        }
        let kind = config.r#type.map(|text| Template::parse(&text).context("`type`")).transpose()?;
        let mut headers = Vec::new();
        for (name, value) in config.headers {
            let text = value.as_str().context(format!("the header `{name}` is not a text"))?;
            headers.push((name.clone(), Template::parse(text).context(format!("the header `{name}`"))?));
        }
        Ok(Self { kind, headers, missing: config.missing })
    }
}

impl Transform for RouteType {
    fn apply(&mut self, event: Event) -> Result<Vec<Output>, Error> {
        let payload: Value = event.json()?;
        let missing = self.missing.as_deref();
        let mut output = Output::bytes(Vec::new());
        if let Some(kind) = &self.kind {
            // A dot in a value would make more tokens of it than the template says.
            output = output.event_type(kind.fill(&payload, missing, |text| text.replace(['.', ' ', '*', '>'], "_"))?);
        }
        for (name, template) in &self.headers {
            output = output.header(name, template.fill(&payload, missing, str::to_owned)?);
        }
        output.data = event.data;
        Ok(vec![output])
    }
}

sluiced_sdk::export!(transform: RouteType);

impl Template {
    fn parse(text: &str) -> Result<Self, Error> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let (pointer, behind) = after.split_once('}').context("a `{` has no `}`")?;
            if !pointer.is_empty() && !pointer.starts_with('/') {
                return Err(Error::new(format!("`{{{pointer}}}` is not a JSON pointer: it must begin with `/`")));
            }
            pieces.push(Piece::Text(before.to_owned()));
            pieces.push(Piece::Pointer(pointer.to_owned()));
            rest = behind;
        }
        pieces.push(Piece::Text(rest.to_owned()));
        Ok(Self(pieces))
    }

    fn fill(&self, payload: &Value, missing: Option<&str>, clean: impl Fn(&str) -> String) -> Result<String, Error> {
        let mut filled = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => filled.push_str(text),
                Piece::Pointer(pointer) => match (payload.pointer(pointer), missing) {
                    (Some(Value::String(text)), _) => filled.push_str(&clean(text)),
                    (Some(value @ (Value::Number(_) | Value::Bool(_))), _) => {
                        filled.push_str(&clean(&value.to_string()));
                    }
                    (None | Some(Value::Null), Some(missing)) => filled.push_str(missing),
                    (None | Some(Value::Null), None) => {
                        return Err(Error::new(format!("the payload has nothing at {pointer}")));
                    }
                    (Some(_), _) => {
                        return Err(Error::new(format!("what stands at {pointer} is not a text or number")));
                    }
                },
            }
        }
        Ok(filled)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use sluiced_sdk::test::{Fixtures, event};

    use super::*;

    fn apply(config: &Value, payload: &str) -> Result<Output, String> {
        let mut plugin: RouteType =
            sluiced_sdk::component::make(&config.to_string()).map_err(|error| error.to_string())?;
        let mut outputs = plugin.apply(event("a").json(payload).build()).map_err(|error| error.to_string())?;
        assert_eq!(outputs.len(), 1);
        Ok(outputs.remove(0))
    }

    #[test]
    fn fixtures() {
        Fixtures::new("fixtures").transform::<RouteType>().run();
    }

    #[test]
    fn the_type_keeps_the_tokens_of_its_template() {
        let config = json!({ "type": "orders.{/country}.{/n}", "headers": { "X-Country": "in {/country}!" } });
        let output = apply(&config, r#"{"country":"a.b c","n":7}"#).unwrap();
        assert_eq!(output.type_.as_deref(), Some("orders.a_b_c.7"));
        assert_eq!(output.headers[0].value, "in a.b c!");
        assert_eq!(output.data, br#"{"country":"a.b c","n":7}"#);
    }

    #[test]
    fn what_is_missing_is_an_error_or_what_the_configuration_says() {
        let missing = json!({ "type": "a.{/b}" });
        assert!(apply(&missing, r#"{"b":null}"#).unwrap_err().contains("nothing at /b"));
        assert!(apply(&missing, r#"{"b":{}}"#).unwrap_err().contains("not a text"));
        let config = json!({ "type": "a.{/b}", "missing": "none" });
        assert_eq!(apply(&config, "{}").unwrap().type_.as_deref(), Some("a.none"));
    }

    #[test]
    fn a_wrong_configuration_is_told() {
        for (config, word) in [
            (json!({}), "nothing to do"),
            (json!({ "type": "a.{/b" }), "no `}`"),
            (json!({ "type": "a.{b}" }), "JSON pointer"),
            (json!({ "headers": { "X": 1 } }), "not a text"),
        ] {
            let error = apply(&config, "{}").unwrap_err();
            assert!(error.contains(word), "{error}");
        }
    }
}
