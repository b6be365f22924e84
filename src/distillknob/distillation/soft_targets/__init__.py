"""Soft targets by name: what is made of the teacher's distributions. None: nothing.

A new one is a file beside these and a row here; a method names it in its own row (`distillknob.methods`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from distillknob.distillation.options import Settings, make
from distillknob.distillation.soft_targets.base import SoftTarget
from distillknob.distillation.soft_targets.label_deletion import LabelDeletion
from distillknob.distillation.soft_targets.power import Power
from distillknob.distillation.soft_targets.private_tokens import PrivateTokens
from distillknob.distillation.soft_targets.standardised import Standardised
from distillknob.distillation.soft_targets.uniform_mix import UniformMix

__all__ = ["SOFT_TARGETS", "SoftTarget"]

SOFT_TARGETS: dict[str, Callable[[Settings], SoftTarget] | None] = {
    "plain": None,
    "power": partial(make, Power),
    "uniform_mix": partial(make, UniformMix),
    "standardised": partial(make, Standardised),
    "private_tokens": lambda settings: make(PrivateTokens, settings, path=settings.private),
    "label_deletion": partial(make, LabelDeletion),
}
