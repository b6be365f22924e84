"""Distillation of privileged information (π-Distill and its on-policy variant, arXiv 2602.04942): one network in two
roles, the teacher T that sees the context and the student S that doesn't, both trained by the task's reward.

    J_T = E_{y~T}[R] − β KL(T ‖ sg S)         J_S = E_{y~T}[S / sg T · R] − β KL(sg T ‖ S)
    J   = α J_T + (1 − α) J_S                 and on-policy  J = E_{y~S}[R] − β KL(S ‖ sg T)

The samples of the first are drawn with the context before them. R is a z-score within the samples of a prompt; ratios
are a token's each, clipped as PPO's; the KLs are whole ones at every token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from distillknob.distillation.losses.base import STUDENT, TEACHER, Loss, Rollouts, View
from distillknob.distillation.losses.blocks import by_blocks, placed_logprobs
from distillknob.distillation.losses.policy_gradient import (
    policy_gradient,
    reward_advantage,
    why_not_of_groups,
    why_not_of_own_samples,
)
from distillknob.distillation.losses.token_loss import TokenLoss
from distillknob.distillation.options import option
from distillknob.distillation.teacher_context import CONTEXTS
from distillknob.distillation.teacher_context.base import TEACHER_PROMPT
from distillknob.distillation.token_rows import TokenRows
from distillknob.divergences.dense import divergence
from distillknob.models.scoring import chosen_logprob

if TYPE_CHECKING:
    from distillknob.distillation.options import Settings


def teacher_objective(student_NV: Tensor, teacher_NV: Tensor, token_N: Tensor, reward_N: Tensor, beta: float) -> Tensor:
    """J_T [N] of tokens that the teacher drew, from logits [N, V]: no gradient reaches the student's."""
    logprob_N = chosen_logprob(teacher_NV, token_N)
    gained_N = (logprob_N - logprob_N.detach()).exp() * reward_N
    return gained_N - beta * divergence(teacher_NV, student_NV, "reverse_kl")


def student_objective(
    student_NV: Tensor, teacher_NV: Tensor, token_N: Tensor, reward_N: Tensor, beta: float, clip: float
) -> Tensor:
    """J_S [N] of tokens that the teacher drew, from logits [N, V]: no gradient reaches the teacher's. The ratio S/T is
    clipped to 1 ± `clip` where that lowers the objective."""
    ratio_N = (chosen_logprob(student_NV, token_N) - chosen_logprob(teacher_NV.detach(), token_N)).exp()
    gained_N = torch.minimum(ratio_N * reward_N, ratio_N.clamp(1 - clip, 1 + clip) * reward_N)
    return gained_N - beta * divergence(student_NV, teacher_NV, "forward_kl")


