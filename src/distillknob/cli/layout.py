"""How plain text is set on the terminal: tables, figures with intervals, running text."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

Rows = Sequence[Sequence[str]]
WIDTH = 110  # of running text, in characters


def text_table(header: Sequence[str], rows: Rows) -> str:
    """Align columns, the first to the left and the others to the right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in [header, ["-" * width for width in widths], *rows]
    ]
    return "\n".join(line.rstrip() for line in lines)


def percent(value: float | None, bounds: Sequence[float | None] | None = None, *, signed: bool = False) -> str:
    """Write a fraction in percent (points, where signed): `97.5 [96.1, 98.4]`; an undefined value is a dash."""
    if value is None:
        return "–"
    sign = "+" if signed else ""
    shown = f"{100 * value:{sign}.1f}"
    if bounds and None not in bounds:
        shown += " [" + ", ".join(f"{100 * float(b or 0):{sign}.1f}" for b in bounds) + "]"
    return shown


def with_interval(value: float, bounds: Sequence[float | None], form: str) -> str:
    """Write the value with its interval; one that rests on a single problem has none (NaN, in a file null)."""
    ends = [f"{bound:{form}}" for bound in bounds if bound is not None and not math.isnan(bound)]
    return f"{value:{form}}" + (f" [{', '.join(ends)}]" if len(ends) == 2 else "")


def wrapped(text: str, start: str = "") -> str:
    """Break running text into lines, the first of which begins with `start`."""
    return textwrap.fill(text, WIDTH, initial_indent=start, subsequent_indent=" " * max(2, len(start)))
