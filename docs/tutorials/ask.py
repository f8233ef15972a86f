"""What a program of yours does with the service: send a picture, read the verdict, tell the refusals apart.

KEY=... python docs/tutorials/ask.py PICTURE [SERVICE]

Ends with 1 where there is no verdict.
"""

import json
import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

PATIENCE = 60  # seconds for an answer
ATTEMPTS = 5


def judged(picture: bytes, service: str, key: str) -> dict:
    """The row of a picture; an error of the service where it takes it for none, or for too large a one."""
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/octet-stream"}
    request = urllib.request.Request(f"{service}/v1/detect", picture, headers)
    for _ in range(ATTEMPTS):
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as refused:
            if refused.code not in {429, 503}:  # what will not be otherwise the next time
                return json.load(refused)
            time.sleep(float(refused.headers.get("Retry-After", 1)))
    raise TimeoutError(f"{service} had no place for it {ATTEMPTS} times")


if __name__ == "__main__":
    service = sys.argv[2] if len(sys.argv) > 2 else "http://127.0.0.1:8000"
    try:
        row = judged(Path(sys.argv[1]).read_bytes(), service, os.environ.get("KEY", ""))
    except OSError as error:  # no such file, nobody listens, no place
        sys.exit(f"{service}: {error}")
    if "error" in row:
        print("error:", row["error"]["code"], row["error"]["message"])
        sys.exit(1)
    print(row["verdict"], row["detector"], row["sha256"], [r["code"] for r in row["reason_codes"]])
