"""What a training's log says: its phases, the time of a step, its peak of memory, and whether the student hacks its
teacher."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from distillknob.diagnosis.finding import Finding
from distillknob.diagnosis.traps.teacher_hacking import hacking_by_oracle, teacher_hacking
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.oracle import GOLDEN, PROXY
from distillknob.results.stages import PhaseRow

WARM_UP = 5  # steps that pay for what is set up once


def phase_row(result: Mapping[str, Any]) -> PhaseRow:
    """Return what a phase's own result says of how much it trained."""
    return {
        "method": result["method"],
        "learning_rate": result["learning_rate"],
        "steps": result["steps"],
        "tokens": result["tokens"],
        "traces": result["traces"],
    }


def step_seconds(phases: Sequence[Sequence[dict[str, Any]]]) -> float | None:
    """Return the mean seconds of a step over the phases, from the metrics of each: samples and the teacher's share
    included, without a phase's first `WARM_UP` steps (of fewer than twice as many: without the first). None where a
    phase has no step that counts."""
    steps, total = 0, 0.0
    for metrics in phases:
        timed = [row["step_time"] for row in metrics if row.get("step_time") is not None]
        steady = timed[WARM_UP if len(timed) >= 2 * WARM_UP else 1 :]
        if not steady:
            return None
        steps, total = steps + len(timed), total + len(timed) * sum(steady) / len(steady)
    return total / steps


def peak_of(phases: Sequence[Sequence[dict[str, Any]]]) -> int | None:
    """Return the highest peak of memory of the phases, in bytes; None where it isn't known of each."""
    peaks = [[row["peak_memory"] for row in metrics if "peak_memory" in row] for metrics in phases]
    return max(map(max, peaks)) if all(peaks) else None


def by_oracle(metrics: list[dict[str, Any]], task: str) -> Finding:
    """Does the student come closer to its teacher while it moves away from the oracle?"""
    points = [row for row in metrics if f"distances/{task}" in row]
    proxy_PN, golden_PN = ([row[f"distances/{task}"][name] for row in points] for name in (PROXY, GOLDEN))
    return hacking_by_oracle(task, [row["step"] for row in points], proxy_PN, golden_PN)


def hacking(metrics: list[dict[str, Any]], config: DistillConfig, planned: int) -> Finding:
    """Does the training loss keep to its power law?"""
    steps = [row for row in metrics if row.get("loss") is not None]
    return teacher_hacking(
        [row["step"] for row in steps],
        [row["loss"] for row in steps],
        [(row.get("on_policy") or 0.0) + (row.get("replayed") or 0.0) for row in steps],
        warmup=config.get_warmup_steps(planned),
    )
