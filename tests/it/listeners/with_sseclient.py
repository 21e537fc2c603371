# sseclient-py, which leaves coming back to its user: python3 with_sseclient.py URL KEY
import json
import sys
import time

import requests
import sseclient

url, key = sys.argv[1:]
last = None
while True:
    headers = {"Authorization": f"Bearer {key}", "Accept": "text/event-stream"}
    if last is not None:
        headers["Last-Event-ID"] = last
    try:
        with requests.get(url, stream=True, headers=headers, timeout=(10, 60)) as response:
            response.raise_for_status()
            for event in sseclient.SSEClient(response).events():
                last = event.id or last
                print(json.dumps({"id": last, "type": event.event, "data": event.data}), flush=True)
    except requests.RequestException as error:
        print(f"{error!r}, again", file=sys.stderr)
    time.sleep(0.5)
