"""How far the knob would turn, as the terminal tells it of a diagnosis."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from distillknob.cli.layout import percent, text_table, with_interval, wrapped


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
            f"{percent(row['score'])} → {percent(row['score_after'])}",
            "–" if row["student_after"] is None else f"{percent(row['student'])} → {percent(row['student_after'])}",
        ]
        for row in shared
    ]
    sentences = [
        wrapped(f"the knob on {finding['task']}: {finding['cause']}", "  ")
        for finding in result["findings"]
        if finding["name"] == "knob_range" and finding["applicable"] and finding["task"] not in advised
    ]
    return [text_table(header, rows), *sentences]
