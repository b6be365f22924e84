"""Are two mathematical expressions equal? math-verify says, in a process that is killed when it takes too long.

math-verify limits its own time by SIGALRM, which works in the main thread alone and can't interrupt a loop in C, such
as a power of thousands of digits. Here one worker a process answers for all threads; it gets `SECONDS` for an answer
and `MEMORY` bytes, and is replaced after an answer that it didn't give. Expressions are parsed by math-verify's LaTeX
grammar alone: its other parser, for plain expressions, evaluates them as Python.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import subprocess
import sys
import threading
import time
from functools import lru_cache
from typing import Any

from distillknob.errors import RunFailedError

SECONDS = 5.0
START_SECONDS = 120.0  # to import sympy on a busy machine
MEMORY = 4 * 2**30


@lru_cache(maxsize=100_000)
def equal(reference: str, answer: str) -> bool:
    """Does `answer` say what `reference` says, both LaTeX without delimiters? False where the time runs out, or where
    either can't be parsed.

    Raises RunFailedError if no worker can be started on this machine.
    """
    with _LOCK:
        return _worker().ask({"reference": reference, "answer": answer})


class _Worker:
    """A child process that takes one JSON object a line and answers one line, "1" or "0"."""

    def __init__(self) -> None:
        self.owner = os.getpid()  # a fork shares the pipes and must not use them
        self.process = subprocess.Popen(
            [sys.executable, "-c", "from distillknob.tasks.math_equality import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        if self._line(START_SECONDS) != b"ready\n":
            self.stop()
            raise RunFailedError(
                "the process that compares mathematical answers doesn't start: try `python -c "
                "'from distillknob.tasks.math_equality import serve; serve()'`, which should say ready"
            )

    def ask(self, question: dict[str, Any]) -> bool:
        stdin = self.process.stdin
        assert stdin is not None
        try:
            stdin.write(json.dumps(question).encode() + b"\n")
            stdin.flush()
            answer = self._line(SECONDS)
        except BrokenPipeError:  # the question before was too much for it
            answer = b""
        if not answer.endswith(b"\n"):
            self.stop()
        return answer == b"1\n"

    def _line(self, seconds: float) -> bytes:
        """The next line, or what there is of it when the time is over or the process has ended."""
        stdout = self.process.stdout
        assert stdout is not None
        line, end = b"", time.monotonic() + seconds
        while not line.endswith(b"\n") and (left := end - time.monotonic()) > 0:
            ready, _, _ = select.select([stdout], [], [], left)
            if not ready:
                break
            part = os.read(stdout.fileno(), 1)
            if not part:
                break
            line += part
        return line

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


_LOCK = threading.Lock()
_current: _Worker | None = None


def _worker() -> _Worker:
    global _current
    if _current is None or _current.owner != os.getpid() or _current.process.poll() is not None:
        _current = _Worker()
    return _current


def _stop() -> None:
    if _current is not None and _current.owner == os.getpid() and _current.process.poll() is None:
        _current.stop()


atexit.register(_stop)


def serve() -> None:
    """The worker: answers until its standard input ends."""
    import logging
    import resource

    from math_verify import LatexExtractionConfig, parse, verify

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    logging.disable()  # what can't be parsed is an ordinary wrong answer
    latex = [LatexExtractionConfig()]
    # What is built at the first use (the grammar's tables) isn't to be the first answer's time.
    half = parse(r"$\frac{1}{2}$", extraction_config=latex, parsing_timeout=None)
    verify(half, half, timeout_seconds=None)
    print("ready", flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        # The time is limited from outside: None turns off math-verify's own alarm.
        reference, answer = (
            parse(f"${question[key]}$", extraction_config=latex, parsing_timeout=None)
            for key in ("reference", "answer")
        )
        print(int(bool(verify(reference, answer, timeout_seconds=None))), flush=True)
