"""This module tells how methods compare, on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from distillknob.cli.layout import percent, text_table, wrapped
from distillknob.runs.run import Run
from distillknob.verdicts.methods import apart, leaders_sentence

_MOST = 12  # methods of a table; the page has all
_GIB = 2.0**30


def compare_text(run: Run, result: Mapping[str, Any]) -> list[str]:
    """Return the parts of what `compare` prints: a sentence and a table for each task and teacher, and what is
    missing."""
    parts = []
    for task in result["tasks"]:
        for teacher in result["teachers"]:
            own = [row for row in result["rows"] if (row["task"], row["teacher"]) == (task, teacher["teacher"])]
            if any(row["state"] == "done" for row in own):
                heading = f"{task}, teacher {teacher['teacher']}: {leaders_sentence(own, result['baseline'])}"
                parts.append(f"{wrapped(heading)}\n{_table(own, result['baseline'])}")
    edges = [row["method"] for row in result["rates"] if row["at_the_edge"]]
    if edges:
        edge = f"the best learning rate tried was the lowest or the highest for {', '.join(edges)}: more rate_multiples"
        parts.append(wrapped(f"! {edge} may lift them"))
    left = {row["method"] for row in result["left_out"]}
    if left:
        parts.append(wrapped(f"not applicable somewhere, with the reasons on the page: {', '.join(sorted(left))}"))
    parts += ["\n".join(wrapped(f"! failed: {row['cell']}: {row['reason']}") for row in result["failed"])]
    return [*filter(None, parts), f"report: {run.path / 'report.html'}"]


def _table(rows: Sequence[Mapping[str, Any]], baseline: str) -> str:
    done = sorted((row for row in rows if row["rank"] is not None), key=lambda row: (row["rank"], row["method"]))
    shown = [row for place, row in enumerate(done) if place < _MOST or row["method"] == baseline]
    header = [
        "method",
        "rank",
        "pass@1 % [95 %]",
        f"− {baseline}, points",
        "of many",
        "− before, points",
        "time",
        "GiB",
    ]
    body = [
        [
            f"{row['method']}{'*' if row['alone'] else ''}{'°' if row['budget'] else ''}",
            str(row["rank"]),
            percent(row["score"], row["interval"]),
            _difference(row["to_baseline"]),
            apart(row["to_baseline"]),
            _difference(row["to_before"]),
            "–" if row["relative_time"] is None else f"{row['relative_time']:.2f}×",
            "–" if row["peak_memory"] is None else f"{row['peak_memory'] / _GIB:.2f}",
        ]
        for row in shown
    ]
    more = f"\n{len(done) - len(shown)} more methods stand on the page." if len(done) > len(shown) else ""
    notes = {
        "\n* needs none of these teachers: trained once, the same beside each.": any(row["alone"] for row in shown),
        "\n° trained on the same steps, but not held to the tokens of a step.": any(row["budget"] for row in shown),
        f"\n! some seeds failed: {_in_part(shown)}": any(row["state"] == "in part" for row in shown),
    }
    return text_table(header, body) + more + "".join(note for note, holds in notes.items() if holds)


def _in_part(rows: Sequence[Mapping[str, Any]]) -> str:
    return "; ".join(f"{row['method']} ({row['reason']})" for row in rows if row["state"] == "in part")


def _difference(row: Mapping[str, Any] | None) -> str:
    return "–" if row is None else percent(row["difference"], row["problems"], signed=True)
