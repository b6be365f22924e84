"""This module names the learning rate on the terminal where a training hardly moved its model, with the command that
raises it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distillknob.cli.layout import wrapped
from distillknob.report.opening.rates import usual_of
from distillknob.report.read import RunData
from distillknob.runs.commands import StartedWith, command, unused
from distillknob.runs.run import Run
from distillknob.verdicts.movement import hardly_moved, next_rate


def rate_text(run: Run, result: Mapping[str, Any]) -> list[str]:
    """Say that a training hardly moved its model, that the rate is the first suspect, and what to type; nothing of one
    that moved it."""
    usual = usual_of(RunData(run.path, run))
    moved, rate = hardly_moved(result), next_rate(result, usual)
    if moved is None:
        return []
    if rate is None:
        return [wrapped(f"! {moved}. First suspect: the learning rate, which is too low for a model of this size.")]
    much = "what is usual for a model of this size" if rate == usual else "three times as much"
    suspect = f"First suspect: the learning rate, {result['learning_rate']:g}. Try {much}:"
    recipe = StartedWith(str(run.path / "config.yaml"))
    faster = unused(run.path.with_name(f"{run.path.name}-faster"))
    again = command(str(result["stage"]), recipe=recipe, learning_rate=rate, output=faster)
    return [f"{wrapped(f'! {moved}. {suspect}')}\n    {again}"]
