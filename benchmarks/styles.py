"""How often models answer in each of a task's ways, and how often they are then right.

    distillknob evaluate --models zoo:smollm2-student zoo:smollm2-teacher --tasks "tracking?moves=2" --output runs/pair
    python benchmarks/styles.py runs/pair

Reads the samples of one or more evaluations. Markdown on stdout, a table a task, with 95 % intervals over problems.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distillknob.cli.layout import percent
from distillknob.runs.files import read_jsonl
from distillknob.runs.run import SAMPLES
from distillknob.stats import interval

Row = dict[str, Any]


def table(rows: Sequence[Row], task: str) -> list[str]:
    """A line for each model and each way in which it answered."""
    lines = [f"| {task} | way | of its answers, % [95 %] | then right, % [95 %] |", "|---|---|---|---|"]
    for model in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == model]
        for style in sorted({row["style"] for row in own}):
            written = [row for row in own if row["style"] == style]
            share = interval([row["style"] == style for row in own], [row["prompt"] for row in own])
            right = interval([row["score"] for row in written], [row["prompt"] for row in written])
            figures = (percent(one.mean, one.as_list()) for one in (share, right))
            lines.append(f"| {model} | {style} | {' | '.join(figures)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="run directories of `distillknob evaluate`")
    rows = [row for folder in parser.parse_args().runs for row in read_jsonl(folder / SAMPLES)]
    for task in dict.fromkeys(row["task"] for row in rows):
        print("\n".join([*table([row for row in rows if row["task"] == task], task), ""]))


if __name__ == "__main__":
    main()
