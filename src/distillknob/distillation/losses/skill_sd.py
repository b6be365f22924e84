"""Skill-SD's loss: a reward's advantage, and the k3 estimate of the reverse KL to a teacher that sees a skill.

    −z_G(R) · ρ + λ · ρ · (e^{−ℓ} − 1 + ℓ),     ℓ = log q(y_t | x) − log p(y_t | x, skill),     ρ = q(y_t) / q_old(y_t)

The ratio ρ has a gradient. Over all tokens that the student might have drawn, the second term then has that of the
reverse KL; with ρ detached or left out it would have that of the forward KL (arXiv 2604.10674, equations 10 to 14, as
others quote them).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from distillknob.distillation.losses.base import STUDENT, Rollouts
from distillknob.distillation.losses.policy_gradient import (
    both_logprobs,
    policy_gradient,
    reward_advantage,
    why_not_of_groups,
    why_not_of_own_samples,
)
from distillknob.distillation.losses.token_loss import TokenLoss
from distillknob.distillation.options import Settings, option
from distillknob.distillation.token_rows import TokenRows
from distillknob.models.scoring import chosen_logprob


def k3_of_live_ratio(student_NV: Tensor, token_N: Tensor, teacher_N: Tensor, old_N: Tensor) -> Tensor:
    """ρ · (e^{−ℓ} − 1 + ℓ) of each token, [N], from the student's logits and the log-probabilities that the teacher and
    the student at the rollout gave the token."""
    logprob_N = chosen_logprob(student_NV, token_N)
    apart_N = logprob_N - teacher_N
    return (logprob_N - old_N).exp() * (torch.expm1(-apart_N) + apart_N)


@dataclass(frozen=True)
class SkillSd(TokenLoss):
    """The reward's policy gradient and, by `distil_weight`, the estimate of the reverse KL."""

    costs: ClassVar[str] = "the student reads each text once more before the step"
    signed: ClassVar[bool] = True

    distil_weight: float = option(0.001, "λ, the weight of the distillation beside the reward.", low=0.0)

    compares: ClassVar[bool] = False
    grades: ClassVar[bool] = True
    has_advantages: ClassVar[bool] = True
    token_columns: ClassVar[tuple[str, ...]] = ("advantage", "old_logprob", "teacher_logprob")

    @property
    def readings(self) -> Sequence[str]:
        return (*super().readings, STUDENT)

    def why_not(self, settings: Settings) -> str | None:
        return why_not_of_own_samples(settings) or why_not_of_groups(settings)

    def prepare(self, rollouts: Rollouts) -> Mapping[str, Tensor]:
        old_BC, teacher_BC = rollouts.measured(both_logprobs).unbind(-1)
        advantage_BC = reward_advantage(rollouts)[:, None].expand_as(old_BC)
        return {"advantage": advantage_BC, "old_logprob": old_BC, "teacher_logprob": teacher_BC}

    def of_tokens(self, rows: TokenRows) -> Tensor:
        of, old_N = rows.columns, rows.columns["old_logprob"]
        rewarded_N = policy_gradient(rows.student_NV, rows.token_N, of["advantage"], old_N)
        taught_N = k3_of_live_ratio(rows.student_NV, rows.token_N, of["teacher_logprob"], old_N)
        return rewarded_N + self.distil_weight * taught_N
