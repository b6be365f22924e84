"""What the models of an evaluation are to each other: which was made here, by which stage, and from what.

A model that a stage has made lies in its run's `model/`, and the run says what it was before and who taught it. Of any
other model nobody knows here, but where such a run names it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from distillknob.models.names import SERVED
from distillknob.results.stages import ModelOrigin
from distillknob.runs.run import Run, load_run, runs_behind

# By the stage that makes a model: the settings that name what it was before, and its teacher. What a calibration or a
# defence makes is a teacher itself.
_NAMED = {
    "distill": ("student", "teacher"),
    "prune": ("model", "model"),
    "calibrate": ("teacher", None),
    "defend": ("teacher", None),
}
STUDENTS = ("distill", "prune")


def origin(model: str, models: Sequence[str]) -> ModelOrigin | None:
    """Return where a model comes from, by the names of `models`; None for one that no stage of this library made."""
    for folder in runs_behind([model]) if Path(model).name == "model" else []:
        run = load_run(folder)
        if run.stage in _NAMED:
            return _origin(run, models)
    return None


def _origin(run: Run, models: Sequence[str]) -> ModelOrigin:
    named = {**run.config, **{key: run.result[key] for key in ("teacher", "student") if run.result.get(key)}}
    before, teacher = (
        _called(named.get(setting), models) if setting is not None else None for setting in _NAMED[run.stage]
    )
    return {
        "run": str(run.path),
        "stage": run.stage,
        "role": "student" if run.stage in STUDENTS else "teacher",
        "before": before,
        "teacher": teacher,
        "eta": run.config.get("eta") if run.stage == "calibrate" else None,
    }


def pairs_of(origins: Mapping[str, ModelOrigin | None]) -> list[tuple[str, str]]:
    """Return what was made and what it was made from, (from, made), among the models: first what it was before, then
    its teacher."""
    pairs = [
        (source, model)
        for model, made in origins.items()
        if made is not None
        for source in (made["before"], made["teacher"])
        if source is not None and source in origins and source != model
    ]
    return list(dict.fromkeys(pairs))


def _called(model: Any, models: Sequence[str]) -> str | None:
    """The name by which a model is among these; its own where it isn't."""
    return next((name for name in models if _same(name, model)), model) if isinstance(model, str) else None


def _same(a: str, b: str) -> bool:
    """Do both names lead to the same place?"""
    if a == b or a.startswith((*SERVED, "zoo:")) or b.startswith((*SERVED, "zoo:")):
        return a == b
    first, second = (Path(name).expanduser() for name in (a, b))
    return first.exists() and second.exists() and first.resolve() == second.resolve()
