"""The model card of a calibrated teacher: what was done to it, what was measured, and what was not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult

from distillknob.calibration.config import CalibrationConfig
from distillknob.calibration.guard import UtilityGuard
from distillknob.calibration.last_good import LastThatHolds
from distillknob.publishing.card import Card
from distillknob.results.schema import Bounds
from distillknob.runs.model_record import calibrated_as, read_record
from distillknob.verdicts.teachers import signed
from distillknob.verdicts.turning import Turning, turned_text
from distillknob.verdicts.utility import outcome_text, scores_to_tell

USE = (
    "Where the original is used, on tasks like those it was calibrated on, and as a teacher in a distillation. "
    "Evaluate it on your own task first."
)
MISUSE = (
    "Don't take η for protection: only attacks show what an extractor gets. Don't offer the model as the original. The "
    "original's licence and its limits hold here too."
)


def model_card(config: CalibrationConfig, run: Path, guard: UtilityGuard, last: LastThatHolds, turned: Turning) -> str:
    """The model card: what was done to this model, what was measured of it, and what was not."""
    where, rows = scores_to_tell({"guard": last.guard, "fresh": last.fresh})
    return Card(
        title=_title(config, turned),
        base=config.teacher,
        kind=None if turned.same else "calibrated-teacher",
        made=_made(config, guard, last, turned),
        evidence=_evidence(config, last, turned, where, rows),
        limits=_limits(config, turned),
        use=USE,
        misuse=MISUSE,
        run=run,
        seed=config.seed,
        adapter=config.saves_adapter,
        teacher=not turned.same,
        place=config.hub_model_id,
        scores=[] if turned.same else _results(rows),
    ).text()


def _title(config: CalibrationConfig, turned: Turning) -> str:
    if not turned.same:
        return f"{config.teacher}, calibrated with η = {config.eta:g} ({turned.verdict})"
    earlier = read_record(config.teacher)  # a teacher that had been calibrated before
    if earlier is None:
        return f"{config.teacher}, not calibrated: it is the original (η = {config.eta:g})"
    return f"{config.teacher}, unchanged by a calibration at η = {config.eta:g}; it is {calibrated_as(earlier)}"


def _made(config: CalibrationConfig, guard: UtilityGuard, last: LastThatHolds, turned: Turning) -> str:
    stopped = f"\n\nThe utility guard stopped the run: {guard.reason}." if guard.reason else ""
    targets = ", ".join(f"`{target}`" for target in config.targets)
    if turned.same:
        return (
            f"This is `{config.teacher}` itself. distillknob tried to calibrate it against {targets}: "
            f"{turned.reason}.{stopped}"
        )
    cells = {
        "η": signed(config.eta),
        "target": targets,
        "reward": f"`{config.reward}`",
        "tasks": ", ".join(config.tasks),
        "steps kept": str(last.step),
        "knob": turned.verdict,
    }
    lines = [cells.keys(), ["---"] * len(cells), cells.values()]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return (
        f"Made by distillknob: {last.step} steps of reinforcement fine-tuning of `{config.teacher}` against {targets}. "
        "With η below 0 the teacher is paid for what the target finds likely, with η above 0 for what it finds "
        f"unlikely.\n\n{table}{stopped}"
    )


def _evidence(
    config: CalibrationConfig, last: LastThatHolds, turned: Turning, where: str, rows: Sequence[Mapping[str, Any]]
) -> str:
    if turned.same:
        return "The model is the original, so there is no difference to measure."
    scores = [
        "| task | before | after | difference [95 %] | problems | the guard |",
        "| --- | --- | --- | --- | --- | --- |",
        *(_score(row, config.utility_tolerance) for row in rows),
    ]
    parts = [turned_text(turned.as_row()), f"Task scores {where}:", "\n".join(scores) if rows else "none"]
    open_tasks = [row["task"] for row in last.guard if row.get("outcome") == "not resolved"]
    if open_tasks:
        parts.append(
            f"The guard chose this step without having resolved whether it lost more than its tolerance on "
            f"{', '.join(open_tasks)}: its problems were used up, and the loss that they showed was smaller."
        )
    return "\n\n".join(parts)


def _limits(config: CalibrationConfig, turned: Turning) -> list[str]:
    if turned.same:
        return ["Its students show nothing of the knob."]
    return [
        "Not measured here: whether students learn more or less from this model than from the original.",
        f"Scores and knob were measured on {', '.join(config.tasks)} alone, and the knob against its target alone.",
        "A loss on other tasks isn't seen by the guard.",
    ]


def _results(rows: Sequence[Mapping[str, Any]]) -> list[EvalResult]:
    """The scores as a hub's metadata have them."""
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=row["task"],
            dataset_name=f"{row['task']}, held-out problems",
            dataset_split="train",
            metric_type="accuracy",
            metric_name="mean score",
            metric_value=round(row["after"], 4),
            metric_args={
                "original": round(row["before"], 4),
                "difference": round(row["difference"], 4),
                "difference_interval_95": [None if bound is None else round(bound, 4) for bound in row["interval"]],
            },
        )
        for row in rows
        if all(map(math.isfinite, (row["before"], row["after"], *(bound or 0.0 for bound in row["interval"]))))
    ]


def _score(row: Mapping[str, Any], tolerance: float) -> str:
    judged = outcome_text(row, tolerance)
    cells = [row["task"], f"{row['before']:.3f}", f"{row['after']:.3f}", _difference(row)]
    return f"| {' | '.join([*cells, str(row.get('problems', '–')), judged or '–'])} |"


def _difference(row: Mapping[str, Any]) -> str:
    bounds: Bounds = row["interval"]
    low, high = bounds
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return f"{row['difference']:+.3f}, no interval: one problem"
    return f"{row['difference']:+.3f} [{low:+.3f}, {high:+.3f}]"
