"""A receiver of webhooks that takes only what was signed: WEBHOOK_SECRETS="whsec_…" python3 receive.py [PORT]"""

import base64, hashlib, hmac, os, re, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BODY_BYTES_MAX = 2 << 20
# One secret, or the new and the old one while they change, with a space between.
KEYS = [base64.b64decode(text.removeprefix("whsec_")) for text in os.environ.get("WEBHOOK_SECRETS", "").split()]
if not KEYS or any(len(key) < 24 for key in KEYS):
    sys.exit("WEBHOOK_SECRETS has no secret: whsec_…")
taken = set()  # the ids that were taken; in earnest a table beside what the events do
one_at_a_time = threading.Lock()  # each request has a thread of its own


def flaw(webhook_id: str, timestamp: str, signatures: str, body: bytes) -> str | None:
    """Why the request must not be believed; None when it is right."""
    if not re.fullmatch(r"[^.]+", webhook_id) or not re.fullmatch(r"[0-9]{1,12}", timestamp):
        return "its headers are not those of a webhook"
    if abs(time.time() - int(timestamp)) > 300:
        return "it is too old, or from the future"
    signed = f"{webhook_id}.{timestamp}.".encode("latin-1") + body
    right = [b"v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)) for key in KEYS]
    given = [text.encode("latin-1") for text in signatures.split(" ")]
    if not any(hmac.compare_digest(own, one) for own in right for one in given):
        return "no signature matches"
    return None


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        length = int(self.headers.get("content-length", 0))
        if not 0 <= length <= BODY_BYTES_MAX:
            return self.answer(413)
        body = self.rfile.read(length)  # the bytes as they came, before any parser
        header = lambda name: self.headers.get(name, "")
        webhook_id = header("webhook-id")
        why = flaw(webhook_id, header("webhook-timestamp"), header("webhook-signature"), body)
        with one_at_a_time:
            if why:
                print(f"refused: {why}", flush=True)
            elif webhook_id in taken:
                print(f"repeated {webhook_id}", flush=True)
            else:
                taken.add(webhook_id)
                print(f"received {webhook_id} {header('sluiced-event-type')} {body.decode(errors='replace')}", flush=True)
        self.answer(400 if why else 204)

    def answer(self, status):
        self.send_response(status)
        self.end_headers()

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 8000), Receiver)
print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
