//! The configuration in effect as TOML, without its secrets.

use figment::value::{Dict, Num, Value};
use toml_edit::{Array, ArrayOfTables, DocumentMut, InlineTable, Item, Table};

use super::begin::DATE_KEY;

/// What stands in the place of a secret.
pub(super) const MASK: &str = "***";

/// Writes merged values as TOML.
pub(super) fn toml(values: &Dict) -> String {
    let mut document = DocumentMut::new();
    for (key, value) in values {
        document.insert(key, section(key, value));
    }
    document.to_string()
}

fn section(key: &str, value: &Value) -> Item {
    match value {
        Value::Dict(_, dict) => Item::Table(table(dict)),
        Value::Array(_, list) if !list.is_empty() && list.iter().all(|one| one.as_dict().is_some()) => {
            let tables: ArrayOfTables = list.iter().filter_map(Value::as_dict).map(table).collect();
            Item::ArrayOfTables(tables)
        }
        other => Item::Value(inline(other, is_secret(key))),
    }
}

fn table(dict: &Dict) -> Table {
    let mut table = Table::new();
    for (key, value) in dict {
        table.insert(key, Item::Value(inline(value, is_secret(key))));
    }
    table
}

/// The value as it stands in one line; `secret` when a key above it says so.
fn inline(value: &Value, secret: bool) -> toml_edit::Value {
    match value {
        Value::Dict(_, dict) if let Some(Value::String(_, date)) = dict.get(DATE_KEY) => date.as_str().into(),
        Value::Dict(_, dict) => {
            let mut table = InlineTable::new();
            for (key, value) in dict {
                let shown = order_key(key, value).filter(|_| !secret);
                table.insert(key, shown.unwrap_or_else(|| inline(value, secret || is_secret(key))));
            }
            table.into()
        }
        Value::Array(_, list) => list.iter().map(|one| inline(one, secret)).collect::<Array>().into(),
        _ if secret => MASK.into(),
        Value::String(_, text) => text.as_str().into(),
        Value::Char(_, letter) => letter.to_string().into(),
        Value::Bool(_, truth) => (*truth).into(),
        Value::Num(_, Num::F32(_) | Num::F64(_)) => value.to_f64().unwrap_or_default().into(),
        Value::Num(_, number) => integer(*number),
        Value::Empty(..) => "".into(),
    }
}

fn integer(number: Num) -> toml_edit::Value {
    let number = number.to_i128().or_else(|| number.to_u128().and_then(|n| i128::try_from(n).ok()));
    number.and_then(|n| i64::try_from(n).ok()).unwrap_or(i64::MAX).into()
}

/// A webhook's `order_key`, which only says where a key stands: the number of a token, or a header's name.
fn order_key(key: &str, value: &Value) -> Option<toml_edit::Value> {
    let mut table = InlineTable::new();
    for (place, value) in value.as_dict().filter(|_| key == "order_key")? {
        match (place.as_str(), value) {
            ("token", Value::Num(..)) | ("header", Value::String(..)) => table.insert(place, inline(value, false)),
            _ => return None,
        };
    }
    Some(table.into())
}

/// Does a key of that name hide what is under it? Header values count, since many receivers take their credentials there,
/// and so does whatever a plugin's configuration calls by such a name. How long a secret is valid is none.
pub(super) fn is_secret(key: &str) -> bool {
    let key = key.to_ascii_lowercase();
    if key == "secret_overlap" {
        return false;
    }
    ["secret", "password", "token", "headers"].iter().any(|word| key.contains(word)) || key.ends_with("key")
}
