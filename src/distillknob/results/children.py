"""This module lists the runs inside a cell or a demo, as its result names them: of which stage, whose, and where.

Results from before version 1 name them in `runs` alone, by names that are taken apart here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from distillknob.results.experiments import ChildRun

_STUDENT, _AT_K = "student-", "-at-k"  # in the names of evaluations


def child_run(stage: str, path: str, *, method: str | None = None, at_k: bool = False) -> ChildRun:
    """Describe a run inside a cell: that of `stage`, of the student by `method` where there is one for each student. It
    is named `calibrate`, `diagnose`, `distill/gkd`, `evaluate/teacher`, `evaluate/student-gkd`,
    `evaluate/student-gkd-at-k`."""
    name = stage if method is None else f"{stage}/{method}"
    if stage == "evaluate":
        name = "evaluate/teacher" if method is None else f"evaluate/{_STUDENT}{method}{_AT_K if at_k else ''}"
    return _child(stage, name, path, method, at_k=at_k)


def in_experiment(child: ChildRun, teacher: str, folder: str) -> ChildRun:
    """Return a cell's run as the experiment around it knows it, where the cell of `teacher` lies in `folder`. It is
    named `eta+0.5`, `eta+0.5/gkd`, `eta+0.5/student-gkd`."""
    _, _, rest = child["name"].partition("/")
    name = f"{teacher}/{rest}" if rest else teacher
    return {**child, "name": name, "path": f"{folder}/{child['path']}", "teacher": teacher}


def children(result: Mapping[str, Any]) -> list[ChildRun]:
    """Return the runs inside the run of this result, in the order in which they were made."""
    listed, runs = result.get("children"), result.get("runs")
    if isinstance(listed, list):
        return listed
    return list(_before_version_1(runs)) if isinstance(runs, Mapping) else []


def _before_version_1(runs: Mapping[str, Any]) -> Iterator[ChildRun]:
    """A cell's `runs` hold paths by `stage/whose`, a demo's by stage and then by `teacher/whose`."""
    for key, value in runs.items():
        stage, _, whose = key.partition("/")
        if isinstance(value, str):
            yield _child(stage, key, value, **_whose(stage, whose))
        for name, path in value.items() if isinstance(value, Mapping) else ():
            teacher, _, whose = name.partition("/")
            if isinstance(path, str):
                yield {**_child(stage, name, path, **_whose(stage, whose)), "teacher": teacher}


def _whose(stage: str, whose: str) -> dict[str, Any]:
    if stage != "evaluate":
        return {"method": whose or None}
    if not whose.startswith(_STUDENT):
        return {"method": None}
    method = whose.removeprefix(_STUDENT)
    return {"method": method.removesuffix(_AT_K), "at_k": method.endswith(_AT_K)}


def _child(stage: str, name: str, path: str, method: str | None, *, at_k: bool = False) -> ChildRun:
    return {
        "stage": stage,
        "name": name,
        "path": path,
        "teacher": None,
        "model": None if stage != "evaluate" else "teacher" if method is None else "student",
        "method": method,
        "at_k": at_k,
    }
