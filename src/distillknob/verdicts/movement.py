"""This module says whether a training hardly moved its model at all, which is nearly always a learning rate too low for
a model of its size.

Left out on purpose: a test of significance. Both thresholds are far from what trainings that worked have shown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from distillknob.verdicts.teachers import is_original
from distillknob.verdicts.turning import TURNED

# Nats a token to the original. The calibrations of docs/research/lab-notebook.md that turned a knob have 0.004 and
# more; one at a rate too low for its size had 0.00007.
HARDLY_KL = 1e-3
HARDLY_FELL = 0.1  # share of the loss by which a distillation's fell; where students learned it was a third and more
FEWEST_STEPS = 20  # of which the first ten are set beside the last ten
TIMES = 3  # as high a rate is the next to try


def hardly_moved(result: Mapping[str, Any]) -> str | None:
    """Say by which figure the model of a calibration or a distillation hardly moved; None where it moved, where that
    can't be told, and where the guard gave back an earlier step, as a higher rate would make that worse."""
    if result.get("stage") == "calibrate":
        return _hardly_calibrated(result)
    return _hardly_distilled(result) if result.get("stage") == "distill" else None


def next_rate(result: Mapping[str, Any], usual: float | None = None) -> float | None:
    """Return the learning rate to try next, to one digit: a few times as much, or the `usual` one of its model where
    that is more. None of results that don't tell theirs."""
    rate = _figure(result, "learning_rate")
    return None if not rate else max(float(f"{TIMES * rate:.0e}"), usual or 0.0)


def _hardly_calibrated(result: Mapping[str, Any]) -> str | None:
    turned, kl = result.get("turned") or {}, _figure(result, "anchor_kl")
    refused = any(str(event.get("what")).startswith("not kept") for event in result.get("events") or [])
    if result.get("outcome") != "finished" or refused or result.get("kept_step") == 0:
        return None
    if kl is None or kl >= HARDLY_KL or turned.get("verdict") == TURNED or result.get("eta") == 0:
        return None
    if is_original(result):
        return "the teacher did not move at all"
    return f"the teacher hardly moved: its KL to the original is {kl:.1g} nats a token"


def _hardly_distilled(result: Mapping[str, Any]) -> str | None:
    first, last, steps = (_figure(result, name) for name in ("first_loss", "final_loss", "steps"))
    if not first or last is None or steps is None or steps < FEWEST_STEPS or result.get("phases"):
        return None
    if last < (1 - HARDLY_FELL) * first:
        return None
    return f"the student hardly moved: its loss was {first:.3g} in the first ten steps, {last:.3g} in the last ten"


def _figure(result: Mapping[str, Any], name: str) -> float | None:
    """A finite number of the result; None where it holds none, as a file that somebody else wrote may."""
    value = result.get(name)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
