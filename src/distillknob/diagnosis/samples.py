"""The scored tensors that traps read, and nothing else: no trap ever sees a model.

`Gathered` is all of them on one task. What can't be had of every pair is `Missing` there, with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from distillknob.results.stages import ShownAnswer, Why

TWO_TOKENIZERS = "teacher and student have different tokenizers, and a token's divergence needs one vocabulary"
GRADIENTS = ("token_level", "sampled_token", "sequence")


@dataclass(frozen=True)
class GradientSample:
    """The student's gradients of the three estimates `GRADIENTS` of one reverse KL, on B batches (a prompt's answers
    each): their inner products, which is all that angles and variances need."""

    task: str
    prompt_B: torch.Tensor
    product_BEE: torch.Tensor  # [B, 3, 3] of each batch's gradients
    mean_EE: torch.Tensor  # [3, 3] of the gradients' means over the batches


@dataclass(frozen=True)
class ScoredAnswers:
    """Answers of one policy to one task, with the log-probability (nats) of each of their pieces under both models.

    The pieces are tokens, or spans between places where a token ends in both tokenizers. `prompt_A` numbers the prompt
    of each answer; fields ending in _N have one entry a piece, `answer_N` its answer.
    """

    task: str
    policy: str  # "on_policy": the student's own answers; "off_policy": the teacher's
    prompt_A: torch.Tensor
    answer_N: torch.Tensor
    teacher_logprob_N: torch.Tensor
    student_logprob_N: torch.Tensor

    @property
    def piece(self) -> str:
        """What the entries ending in _N are one of: `token` or `span`."""
        return "span"

    @property
    def prompt_N(self) -> torch.Tensor:
        """The prompt of each piece."""
        return self.prompt_A[self.answer_N]

    @property
    def place_N(self) -> torch.Tensor:
        """The place of each piece in its answer, from 0."""
        lengths_A = torch.bincount(self.answer_N, minlength=len(self.prompt_A))
        return torch.arange(len(self.answer_N)) - (lengths_A.cumsum(0) - lengths_A)[self.answer_N]

    def per_answer(self, values_N: torch.Tensor) -> torch.Tensor:
        """Sums over each answer's pieces, [A]."""
        return torch.zeros(len(self.prompt_A), dtype=torch.float64).index_add_(0, self.answer_N, values_N.double())

    def by_answer(self, values_N: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Values [A, T] of each answer's pieces in their order, 0 beyond its end, and the mask [A, T] (bool)."""
        lengths_A = torch.bincount(self.answer_N, minlength=len(self.prompt_A))
        values_AT = values_N.new_zeros((len(self.prompt_A), int(lengths_A.max()) if len(lengths_A) else 0))
        values_AT[self.answer_N, self.place_N] = values_N
        return values_AT, torch.arange(values_AT.size(1)) < lengths_A[:, None]


@dataclass(frozen=True)
class ScoredTokens(ScoredAnswers):
    """Answers whose tokens are the same to both models, with the divergences (nats) at each of them.

    The columns from `forward_kl_N` on are those of `divergences.per_token.TokenStats` by the same names, with `ks` for
    its values of k. `texts` spells each token id that occurs.
    """

    token_N: torch.Tensor
    forward_kl_N: torch.Tensor
    reverse_kl_N: torch.Tensor
    student_entropy_N: torch.Tensor
    forward_parts_topk_NK: torch.Tensor
    forward_gap_topk_NK: torch.Tensor
    rare_kl_N: torch.Tensor
    ks: tuple[int, ...]
    texts: Mapping[int, str]

    @property
    def piece(self) -> str:
        return "token"


@dataclass(frozen=True)
class Candidates:
    """Candidate answers to one task, each right or wrong, with their likelihood under the teacher (nats)."""

    task: str
    prompt_A: torch.Tensor
    right_A: torch.Tensor  # bool
    logprob_A: torch.Tensor  # summed over the answer's tokens
    tokens_A: torch.Tensor  # their number
    style_A: list[str]  # the way each is written in


@dataclass(frozen=True)
class OwnAnswers:
    """All of the student's own answers to one task: unfinished ones are wrong."""

    task: str
    prompt_A: torch.Tensor
    right_A: torch.Tensor  # bool
    style_A: list[str]


@dataclass(frozen=True)
class Marks:
    """How both models answer one task, and why the teacher's wrong answers are wrong.

    Fields ending in _A have one entry an answer. A mark is 1 for a right and 0 for a wrong answer; where the task has
    no one right answer (`graded` is False) it is the answer's score in [0, 1].
    """

    task: str
    graded: bool  # right or wrong, that is, and not by a score alone
    chance: float  # the mark of a guess
    teacher_prompt_A: torch.Tensor
    teacher_mark_A: torch.Tensor
    student_prompt_A: torch.Tensor
    student_mark_A: torch.Tensor
    why_A: list[Why | None]  # of each of the teacher's answers; None for a right one
    shown: list[ShownAnswer]  # a few of its wrong answers
    holding_more: float  # share of the references that are more than a final answer, so that no answer equals them
    solutions: bool  # does the task have a worked solution of every problem?
    longest: int  # tokens that an answer could take
    room: int | None  # tokens that the models' contexts leave for an answer; None where they name no limit


@dataclass(frozen=True)
class StyledAnswers:
    """The teacher's answers to one task: right or wrong, the way each is written in, its likelihood under both models
    (nats, summed over the answer's tokens), and the log of the share of each model's own answers written so:
    `log_habit` is the student's. The ways are the task's own (`named`), or else clusters of answers that are written
    alike."""

    task: str
    prompt_A: torch.Tensor
    right_A: torch.Tensor  # bool
    style_A: list[str]
    student_logprob_A: torch.Tensor
    teacher_logprob_A: torch.Tensor
    log_habit: dict[str, float]
    teacher_log_habit: dict[str, float]
    named: bool = True


@dataclass(frozen=True)
class Continuations:
    """Scores of the teacher's answers to one task: those that begin as one of the student's, and its own (share 0)."""

    task: str
    prompt_A: torch.Tensor
    share_A: torch.Tensor  # share of the student's answer that the teacher went on from
    score_A: torch.Tensor  # in [0, 1]


@dataclass(frozen=True)
class KnobSamples:
    """Several of the teacher's answers to each problem of one task, with what `calibrate` would reward them for.

    Fields ending in _A lie by problem, and have `samples` entries a problem. `rewards_A` holds each calibration reward
    that can be told beforehand, by its name, in nats an answer; `reward` names the one that is asked about. `answer_A`
    is equal where two answers to one problem are the same; `way_A` is the way that each is written in: the task's own
    (`named`), or else a cluster of answers that are written alike.
    """

    task: str
    samples: int
    score_A: torch.Tensor  # in [0, 1]
    right_A: torch.Tensor  # bool: right and finished
    rewards_A: Mapping[str, torch.Tensor]
    tokens_A: torch.Tensor
    answer_A: torch.Tensor
    way_A: list[str]
    named: bool
    etas: tuple[float, ...]
    beta: float
    reward: str

    @property
    def log_ratio_A(self) -> torch.Tensor:
        """The reward that is asked about."""
        return self.rewards_A[self.reward]


@dataclass(frozen=True)
class BothPolicies:
    """The answers of the student and those of the teacher to one task, scored by both models."""

    on_policy: ScoredAnswers  # the student's
    off_policy: ScoredAnswers  # the teacher's


@dataclass(frozen=True)
class Missing:
    """A piece that wasn't gathered, and why."""

    why: str


@dataclass(frozen=True)
class Gathered:
    """Everything that was gathered of a pair on one task."""

    task: str
    marks: Marks
    scored: BothPolicies
    candidates: Candidates
    own: OwnAnswers
    styled: StyledAnswers
    continuations: Continuations
    gradients: GradientSample | Missing
    knob: KnobSamples | Missing

    @property
    def taught_tokens(self) -> ScoredTokens | Missing:
        """The teacher's answers, token by token; missing where the two models share no tokenizer."""
        taught = self.scored.off_policy
        return taught if isinstance(taught, ScoredTokens) else Missing(TWO_TOKENIZERS)


def means_by_prompt(prompt: torch.Tensor, value: torch.Tensor) -> tuple[list[int], list[float]]:
    """The prompts in order, and the mean of each one's values; `prompt` and `value` are [N]."""
    prompts, place = prompt.unique(return_inverse=True)
    sums = torch.zeros(len(prompts), dtype=torch.float64).index_add_(0, place, value.double())
    return prompts.tolist(), (sums / torch.bincount(place, minlength=len(prompts))).tolist()
