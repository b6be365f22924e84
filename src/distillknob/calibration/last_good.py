"""The walk back from the final weights of a calibration to the last that hold on unseen problems."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from distillknob.calibration.config import CalibrationConfig
from distillknob.calibration.guard import UtilityGuard
from distillknob.calibration.held_out import HeldOut
from distillknob.results.stages import GuardRow
from distillknob.stats import paired_difference

FINAL, START = "final", "start"  # what lies beside the Trainer's checkpoints


class LastThatHolds(NamedTuple):
    """The last weights of a calibration that hold: their step, where they lie, what they wrote on the guard's problems,
    and by task how that compares with the original teacher (`guard` in the stage's result)."""

    step: int
    path: str
    held_out: dict[str, HeldOut]
    guard: list[GuardRow]


def last_that_holds(
    steps: int,
    before: dict[str, HeldOut],
    config: CalibrationConfig,
    guard: UtilityGuard,
    write: Callable[[str, str], dict[str, HeldOut]],
) -> LastThatHolds:
    """Walk back from the final weights over the kept checkpoints to the first whose scores hold on unseen problems.

    `write(path, name)` has the weights at `path` answer these problems; `name` is that of this work in the journal.
    The original teacher is the last resort (step 0). Without a guard, the final weights are kept as they are.
    """
    folder = Path(str(config.output_dir))
    saved = sorted((int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*")), reverse=True)
    candidates = [steps, *saved, 0] if guard.reason is None else [*saved, 0]
    for candidate in dict.fromkeys(candidates):
        if candidate == 0:
            path = str(folder / START) if config.use_peft else config.teacher
        else:
            final = candidate == steps and guard.reason is None
            path = str(folder / (FINAL if final else f"checkpoint-{candidate}"))
        after = before
        if candidate:
            after = write(path, f"after-{candidate}")
        comparison = _compared(before, after)
        if not config.guard or all(row["difference"] >= -config.utility_tolerance for row in comparison):
            return LastThatHolds(candidate, path, after, comparison)
        lost = min(comparison, key=lambda row: row["difference"])
        guard.events.append(
            {
                "step": candidate,
                "what": f"not kept: {lost['task']} changed by {lost['difference']:+.3f} on unseen problems",
            }
        )
    raise AssertionError("the original teacher always holds against itself")


def _compared(before: dict[str, HeldOut], after: dict[str, HeldOut]) -> list[GuardRow]:
    """By task the mean scores and their difference, paired by problem."""
    comparison: list[GuardRow] = []
    for name in before:
        first, second = before[name].scores, after[name].scores
        change = paired_difference([sum(s) / len(s) for s in first], [sum(s) / len(s) for s in second])
        comparison.append(
            {
                "task": name,
                "before": mean_score(first),
                "after": mean_score(second),
                "difference": change.mean,
                "interval": change.as_list(),
            }
        )
    return comparison


def mean_score(scores: list[list[float]]) -> float:
    """The mean of all samples' scores, by problem and sample."""
    return sum(map(sum, scores)) / sum(map(len, scores))
