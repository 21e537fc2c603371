# pip install httpx-sse
# SLUICED_KEY=… python3 listen.py http://127.0.0.1:8080 orders.created,orders.paid
import json
import os
import random
import sys
import time

import httpx
from httpx_sse import connect_sse

daemon, types = (sys.argv[1:] + ["http://127.0.0.1:8080", "orders.created"][len(sys.argv) - 1 :])[:2]
url = f"{daemon}/api/v1/events/stream"
# A stream carries a heartbeat every 15 seconds: one that is silent for much longer is dead.
client = httpx.Client(timeout=httpx.Timeout(10, read=60))

last, wait = None, 0.0
while True:
    headers = {"Authorization": f"Bearer {os.environ['SLUICED_KEY']}"}
    if last is not None:
        headers["Last-Event-ID"] = last
    try:
        with connect_sse(client, "GET", url, params={"types": types}, headers=headers) as stream:
            status = stream.response.status_code
            if 400 <= status < 500 and status != 429:
                stream.response.read()
                sys.exit(f"{status} {stream.response.text}")  # it would be refused again
            stream.response.raise_for_status()
            for event in stream.iter_sse():
                # A block without data is handed out too: a heartbeat, or an id that moves the place to go on from.
                last = event.id
                wait = event.retry / 1000 if event.retry else wait
                if event.data or event.event != "message":
                    print(json.dumps({"id": event.id, "type": event.event, "data": event.data}), flush=True)
    except httpx.HTTPError as error:
        print(f"{error!r}, again", file=sys.stderr)
    # Not all at once, and no more often than the daemon asks for.
    time.sleep(max(wait, 1.0) * (1 + random.random() / 2))
