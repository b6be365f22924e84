"""Edits of the student's own samples by name. None: they are trained on as they were written.

A new one is a file beside these and a row here; a method names it in its own row (`distillknob.methods`).
"""

from __future__ import annotations

from collections.abc import Callable

from distillknob.distillation.edits.base import Edit
from distillknob.distillation.edits.confidence import Confidence
from distillknob.distillation.options import Settings

__all__ = ["EDITS", "Edit"]

EDITS: dict[str, Callable[[Settings], Edit] | None] = {
    "none": None,
    "confidence": lambda settings: Confidence(),
}
