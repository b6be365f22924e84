"""What the knob moved: the kept teacher's answers to the guard's held-out problems beside the original's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from distillknob.calibration.held_out import HeldOut
from distillknob.evaluation.moved import Written, moved_on
from distillknob.results.stages import MovedTask
from distillknob.tasks import Task


def what_moved(
    tasks: Sequence[Task], before: Mapping[str, HeldOut], after: Mapping[str, HeldOut], right_at: float, *, same: bool
) -> list[MovedTask]:
    """By task what moved from the original teacher to the kept one. An answer is right from the score `right_at`;
    `same` says that both are one model."""

    def written(held_out: HeldOut) -> Written:
        scores = [score for problem in held_out.scores for score in problem]
        return Written(
            held_out.prompts,
            held_out.samples,
            [one.finished and score >= right_at for one, score in zip(held_out.samples, scores, strict=True)],
            [logprob_T.tolist() for logprob_T in held_out.logprobs] or None,  # none where only scores were asked for
        )

    return [moved_on(task, written(before[task.name]), written(after[task.name]), same=same) for task in tasks]