@dataclass(frozen=True)
class PiDistill(Loss):
    """−J at each token of samples that were drawn with the context before them."""

    costs: ClassVar[str] = "the student reads each text in both roles, with gradients"
    signed: ClassVar[bool] = True

    alpha: float = option(0.5, "The teacher's share of the objective; the student has the rest.", low=0.0, high=1.0)
    kl_weight: float = option(0.25, "β: what a nat between the two roles costs.", low=0.0)
    ratio_clip: float = option(0.2, "How far the student's ratio to the teacher may lie from 1.", low=0.0)

    grades: ClassVar[bool] = True
    drawn_with: ClassVar[str] = TEACHER_PROMPT

    @property
    def roles(self) -> int:  # type: ignore[override]  # of its options
        return 2 if self.alpha else 1

    @property
    def readings(self) -> Sequence[str]:
        return () if self.alpha else (TEACHER,)

    def why_not(self, settings: Settings) -> str | None:
        return why_not_of_roles(settings) or why_not_of_own_samples(settings) or why_not_of_groups(settings)

    def prepare(self, rollouts: Rollouts) -> Mapping[str, Tensor]:
        return {"advantage": reward_advantage(rollouts)}

    def value(self, view: View) -> Tensor:
        value_N = self.per_token(view)
        return (value_N if view.weight_N is None else view.weight_N * value_N).sum() / view.items

    def per_token(self, view: View) -> Tensor:
        student, counted_BC = view.student, view.counted_BC
        # At α = 0 the teacher isn't trained, and is read without gradients.
        teacher = view.student_on(prompt=TEACHER_PROMPT) if self.alpha else view.teacher()
        advantage_BC = view.batch["advantage"][:, None].expand(counted_BC.shape)

        def of_block(ours_NH: Tensor, theirs_NH: Tensor, token_N: Tensor, reward_N: Tensor) -> Tensor:
            rows = student.head.logits(ours_NH), teacher.head.logits(theirs_NH), token_N, reward_N
            of_student_N = student_objective(*rows, self.kl_weight, self.ratio_clip)
            if not self.alpha:
                return -of_student_N
            return -(self.alpha * teacher_objective(*rows, self.kl_weight) + (1 - self.alpha) * of_student_N)

        token_BC = view.batch["completion_ids"]
        states_NH = student.hidden_BCH[counted_BC]
        rows = (states_NH, teacher.hidden_BCH[counted_BC], token_BC[counted_BC], advantage_BC[counted_BC])
        blocks = by_blocks(student.head, of_block, *rows)
        return torch.cat(blocks) if blocks else states_NH.sum(1)


@dataclass(frozen=True)
class PiOnPolicy(TokenLoss):
    """−E_{y~S}[R] + β KL(S ‖ sg T) at each token of the student's own samples."""

    costs: ClassVar[str] = "the student reads each text once more before the step"
    signed: ClassVar[bool] = True

    kl_weight: float = option(0.25, "β: what a nat between the two roles costs.", low=0.0)

    grades: ClassVar[bool] = True
    token_columns: ClassVar[tuple[str, ...]] = ("advantage", "old_logprob")

    @property
    def readings(self) -> Sequence[str]:
        return (*super().readings, STUDENT)

    def why_not(self, settings: Settings) -> str | None:
        return why_not_of_own_samples(settings) or why_not_of_groups(settings)

    def prepare(self, rollouts: Rollouts) -> Mapping[str, Tensor]:
        old_BC = rollouts.measured(own_logprobs)
        return {"advantage": reward_advantage(rollouts)[:, None].expand(old_BC.shape), "old_logprob": old_BC}

    def of_tokens(self, rows: TokenRows) -> Tensor:
        columns = rows.columns
        return on_policy_loss(
            rows.student_NV, rows.teacher, rows.token_N, columns["advantage"], columns["old_logprob"], self.kl_weight
        )


def on_policy_loss(
    student_NV: Tensor, teacher_NV: Tensor, token_N: Tensor, reward_N: Tensor, old_N: Tensor, beta: float
) -> Tensor:
    """−R · S(y)/S_old(y) + β KL(S ‖ sg T) of tokens that the student drew, [N], from logits [N, V]."""
    return policy_gradient(student_NV, token_N, reward_N, old_N) + beta * divergence(
        student_NV, teacher_NV, "reverse_kl"
    )


def own_logprobs(view: View) -> Tensor:
    """The student's log-probabilities of the tokens that stand there, [B, C], 0 where none counts."""
    student = view.student
    return placed_logprobs(student.head, student.hidden_BCH, view.batch["completion_ids"], view.counted_BC)


def why_not_of_roles(settings: Settings) -> str | None:
    """Why one network can't be in both roles; None where it can."""
    objective = settings.objective
    if objective.teacher != "itself":
        return (
            f"loss {objective.loss} with teacher_weights={objective.teacher}: its teacher is the network that is "
            "trained, with a context before it: set teacher_weights to itself"
        )
    made = CONTEXTS[objective.context]
    if made is None or made(settings).late:
        return (
            f"loss {objective.loss} with context {objective.context}: its samples are drawn with the context before "
            "them, which has to be known: set context to reference or demonstration"
        )
    return None
