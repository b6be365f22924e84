"""What the cells of an experiment say together: teachers, students, differences paired by problem, the causal table.

Made from the cells' own results, so that cells that were run elsewhere, or long ago, count like the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from distillknob.diagnosis.compare import paired_rows
from distillknob.runs.run import Run
from distillknob.stats import paired_difference, spearman
from distillknob.verdicts import is_original, student_claims, teacher_key, teacher_label


def tables(cells: Sequence[Run]) -> dict[str, list[dict[str, Any]]]:
    """`teachers`, `students`, `differences`, `gains` and `claims` over finished cells.

    A difference is paired by problem: a calibrated teacher's to the original's, and a student's to the student of the
    original teacher by the same method and seed. A gain is a student's difference to the student before distillation.
    Where a calibrated teacher is the original itself, `same` says so, and nothing is a difference between teachers.
    A claim says what the students show of a teacher (`verdicts.student_claim`).
    """
    teachers, students, differences, gains = [], [], [], []
    results = [cell.result for cell in cells]
    originals = {found["seed"]: found for found in results if found["eta"] == 0 and not found["variant"]}
    for found in results:
        original = originals.get(found["seed"])
        base = {} if original is None else original["students"]
        if original is found:
            original = None
        key, label = teacher_key(found["eta"]), teacher_label(found["eta"], found["calibration"])
        known = {name: found[name] for name in ("eta", "seed", "variant")}
        same = original is not None and found["calibration"] is not None and is_original(found["calibration"])
        change = _differences(original and original["teacher_scores"], found["teacher_scores"])
        for task in found["teacher_scores"]["tasks"]:
            gap = change.get(task["task"], {})
            teachers.append(
                {
                    "teacher": key,
                    "label": label,
                    **known,
                    **task,
                    "same": same,
                    "difference": 0.0 if same else gap.get("difference"),
                    "difference_interval": [0.0, 0.0] if same else gap.get("interval"),
                    "calibration": found["calibration"],
                }
            )
        for method, student in found["students"].items():
            who = {"teacher": "none", "label": "none"} if method == "none" else {"teacher": key, "label": label}
            made = student.get("training", {})
            students += [{**who, **known, "method": method, **task, **made} for task in student["tasks"]]
            before = (original or {}).get("students", {}).get(method)
            named = {"method": method, **known, "b": key, "label": label}
            differences += [
                {"task": task, "a": "original", **named, "same": same, **values}
                for task, values in _differences(before, student).items()
            ]
            if method != "none":
                gains += [
                    {"task": task, "a": "none", **named, **values}
                    for task, values in _differences(base.get("none"), student).items()
                ]
    claims = [
        {**{name: row[name] for name in ("teacher", "label", "eta", "seed", "variant")}, **claim.as_dict()}
        for row, claim in student_claims(teachers, students, differences)
    ]
    return {
        "teachers": teachers,
        "students": students,
        "differences": differences,
        "gains": gains,
        "claims": claims,
    }


def _differences(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By task: `difference` and `interval` of the scores, and of each pass@k that both have."""
    if before is None:
        return {}
    found: dict[str, dict[str, Any]] = {}
    for task, scores in before["scores"].items():
        change = paired_difference(scores, after["scores"][task])
        found[task] = {"difference": change.mean, "interval": change.as_list()}
        for name in before:
            if name.startswith("pass@") and before[name].get(task) and after.get(name, {}).get(task):
                change = paired_difference(before[name][task], after[name][task])
                found[task] |= {f"{name}_difference": change.mean, f"{name}_difference_interval": change.as_list()}
    return found


def knob(students: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
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


def causal(cells: Sequence[Run]) -> list[dict[str, Any]]:
    """For each seed, task and measure of the lens: its value under each teacher, and the `difference` to the original's
    with a 95 % interval, paired by problem. Cells without a lens are left out."""
    rows = []
    results = [cell.result for cell in cells if cell.result["lens"] is not None]
    for original in (found for found in results if found["eta"] == 0 and not found["variant"]):
        for found in (found for found in results if found["seed"] == original["seed"]):
            known = {name: found[name] for name in ("eta", "seed", "variant")} | {"teacher": teacher_key(found["eta"])}
            paired = paired_rows(original["lens"], found["lens"], first=found is original)
            rows += [{**known, **row} for row in paired]
    return rows
