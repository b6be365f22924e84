r"""Are two mathematical expressions equal? math-verify says, in a process that is killed when it takes too long.

math-verify limits its own time by SIGALRM, which works in the main thread alone and can't interrupt a loop in C, such
as a power of thousands of digits. Here one worker a process (math_worker.py) answers for all threads; it gets `SECONDS`
for an answer and `MEMORY` bytes, and is replaced after an answer that it didn't give. Expressions are parsed by
math-verify's LaTeX grammar alone: its other parser, for plain expressions, evaluates them as Python.

A question that takes too long, or too much memory, is no equality. A checker that doesn't work is no verdict: each new
worker has to tell 1/2 from 1/3 before it is asked, a question at which it dies is put to a second one, and where that
dies too RunFailedError says what of. Only a crash of the interpreter may be owed to the question: where a third worker
answers the questions of `HEALTHY` rightly, it is.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import selectors
import signal
import subprocess
import sys
import threading
import time
from decimal import Decimal
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from distillknob.errors import RunFailedError

SECONDS = 5.0
START_SECONDS = 120.0  # to import sympy on a busy machine
MEMORY = 4 * 2**30
CRASHES = (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE)  # the process's own
WORKER = Path(__file__).with_name("math_worker.py")
NEEDED = ("math-verify", "latex2sympy2-extended", "sympy", "mpmath", "antlr4-python3-runtime")
# Tells a checker that works from one that doesn't, and builds what is built at the first use (the grammar's tables).
SELF_TEST = (
    ({"reference": "\\frac{1}{2}", "answer": "\\frac{2}{4}"}, "1"),
    ({"reference": "\\frac{1}{2}", "answer": "\\frac{1}{3}"}, "0"),
)
# What shows, after a crash, that the checker works where the question isn't at fault.
HEALTHY = (
    ({"reference": "x^2+2x+1", "answer": "(x+1)^2"}, "1"),
    ({"reference": "x^2+2x+1", "answer": "(x-1)^2"}, "0"),
    ({"reference": "\\sqrt{8}", "answer": "2\\sqrt{2}"}, "1"),
    ({"reference": "\\sqrt{2}", "rounded": [141421, 5]}, "1"),
)
DECIMAL = re.compile(r"(?<![\d.])(\d*)\.(\d+)(?:\\overline\{(\d+)\})?(?![\d.])|(?<![\d.])(\d+)\.\\overline\{(\d+)\}")


@lru_cache(maxsize=100_000)
def equal(reference: str, answer: str) -> bool:
    """Does `answer` say what `reference` says, both LaTeX without delimiters?

    Decimals are the numbers they are written as, 0.5 = 1/2 and 0.333 ≠ 1/3, and nothing is rounded: other constants
    must agree to 40 significant digits. False where the time runs out, or where either can't be parsed.

    Raises RunFailedError if no worker can be started on this machine, or none lives through the questions.
    """
    return _ask({"reference": _exact(reference), "answer": _exact(answer)})


@lru_cache(maxsize=100_000)
def is_rounding(decimal: Decimal, expression: str) -> bool:
    """Is `decimal` the constant `expression`, which is no integer, correctly rounded to the place of its last digit?

    Raises RunFailedError as `equal` does.
    """
    _, digits, exponent = decimal.as_tuple()
    assert isinstance(exponent, int)
    number = int("".join(map(str, digits))) * (-1 if decimal.is_signed() else 1)
    return _ask({"reference": _exact(expression), "rounded": [number, -exponent]})


def _exact(text: str) -> str:
    """Decimals as fractions, repeating ones too: sympy would make binary numbers of sixteen digits of them."""

    def fraction(match: re.Match[str]) -> str:
        whole, part, repeated, integer, after = match.groups()
        whole, part, repeated = whole or integer or "0", part or "", repeated or after or ""
        over, under = int(whole + part or "0"), 10 ** len(part)
        if repeated:
            nines = 10 ** len(repeated) - 1
            over, under = over * nines + int(repeated), under * nines
        return f"{{\\frac{{{over}}}{{{under}}}}}"

    return DECIMAL.sub(fraction, text)


def _ask(question: dict[str, Any]) -> bool:
    with _LOCK:
        for _ in range(2):
            worker = _worker()
            answer = worker.ask(question)
            if answer in ("0", "1"):
                return answer == "1"
            worker.stop()
            if answer in (None, "memory"):  # too much for it
                return False
        # gmpy2, where sympy has it, ends the process where Python would raise MemoryError.
        if -worker.process.returncode in CRASHES:
            healthy = _worker()
            if all(healthy.ask(probe, START_SECONDS) == right for probe, right in HEALTHY):
                return False
            healthy.stop()
        raise RunFailedError(
            f"the process that compares mathematical answers died twice at one question ({answer or worker.end()}):"
            f" free memory and disk space, and see whether {_command()} says ready"
        )


class _Worker:
    """A child process that takes one JSON object a line and answers one line."""

    def __init__(self) -> None:
        self.owner = os.getpid()  # a fork shares the pipes and must not use them
        command = _worker_command()
        try:
            # Isolated (-I), and from the root: neither the current folder nor PYTHONPATH may give it a module.
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=Path(sys.executable).anchor,
            )
        except OSError as error:
            raise RunFailedError(
                f"the process that compares mathematical answers doesn't start: {error}. Free memory, or end other"
                " processes of yours"
            ) from None
        first = self._line(START_SECONDS)
        if first != "ready":
            self._fail("doesn't start", first)
        for question, right in SELF_TEST:
            answer = self.ask(question, START_SECONDS)
            if answer != right:
                self._fail("can't tell 1/2 from 1/3", answer)

    def _fail(self, what: str, answer: str | None) -> None:
        self.stop()
        raise RunFailedError(
            f"the process that compares mathematical answers {what} ({answer or self.end()}): reinstall math-verify and"
            f" sympy if a module is missing, free memory if it has too little; {_command()} should say ready"
        )

    def ask(self, question: dict[str, Any], seconds: float | None = None) -> str | None:
        """Its answer; None where the time ran out, "" where it died without a word."""
        stdin = self.process.stdin
        assert stdin is not None
        try:
            stdin.write(json.dumps(question).encode() + b"\n")
            stdin.flush()
        except OSError:  # it died before
            return ""
        return self._line(SECONDS if seconds is None else seconds)

    def _line(self, seconds: float) -> str | None:
        stdout = self.process.stdout
        assert stdout is not None
        line, end = b"", time.monotonic() + seconds
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            while (left := end - time.monotonic()) > 0 and selector.select(left):
                part = os.read(stdout.fileno(), 1)
                if part in (b"", b"\n"):
                    return line.decode(errors="replace") if part else ""
                line += part
        return None

    def end(self) -> str:
        """How it ended, once it is stopped."""
        code = self.process.returncode
        return f"signal {-code}" if code is not None and code < 0 else f"exit status {code}"

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            try:
                pipe.close()
            except OSError:  # what it never read
                continue


def _worker_command() -> list[str]:
    """The worker's command line: the folders of what it needs are where they are installed."""
    try:
        installed = [metadata.distribution(name) for name in NEEDED]
    except metadata.PackageNotFoundError as error:
        raise RunFailedError(
            f"mathematical answers can't be compared without {error.name}: install math-verify and what it needs"
        ) from None
    folders = dict.fromkeys(str(Path(str(package.locate_file(""))).resolve()) for package in installed)
    return [sys.executable, "-I", str(WORKER), str(MEMORY), *folders]


def _command() -> str:
    return "`" + " ".join(_worker_command()) + " < /dev/null`"


_LOCK = threading.Lock()
_current: _Worker | None = None


def _worker() -> _Worker:
    global _current
    if _current is None or _current.owner != os.getpid() or _current.process.poll() is not None:
        _current = None
        _current = _Worker()
    return _current


def _stop() -> None:
    if _current is not None and _current.owner == os.getpid() and _current.process.poll() is None:
        _current.stop()


atexit.register(_stop)
