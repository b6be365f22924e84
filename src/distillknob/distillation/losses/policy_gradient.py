"""On-policy distillation as a policy gradient: the teacher's log-ratio is each token's advantage.

    −A_t · π(y_t) / π_old(y_t),     A_t = log p(y_t) − log q(y_t), measured before the student moves

Summed over all tokens that the student might have drawn, its gradient is that of KL(q ‖ p) in each state. The advantage
is of the token that was drawn: the whole divergence of a state would be the same for all of its tokens, and push none.
A task's reward comes beside it as a z-score within the samples of a prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from distillknob.distillation.losses.base import STUDENT, Rollouts, View
from distillknob.distillation.losses.blocks import placed_logprobs
from distillknob.distillation.losses.token_loss import TokenLoss
from distillknob.distillation.options import Settings, option
from distillknob.distillation.token_rows import TokenRows
from distillknob.models.scoring import chosen_logprob
from distillknob.training.advantages import group_z_score
from distillknob.training.entropy_band import EntropyBand, weights_in_band


def ratio_to_old(student_NV: Tensor, token_N: Tensor, old_N: Tensor) -> Tensor:
    """π(y) / π_old(y) of each token, [N], from the student's logits and its log-probabilities at the rollout."""
    return (chosen_logprob(student_NV, token_N) - old_N).exp()


def policy_gradient(student_NV: Tensor, token_N: Tensor, advantage_N: Tensor, old_N: Tensor) -> Tensor:
    """−A · π(y) / π_old(y) of each token, [N]. Its value at the rollout is −A, its gradient −A · ∇ log π(y)."""
    return -advantage_N * ratio_to_old(student_NV, token_N, old_N)


def both_logprobs(view: View) -> Tensor:
    """log q and log p of the tokens that stand there, [B, C, 2], 0 where none counts."""
    ids_BC, counted_BC = view.batch["completion_ids"], view.counted_BC
    sides = (view.student, view.teacher())
    return torch.stack([placed_logprobs(one.head, one.hidden_BCH, ids_BC, counted_BC) for one in sides], -1)


def reward_advantage(rollouts: Rollouts) -> Tensor:
    """Each completion's reward as a z-score among the samples of its prompt, [b]."""
    return group_z_score(rollouts.graded().float(), rollouts.num_generations)


def why_not_of_own_samples(settings: Settings) -> str | None:
    """Why a ratio to the policy that drew the tokens makes no sense; None where it does."""
    objective = settings.objective
    if objective.lmbda < 1:
        return (
            f"loss {objective.loss} with lmbda={objective.lmbda:g}: a policy gradient is taken on the student's own "
            "samples, and some steps would have stored traces: set lmbda to 1"
        )
    if objective.edit != "none":
        return (
            f"loss {objective.loss} with edit={objective.edit}: a policy gradient needs the tokens that the student "
            "drew, and an edit puts others in their place: leave edit out, or name a divergence"
        )
    return None


def why_not_of_groups(settings: Settings) -> str | None:
    """Why a reward has no z-score; None where it has one."""
    objective = settings.objective
    if objective.num_generations >= 2:
        return None
    return (
        f"loss {objective.loss} with num_generations={objective.num_generations}: a reward is compared within the "
        "samples of a prompt, so that one alone has no advantage: set num_generations to 2 or more (8 is usual)"
    )


