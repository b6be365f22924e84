"""This module tells on the terminal what models have memorised."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distillknob.cli.layout import percent, text_table, wrapped
from distillknob.runs.run import Run


def memorization_text(run: Run, result: Mapping[str, Any]) -> list[str]:
    """Show each set of texts with its share, and what was left out."""
    names = {
        "inherited": "inherited: teacher and student, not the baseline",
        "shared": "all three",
        "novel": "the student alone",
    }
    rows = [
        *((row["name"], row) for row in result["memorised"]),
        *((text, result[name]) for name, text in names.items()),
        ("inherited, of what the teacher has and the baseline hasn’t", result["inherited_of_teacher"]),
    ]
    body = [
        [
            name,
            f"{row['count']} of {row['of']}",
            "–" if row["share"] is None else percent(row["share"], row["interval"]),
        ]
        for name, row in rows
    ]
    asked = (
        f"Memorised: the {result['suffix_tokens']} tokens behind the first {result['prefix_tokens']}, exactly. "
        f"{result['texts']} texts; {result['short']} too short and {result['repeated']} repeated ones were left out."
    )
    return [text_table(["memorised by", "texts", "% [95 %]"], body), wrapped(asked)]
