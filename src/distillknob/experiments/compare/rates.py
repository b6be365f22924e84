"""The rule by which each method gets its learning rate.

Among the candidates, multiples of the recipe's rate, the one with the highest mean score over tasks: on problems of the
train split that are held back from its training, on the first teacher, with the first seed, after `rate_steps` steps.
Of two that tie the lower. A candidate whose training diverges, or fails as often as it is tried, isn't chosen.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from distillknob.experiments.compare.config import CompareConfig
from distillknob.experiments.compare.work import Cell
from distillknob.results.compare import Candidate, RateRow

NOT_RUN = "not run yet"
Results = Mapping[str, Mapping[str, Any]]  # of finished cells, by name


def rate_row(config: CompareConfig, method: str, results: Results, failed: Mapping[str, str]) -> RateRow:
    """Return how the method's rate was chosen; without a rate where candidates are still to be run, or none is left.
    `failed` has the reasons of cells that failed, by name."""
    if method in config.learning_rates:
        rate = config.learning_rates[method]
        return {"method": method, "by": "hand", "learning_rate": rate, "at_the_edge": False, "candidates": []}
    by_rate: dict[float, list[Cell]] = {}
    for cell in config.candidates(method):
        by_rate.setdefault(cell.learning_rate, []).append(cell)
    candidates = [_candidate(rate, cells, results, failed) for rate, cells in by_rate.items()]
    known = all(cell.name in results or cell.name in failed for cells in by_rate.values() for cell in cells)
    best = chosen({row["learning_rate"]: row["score"] for row in candidates if row["score"] is not None})
    return {
        "method": method,
        "by": "search",
        "learning_rate": best if known else None,
        "at_the_edge": known and len(by_rate) > 1 and best in (min(by_rate), max(by_rate)),
        "candidates": candidates,
    }


def chosen(scores: Mapping[float, float]) -> float | None:
    """Return the rate with the highest score, of two that tie the lower; None where there is none."""
    return min(scores, key=lambda rate: (-scores[rate], rate), default=None)


def _candidate(rate: float, cells: list[Cell], results: Results, failed: Mapping[str, str]) -> Candidate:
    by_task: dict[str, float] = {}
    reasons = []
    for cell in cells:
        result = results.get(cell.name, {})
        by_task |= {task: float(np.mean(scores)) for task, scores in result.get("scores", {}).items()}
        reason = result.get("diverged") if cell.name in results else failed.get(cell.name, NOT_RUN)
        reasons += [] if reason is None else [reason]
    return {
        "learning_rate": rate,
        "score": None if reasons else float(np.mean(list(by_task.values()))),
        "by_task": by_task,
        "reason": "; ".join(dict.fromkeys(reasons)) or None,
    }
