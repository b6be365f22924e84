"""This module says what the guard found of a calibrated teacher's scores: which figures to tell, and in which words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

FRESH = "on fresh train-split problems, neither trained on nor chosen by"
CHOSEN = "on the train-split problems by which this step was chosen: no fresh ones were left"
HELD_OUT = "on train-split problems that were not trained on"


def scores_to_tell(result: Mapping[str, Any]) -> tuple[str, list[Mapping[str, Any]]]:
    """Return where a calibration's scores are from, in words, and their rows: those on fresh problems, by which nothing
    was chosen, or else the guard's own. Tasks without fresh problems keep the guard's row."""
    guard: Sequence[Mapping[str, Any]] = result.get("guard") or []
    fresh = {str(row.get("task")): row for row in result.get("fresh") or []}
    decided = any("outcome" in row for row in guard)
    where = FRESH if fresh else CHOSEN if decided else HELD_OUT
    return where, [fresh.get(str(row.get("task")), row) for row in guard]


def outcome_text(row: Mapping[str, Any], tolerance: float | None) -> str:
    """Say what a row's scores show of a loss beyond the tolerance; nothing where that wasn't judged."""
    outcome = row.get("outcome")
    if outcome is None or tolerance is None:
        return ""
    limit = f"{100 * tolerance:g} point{'' if tolerance == 0.01 else 's'}"
    return {
        "holds": f"lost no more than {limit}",
        "lost": f"lost more than {limit}",
        "not resolved": f"not resolved: whether it lost more than {limit} takes more problems to tell",
    }.get(str(outcome), "")
