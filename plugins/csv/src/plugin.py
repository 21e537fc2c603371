"""Rows of a JSON payload as CSV (RFC 4180): a transform, for receivers that import tables."""

import csv
import functools
import io
import json

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports import types

SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "properties": {
        "columns": {
            "type": "array",
            "minItems": 1,
            "description": "The columns, in order.",
            "items": {
                "type": "object",
                "properties": {
                    "name": {"type": "string", "description": "The column's name, in the first line."},
                    "pointer": {"type": "string", "description": "JSON pointer to its value, from the row."},
                },
                "required": ["name", "pointer"],
                "additionalProperties": False,
            },
        },
        "rows": {
            "type": "string",
            "description": "JSON pointer to the rows, a list or one row; the whole payload when absent.",
        },
        "header": {"type": "boolean", "description": "Begin with a line of names; true when absent."},
        "delimiter": {"type": "string", "minLength": 1, "maxLength": 1, "description": "\",\" when absent."},
        "guard_formulas": {
            "type": "boolean",
            "description": "Put ' before a text that a spreadsheet would take for a formula; true when absent.",
        },
    },
    "required": ["columns"],
    "additionalProperties": False,
}

# What a spreadsheet takes for the beginning of a formula.
FORMULA = ("=", "+", "-", "@", "\t", "\r")

settings = {}


def telling(work):
    """Makes every exception the plugin's error, a text. An exception that is not an `Err` would be a trap."""

    @functools.wraps(work)
    def told(*arguments):
        try:
            return work(*arguments)
        except Err:
            raise
        except Exception as error:
            raise Err(f"{type(error).__name__}: {error}") from error

    return told


def steps(key, pointer):
    """A JSON pointer, taken apart."""
    if pointer and not pointer.startswith("/"):
        raise Err(f"`{key}` is not a JSON pointer: {json.dumps(pointer)} does not begin with \"/\"")
    return [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]]


def look_up(value, path):
    """What is at a pointer; None when there is nothing."""
    for step in path:
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and step.isascii() and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value


def cell(value):
    """A value as it stands in a cell: null is empty, and what is no scalar is JSON."""
    if value is None:
        return ""
    if isinstance(value, str):
        guarded = settings["guard_formulas"] and value.startswith(FORMULA)
        return f"'{value}" if guarded else value
    return json.dumps(value, ensure_ascii=False)


class Lifecycle(exports.Lifecycle):
    def describe(self):
        return types.Description(
            name="csv",
            version="0.1.0",
            summary="Makes CSV of the rows of a JSON payload.",
            config_schema=json.dumps(SCHEMA),
            needs_payload=True,
            needs_headers=types.HeaderNeeds_None_(),
        )

    @telling
    def configure(self, text):
        given = json.loads(text)
        columns = [(column["name"], steps("pointer", column["pointer"])) for column in given["columns"]]
        delimiter = given.get("delimiter", ",")
        if delimiter in '"\r\n':
            raise Err("`delimiter` must not be a quotation mark or a line end")
        settings.update(
            columns=columns,
            rows=steps("rows", given.get("rows", "")),
            header=given.get("header", True),
            delimiter=delimiter,
            guard_formulas=given.get("guard_formulas", True),
        )


class Transform(exports.Transform):
    @telling
    def apply(self, event):
        try:
            payload = json.loads(event.data)
        except ValueError:
            raise Err("the payload is not JSON")
        rows = look_up(payload, settings["rows"])
        if rows is None:
            raise Err("the payload has no rows where `rows` points to")
        text = io.StringIO()
        writer = csv.writer(text, delimiter=settings["delimiter"], lineterminator="\r\n")
        if settings["header"]:
            writer.writerow([name for name, _ in settings["columns"]])
        for row in rows if isinstance(rows, list) else [rows]:
            writer.writerow([cell(look_up(row, path)) for _, path in settings["columns"]])
        data = text.getvalue().encode()
        return [types.Output(data=data, content_type="text/csv; charset=utf-8", headers=[], type=None)]
