"""Verifies requests with a library that others wrote: the one that is named on the command line.

Reads a JSON list of {"secret", "headers", "body"} (the body in base64) and prints a list of what it says: true, or false where
the library refuses.
"""

import base64
import importlib
import json
import sys

library = importlib.import_module(sys.argv[1])
refusal = importlib.import_module(f"{sys.argv[1]}.webhooks").WebhookVerificationError


def verifies(request):
    try:
        library.Webhook(request["secret"]).verify(base64.b64decode(request["body"]), request["headers"])
        return True
    except refusal:
        return False


print(json.dumps([verifies(request) for request in json.load(sys.stdin)]))
