//! `cloudevents`: makes a CloudEvent in structured mode of an event, and the other way round.

mod time;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sluiced_sdk::{Context, Error, Event, Headers, Output, Plugin, Transform};

/// The media type of a CloudEvent in structured mode.
const STRUCTURED: &str = "application/cloudevents+json";

/// What a subscription says about this plugin.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Which way.
    pub to: Form,
    /// The CloudEvent's `source`, a URI reference. Default "/" and the stream's name. Only with "structured".
    pub source: Option<String>,
    /// What the CloudEvent's `type` begins with, before the event's type, for example "com.example.". Only with
    /// "structured".
    pub type_prefix: Option<String>,
}

/// The form to bring an event into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// One JSON object with the attributes and the data.
    Structured,
    /// The data alone; the attributes go into headers `ce-…`, and the CloudEvent's type becomes the event's.
    Raw,
}

/// Brings events into one form.
pub struct CloudEvents(Config);

/// A CloudEvent in structured mode, as it is written.
#[derive(Serialize)]
struct Written<'a> {
    specversion: &'a str,
    id: &'a str,
    source: &'a str,
    r#type: &'a str,
    time: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    datacontenttype: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    data_base64: Option<String>,
}

/// A CloudEvent in structured mode, as it is read.
#[derive(Deserialize)]
struct Read<'a> {
    specversion: String,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    data_base64: Option<String>,
    datacontenttype: Option<String>,
    #[serde(flatten)]
    attributes: serde_json::Map<String, serde_json::Value>,
}

impl Plugin for CloudEvents {
    type Config = Config;

    const SUMMARY: &'static str = "Makes a structured CloudEvent of an event, or an event of a structured CloudEvent.";
    const NEEDS_HEADERS: Headers = Headers::Named(&["ce-source"]);

    fn new(config: Config) -> Result<Self, Error> {
        if config.to == Form::Raw && (config.source.is_some() || config.type_prefix.is_some()) {
            return Err(Error::new("`source` and `type_prefix` are only for `to` = \"structured\""));
        }
        if config.source.as_deref() == Some("") {
            return Err(Error::new("`source` is empty: a CloudEvent needs one"));
        }
        Ok(Self(config))
    }
}

impl Transform for CloudEvents {
    fn apply(&mut self, event: Event) -> Result<Vec<Output>, Error> {
        let output = match self.0.to {
            Form::Structured => self.structured(&event)?,
            Form::Raw => raw(&event)?,
        };
        Ok(vec![output])
    }
}

sluiced_sdk::export!(transform: CloudEvents);

impl CloudEvents {
    fn structured(&self, event: &Event) -> Result<Output, Error> {
        if event.content_type.as_deref().is_some_and(|kind| kind.trim().starts_with(STRUCTURED)) {
            return Ok(Output::bytes(event.data.clone()));
        }
        // What says that it is JSON and is not goes as bytes, as does everything that does not say so.
        let json = event.content_type.is_none() || event.is_json();
        let data = json.then(|| serde_json::from_slice::<&RawValue>(&event.data).ok()).flatten();
        let is_empty = event.data.is_empty();
        let own = format!("/{}", event.stream);
        let given = self.0.source.as_deref().or_else(|| event.header("ce-source"));
        let written = Written {
            specversion: "1.0",
            id: &event.id,
            source: given.unwrap_or(&own),
            r#type: &format!("{}{}", self.0.type_prefix.as_deref().unwrap_or_default(), event.type_),
            time: &time::rfc3339(event.time_ms),
            datacontenttype: event.content_type.as_deref().or_else(|| data.map(|_| "application/json")),
            data,
            data_base64: (data.is_none() && !is_empty).then(|| STANDARD.encode(&event.data)),
        };
        Ok(Output::json(&written)?.content_type(STRUCTURED))
    }
}

fn raw(event: &Event) -> Result<Output, Error> {
    let mut read: Read<'_> = serde_json::from_slice(&event.data)
        .map_err(|error| Error::from(error).context("the payload is not a structured CloudEvent"))?;
    if read.specversion != "1.0" {
        return Err(Error::new(format!("the CloudEvent is of version {}, not 1.0", read.specversion)));
    }
    let data = match (read.data, read.data_base64) {
        (Some(_), Some(_)) => return Err(Error::new("the CloudEvent has both `data` and `data_base64`")),
        (None, None) => Vec::new(),
        (None, Some(text)) => STANDARD.decode(text).context("`data_base64` is not base64")?,
        (Some(data), None) => {
            let json = read.datacontenttype.as_deref().is_none_or(sluiced_sdk::is_json_type);
            // Text of another type stands in the CloudEvent as a JSON string.
            let text = if json { None } else { serde_json::from_str::<String>(data.get()).ok() };
            text.map_or_else(|| data.get().as_bytes().to_vec(), String::into_bytes)
        }
    };
    let mut output = Output::bytes(data);
    output = output.content_type(read.datacontenttype.as_deref().unwrap_or("application/json"));
    read.attributes.insert("specversion".to_owned(), read.specversion.into());
    for (name, value) in &read.attributes {
        let text = match value {
            serde_json::Value::String(text) => text.clone(),
            serde_json::Value::Null => continue,
            other => other.to_string(),
        };
        if name == "type" {
            output = output.event_type(text.clone());
        }
        output = output.header(format!("ce-{name}"), text);
    }
    if output.type_.is_none() {
        return Err(Error::new("the CloudEvent has no `type`"));
    }
    Ok(output)
}

#[cfg(test)]
mod tests;
