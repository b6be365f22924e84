"""benchmarks/foretold.py and benchmarks/task_alone.py: forecasts and controls beside what calibrations did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmark_files import benchmark
from planted_cells import planted_cell, problems

FORETOLD, TASK_ALONE = benchmark("foretold"), benchmark("task_alone")
BOUNDS = [-0.9, -0.3]


def test_what_was_foretold_stands_beside_what_each_seed_brought(tmp_path: Path) -> None:
    forecast: dict[str, Any] = {
        "task": "math",
        "scope": "ways",
        "eta": -0.5,
        "score": 0.8,
        "score_after": 0.9,
        "difference": -0.6,
        "interval": BOUNDS,
        "ways": [{"way": "bare", "before": 0.1, "after": 0.1}, {"way": "chain", "before": 0.2, "after": 0.6}],
    }
    file = tmp_path / "result.json"
    file.write_text(json.dumps({"knob": [forecast, {**forecast, "scope": "answers", "score_after": 0.1}]}))
    cell = planted_cell(-0.5, 3, teacher={"math": problems(0.7)})
    cell.result["teacher_scores"]["tasks"][0]["styles"] = {"chain": 0.5}
    calibration: Any = cell.result["calibration"]
    calibration["turned"] |= {"difference": -0.4, "interval": [-0.8, 0.0]}
    assert FORETOLD.forecasts(file, "math") == {-0.5: forecast}
    head, _, right, ratio, *ways = FORETOLD.table(forecast, [cell], "math")
    assert head == "| η = -0.5 | original | foretold | seed 3 |"
    assert right == "| right, % | 80 | 90 | 70 |"
    assert ratio == "| log-ratio, nats | 0 | -0.60 [-0.90, -0.30] | -0.40 [-0.80, +0.00] |"
    assert ways == ["| chain, % | 20 | 60 | 50 |", "| bare, % | 10 | 10 | 0 |"]


def test_what_the_task_alone_brings_stands_beside_what_the_knob_does() -> None:
    def calibration(eta: float, chain: float) -> dict[str, Any]:
        moved = {"task": "math", "ways": [{"way": "chain", "before": 0.2, "after": chain}]}
        fresh = {"task": "math", "before": 0.8, "after": 0.9}
        return {"eta": eta, "moved": [moved], "fresh": [fresh], "turned": {"difference": eta, "interval": BOUNDS}}

    told = TASK_ALONE.teachers([calibration(-0.5, 0.6), calibration(0.0, 0.2)], "math")
    assert told.split("\n")[2:] == [
        "| right, % | 80.0 | 90.0 | 90.0 |",
        "| log-ratio, nats |  | -0.50 [-0.90, -0.30] | +0.00 [-0.90, -0.30] |",
        "| chain, % | 20.0 | 60.0 | 20.0 |",
    ]
    student = {"task": "math", "method": "gkd", "seed": 0, "scores": problems(0.5)}
    cells = [planted_cell(-0.5, gkd={"math": problems(0.6)}), planted_cell(-0.5, 1, gkd={"math": problems(0.9)})]
    lines = TASK_ALONE.students(student, cells).split("\n")
    assert len(lines) == 4  # of the student's own seed
    assert lines[2].startswith("| 0, the task alone | 50.0 [") and lines[3].split("|")[3].startswith(" +10.0 [")
