"""This module says what an extractor got from a teacher: a sentence for each verdict of `attack`, one for its owner.

Rows are read leniently, since a page shows damaged results too. No sentence says that a teacher can't be distilled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

# From the gravest on, with what is said of a defence.
WORDS = {
    "broken": "is broken",
    "partly": "protects only in part",
    "can't tell": "can't be judged",
    "irrelevant": "is irrelevant",
    "protects": "protects",
}


def gravest(rows: Sequence[Row]) -> Row | None:
    """Return the first row with the gravest verdict."""
    order = list(WORDS)

    def rank(row: Row) -> int:
        word = row.get("verdict")
        return order.index(word) if word in order else len(order)

    return min(rows, key=rank, default=None)


def arm_of(row: Row, arms: Sequence[Row]) -> Row:
    """Return the arm that a verdict rests on; an empty row where it isn't there."""
    keys = ("target", "attacker", "attack")
    return next((arm for arm in arms if all(arm.get(key) == row.get(key) for key in keys)), {})


def verdict_sentence(row: Row, arms: Sequence[Row]) -> str:
    """Say of a verdict: against whom, at which tier, by which attack, how much was recovered, and at which price."""
    access = row.get("access")
    needs = access.get("text") if isinstance(access, Mapping) else None
    tier = f"{row.get('tier', '–')}{f' ({needs})' if needs else ''}"
    word = WORDS.get(str(row.get("verdict")), "has no verdict")
    return f"at the tier {tier}, against {row.get('attacker', '–')}, it {word}: {_worst(row, arms)}"


def owner_sentence(target: str, rows: Sequence[Row], arms: Sequence[Row]) -> str:
    """Tell a teacher's owner the gravest verdict on it, and at which tiers it protects against every attacker."""
    worst = gravest(rows)
    if worst is None:
        return f"{target}: there is no verdict."
    sentence = f"{target}: {verdict_sentence(worst, arms)}."
    tiers = dict.fromkeys(str(row.get("tier")) for row in rows)
    safe = [
        tier for tier in tiers if all(row.get("verdict") == "protects" for row in rows if str(row.get("tier")) == tier)
    ]
    if safe and worst.get("verdict") != "protects":
        sentence += f" It protects at the tier{'' if len(safe) == 1 else 's'} {', '.join(safe)}."
    return sentence


def _worst(row: Row, arms: Sequence[Row]) -> str:
    """The worst attack, what it recovered and for what; or why that can't be said."""
    share, word = _share(row.get("recovered"), row.get("interval")), row.get("verdict")
    why = f"{row['why']}" if row.get("why") else "no reason was recorded"
    if share is None or word in ("irrelevant", "can't tell"):
        return why
    cost = arm_of(row, arms).get("cost")
    answers = _number(cost.get("queries")) if isinstance(cost, Mapping) else None
    price = "" if answers is None else f", for {answers:.0f} answers of the teacher"
    return f"the worst attack, {row.get('attack')}, recovers {share} of what the original teaches{price}"


def _share(value: Any, interval: Any) -> str | None:
    finite = _number(value)
    if finite is None:
        return None
    ends = [_number(end) for end in interval] if isinstance(interval, list | tuple) else []
    bounds = [f"{100 * end:.0f}" for end in ends if end is not None]
    return f"{100 * finite:.0f} %" + (f" [{', '.join(bounds)}]" if len(bounds) == 2 else "")


def _number(value: Any) -> float | None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and abs(value) < float("inf") else None
