"""This module names the learning rate on the terminal where a training hardly moved its model. The command that raises
it is the next step (`next_text`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distillknob.cli.layout import wrapped
from distillknob.verdicts.movement import hardly_moved, next_rate


def rate_text(result: Mapping[str, Any]) -> list[str]:
    """Say that a training hardly moved its model, and that the rate is the first suspect; nothing of one that moved
    it."""
    moved = hardly_moved(result)
    if moved is None:
        return []
    if next_rate(result) is None:
        return [wrapped(f"! {moved}. First suspect: the learning rate, which is too low for a model of this size.")]
    return [wrapped(f"! {moved}. First suspect: the learning rate, {result['learning_rate']:g}.")]
