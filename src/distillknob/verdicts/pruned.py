"""This module says of a pruned model whether so little is left that healing it is close to training it anew."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeGuard

NEARLY_ANEW = 100  # times the perplexity; a model whose loss rose by this much healed little in 900 steps


def times_the_perplexity(before: float, after: float) -> float:
    """Return by how much the perplexity grew, from both losses in nats a token; infinite where a float can't hold
    it."""
    rise = after - before
    return math.exp(rise) if rise < 700 else math.inf


def nearly_anew(result: Mapping[str, Any]) -> str | None:
    """Say that a `prune` left next to nothing, and what to do; None where it left more."""
    before, after = ((result.get(when) or {}).get("loss") for when in ("before", "after"))
    if not (_finite(before) and _finite(after)):
        return None
    times = times_the_perplexity(before, after)
    if times < NEARLY_ANEW:
        return None
    return (
        f"the perplexity is {times:,.0f} times what it was: next to nothing is left of what the model knew, and to "
        "heal it is close to training it anew. Leave out fewer layers first, or choose them by another measure"
    )


def _finite(loss: Any) -> TypeGuard[float]:
    return isinstance(loss, int | float) and math.isfinite(loss)
