"""What the teacher sees when it judges a student's tokens, by name. None: the student's own prompt.

A new one is a file beside these and a row here; a method names it in its own row (`distillknob.methods`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from distillknob.distillation.options import Settings, make
from distillknob.distillation.teacher_context.base import Context
from distillknob.distillation.teacher_context.confidence import ReferenceWithConfidence
from distillknob.distillation.teacher_context.demonstration import Demonstration
from distillknob.distillation.teacher_context.outcome_hint import OutcomeHint
from distillknob.distillation.teacher_context.reference import Reference
from distillknob.distillation.teacher_context.sibling import Sibling
from distillknob.distillation.teacher_context.skill import Skill
from distillknob.distillation.teacher_context.views import Views

__all__ = ["CONTEXTS", "Context"]

CONTEXTS: dict[str, Callable[[Settings], Context] | None] = {
    "plain": None,
    "reference": lambda settings: Reference(),
    "skill": lambda settings: Skill(settings.skills),
    "outcome_hint": lambda settings: OutcomeHint(),
    "reference_confidence": lambda settings: ReferenceWithConfidence(),
    "demonstration": lambda settings: Demonstration(),
    "views": lambda settings: Views(),
    "sibling": partial(make, Sibling),
}
