//! The document as a page for people: made here, of the document, without a script.

use std::fmt::Write as _;

use axum::response::Response;
use bytes::Bytes;
use http::HeaderValue;
use http::header::{CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use serde_json::{Map, Value};

use super::answer as respond;

/// How the page looks.
pub(super) const STYLE: &[u8] = include_bytes!("page.css");
/// Nothing but the daemon's own style sheet is loaded, and nothing runs.
const POLICY: &str =
    "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// How deep the fields of fields are shown: deeper ones are named by their schema.
const DEPTH_MAX: usize = 3;

/// The page of a document.
pub(super) fn answer(document: &[u8]) -> Response {
    let document: Value = serde_json::from_slice(document).expect("the daemon wrote it");
    let mut response = respond("text/html; charset=utf-8", Bytes::from(page(&document)));
    let headers = response.headers_mut();
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

/// One operation, with where it is.
struct Operation<'a> {
    method: &'a str,
    path: &'a str,
    about: &'a Value,
}

fn page(document: &Value) -> String {
    let mut html = String::with_capacity(128 << 10);
    html.push_str("<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">");
    html.push_str("<meta name=\"viewport\" content=\"width=device-width\"><title>sluiced: the API</title>");
    html.push_str("<link rel=\"stylesheet\" href=\"/docs/page.css\"></head><body>");
    let operations = operations(document);
    let tags: Vec<&Value> = document["tags"].as_array().into_iter().flatten().collect();
    html.push_str("<nav><h1>sluiced</h1>");
    for tag in &tags {
        let name = text(&tag["name"]);
        let _ = write!(html, "<h2>{}</h2><ul>", escaped(name));
        for one in of_tag(&operations, name) {
            let _ = write!(html, "<li><a href=\"#{}\"><b>{}</b> {}</a></li>", one.id(), one.verb(), escaped(one.path));
        }
        html.push_str("</ul>");
    }
    html.push_str("</nav><main>");
    let info = &document["info"];
    let _ = write!(
        html,
        "<p>{} Version {}. <a href=\"/api/v1/openapi.json\">The document</a> (OpenAPI {}) says the same to programs.</p>",
        prose(text(&info["description"])),
        escaped(text(&info["version"])),
        escaped(text(&document["openapi"])),
    );
    for tag in &tags {
        let name = text(&tag["name"]);
        let _ = write!(html, "<h2>{}</h2><p>{}</p>", escaped(name), prose(text(&tag["description"])));
        for one in of_tag(&operations, name) {
            one.write(&mut html, document);
        }
    }
    html.push_str("</main></body></html>\n");
    html
}

fn operations(document: &Value) -> Vec<Operation<'_>> {
    let paths = document["paths"].as_object().into_iter().flatten();
    let all = paths.flat_map(|(path, item)| {
        let methods = ["get", "post", "put", "patch", "delete"];
        methods.into_iter().filter_map(move |method| Some(Operation { method, path, about: item.get(method)? }))
    });
    all.collect()
}

fn of_tag<'a>(operations: &'a [Operation<'a>], tag: &'a str) -> impl Iterator<Item = &'a Operation<'a>> {
    operations.iter().filter(move |one| one.about["tags"][0] == tag)
}

impl Operation<'_> {
    fn id(&self) -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        format!("{}{}", self.method, self.path.chars().map(plain).collect::<String>())
    }

    fn verb(&self) -> String {
        self.method.to_ascii_uppercase()
    }

    fn write(&self, html: &mut String, document: &Value) {
        let _ = write!(
            html,
            "<section id=\"{}\"><h3><b class=\"{}\">{}</b> <code>{}</code></h3><p><strong>{}</strong></p>",
            self.id(),
            self.method,
            self.verb(),
            escaped(self.path),
            prose(text(&self.about["summary"])),
        );
        for paragraph in text(&self.about["description"]).split("\n\n").filter(|text| !text.is_empty()) {
            let _ = write!(html, "<p>{}</p>", prose(paragraph));
        }
        self.write_parameters(html);
        if let Some(content) = self.about["requestBody"]["content"].as_object() {
            html.push_str("<h4>Body</h4>");
            write_content(html, content, document);
        }
        html.push_str("<h4>Answers</h4>");
        for (status, response) in self.about["responses"].as_object().into_iter().flatten() {
            let response = resolved(response, document);
            let about = prose(text(&response["description"]));
            let _ = write!(html, "<details><summary><b>{}</b> {about}</summary>", escaped(status));
            if let Some(content) = response["content"].as_object() {
                write_content(html, content, document);
            }
            html.push_str("</details>");
        }
        html.push_str("</section>");
    }

    fn write_parameters(&self, html: &mut String) {
        let parameters: Vec<&Value> = self.about["parameters"].as_array().into_iter().flatten().collect();
        if parameters.is_empty() {
            return;
        }
        html.push_str("<h4>Parameters</h4><table>");
        for one in parameters {
            let name = format!("{} ({})", text(&one["name"]), text(&one["in"]));
            let required = one["required"] == true;
            write_row(html, 0, &name, &shape(&one["schema"]), required, text(&one["description"]));
        }
        html.push_str("</table>");
    }
}

