"""How far the work is, on stderr: a bar with the time left on a terminal, now and then a line anywhere else.

A log file of a batch system has no use for bars, but whoever reads it has to see that the run lives, and how far it is.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

from distillknob.runtime.processes import process_index

APART, AT_LEAST = 10.0, 60.0  # seconds between two lines: no fewer, and no more while there is progress


class LogLines:
    """Stands for a bar where stderr is no terminal: a line at the start, and one for every tenth of the work or every
    minute. Lines of all bars are at least `APART` seconds apart, so that short work fills no log; what is printed
    first is printed at once."""

    printed = -float("inf")  # when any of them last printed

    def __init__(self, description: str, total: int, *, unit: str = "it", initial: int = 0):
        self.description, self.total, self.unit, self.done = description, total, unit, initial
        self.first, self.started, self.printed_tenths = initial, time.monotonic(), self._tenths
        self.postfix = ""
        self._line(f"{total} {unit}s" + (f", {initial} of them done" if initial else ""))

    def __enter__(self) -> LogLines:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self, n: int = 1) -> None:
        """So many more are done."""
        self.done += n
        now = time.monotonic()
        if self._tenths > self.printed_tenths or now - LogLines.printed >= AT_LEAST:
            spent = now - self.started
            left = spent / max(1, self.done - self.first) * max(0, self.total - self.done)
            times = f"{tqdm.format_interval(spent)}, {time_left(left)}"
            self._line(f"{self.done} of {self.total} {self.unit}s, {times}{self.postfix}")

    def set_postfix(self, shown: Mapping[str, str]) -> None:
        """Figures to print with the next line."""
        self.postfix = "".join(f", {name} {value}" for name, value in shown.items())

    def close(self) -> None:
        """Nothing is left to print: the next stage's line says that this one ended."""

    @property
    def _tenths(self) -> int:
        return 10 * self.done // max(1, self.total)

    def _line(self, text: str) -> None:
        now = time.monotonic()
        if now - LogLines.printed < APART or process_index() > 0:
            return
        LogLines.printed, self.printed_tenths = now, self._tenths
        print(f"{self.description}: {text}", file=sys.stderr, flush=True)


def time_left(seconds: float) -> str:
    """Write how long work will take: `about 02:30 left`."""
    return f"about {tqdm.format_interval(seconds)} left"


def progress(description: str, total: int, **options: Any) -> tqdm | LogLines:
    """A bar on a terminal, for work of over a second; `LogLines` elsewhere. `options`: `unit`, and `initial`, how many
    of `total` are done already."""
    if not sys.stderr.isatty():
        return LogLines(description, total, **options)
    return tqdm(desc=description, total=total, delay=1, dynamic_ncols=True, leave=False, **options)
