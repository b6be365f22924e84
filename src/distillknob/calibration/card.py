"""The model card of a calibrated teacher: what was done to it, what was measured, and what was not."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from distillknob.calibration.config import CalibrationConfig
from distillknob.calibration.guard import UtilityGuard
from distillknob.calibration.last_good import LastThatHolds
from distillknob.results.schema import Bounds
from distillknob.runs.model_record import calibrated_as, read_record
from distillknob.verdicts.turning import Turning, turned_text
from distillknob.verdicts.utility import outcome_text, scores_to_tell


def model_card(config: CalibrationConfig, guard: UtilityGuard, last: LastThatHolds, turned: Turning) -> str:
    """The model card: what was done to this model, what was measured of it, and what was not."""
    stopped = f"The utility guard stopped the run: {guard.reason}.\n\n" if guard.reason else ""
    made_by = "distillknob (a reconstruction of arXiv 2604.18963)"
    if turned.same:
        earlier = read_record(config.teacher)  # a teacher that had been calibrated before
        was = f"not calibrated: it is the original (η = {config.eta:g})"
        if earlier is not None:
            was = f"unchanged by a calibration at η = {config.eta:g}; it is {calibrated_as(earlier)}"
        title = f"{config.teacher}, {was}"
        text = (
            f"This is `{config.teacher}` itself. {made_by} tried to calibrate it against `{config.target}`: "
            f"{turned.reason}.\n\n{stopped}"
        )
    else:
        title = f"{config.teacher}, calibrated with η = {config.eta:g} ({turned.verdict})"
        where, rows = scores_to_tell({"guard": last.guard, "fresh": last.fresh})
        scores = "\n".join(_score(row, config.utility_tolerance) for row in rows)
        open_tasks = [row["task"] for row in last.guard if row.get("outcome") == "not resolved"]
        if open_tasks:
            scores += (
                f"\n\nThe guard chose this step without having resolved whether it lost more than its tolerance on "
                f"{', '.join(open_tasks)}: its problems were used up, and the loss that they showed was smaller."
            )
        text = (
            f"Made by {made_by}: {last.step} steps of reinforcement fine-tuning against `{config.target}`.\n\n"
            f"{stopped}{turned_text(turned.as_row())}\n\n"
            f"Task scores {where}:\n\n{scores}\n\n"
            "Not measured here: whether students learn more or less from this model than from the original.\n"
        )
    tags = "distillknob" if turned.same else "distillknob, calibrated-teacher"
    return f"---\nbase_model: {config.teacher}\ntags: [{tags}]\n---\n# {title}\n\n{text}"


def _score(row: Mapping[str, Any], tolerance: float) -> str:
    problems = f", {row['problems']} problems" if "problems" in row else ""
    judged = outcome_text(row, tolerance)
    return (
        f"- {row['task']}: {row['before']:.3f} before, {row['after']:.3f} after "
        f"({_interval(row['interval'])}{problems}){': ' + judged if judged else ''}"
    )


def _interval(bounds: Bounds) -> str:
    low, high = bounds
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return "no interval of the difference, from one problem"
    return f"95 % interval of the difference {low:+.3f} to {high:+.3f}"