fn write_content(html: &mut String, content: &Map<String, Value>, document: &Value) {
    for (kind, media) in content {
        let schema = &media["schema"];
        let _ = write!(html, "<p><code>{}</code> {}</p>", escaped(kind), escaped(&shape(schema)));
        let mut rows = String::new();
        write_fields(&mut rows, schema, document, 0);
        if !rows.is_empty() {
            let _ = write!(html, "<table>{rows}</table>");
        }
    }
}

/// A row for each field of an object, and of the objects in it.
fn write_fields(html: &mut String, schema: &Value, document: &Value, depth: usize) {
    let schema = resolved(schema, document);
    for part in ["allOf", "oneOf", "anyOf"].into_iter().filter_map(|word| schema[word].as_array()).flatten() {
        write_fields(html, part, document, depth);
    }
    let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let about = text(&field["description"]);
        write_row(html, depth, name, &shape(field), required.contains(&name.as_str()), about);
        if depth < DEPTH_MAX {
            let inner = if field["items"].is_null() { field } else { &field["items"] };
            write_fields(html, inner, document, depth + 1);
        }
    }
}

fn write_row(html: &mut String, depth: usize, name: &str, shape: &str, required: bool, about: &str) {
    let _ = write!(
        html,
        "<tr><td class=\"d{depth}\"><code>{}</code>{}</td><td>{}</td><td>{}</td></tr>",
        escaped(name),
        if required { " <b>*</b>" } else { "" },
        escaped(shape),
        prose(about),
    );
}

/// What a reference stands for.
fn resolved<'a>(schema: &'a Value, document: &'a Value) -> &'a Value {
    let pointer = schema["$ref"].as_str().and_then(|to| to.strip_prefix('#'));
    pointer.and_then(|pointer| document.pointer(pointer)).unwrap_or(schema)
}

/// A schema in a few words: its type and its bounds.
fn shape(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str().and_then(|to| to.rsplit('/').next()) {
        return name.to_owned();
    }
    if let Some(values) = schema["enum"].as_array() {
        let words: Vec<String> = values.iter().map(|value| text(value).to_owned()).collect();
        return words.join(" | ");
    }
    for word in ["oneOf", "anyOf"] {
        if let Some(parts) = schema[word].as_array() {
            return parts.iter().map(shape).collect::<Vec<_>>().join(" or ");
        }
    }
    let kind = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().map(text).collect::<Vec<_>>().join(" or "),
        kind => text(kind).to_owned(),
    };
    let mut shape = match &schema["items"] {
        Value::Null => kind,
        items => format!("list of {}", self::shape(items)),
    };
    let bounds = [
        ("minimum", "from"),
        ("maximum", "to"),
        ("minLength", "at least"),
        ("maxLength", "at most"),
        ("minItems", "at least"),
        ("maxItems", "at most"),
        ("default", "default"),
    ];
    for (key, word) in bounds.into_iter().filter(|(key, _)| !schema[*key].is_null()) {
        let _ = write!(shape, ", {word} {}", schema[key]);
    }
    shape
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A text with code between backticks.
fn prose(text: &str) -> String {
    let mut html = String::new();
    for (at, part) in text.split('`').enumerate() {
        let part = escaped(part);
        match at % 2 {
            0 => html.push_str(&part),
            _ => drop(write!(html, "<code>{part}</code>")),
        }
    }
    html
}
