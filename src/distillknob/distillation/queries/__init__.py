"""Weights of traces by name. None: all count alike.

A new one is a file beside these and a row here; a method names it in its own row (`distillknob.methods`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from distillknob.distillation.options import Settings, make
from distillknob.distillation.queries.agreement import Agreement
from distillknob.distillation.queries.base import QueryWeights
from distillknob.distillation.queries.learnability import Learnability
from distillknob.distillation.queries.robust import Robust

__all__ = ["QUERIES", "QueryWeights"]

QUERIES: dict[str, Callable[[Settings], QueryWeights] | None] = {
    "all": None,
    "robust": partial(make, Robust),
    "learnability": lambda settings: Learnability(),
    "agreement": partial(make, Agreement),
}
