"""This module tells what an extractor got, on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from distillknob.cli.layout import percent, text_table, wrapped
from distillknob.runs.run import Run
from distillknob.verdicts.extractors import verdict_sentence

_MOST = 20  # attacks in the table; the page has all


def attack_text(run: Run, result: Mapping[str, Any]) -> list[str]:
    """Return the parts of what `attack` prints: the verdicts, the attacks by what they recovered, and the doubts."""
    arms = result["arms"]
    if result["refused"]:
        parts = [wrapped(f"No verdicts: {result['refused']}.")]
    else:
        verdicts = _defended(result, result["worst"])
        lines = [wrapped(f"{row['target']}: {verdict_sentence(row, arms)}.") for row in verdicts]
        parts = ["\n".join(lines) or "No verdicts: no attack was trained."]
    parts += [_arms(result), _controls(result)]
    parts += ["\n".join(wrapped(f"! planted {row['planted']}: {row['demand']}") for row in _unfound(result))]
    parts += ["\n".join(wrapped(f"! {row['target']}: {row['flag']}: {row['text']}") for row in result["flags"])]
    parts += ["\n".join(wrapped(f"! failed: {row['cell']}: {row['reason']}") for row in result["failed"])]
    return [*filter(None, parts), f"report: {run.path / 'report.html'}"]


def _defended(result: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """The rows on defended teachers: on the original each attack gets all, by what R is. Where it is alone, all."""
    original = {row["target"] for row in result["targets"] if row["original"]}
    return [row for row in rows if row["target"] not in original] or rows


def _unfound(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [row for row in result["planted"] if not row["passed"]]


def _arms(result: Mapping[str, Any]) -> str:
    """The attacks on defended teachers, those that recovered most first; where none is defended, all."""
    defended = _defended(result, [row for row in result["arms"] if not row["control"]])

    def rank(row: Mapping[str, Any]) -> tuple[bool, float]:
        return (row["recovered"] is None, -(row["recovered"] or 0.0))

    if not defended:
        return ""
    shown = sorted(defended, key=rank)[:_MOST]
    header = ["teacher, attack", "attacker", "threat model", "recovered % [all at once]", "score %"]
    body = [
        [
            f"{row['target']}, {row['attack']}",
            row["attacker"],
            row["access"]["text"],
            percent(row["recovered"], row["simultaneous"]) if row["state"] == "done" else row["state"],
            percent(row["score"], row["interval"]),
            str(len(row["seeds"])),
        ]
        for row in shown
    ]
    more = f"\n{len(defended) - len(shown)} more attacks stand on the page." if len(defended) > len(shown) else ""
    return text_table([*header, "trainings"], body) + more


def _controls(result: Mapping[str, Any]) -> str:
    controls = [row for row in result["arms"] if row["control"]]
    if not controls:
        return ""
    body = [
        [row["attack"], row["attacker"], percent(row["score"], row["interval"]), percent(row["finished_rate"])]
        for row in controls
    ]
    return text_table(["control", "attacker", "score %", "finished %"], body)
