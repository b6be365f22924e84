"""Losses of distillation by name, one object each (`base` says what a loss is).

A new one is a file beside these and a row in `LOSSES`; a method names it in its own row (`distillknob.methods`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from distillknob.distillation.losses.adaptive_kl import AdaptiveKL
from distillknob.distillation.losses.base import Loss, Rollouts, States, View
from distillknob.distillation.losses.divergence import Divergence
from distillknob.distillation.losses.gold import Gold
from distillknob.distillation.losses.hard_label import HardLabel
from distillknob.distillation.losses.right_and_wrong import RightAndWrong
from distillknob.distillation.losses.sceptical import Sceptical
from distillknob.distillation.losses.spans import Spans
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
    "top_k_stop_gradient": lambda settings: token_loss(TopK, settings, renormalised=False),
    "top_k_renormalised": partial(token_loss, TopK),
    "adaptive_kl": partial(token_loss, AdaptiveKL),
    "token_selective": partial(token_loss, TokenSelective),
    "right_and_wrong": partial(make, RightAndWrong),
    "sceptical": lambda settings: Sceptical(),
    "spans": lambda settings: Spans(),
    "gold": lambda settings: Gold(beta=settings.beta),
    "uld": lambda settings: Uld(),
}
