//! The values of the expression's global variables.

use std::collections::BTreeMap;

use jaq_json::{Map, Num, Val};
use sluiced_sdk::{Error, Event};

/// `$event`: everything but the payload.
pub(crate) fn event(event: &Event) -> Val {
    let number = |n: u64| Val::Num(Num::from_integral(n));
    let mut object = Map::default();
    let mut put = |key: &str, value| object.insert(text(key), value);
    put("id", text(&event.id));
    put("type", text(&event.type_));
    put("subject", text(&event.subject));
    put("stream", text(&event.stream));
    put("sequence", number(event.sequence));
    put("time_ms", number(event.time_ms));
    put("content_type", event.content_type.as_deref().map_or(Val::Null, text));
    put("headers", headers(event));
    Val::obj(object)
}

/// A value of the configuration, as jaq has it.
pub(crate) fn value(value: &serde_json::Value) -> Result<Val, Error> {
    Ok(crate::read::json(value.to_string().as_bytes())?)
}

/// The headers by lower-case name; the values of a repeated one are joined by a comma, as HTTP has it.
fn headers(event: &Event) -> Val {
    let mut joined = BTreeMap::<String, String>::new();
    for header in &event.headers {
        joined
            .entry(header.name.to_ascii_lowercase())
            .and_modify(|value| {
                value.push_str(", ");
                value.push_str(&header.value);
            })
            .or_insert_with(|| header.value.clone());
    }
    Val::obj(joined.into_iter().map(|(name, value)| (Val::from(name), Val::from(value))).collect())
}

fn text(text: &str) -> Val {
    Val::from(text.to_owned())
}
