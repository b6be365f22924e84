"""What the cells of an experiment say together: teachers, students, differences paired by problem, the causal table.

Made from the cells' own results, so that cells that were run elsewhere, or long ago, count like the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from distillknob.diagnosis.compare import paired_rows
from distillknob.experiments.counterparts import Counterparts
from distillknob.results.experiments import (
    Budget,
    CausalRow,
    CellResult,
    ClaimRow,
    DifferenceRow,
    KnobRow,
    Place,
    Scores,
    StudentRow,
    StudentScores,
    Tables,
    TeacherRow,
)
from distillknob.results.pass_at_k import add_difference_at_k, measured_k, pass_at
from distillknob.runs.kept import CellRecord
from distillknob.stats import paired_difference, spearman
from distillknob.verdicts.claims import score_of, student_claim
from distillknob.verdicts.teachers import is_original, teacher_label


def tables(cells: Sequence[CellRecord]) -> Tables:
    """`teachers`, `students`, `differences`, `gains`, `knob_alone` and `claims` over finished cells.

    A difference is paired by problem: a calibrated teacher's to the original's of its pair, and a student's to the
    student of that original by the same method, seed and training (`counterparts`). A gain is a student's difference
    to the student before distillation, and what the knob did alone its difference to the student of a teacher that was
    calibrated at η = 0. Where a calibrated teacher is the original itself, `same` says so, and nothing is a difference
    between teachers. A claim says what the students show of a teacher (`verdicts.claims`).
    """
    beside = Counterparts(cells)
    together: Tables = {
        "teachers": [],
        "students": [],
        "differences": [],
        "gains": [],
        "knob_alone": [],
        "claims": [],
    }
    for record in cells:
        cell, original, start = record.result, beside.teacher(record), beside.before(record)
        before = None if start is None else start.result["students"]["none"]
        same = original is not None and cell["calibration"] is not None and is_original(cell["calibration"])
        teachers = _teacher_rows(cell, None if original is None else original.result, same=same)
        students: list[StudentRow] = []
        differences: list[DifferenceRow] = []
        for method, student in cell["students"].items():
            students += _student_rows(cell, method, student)
            other = beside.student(record, method)
            counterpart = None if other is None else other.result["students"][method]
            differences += _difference_rows(cell, method, "original", counterpart, same=same)
            if method != "none":
                together["gains"] += _difference_rows(cell, method, "none", before)
            if (alone := beside.task_alone(record, method)) is not None:
                together["knob_alone"] += _difference_rows(cell, method, "task_alone", alone.result["students"][method])
        together["teachers"] += teachers
        together["students"] += students
        together["differences"] += differences
        together["claims"] += _claims(teachers, students, differences, before)
    return together


def _place(cell: CellResult, *, label: str | None = None) -> Place:
    """The cell of a row, and what its teacher is called: by its calibration, as cells may be older than the rules."""
    return {
        "label": label or teacher_label(cell["eta"], cell["calibration"]),
        "eta": cell["eta"],
        "seed": cell["seed"],
        "variant": cell["variant"],
    }


def _teacher_rows(cell: CellResult, original: CellResult | None, *, same: bool) -> list[TeacherRow]:
    """The cell's teacher on each task, with its difference to the original's. `same` says that it is the original."""
    gaps = {} if original is None else _paired(original["teacher_scores"]["scores"], cell["teacher_scores"]["scores"])
    rows: list[TeacherRow] = []
    for task in cell["teacher_scores"]["tasks"]:
        difference, interval = gaps.get(task["task"], (None, None))
        rows.append(
            {
                **task,
                **_place(cell),
                "teacher": cell["teacher"],
                "same": same,
                "difference": 0.0 if same else difference,
                "difference_interval": [0.0, 0.0] if same else interval,
                "calibration": cell["calibration"],
            }
        )
    return rows


def _student_rows(cell: CellResult, method: str, student: StudentScores) -> list[StudentRow]:
    """The cell's student by `method` on each task, with what it was given; before distillation nothing."""
    before = method == "none"
    place = _place(cell, label="none" if before else None)
    teacher = "none" if before else cell["teacher"]
    budget: Budget = {**student["training"]} if "training" in student else {}
    return [{**task, **place, "teacher": teacher, "method": method, **budget} for task in student["tasks"]]


