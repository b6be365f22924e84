"""What a calibration would see of a teacher: several answers to each problem, their scores and its reward for each.

The rewards are those of `calibrate` at its first step, when the policy is the original itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

import torch

from distillknob.diagnosis.config import DiagnoseConfig, KnobReward
from distillknob.diagnosis.samples import KnobSamples, Missing
from distillknob.diagnosis.ways import Ways
from distillknob.evaluation.measure import Measured
from distillknob.models.base import LanguageModel
from distillknob.models.same_text import as_read
from distillknob.models.scoring import token_logprobs
from distillknob.models.sure_tokens import Pieces, read_in_pieces
from distillknob.runs.journal import Journal
from distillknob.tasks import Task

FEW_ANSWERS = (
    "left out, as knob_samples is 0",
    "knob_samples is 1, and a calibration chooses among several answers to a problem: give 8, as calibrate draws",
)


def first_of(drawn: Measured, samples: int) -> Measured:
    """The first `samples` answers to each problem."""
    return replace(
        drawn,
        samples=[row[:samples] for row in drawn.samples],
        answers=[row[:samples] for row in drawn.answers],
        scores=[row[:samples] for row in drawn.scores],
    )


def knob_samples(
    task: Task,
    teacher: LanguageModel,
    student: LanguageModel,
    drawn: Measured,
    ways: Ways,
    config: DiagnoseConfig,
    journal: Journal,
) -> KnobSamples | Missing:
    """Score the teacher's answers as `calibrate` would with the student as its target; missing where the student gives
    a right answer no probability at all, as no calibration could start there."""
    samples = [sample for row in drawn.samples for sample in row]
    examples = [example for example, row in zip(drawn.examples, drawn.samples, strict=True) for _ in row]
    prompts = [task.messages(example) for example in examples]
    ids, finished = [sample.token_ids for sample in samples], [sample.finished for sample in samples]
    written = token_logprobs(
        teacher,
        prompts,
        as_read(ids, finished, teacher.tokenizer, teacher),
        journal=journal.part("teacher"),
        shared=True,
        description=f"knob: {task.name}, teacher",
    )
    read = read_in_pieces(
        student,
        prompts,
        ids,
        finished,
        teacher.tokenizer,
        journal=journal.part("student"),
        shared=True,
        description=f"knob: {task.name}, student",
    )
    right_A = torch.tensor([right for row in drawn.right for right in row])
    rewards_A = {name: rewards(written, read, name).masked_fill(~right_A, 0.0) for name in get_args(KnobReward)}
    if not bool(rewards_A[config.knob_reward].isfinite().all()):
        return Missing(
            "the student gives a right answer of the teacher the probability 0, or no number: calibrate would stop "
            "there"
        )
    numbers: dict[tuple[int, ...], int] = {}
    return KnobSamples(
        task=task.name,
        samples=config.knob_samples,
        score_A=torch.tensor([score for row in drawn.scores for score in row], dtype=torch.float64),
        right_A=right_A,
        # Each is given to right answers alone.
        rewards_A={name: values_A for name, values_A in rewards_A.items() if bool(values_A.isfinite().all())},
        tokens_A=torch.tensor([len(row) for row in written]),
        answer_A=torch.tensor([numbers.setdefault(tuple(row), len(numbers)) for row in ids]),
        way_A=[way for row in ways.teacher for way in row[: config.knob_samples]],
        named=ways.named,
        etas=tuple(config.knob_etas),
        beta=config.knob_beta,
        reward=config.knob_reward,
    )


def rewards(written: Sequence[torch.Tensor], read: Sequence[Pieces], reward: str) -> torch.Tensor:
    """The calibration reward of each answer in nats, [A]: log π_T − log π_C over the whole answer (`sequence`), or over
    the pieces that the teacher was sure of. `written` is what the teacher gave its own tokens.

    `sequence_mean` is a mean over tokens. It is told of an answer of mean length, which makes it comparable with the
    others and changes no advantage, as that takes z-scores.
    """
    values_A = torch.tensor([_reward(*row, reward) for row in zip(written, read, strict=True)], dtype=torch.float64)
    if reward == "sequence_mean" and written:
        values_A *= sum(map(len, written)) / len(written)
    return values_A


def _reward(written_T: torch.Tensor, read: Pieces, reward: str) -> float:
    own, of_reader = written_T.double().sum(), read.logprob_P.double().sum()
    if reward == "sequence":
        return float(own - of_reader)
    if reward == "sequence_mean":
        return float(own / max(1, len(written_T)) - of_reader / max(1, read.tokens))
    return read.log_ratio(written_T, written_T, "hard" if reward == "sure_tokens" else "soft")
