"""What a comparison of methods says: which differences to the baseline hold when many methods are looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

LEVEL = 0.05  # of all methods on a task and teacher together


def survives(difference: Mapping[str, Any] | None) -> bool:
    """Does a difference hold for all methods together? Over problems and, where some methods have several seeds, over
    trainings too; with one seed each it says nothing of another training."""
    if not isinstance(difference, Mapping):
        return False
    adjusted = difference.get("adjusted")
    return isinstance(adjusted, int | float) and adjusted <= LEVEL


def apart(difference: Mapping[str, Any] | None) -> str:
    """`better` or `worse` where the difference holds for all methods together, else a dash."""
    if not survives(difference) or difference is None:
        return "–"
    return "better" if difference.get("difference", 0.0) > 0 else "worse"


def leaders_sentence(rows: Sequence[Mapping[str, Any]], baseline: str, names: Mapping[str, str] | None = None) -> str:
    """Say of the methods on one task and teacher which stands first, and how many are told from the baseline."""
    names = names or {}
    done = sorted((row for row in rows if row.get("rank") is not None), key=lambda row: row["rank"])
    if not done:
        return "no method is done yet."
    others = [row for row in done if row.get("method") != baseline]
    words = [apart(row.get("to_baseline")) for row in others]
    better, worse = words.count("better"), words.count("worse")
    first, base = (names.get(str(name), str(name)) for name in (done[0].get("method"), baseline))
    return (
        f"{first} stands first of {len(done)}; {better} of {len(others)} are better than {base} and {worse} "
        "worse when all are looked at together."
    )
