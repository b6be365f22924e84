"""What makes no sense together, though each part does: one rule a line, each with its reason.

A part's own demands stand with the part (`why_not`); here are those between two of them.
"""

from __future__ import annotations

from distillknob.distillation.losses import Loss
from distillknob.distillation.teacher_context import Context
from distillknob.distillation.token_choice import CHOICES
from distillknob.distillation.traces import PAIRS
from distillknob.methods import Method


def why_not_together(method: Method, loss: Loss, context: Context | None) -> str | None:
    """Return why the method's parts can't go together; None where they can."""
    choice = CHOICES[method.tokens]
    late = context is not None and context.late
    if late and not loss.counts_tokens:
        return (
            f"context={method.context} with the loss {method.loss}: it may have nothing to show for a sample, whose "
            "tokens then don't count, and this loss is no sum over single tokens: name a divergence"
        )
    if choice is not None and choice.compares and loss.signed:
        return (
            f"tokens={method.tokens} with the loss {method.loss}: tokens are chosen where the loss is large, and this "
            "one is below 0 where the teacher wants less of a token: use tokens entropy, or a divergence"
        )
    if method.teacher != "given" and not loss.asks_teacher:
        return (
            f"teacher_weights={method.teacher} with the loss {method.loss}: it asks the teacher nothing, whose traces "
            "are `teacher`'s: leave teacher_weights out, or name the model that writes them as teacher"
        )
    alike = method.teacher == "itself" and method.context == "plain" and method.soft_target == "plain"
    if alike and not loss.grades:
        return (
            f"teacher_weights=itself with context=plain and the loss {method.loss}: the student would be set beside "
            "itself, from which there is nothing to learn: show the teacher more (context reference), or take "
            "teacher_weights start or average"
        )
    if method.traces == PAIRS and "wrong_completion_ids" not in loss.columns:
        return (
            f"traces={PAIRS} with the loss {method.loss}: it reads one trace of each pair, and problems without a "
            "wrong one would be left out for nothing: use teacher_verified, or the loss right_and_wrong"
        )
    return None
