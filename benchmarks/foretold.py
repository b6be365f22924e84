"""What a diagnosis foretold of the knob beside what calibrations then did: the teacher's score, its log-ratio to the
student and its ways of answering. Markdown on stdout.

    distillknob diagnose recipes/smollm2.yaml --output runs/diagnosis
    distillknob sweep recipes/smollm2.yaml --kept cells.jsonl.gz --output runs/sweep
    python benchmarks/foretold.py runs/diagnosis/result.json cells.jsonl.gz

The diagnosis has seen nothing of the calibrations. It foretells a policy that shifts ways of answering over all
problems alike (scope `ways`). Measured figures are of kept cells, each with its seed; a share is of the teacher's
answers to test problems.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from red_team import result_at

from distillknob.cli.layout import with_interval
from distillknob.runs.kept import CellRecord, read_cells

Row = dict[str, Any]


def forecasts(path: Path, task: str) -> dict[float, Row]:
    """A diagnosis's forecasts of the knob on a task, by η."""
    return {row["eta"]: row for row in result_at(path)["knob"] if (row["scope"], row["task"]) == ("ways", task)}


def table(forecast: Row, cells: list[CellRecord], task: str) -> Iterator[str]:
    """A line a quantity: before, as foretold, and as each seed's calibration left it."""
    seeds = " | ".join(f"seed {cell.result['seed']}" for cell in cells)
    yield f"| η = {forecast['eta']:+g} | original | foretold | {seeds} |"
    yield "|---" * (3 + len(cells)) + "|"
    scores = [_row(cell, task) for cell in cells]
    measured = " | ".join(_percent(row["score"]) for row in scores)
    yield f"| right, % | {_percent(forecast['score'])} | {_percent(forecast['score_after'])} | {measured} |"
    changes = []
    for cell in cells:
        calibration = cell.result["calibration"]
        turned = None if calibration is None else calibration["turned"]
        changes.append("–" if turned is None else with_interval(turned["difference"], turned["interval"], "+.2f"))
    shift = with_interval(forecast["difference"], forecast["interval"], "+.2f")
    yield f"| log-ratio, nats | 0 | {shift} | {' | '.join(changes)} |"
    for way in sorted(forecast["ways"], key=lambda one: -abs(one["after"] - one["before"])):
        shares = " | ".join(_percent(row["styles"].get(way["way"], 0.0)) for row in scores)
        yield f"| {way['way']}, % | {_percent(way['before'])} | {_percent(way['after'])} | {shares} |"


def _row(cell: CellRecord, task: str) -> Row:
    """The teacher's figures on a task."""
    (row,) = (row for row in cell.result["teacher_scores"]["tasks"] if row["task"] == task)
    return dict(row)


def _percent(share: float) -> str:
    return f"{100 * share:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("diagnosis", type=Path, help="result.json of a diagnosis, as it is or with gzip")
    parser.add_argument("cells", help="the file of kept cells")
    arguments = parser.parse_args()
    cells = sorted(read_cells(arguments.cells).values(), key=lambda cell: cell.result["seed"])
    for task in dict.fromkeys(row["task"] for cell in cells for row in cell.result["teacher_scores"]["tasks"]):
        for eta, forecast in forecasts(arguments.diagnosis, task).items():
            if turned := [one for one in cells if one.result["eta"] == eta and not one.result["variant"]]:
                print("\n".join([f"{task}\n", *table(forecast, turned, task), ""]))


if __name__ == "__main__":
    main()
