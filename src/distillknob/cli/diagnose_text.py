"""This module tells a diagnosis on the terminal: whether the teacher is right, then what helps most, then the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from distillknob.cli.knob_text import knob_text
from distillknob.cli.layout import percent, text_table, with_interval, wrapped
from distillknob.report.read import RunData, Source
from distillknob.report.remedies import remedy_commands
from distillknob.runs.run import Run
from distillknob.verdicts.findings import badge, group_of, ranked, unfounded

EXAMPLES, EXAMPLE = 2, 60  # wrong answers that are shown, and characters of each of their parts
HEADS = {
    "premise": "",
    "pair": "",
    "knob": "",
    "background": "On most pairs the following fires too, so that it says little of this one. Try it last:",
}


def diagnose_text(run: Run, result: Mapping[str, Any]) -> list[str]:
    """Tell a diagnosis in the order of `verdicts.findings`: a table of all that was asked, advice, forecasts."""
    knob = result.get("knob") or []
    findings = ranked(result["findings"], knob)
    applicable = [finding for finding in findings if finding["applicable"]]
    parts = [accuracy_text(result.get("accuracy") or [])]
    if applicable:
        parts.append(text_table(["trap", "task", "severity", "value [95 %]"], [_row(one) for one in applicable]))
    data = RunData(run.path, run)
    source, offered = Source(data, data), list[str]()
    without = unfounded(applicable)
    for group, head in HEADS.items():
        own = [finding for finding in applicable if group_of(finding, knob) == group]
        parts += [wrapped(head)] if head and own else []
        for finding in own:
            if group == "background":
                parts.append(_in_short(finding))
                continue
            useless = group != "premise" and finding["task"] in without
            commands = [] if useless else remedy_commands(source, finding["remedy"])
            commands = [one for one in commands if one not in offered]
            offered += commands
            parts.append(advice(finding, commands))
        if group == "premise" and own:
            parts.append(wrapped(f"Mend that first: what follows on {', '.join(sorted(without))} is no use before."))
    parts += _not_asked(findings)
    if result["forecast"]:
        header = ["forecast without training", "student now %", "if it wrote as the teacher %", "difference, points"]
        rows = [
            [
                row["task"],
                percent(row["score"]),
                percent(row["forecast"]),
                percent(row["gain"], row["interval"], signed=True),
            ]
            for row in result["forecast"]
        ]
        parts.append(text_table(header, rows))
    advised = {finding["task"] for finding in applicable if group_of(finding, knob) == "knob"}
    return [*filter(None, parts), *knob_text(result, advised)]


def accuracy_text(accuracy: Sequence[Mapping[str, Any]]) -> str:
    """Tell how often teacher and student are right, a line a task."""
    lines = []
    for row in accuracy:
        word, unit = ("right", " %") if row["graded"] else ("scores", " of 100")
        sides = [f"{side} {word} {_share(row[side], row[f'{side}_interval'], unit)}" for side in ("teacher", "student")]
        lines.append(f"{' · '.join(sides)} · {row['task']}")
    return "\n".join(lines)


def _share(value: float | None, bounds: Sequence[float | None], unit: str) -> str:
    number, _, interval = percent(value, bounds).partition(" ")
    return f"{number}{unit} {interval}".rstrip()


def _row(finding: Mapping[str, Any]) -> list[str]:
    value = "–" if finding["value"] is None else with_interval(finding["value"], finding["interval"], ".3f")
    return [finding["name"], finding["task"] or "all", badge(finding), value]


def advice(finding: Mapping[str, Any], commands: Sequence[str] = ()) -> str:
    """Say what a finding means, why it is there, and what to do: in words, and by commands to copy."""
    head = f"{finding['name']} on {finding['task'] or 'all tasks'}: {finding['value']:.3f} {finding['unit']}"
    lines = [
        wrapped(f"{badge(finding)}: {head}"),
        wrapped(finding["cause"], "  why: "),
        *(_example(one) for one in (finding.get("examples") or [])[:EXAMPLES]),
        wrapped(finding["remedy"], "  do:  "),
        *(f"       {command}" for command in commands),  # a command to copy stays on one line
    ]
    return "\n".join(lines)


def _example(shown: Mapping[str, Any]) -> str:
    asked, right, given = (_short(shown[key]) for key in ("prompt", "reference", "answer"))
    return wrapped(f"asked {asked}, right is {right}, it said {given} ({shown['why']})", "  e.g. ")


def _short(text: str) -> str:
    """The end of what was written, where the answer stands, without what a terminal would obey."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return f'"{line}"' if len(line) <= EXAMPLE else f'"…{line[-EXAMPLE:]}"'


def _in_short(finding: Mapping[str, Any]) -> str:
    value = "–" if finding["value"] is None else f"{finding['value']:.3f}"
    head = f"{badge(finding)}: {finding['name']} on {finding['task'] or 'all tasks'}: {value} {finding['unit']}"
    return "\n".join([wrapped(head), wrapped(finding["remedy"], "  do:  ")])


def _not_asked(findings: Sequence[Mapping[str, Any]]) -> list[str]:
    """What could not be asked, once for all tasks with the same reason."""
    tasks_of: dict[tuple[str, str], list[str]] = {}
    for finding in findings:
        if not finding["applicable"]:
            tasks_of.setdefault((finding["name"], finding["cause"]), []).append(finding["task"] or "all tasks")
    return [wrapped(f"not applicable: {name} on {', '.join(on)}: {why}") for (name, why), on in tasks_of.items()]
