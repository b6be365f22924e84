"""How far the knob would turn, as the terminal tells it of a diagnosis."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from distillknob.cli.layout import percent, text_table, with_interval, wrapped

WAY = 16  # characters of a way of writing


def knob_text(result: Mapping[str, Any], advised: Collection[str] = ()) -> list[str]:
    """Tell how far the knob would turn, a line a task and η, and why, but for the tasks whose finding was told already
    (`advised`). Nothing of results without such a forecast."""
    shared = [row for row in result.get("knob") or [] if row["scope"] == "ways"]
    if not shared:
        return []
    header = ["forecast of the knob", "η", "turns", "log-ratio, nats [95 %]", "KL", "teacher %", "student %"]
    rows = [
        [
            row["task"],
            f"{row['eta']:+g}",
            row["turns"],
            with_interval(row["difference"], row["interval"], "+.2f"),
            f"{row['kl']:.2f}",
            _change(row, "score", "score_after"),
            _change(row, "student", "student_after"),
        ]
        for row in shared
    ]
    sentences = [
        wrapped(f"the knob on {finding['task']}: {finding['cause']}", "  ")
        for finding in result["findings"]
        if finding["name"] == "knob_range" and finding["applicable"] and finding["task"] not in advised
    ]
    return [text_table(header, rows), *sentences, *_by_reward(result)]


def _by_reward(result: Mapping[str, Any]) -> list[str]:
    """Tell which way of writing each reward would favour, how sure that is, and what it does to a student that writes
    as the teacher does; nothing of results from before that was told."""
    header = ["by reward", "η", "reward", "gains most (sure)", "share %", "teacher %", "student %"]
    rows = [
        [
            row["task"],
            f"{row['eta']:+g}",
            row["reward"],
            "–" if row["way"] is None else f"{_short(row['way'])} ({row['certainty']:.0%})",
            _change(row, "before", "after"),
            _change(row, "score", "score_after"),
            _change(row, "student_before", "student_after"),
        ]
        for row in result.get("knob_rewards") or []
    ]
    return [text_table(header, rows)] if rows else []


def _short(way: str) -> str:
    return way if len(way) <= WAY else f"{way[: WAY - 1].rstrip()}…"


def _change(row: Mapping[str, Any], before: str, after: str) -> str:
    return "–" if row[after] is None else f"{percent(row[before])} → {percent(row[after])}"
