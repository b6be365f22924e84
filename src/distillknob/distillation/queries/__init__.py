"""Weights of traces by name. None: all count alike.

A new one is a file beside these and a row here; a method names it in its own row (`distillknob.methods`).
"""

from __future__ import annotations

from collections.abc import Callable

from distillknob.distillation.options import Settings
from distillknob.distillation.queries.base import QueryWeights

__all__ = ["QUERIES", "QueryWeights"]

QUERIES: dict[str, Callable[[Settings], QueryWeights] | None] = {"all": None}
