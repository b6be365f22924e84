"""Posting JSON to a server, with patience for one that is busy or starts again.

A key that the server asks for stands in OPENAI_API_KEY, where the tools around vLLM look for it too, and never in a
recipe or a run directory.
"""

from __future__ import annotations

import http.client
import json
import os
import time
import urllib.error
import urllib.request
from typing import Any

from distillknob.errors import RunFailedError

BUSY = (408, 425, 429)  # refusals that pass
TRIES, PAUSE = 5, 2.0  # seconds, doubled after each try


def post_json(
    url: str, body: Any, *, timeout: float = 600.0, tries: int | None = None, pause: float | None = None
) -> Any:
    """The server's answer. Raises RunFailedError at once for a request that it refuses (with the status in brackets in
    the message), and after `tries` (default `TRIES`) where it can't be reached."""
    headers = {"Content-Type": "application/json"}
    if os.environ.get("OPENAI_API_KEY"):
        headers["Authorization"] = f"Bearer {os.environ['OPENAI_API_KEY']}"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    tries, pause = tries or TRIES, PAUSE if pause is None else pause
    reason: object = None
    for attempt in range(tries):
        try:
            with urllib.request.urlopen(request, timeout=timeout) as response:
                return json.loads(response.read())
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code not in BUSY:  # what was sent is wrong, and stays so
                told = error.read().decode(errors="replace")[:500]
                raise RunFailedError(f"{url} refused a request ({error.code}): {told}") from error
            reason = error
        except (OSError, http.client.HTTPException, json.JSONDecodeError) as error:
            reason = error
        if attempt + 1 < tries:
            time.sleep(pause)
            pause *= 2
    raise RunFailedError(
        f"{url} can't be reached ({reason}), {tries} tries. Checkpoints are kept: start the server again, "
        "then go on with --resume"
    )
