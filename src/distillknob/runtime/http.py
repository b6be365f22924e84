"""Posting JSON to a server, with patience for one that is busy or starts again.

A key that the server asks for stands in OPENAI_API_KEY, where the tools around vLLM look for it too, and never in a
recipe or a run directory.
"""

from __future__ import annotations

import email.utils
import http.client
import json
import math
import os
import time
import urllib.error
import urllib.request
from email.message import Message
from typing import Any

from distillknob.errors import RunFailedError

BUSY = (408, 425, 429)  # refusals that pass
TRIES, PAUSE = 8, 2.0  # seconds, doubled after each try up to `LONGEST_PAUSE`: a server has four minutes to come back
LONGEST_PAUSE = 60.0
PATIENCE = 900.0  # seconds that a server may ask for with Retry-After
PROBE_TRIES = 3  # before any work has started: who gave a wrong URL shall hear of it soon
GO_ON = "What is done is kept: start the server again, then go on with --resume"
CHECK_IT = "Is it running, and is the URL right?"


class RefusedError(RunFailedError):
    """A server refused a request, and would refuse it again. `status` is HTTP's, `answer` the server's text."""

    def __init__(self, url: str, status: int, answer: str):
        hint = " Is the key in OPENAI_API_KEY right?" if status in (401, 403) else ""
        super().__init__(f"{url} refused a request ({status}): {answer}{hint}")
        self.status, self.answer = status, answer


def post_json(
    url: str,
    body: Any,
    *,
    timeout: float = 600.0,
    tries: int | None = None,
    pause: float | None = None,
    remedy: str = GO_ON,
) -> Any:
    """The server's answer, parsed. Between two tries it waits `pause` seconds, twice as long each time, or as long as
    the server asks (Retry-After). `remedy` ends the message about a server that is away.

    Raises RefusedError at once for a request that the server refuses, and RunFailedError after `tries` (default
    `TRIES`) where it can't be reached or sends no JSON, or at once where it asks for more than `PATIENCE` seconds.
    """
    headers = {"Content-Type": "application/json"}
    if os.environ.get("OPENAI_API_KEY"):
        headers["Authorization"] = f"Bearer {os.environ['OPENAI_API_KEY']}"
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    tries, pause = tries or TRIES, PAUSE if pause is None else pause
    reason: object = None
    for attempt in range(tries):
        wait = min(pause * 2**attempt, LONGEST_PAUSE)
        try:
            with urllib.request.urlopen(request, timeout=timeout) as response:
                raw: bytes = response.read()
            return json.loads(raw)
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code not in BUSY:  # what was sent is wrong, and stays so
                raise RefusedError(url, error.code, error.read().decode(errors="replace")[:500]) from error
            reason, asked_for = error, retry_after(error.headers)
            if asked_for is not None and asked_for > PATIENCE:
                raise RunFailedError(
                    f"{url} is busy ({error.code}) and asks to wait {asked_for:.0f} seconds. {remedy}"
                ) from error
            wait = wait if asked_for is None else asked_for
        except ValueError:  # no JSON, or not even text
            reason = f"it answers, but with no JSON: {raw[:80].decode(errors='replace')!r}"
        except (OSError, http.client.HTTPException) as error:
            reason = error
        if attempt + 1 < tries:
            time.sleep(wait)
    busy = isinstance(reason, urllib.error.HTTPError) and reason.code in BUSY
    state = "is still busy" if busy else "can't be reached"
    raise RunFailedError(f"{url} {state} ({reason}), {tries} tries. {remedy}")


def retry_after(headers: Message) -> float | None:
    """The seconds that a server's Retry-After header asks to wait, given there as a number or as a date; None where it
    has none that can be read."""
    value = headers.get("Retry-After")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
