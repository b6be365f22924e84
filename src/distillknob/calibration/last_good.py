"""The walk back from the final weights of a calibration to the last that hold on unseen problems (`decision`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from distillknob.calibration.answers import Answers, Weights
from distillknob.calibration.config import CalibrationConfig
from distillknob.calibration.decision import Decision, Pairs, TaskDecision, compared_row, outcome, walk
from distillknob.calibration.guard import UtilityGuard
from distillknob.calibration.held_out import HeldOut
from distillknob.results.stages import GuardRow
from distillknob.stats import paired_difference

FINAL, START = "final", "start"  # what lies beside the Trainer's checkpoints


class LastThatHolds(NamedTuple):
    """The last weights of a calibration that hold: their step, where they lie, what they wrote on the problems of the
    guard's first look, by task how they compare with the original teacher (`guard` in the stage's result), and how they
    do on `fresh` problems, by which they weren't chosen."""

    step: int
    path: str
    held_out: dict[str, HeldOut]
    guard: list[GuardRow]
    fresh: list[GuardRow]


def last_that_holds(
    steps: int, original: Weights, answers: Answers, config: CalibrationConfig, guard: UtilityGuard
) -> LastThatHolds:
    """Walk back from the final weights over the kept checkpoints to the first whose scores hold on unseen problems, and
    judge these once more on fresh ones.

    The original teacher is the last resort (step 0). Without a guard, the final weights are kept as they are.
    """
    folder = Path(str(config.output_dir))
    saved = sorted((int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*")), reverse=True)
    candidates = [step for step in dict.fromkeys([steps, *saved] if guard.reason is None else saved) if step]
    weights = {step: Weights(str(folder / f"checkpoint-{step}"), step) for step in candidates}
    if guard.reason is None and steps:
        weights[steps] = Weights(str(folder / FINAL), steps)
    if not config.guard:
        return _last(weights.get(steps, original), original, answers)

    def ask(step: int, look: int, tasks: Sequence[str]) -> dict[str, Pairs]:
        return dict(answers.pairs(original, weights[step], look, tasks))

    looks = {name: problems.looks for name, problems in answers.problems.items()}
    for decision in walk(candidates, config.utility_tolerance, looks, ask):
        _tell(decision, guard)
        if decision.holds:
            chosen = weights[decision.candidate]
            fresh = answers.fresh(original, chosen, {task.task: task.change.n for task in decision.tasks})
            last = _last(chosen, original, answers)
            return last._replace(
                guard=[task.row() for task in decision.tasks],
                fresh=[_on_fresh(name, pairs, config.utility_tolerance) for name, pairs in fresh.items()],
            )
    return _last(original, original, answers)


def _last(weights: Weights, original: Weights, answers: Answers) -> LastThatHolds:
    """These weights, by what they and the original write on the problems of the first look."""
    before, after = answers.look(original, 0), answers.look(weights, 0)
    rows = [
        compared_row(name, fmean(first), fmean(second), paired_difference(first, second))
        for name, first, second in ((name, before[name].means, after[name].means) for name in before)
    ]
    return LastThatHolds(weights.step, weights.path, after, rows, [])


def _on_fresh(name: str, pairs: Pairs, tolerance: float) -> GuardRow:
    """One comparison with the usual interval: nothing was chosen by these problems."""
    before, after = pairs
    change = paired_difference(before, after)
    return TaskDecision(name, outcome(before, after, tolerance), fmean(before), fmean(after), change).row()


def _tell(decision: Decision, guard: UtilityGuard) -> None:
    """Write down why a candidate wasn't kept, and of one that was kept what isn't resolved."""
    worst = decision.worst
    tasks = [worst] if not decision.holds else [task for task in decision.tasks if task.outcome == "not resolved"]
    for task in tasks:
        kept = "kept, though not resolved" if decision.holds else "not kept"
        low, high = task.change.as_list()
        what = (
            f"{kept}: {task.task} changed by {task.change.mean:+.3f} [{low:+.3f}, {high:+.3f}] on {task.change.n} "
            f"unseen problems (tolerance {guard.tolerance:g})"
        )
        guard.events.append({"step": decision.candidate, "what": what})
