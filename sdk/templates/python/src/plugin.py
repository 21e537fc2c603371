"""A filter that keeps events whose field has at least a given value, and a transform that marks them.

This is what `sluiced plugin new` makes: an example to change. A plugin needs only one of both roles: take out the other's
class, and change `world` in pyproject.toml to `filter-plugin` or `transform-plugin`. The contract, with every type, is
wit/plugin.wit. There is no clock, no file and no `print` in the sandbox: asking for one is a trap, not an exception. The time
is in the event, and `random` says the same each time.
"""

import functools
import json

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports import log, types

config = {}


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


def value_of(payload):
    value = payload.get(config["field"])
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Err(f"`{config['field']}` is not a number")
    return value


class Lifecycle(exports.Lifecycle):
    def describe(self):
        schema = {
            "type": "object",
            "properties": {
                "field": {"type": "string", "description": "The field to look at."},
                "min": {"type": "number", "description": "The least value that counts as large."},
            },
            "required": ["field", "min"],
            "additionalProperties": False,
        }
        return types.Description(
            name="@name@",
            version="0.1.0",
            summary="Keeps, or marks, events whose field has at least a given value.",
            config_schema=json.dumps(schema),
            needs_payload=True,
            needs_headers=types.HeaderNeeds_None_(),
        )

    @telling
    def configure(self, text):
        config.clear()
        config.update(json.loads(text))
        if config["field"] == "":
            raise Err('`field` is empty: name the field to look at, for example "amount"')


class Filter(exports.Filter):
    @telling
    def keep(self, event):
        value = value_of(json.loads(event.data))
        if value >= config["min"]:
            return types.Verdict_Keep()
        log.write(log.Level.DEBUG, f"dropping {event.id}")
        return types.Verdict_Drop(f"{value} is less than {config['min']}")


class Transform(exports.Transform):
    @telling
    def apply(self, event):
        payload = json.loads(event.data)
        payload["large"] = value_of(payload) >= config["min"]
        data = json.dumps(payload).encode()
        return [types.Output(data=data, content_type="application/json", headers=[], type=None)]
