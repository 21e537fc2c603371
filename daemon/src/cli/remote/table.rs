//! Answers as tables, for people.

use comfy_table::{Table, presets};
use serde_json::Value;

/// A list as a table: a column for each title, with what the path (RFC 6901) leads to in each entry.
pub(in super::super) fn rows(list: &Value, columns: &[(&str, &str)]) -> String {
    let entries: Vec<&Value> = list.as_array().into_iter().flatten().collect();
    if entries.is_empty() {
        return "none\n".to_owned();
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(columns.iter().map(|(title, _)| *title));
    for entry in entries {
        table.add_row(columns.iter().map(|(_, path)| cell(entry.pointer(path).unwrap_or(&Value::Null))));
    }
    lines(&table)
}

/// An object as a table of names and values; what is in it goes by its path.
pub(in super::super) fn fields(value: &Value) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    let mut all = Vec::new();
    flatten("", value, &mut all);
    for (name, value) in all {
        table.add_row([name, value]);
    }
    lines(&table)
}

fn flatten(name: &str, value: &Value, all: &mut Vec<(String, String)>) {
    match value {
        Value::Null => {}
        Value::Object(object) => {
            for (key, value) in object {
                let name = if name.is_empty() { key.clone() } else { format!("{name}.{key}") };
                flatten(&name, value, all);
            }
        }
        Value::Array(list) if list.iter().any(Value::is_object) => {
            for (at, value) in list.iter().enumerate() {
                flatten(&format!("{name}[{at}]"), value, all);
            }
        }
        value => all.push((plain(name), cell(value))),
    }
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => plain(text),
        Value::Array(list) if !list.iter().any(Value::is_object) => {
            list.iter().map(cell).collect::<Vec<_>>().join(", ")
        }
        value => plain(&value.to_string()),
    }
}

/// A text of strangers: without what could drive the terminal.
pub(in super::super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// The table without the spaces at the ends of its lines.
fn lines(table: &Table) -> String {
    table.lines().map(|line| format!("{}\n", line.trim())).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_list_is_a_table_and_strangers_cannot_drive_the_terminal() {
        let list = json!([{ "id": "a\u{1b}[2J", "lag": { "events": 3 }, "types": ["x", "y"] }, { "id": "b" }]);
        let table = rows(&list, &[("ID", "/id"), ("LAG", "/lag/events"), ("TYPES", "/types")]);
        let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines, [vec!["ID", "LAG", "TYPES"], vec!["a\u{fffd}[2J", "3", "x,", "y"], vec!["b", "-", "-"]]);
        assert_eq!(rows(&json!([]), &[("ID", "/id")]), "none\n");
    }

    #[test]
    fn an_object_is_its_fields_by_their_paths() {
        let table = fields(&json!({ "a": 1, "b": { "c": "x" }, "d": [{ "e": true }], "f": null }));
        let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines, [["a", "1"], ["b.c", "x"], ["d[0].e", "true"]]);
    }
}
