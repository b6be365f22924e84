"""What the mathematical grader accepts and what it doesn't: labelled pairs, as in docs/reference/grading.md.

`python tests/tasks/graders/test_math_answers.py` writes the table there again.
"""

from __future__ import annotations

import json
import unicodedata
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from distillknob.tasks.graders.mathematics import is_correct

ROWS = [
    json.loads(line)
    for line in (Path(__file__).parents[2] / "fixtures" / "math_answers.jsonl").read_text("utf-8").splitlines()
]
DOCS = Path(__file__).parents[3] / "docs" / "reference" / "grading.md"
BEGIN, END = "<!-- table -->\n", "<!-- end of table -->\n"


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['section']}: {row['reference']}")
def test_an_answer_is_right_where_the_table_says_so_and_wrong_where_it_says_so(row: dict[str, Any]) -> None:
    accepted = [text for text in row["right"] + row["wrong"] if is_correct(text, row["reference"])]
    assert accepted == row["right"]


def test_each_accepted_form_has_others_close_to_it_that_are_wrong() -> None:
    for section, rows in groupby(ROWS, key=lambda row: row["section"]):
        group = list(rows)
        counts = [sum(len(row[verdict]) for row in group) for verdict in ("right", "wrong")]
        assert min(counts) >= 5, section


def test_the_reference_itself_is_right() -> None:
    wrong = [row["reference"] for row in ROWS if not is_correct(f"\\boxed{{{row['reference']}}}", row["reference"])]
    assert wrong == []


def test_the_docs_show_the_table() -> None:
    assert table() in DOCS.read_text("utf-8"), "run python tests/tasks/graders/test_math_answers.py"


def table() -> str:
    lines = []
    for section, rows in groupby(ROWS, key=lambda row: row["section"]):
        lines += [f"**{section}**", "", "| reference | right | wrong |", "|---|---|---|"]
        for row in rows:
            cells = ([row["reference"]], row["right"], row["wrong"])
            lines.append("| " + " | ".join(" ".join(map(_code, cell)) for cell in cells) + " |")
        lines.append("")
    return BEGIN + "\n".join(lines) + END


def _code(text: str) -> str:
    """Markdown's code, with what can't be seen spelled out."""
    shown = "".join(
        "⏎" if c == "\n" else f"U+{ord(c):04X}" if c != " " and unicodedata.category(c) in ("Cf", "Zs") else c
        for c in text
    )
    shown = shown.replace("|", "\\|")
    return f"`` {shown} ``" if "`" in shown else f"`{shown}`"


if __name__ == "__main__":
    before, _, rest = DOCS.read_text("utf-8").partition(BEGIN)
    DOCS.write_text(before + table() + rest.partition(END)[2], "utf-8")
