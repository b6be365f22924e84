"""Losses of distillation by name, one object each (`base` says what a loss is).

A new one is a file beside these and a row in `LOSSES`; a method names it in its own row (`distillknob.methods`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from distillknob.distillation.losses.adaptive_kl import AdaptiveKL
from distillknob.distillation.losses.avsd import SampledAvsd, VocabularyAvsd
from distillknob.distillation.losses.base import Loss, Rollouts, States, View
from distillknob.distillation.losses.clipped import ClippedForwardKL
from distillknob.distillation.losses.delta import DeltaKL
from distillknob.distillation.losses.divergence import Divergence
from distillknob.distillation.losses.gold import Gold
from distillknob.distillation.losses.hard_label import HardLabel
from distillknob.distillation.losses.own_past import OwnPast
from distillknob.distillation.losses.pi_distill import PiDistill, PiOnPolicy
from distillknob.distillation.losses.plackett_luce import PlackettLuce, RankOnly
from distillknob.distillation.losses.policy_gradient import (
    BandedPolicyGradient,
    PolicyGradient,
    RewardedPolicyGradient,
)
from distillknob.distillation.losses.projection import Projection
from distillknob.distillation.losses.relations import Relations
from distillknob.distillation.losses.right_and_wrong import RightAndWrong
from distillknob.distillation.losses.sceptical import Sceptical
from distillknob.distillation.losses.skill_sd import SkillSd
from distillknob.distillation.losses.spans import Spans
from distillknob.distillation.losses.student_top_k import TopKJSD
from distillknob.distillation.losses.token_loss import token_loss
from distillknob.distillation.losses.token_selective import TokenSelective
from distillknob.distillation.losses.top_k import TopK
from distillknob.distillation.losses.uld import Uld
from distillknob.distillation.options import Settings, make
from distillknob.divergences.kernel import KINDS

__all__ = ["LOSSES", "Loss", "Rollouts", "Settings", "States", "View"]

# What makes each from the config's fields.
LOSSES: dict[str, Callable[[Settings], Loss]] = {
    "hard_label": lambda settings: HardLabel(),
    **{kind: partial(Divergence.of, kind) for kind in KINDS},
    "policy_gradient": partial(token_loss, PolicyGradient),
    "policy_gradient_reward": partial(token_loss, RewardedPolicyGradient),
    "policy_gradient_band": partial(token_loss, BandedPolicyGradient),
    "pi_distill": partial(make, PiDistill),
    "pi_on_policy": partial(token_loss, PiOnPolicy),
    "clipped_forward_kl": partial(token_loss, ClippedForwardKL),
    "top_k_jsd": lambda settings: token_loss(TopKJSD, settings, beta=settings.beta),
    "avsd": partial(token_loss, SampledAvsd),
    "avsd_vocabulary": partial(token_loss, VocabularyAvsd),
    "delta_kl": partial(token_loss, DeltaKL),
    "top_k_stop_gradient": lambda settings: token_loss(TopK, settings, renormalised=False),
    "top_k_renormalised": partial(token_loss, TopK),
    "adaptive_kl": partial(token_loss, AdaptiveKL),
    "token_selective": partial(token_loss, TokenSelective),
    "right_and_wrong": partial(make, RightAndWrong),
    "sceptical": lambda settings: Sceptical(),
    "skill_sd": partial(token_loss, SkillSd),
    "projection": Projection.of("mse"),
    "projection_cosine": Projection.of("cosine"),
    "relations": Relations.of("cosine"),
    "relations_softmax": Relations.of("softmax"),
    "spans": lambda settings: Spans(),
    "gold": lambda settings: Gold(beta=settings.beta),
    "uld": lambda settings: Uld(),
    "own_past": partial(token_loss, OwnPast),
    "plackett_luce": partial(token_loss, PlackettLuce),
    "rank_only": partial(token_loss, RankOnly),
}
