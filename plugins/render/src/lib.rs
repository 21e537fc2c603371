//! `render`: a minijinja template makes the body and names its content type, for example a chat message.
//!
//! The template is compiled once, when the instance is configured. What it names and the event does not have is an error
//! with the template's line, so that a typing mistake is not delivered as a gap.

use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, UndefinedBehavior};
use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::IgnoredAny;
use sluiced_sdk::{Context, Error, Event, Headers, Output, Plugin, Transform};

/// What a subscription says about this plugin.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The minijinja template of the body. `data` is the payload, `event` has id, type, subject, stream, sequence,
    /// time_ms, content_type and headers (with lower-case names).
    pub template: String,
    /// The content type of what is rendered. Where it says JSON, what is rendered must be JSON: write values with the
    /// `tojson` filter.
    #[serde(default = "text_plain")]
    pub content_type: String,
    /// How values are escaped. Default: "html" where the content type says HTML, else "none".
    pub escape: Option<Escape>,
    /// Headers to set, for example `{"X-Room": "orders"}`. Their values are templates, too.
    #[serde(default)]
    pub headers: serde_json::Map<String, serde_json::Value>,
}

/// How values are escaped where the template prints them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Escape {
    /// They are printed as they are.
    None,
    /// For HTML and XML.
    Html,
    /// Every value is printed as JSON, with quotes where it is a text.
    Json,
}

/// The compiled templates.
pub struct Render {
    templates: Environment<'static>,
    content_type: String,
    checks_json: bool,
    headers: Vec<String>,
}

impl Plugin for Render {
    type Config = Config;

    const SUMMARY: &'static str = "Renders events with a minijinja template.";
    const NEEDS_HEADERS: Headers = Headers::All;

    fn new(config: Config) -> Result<Self, Error> {
        let mut templates = Environment::new();
        templates.set_undefined_behavior(UndefinedBehavior::Strict);
        // Costs nothing until something is wrong; then the error names the expression. By itself it is on in debug
        // builds only.
        templates.set_debug(true);
        let escape = config.escape.unwrap_or(match config.content_type.trim_start() {
            html if html.starts_with("text/html") || html.starts_with("application/xhtml") => Escape::Html,
            _ => Escape::None,
        });
        templates.set_auto_escape_callback(move |name| match escape {
            Escape::Html if name == BODY => AutoEscape::Html,
            Escape::Json if name == BODY => AutoEscape::Json,
            _ => AutoEscape::None,
        });
        templates.add_template_owned(BODY, config.template).map_err(|error| explain(&error))?;
        let mut headers = Vec::with_capacity(config.headers.len());
        for (name, template) in config.headers {
            let template = template.as_str().context(format!("`headers`: the value of {name:?} is not a string"))?;
            templates
                .add_template_owned(format!("{HEADER}{name}"), template.to_owned())
                .map_err(|error| explain(&error))?;
            headers.push(name);
        }
        let checks_json = sluiced_sdk::is_json_type(&config.content_type);
        Ok(Self { templates, content_type: config.content_type, checks_json, headers })
    }
}

impl Transform for Render {
    fn apply(&mut self, event: Event) -> Result<Vec<Output>, Error> {
        let scope = scope(&event)?;
        let body = self.render(BODY, &scope)?;
        if self.checks_json {
            serde_json::from_str::<IgnoredAny>(&body).map_err(|error| {
                Error::from(error).context("what was rendered is not JSON (write values with the tojson filter)")
            })?;
        }
        let mut output = Output::bytes(body).content_type(self.content_type.as_str());
        for name in &self.headers {
            output = output.header(name, self.render(&format!("{HEADER}{name}"), &scope)?);
        }
        Ok(vec![output])
    }
}

impl Render {
    fn render(&self, name: &str, scope: &Value) -> Result<String, Error> {
        self.templates.get_template(name).and_then(|template| template.render(scope)).map_err(|error| explain(&error))
    }
}

sluiced_sdk::export!(transform: Render);

const BODY: &str = "template";
const HEADER: &str = "header ";

fn text_plain() -> String {
    "text/plain; charset=utf-8".to_owned()
}

/// `data` and `event`, as the template sees them.
fn scope(event: &Event) -> Result<Value, Error> {
    let headers = event.headers.iter().map(|header| (header.name.to_ascii_lowercase(), header.value.as_str()));
    let described = Value::from_pairs([
        ("id", Value::from(event.id.as_str())),
        ("type", Value::from(event.type_.as_str())),
        ("subject", Value::from(event.subject.as_str())),
        ("stream", Value::from(event.stream.as_str())),
        ("sequence", Value::from(event.sequence)),
        ("time_ms", Value::from(event.time_ms)),
        ("content_type", Value::from(event.content_type.as_deref())),
        ("headers", Value::from_pairs(headers)),
    ]);
    Ok(Value::from_pairs([("data", data(event)?), ("event", described)]))
}

/// The payload: text where the content type says text, else JSON.
fn data(event: &Event) -> Result<Value, Error> {
    let is_text = event.content_type.as_deref().is_some_and(|content_type| content_type.trim().starts_with("text/"));
    if is_text {
        return Ok(Value::from(event.text()?));
    }
    if event.data.is_empty() {
        return Ok(Value::from(()));
    }
    serde_json::from_slice(&event.data).map_err(|error| Error::from(error).context("the payload is not JSON"))
}

/// What minijinja says of a template, with the line at the front.
fn explain(error: &minijinja::Error) -> Error {
    let place = match (error.name().unwrap_or(BODY), error.line()) {
        (BODY, Some(line)) => format!("`template`, line {line}: "),
        (BODY, None) => "`template`: ".to_owned(),
        (header, _) => format!("`headers`, {}: ", header.strip_prefix(HEADER).unwrap_or(header)),
    };
    let mut message = format!("{place}{}", error.kind());
    if let Some(detail) = error.detail() {
        message.push_str(": ");
        message.push_str(detail);
    }
    Error::new(message)
}

#[cfg(test)]
mod tests;
