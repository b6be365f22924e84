"""Diagnoses set beside each other, problem by problem: the causal table of what a calibration changed.

Each diagnosis keeps its measures by problem (`by_prompt.json`). Diagnoses of the same student on the same problems are
paired, so that a difference is the teacher's. A value is the mean over problems of each problem's mean, which weights
problems alike; the pilot table weights tokens alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distillknob.errors import BadInputError
from distillknob.results.experiments import MeasureByProblem, PairedRow
from distillknob.runs.files import read_json
from distillknob.runs.run import Run, load_run
from distillknob.stats import paired_difference

BY_PROMPT = "by_prompt.json"
SAME = ("student", "tasks", "problems", "samples", "candidates", "max_new_tokens", "seed")  # for a pairing by problem


def compare_diagnoses(paths: Sequence[str | Path]) -> dict[str, Any]:
    """Finished diagnoses of one student beside each other: `runs` (path, teacher), and `rows`, for each task, measure
    and run its `value`, and its `difference` to the first run with a 95 % interval, paired over the problems that both
    have (`n`). Differences of the first run are None.

    Raises BadInputError for fewer than two runs, runs that are no finished diagnoses, and runs whose student, problems
    or seed differ, by name or by content.
    """
    if len(paths) < 2:
        raise BadInputError(
            f"--compare got {len(paths)} run: give two or more finished diagnoses, the one before calibration first"
        )
    runs = [_diagnosis(Path(path)) for path in paths]
    for run in runs[1:]:
        for name in SAME:
            before, now = runs[0].config[name], run.config[name]
            if before != now:
                raise BadInputError(
                    f"{run.path} was diagnosed with {name}={now!r}, {runs[0].path} with {before!r}: diagnose both "
                    "on the same student and problems, or they can't be paired"
                )
        _check_read(runs[0], run)
    tables = [read_json(run.path / BY_PROMPT) for run in runs]
    rows = [
        {"run": str(run.path), "teacher": run.config["teacher"], **row}
        for run, table in zip(runs, tables, strict=True)
        for row in paired_rows(tables[0], table, first=run is runs[0])
    ]
    order = {(row["task"], row["measure"]): place for place, row in enumerate(tables[0])}
    rows.sort(key=lambda row: order[row["task"], row["measure"]])
    sides = [{"run": str(run.path), "teacher": run.config["teacher"]} for run in runs]
    return {"stage": "compare", "student": runs[0].config["student"], "runs": sides, "rows": rows}


def paired_rows(
    before: Sequence[MeasureByProblem], now: Sequence[MeasureByProblem], *, first: bool = False
) -> list[PairedRow]:
    """For each task and measure that both diagnoses have: `value` now, its `difference` to before with its `interval`,
    paired over the `n` problems that both have. `first`: these are the ones to compare with. Where every figure of
    every problem agrees it is the same teacher: nothing of a difference of 0 is uncertain then."""
    same = list(before) == list(now)
    table = {(row["task"], row["measure"]): row for row in now}
    return [
        _paired(row, table[row["task"], row["measure"]], first=first, same=same)
        for row in before
        if (row["task"], row["measure"]) in table
    ]


def _paired(before: MeasureByProblem, now: MeasureByProblem, *, first: bool, same: bool) -> PairedRow:
    row: PairedRow = {
        "task": before["task"],
        "measure": before["measure"],
        "unit": before["unit"],
        "value": _mean(now["value"]),
        "difference": None,
        "interval": None,
        "n": len(now["value"]) if first else 0,
    }
    if first:
        return row
    # An infinite KL has no number in the file.
    old, new = (
        {prompt: number for prompt, number in zip(row["prompt"], row["value"], strict=True) if number is not None}
        for row in (before, now)
    )
    shared = [prompt for prompt in old if prompt in new]
    if not shared:
        return row
    if same:
        return {**row, "difference": 0.0, "interval": [0.0, 0.0], "n": len(shared)}
    is_share = before["unit"] == "share"
    gap = paired_difference([old[p] for p in shared], [new[p] for p in shared], proportion=is_share)
    return {**row, "difference": gap.mean, "interval": gap.as_list(), "n": gap.n}


def _check_read(first: Run, run: Run) -> None:
    """Raise BadInputError where the runs read other data or another student by the same name: their problems have the
    same numbers, and aren't the same."""
    student = first.config["student"]
    teachers = {f"model {one.config['teacher']}" for one in (first, run)} - {f"model {student}"}
    before, now = first.read, run.read
    changed = sorted(name for name in before.keys() & now.keys() - teachers if before[name] != now[name])
    if changed:
        raise BadInputError(
            f"{run.path} and {first.path} read something else by the same name ({', '.join(changed)}), so that their "
            "problems can't be paired: diagnose both on what is there now"
        )


def _mean(values: Iterable[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return float(np.mean(numbers)) if numbers else None


def _diagnosis(path: Path) -> Run:
    run = load_run(path)
    if run.stage != "diagnose" or not run.complete:
        state = "" if run.complete else "unfinished "
        raise BadInputError(f"{path} holds an {state}{run.stage} run: --compare wants finished diagnoses")
    if not (path / BY_PROMPT).exists():
        raise BadInputError(f"{path} has no {BY_PROMPT}: it was written by an older distillknob, diagnose it again")
    return run