@dataclass(frozen=True)
class PolicyGradient(TokenLoss):
    """The log-ratio of the tokens that were drawn as their advantage."""

    costs: ClassVar[str] = "the student reads each text once more before the step"
    signed: ClassVar[bool] = True

    compares: ClassVar[bool] = False
    has_advantages: ClassVar[bool] = True
    token_columns: ClassVar[tuple[str, ...]] = ("advantage", "old_logprob")

    @property
    def readings(self) -> Sequence[str]:
        return (*super().readings, STUDENT)

    def why_not(self, settings: Settings) -> str | None:
        return why_not_of_own_samples(settings)

    def prepare(self, rollouts: Rollouts) -> Mapping[str, Tensor]:
        old_BC, teacher_BC = rollouts.measured(both_logprobs).unbind(-1)
        return {"advantage": self.advantage(teacher_BC - old_BC, rollouts), "old_logprob": old_BC}

    def advantage(self, log_ratio_BC: Tensor, rollouts: Rollouts) -> Tensor:
        """Each token's advantage from its log p − log q, [b, C]."""
        return log_ratio_BC

    def of_tokens(self, rows: TokenRows) -> Tensor:
        columns = rows.columns
        return policy_gradient(rows.student_NV, rows.token_N, columns["advantage"], columns["old_logprob"])


@dataclass(frozen=True)
class RewardedPolicyGradient(PolicyGradient):
    """The reward's advantage beside the log-ratio: z_G(R) + α · (log p − log q)."""

    alpha: float = option(1.0, "Weight of the teacher's log-ratio beside the reward's advantage.", low=0.0)

    grades: ClassVar[bool] = True

    def why_not(self, settings: Settings) -> str | None:
        return super().why_not(settings) or why_not_of_groups(settings)

    def advantage(self, log_ratio_BC: Tensor, rollouts: Rollouts) -> Tensor:
        return reward_advantage(rollouts)[:, None] + self.alpha * log_ratio_BC


@dataclass(frozen=True)
class BandedPolicyGradient(RewardedPolicyGradient):
    """`RewardedPolicyGradient` whose samples are left out where they drive the student's entropy out of a band. A
    sample's advantage is for this the mean over its tokens."""

    entropy_low_start: float = option(0.6, "Lower bound of the entropy at the start, nats a token.", low=0.0)
    entropy_high_start: float = option(0.7, "Upper bound at the start.", low=0.0)
    entropy_low_end: float = option(0.4, "Lower bound at the end.", low=0.0)
    entropy_high_end: float = option(0.5, "Upper bound at the end.", low=0.0)
    entropy_cosine: float = option(0.0, "1: the band moves along half a cosine; 0: a line.", low=0.0, high=1.0)

    @property
    def band(self) -> EntropyBand:
        """The band and how it moves."""
        return EntropyBand(
            self.entropy_low_start,
            self.entropy_high_start,
            self.entropy_low_end,
            self.entropy_high_end,
            cosine=self.entropy_cosine == 1,
        )

    @property
    def readings(self) -> Sequence[str]:
        return (*super().readings, STUDENT)

    def why_not(self, settings: Settings) -> str | None:
        if self.entropy_cosine not in (0, 1):
            return f"entropy_cosine={self.entropy_cosine}: 1 for half a cosine, 0 for a line"
        fault = self.band.fault
        return super().why_not(settings) or (None if fault is None else f"the band of the entropy goes {fault}")

    def advantage(self, log_ratio_BC: Tensor, rollouts: Rollouts) -> Tensor:
        advantage_BC = super().advantage(log_ratio_BC, rollouts)
        mask_BC = rollouts.batch["completion_mask"].to(advantage_BC)
        mean_B = (advantage_BC * mask_BC).sum(1) / mask_BC.sum(1).clamp(min=1)
        band = self.band.at(rollouts.progress)
        weight_B = weights_in_band(mean_B, mean_entropy(rollouts), band, rollouts.num_generations)
        return weight_B[:, None] * advantage_BC


def mean_entropy(rollouts: Rollouts) -> float:
    """The student's entropy in nats, the mean over the completions' tokens of all processes; 0 without any."""

    def entropies(view: View) -> Tensor:
        return view.student.entropy(view.counted_BC)

    entropy_N = rollouts.measured(entropies)
    here = torch.stack([entropy_N.double().sum(), entropy_N.new_tensor(len(entropy_N), dtype=torch.float64)])
    total, tokens = rollouts.everywhere(here[None]).sum(0).tolist()
    return float(total / max(1.0, tokens))
