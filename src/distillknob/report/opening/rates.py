"""This module gives the learning rate that a command names where no recipe has one: what is usual for the size of the
model that it trains. TRL's own default is made for models of billions of parameters, and moves no small one.

A run's `environment.json` holds how many parameters the models have that it read. Of a model whose size nobody recorded
no rate is known, and the command names none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from distillknob.config.rates import Trained, usual_rate
from distillknob.report.drawing.markup import mapping, rows
from distillknob.report.read import RunData, Source, run_at
from distillknob.runs.commands import recipe_of

# What a stage trains: under which of its settings, and by which kind of training.
_TRAINED: Mapping[str, tuple[str, Trained]] = {
    "distill": ("student", "distill"),
    "calibrate": ("teacher", "calibrate"),
    "attack": ("student", "distill"),
}


def rate_flags(source: Source, stage: str, flags: Mapping[str, object]) -> dict[str, object]:
    """Return the flags that set the rate of a stage with these flags; none where a recipe has it, where the stage
    trains nothing, and where the size of what it trains isn't known."""
    if stage not in _TRAINED or recipe_of(source.main.environment) is not None:
        return {}
    setting, training = _TRAINED[stage]
    rate = next(filter(None, (_usual(run, training, flags.get(setting)) for run in _runs(source))), None)
    if rate is None:
        return {}
    own: dict[str, object] = {"learning_rate": rate}
    return {"settings": {training: own}} if stage == "attack" else own


def _runs(source: Source) -> Iterator[RunData]:
    """The runs that have read models: those of the page, and those that made what an evaluation scored."""
    yield from source.all_runs().values()
    for model in rows(source.main.result.get("models")):
        if (run := run_at(mapping(model.get("origin")).get("run"))) is not None:
            yield run


def usual_of(run: RunData) -> float | None:
    """Return the rate that is usual for what a training trained; None where that isn't known."""
    config = mapping(run.run.config)
    if run.stage not in ("calibrate", "distill"):
        return None
    setting, training = _TRAINED[run.stage]
    return _usual(run, training, config.get(setting), lora=bool(config.get("use_peft")))


def _usual(run: RunData, training: Trained, model: object, *, lora: bool = False) -> float | None:
    """The rate that is usual for a model that the run has read."""
    size: Any = mapping(run.environment.get("parameters")).get(str(model))
    return usual_rate(training, size, lora=lora) if isinstance(size, int) and size > 0 else None
