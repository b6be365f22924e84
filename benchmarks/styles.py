"""How often models answer in each of a task's ways, and how often they are then right.

    distillknob evaluate --models zoo:smollm2-student zoo:smollm2-teacher --tasks "tracking?moves=2" --output runs/pair
    python benchmarks/styles.py runs/pair

Reads the samples of one or more evaluations. Markdown on stdout, a table a task, with 95 % intervals over problems.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distillknob.stats import Interval, interval

Row = dict[str, Any]


def samples(folder: Path) -> list[Row]:
    """The graded samples of an evaluation's run directory."""
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


def table(rows: Sequence[Row], task: str) -> list[str]:
    """A line for each model and each way in which it answered."""
    lines = [f"| {task} | way | of its answers, % [95 %] | then right, % [95 %] |", "|---|---|---|---|"]
    for model in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == model]
        for style in sorted({row["style"] for row in own}):
            written = [row for row in own if row["style"] == style]
            share = percent(interval([row["style"] == style for row in own], [row["prompt"] for row in own]))
            right = percent(interval([row["score"] for row in written], [row["prompt"] for row in written]))
            lines.append(f"| {model} | {style} | {share} | {right} |")
    return lines


def percent(value: Interval) -> str:
    """A mean of fractions in percent, with its interval."""
    low, high = 100 * np.array(value.as_list())
    return f"{100 * value.mean:.1f} [{low:.1f}, {high:.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="run directories of `distillknob evaluate`")
    rows = [row for folder in parser.parse_args().runs for row in samples(folder)]
    for task in dict.fromkeys(row["task"] for row in rows):
        print("\n".join([*table([row for row in rows if row["task"] == task], task), ""]))


if __name__ == "__main__":
    main()
