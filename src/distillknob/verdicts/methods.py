"""What a comparison of methods says: which differences to the baseline hold when many methods are looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

LEVEL = 0.05  # of all methods on a task and teacher together


def survives(difference: Mapping[str, Any] | None) -> bool:
    """Does a difference hold for all methods together? Over trainings, where there are several; with one, over
    problems, which says nothing of another training."""
    if difference is None:
        return False
    adjusted = difference.get("adjusted" if difference.get("p_trainings") is None else "adjusted_trainings")
    return isinstance(adjusted, int | float) and adjusted <= LEVEL


def apart(difference: Mapping[str, Any] | None) -> str:
    """`better` or `worse` where the difference holds for all methods together, else a dash."""
    if difference is None or not survives(difference):
        return "–"
    return "better" if difference["difference"] > 0 else "worse"


def leaders_sentence(rows: Sequence[Mapping[str, Any]], baseline: str, names: Mapping[str, str] | None = None) -> str:
    """Say of the methods on one task and teacher which stands first, and how many are told from the baseline."""
    names = names or {}
    done = sorted((row for row in rows if row.get("rank") is not None), key=lambda row: row["rank"])
    if not done:
        return "no method is done yet."
    others = [row for row in done if row["method"] != baseline]
    better = [row for row in others if apart(row["to_baseline"]) == "better"]
    worse = [row for row in others if apart(row["to_baseline"]) == "worse"]
    first, base = (names.get(name, name) for name in (done[0]["method"], baseline))
    return (
        f"{first} stands first of {len(done)}; {len(better)} of {len(others)} are better than {base} and {len(worse)} "
        "worse when all are looked at together."
    )