def _difference_rows(
    cell: CellResult, method: str, a: str, before: StudentScores | None, *, same: bool | None = None
) -> list[DifferenceRow]:
    """The differences of the cell's student by `method` to another student, `before`, on each task: of the scores, and
    of pass@k where both have it. None where there is no other. `same` says whether the teachers are one."""
    after = cell["students"][method]
    if before is None:
        return []
    k = measured_k([before])
    at_k = {} if k is None else _paired_at_k(before, after, k)
    place, rows = _place(cell), []
    for task, (difference, interval) in _paired(before["scores"], after["scores"]).items():
        row: DifferenceRow = {
            "task": task,
            "a": a,
            "b": cell["teacher"],
            "method": method,
            "label": place["label"],
            "eta": place["eta"],
            "seed": place["seed"],
            "variant": place["variant"],
            "difference": difference,
            "interval": interval,
        }
        if same is not None:
            row["same"] = same
        if k is not None and task in at_k:
            row = add_difference_at_k(row, k, *at_k[task])
        rows.append(row)
    return rows


def _paired_at_k(before: StudentScores, after: StudentScores, k: int) -> dict[str, tuple[float, list[float]]]:
    """The paired differences of pass@k on the tasks on which both students have it."""
    first, second = (cast(Mapping[str, Any], student).get(pass_at(k), {}) for student in (before, after))
    both = [task for task in first if first[task] and second.get(task)]
    return _paired({task: first[task] for task in both}, second)


def _paired(
    before: Mapping[str, list[float]], after: Mapping[str, list[float]]
) -> dict[str, tuple[float, list[float]]]:
    """The difference on each task, paired by problem, and its interval."""
    changes = {task: paired_difference(before[task], after[task]) for task in before}
    return {task: (change.mean, change.as_list()) for task, change in changes.items()}


def _claims(
    teachers: Sequence[TeacherRow],
    students: Sequence[StudentRow],
    differences: Sequence[DifferenceRow],
    before: Scores | None,
) -> list[ClaimRow]:
    """What the students of one cell show of its teacher, on each task."""
    starts = {} if before is None else {row["task"]: score_of(row) for row in before["tasks"]}
    rows: list[ClaimRow] = []
    for row in teachers:
        if not row["calibration"]:
            continue
        task = row["task"]
        claim = student_claim(
            task,
            row,
            [one for one in students if one["task"] == task],
            [one for one in differences if one["task"] == task],
            starts.get(task),
        )
        rows.append(
            {
                "teacher": row["teacher"],
                "label": row["label"],
                "eta": row["eta"],
                "seed": row["seed"],
                "variant": row["variant"],
                "task": claim.task,
                "word": claim.word,
                "why": claim.why,
                "methods": list(claim.methods),
                "method": claim.method,
                "difference": claim.difference,
                "interval": claim.interval and list(claim.interval),
            }
        )
    return rows


def knob(students: Sequence[StudentRow]) -> list[KnobRow]:
    """Rank correlation of η with the students' pass@1, by method, task and seed; where there are three values of η."""
    groups: dict[tuple[str, str, int], list[tuple[float, float]]] = {}
    for row in students:
        if row["method"] != "none":
            groups.setdefault((row["method"], row["task"], row["seed"]), []).append((row["eta"], row["pass@1"]))
    return [
        {
            "method": method,
            "task": task,
            "seed": seed,
            "spearman": spearman(*zip(*points, strict=True)),
            "points": len(points),
        }
        for (method, task, seed), points in groups.items()
        if len(points) > 2
    ]


def causal(cells: Sequence[CellRecord]) -> list[CausalRow]:
    """For each seed, task and measure of a diagnosis: its value under each teacher, and the difference to the
    original's with a 95 % interval, paired by problem. Cells that were not diagnosed are left out."""
    rows: list[CausalRow] = []
    results = [cell.result for cell in cells if cell.result["lens"] is not None]
    for original in (cell for cell in results if cell["eta"] == 0 and not cell["variant"]):
        for cell in (cell for cell in results if cell["seed"] == original["seed"]):
            for row in paired_rows(original["lens"] or [], cell["lens"] or [], first=cell is original):
                rows.append(
                    {
                        "eta": cell["eta"],
                        "seed": cell["seed"],
                        "variant": cell["variant"],
                        "teacher": cell["teacher"],
                        **row,
                    }
                )
    return rows
