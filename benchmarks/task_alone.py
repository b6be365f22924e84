"""How much of what calibrations brought is the knob's, and how much the task's: they stand beside one at η = 0, which
trains on the task alone. Markdown on stdout.

    python benchmarks/task_alone.py docs/evidence/smollm2/task-alone.json.gz docs/evidence/smollm2/cells.jsonl.gz

The first file holds the results of the calibrations (`calibrations`), and of one `student` of the teacher at η = 0 its
task, method, seed and mean score on each problem. The second holds kept cells of the same problems in the same
order. Shares of ways are of the guard's problems; differences are paired by problem.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from red_team import result_at, table

from distillknob.cli.layout import percent, with_interval
from distillknob.runs.kept import CellRecord, read_cells
from distillknob.stats import interval, paired_difference

Row = dict[str, Any]


def teachers(calibrations: Sequence[Row], task: str) -> str:
    """What each calibration changed in the teacher."""
    moved = [_of(one["moved"], task) for one in calibrations]
    before = {way["way"]: way["before"] for one in moved for way in one["ways"]}
    fresh = [_of(one["fresh"], task) for one in calibrations]
    changes = [one["turned"] for one in calibrations]
    rows = [
        ["right, %", percent(fresh[0]["before"]), *(percent(one["after"]) for one in fresh)],
        ["log-ratio, nats", "", *(with_interval(one["difference"], one["interval"], "+.2f") for one in changes)],
    ]
    for way, share in sorted(before.items(), key=lambda item: -item[1]):
        after = [{one["way"]: one["after"] for one in of_one["ways"]} for of_one in moved]
        rows.append([f"{way}, %", percent(share), *(percent(one.get(way, 0.0)) for one in after)])
    return table([task, "original", *(f"η = {one['eta']:g}" for one in calibrations)], rows)


def students(student: Row, cells: Sequence[CellRecord]) -> str:
    """The student of the teacher at η = 0, and how far those of the cells of its seed are from it."""
    own = np.array(student["scores"])
    alone = interval(own)
    rows = [["0, the task alone", percent(alone.mean, alone.as_list()), ""]]
    for cell in cells:
        if cell.result["seed"] == student["seed"]:
            theirs = np.array(cell.result["students"][student["method"]]["scores"][student["task"]])
            scored, apart = interval(theirs), paired_difference(own, theirs)
            name = f"{cell.result['eta']:+g}" if cell.result["eta"] else "original"
            rows.append(
                [name, percent(scored.mean, scored.as_list()), percent(apart.mean, apart.as_list(), signed=True)]
            )
    return table(["student of η", "right, %", "points to the task alone"], rows)


def _of(rows: Sequence[Row], task: str) -> Row:
    (row,) = (row for row in rows if row["task"] == task)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "alone", type=Path, help="the calibrations and the student of η = 0, JSON, with gzip or without"
    )
    parser.add_argument("cells", help="the file of kept cells")
    arguments = parser.parse_args()
    data = result_at(arguments.alone)
    print(teachers(data["calibrations"], data["student"]["task"]))
    print()
    print(students(data["student"], list(read_cells(arguments.cells).values())))


if __name__ == "__main__":
    main()
