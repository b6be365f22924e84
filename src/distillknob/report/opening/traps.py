"""This answer names what stands in the way of a distillation."""

from __future__ import annotations

from collections.abc import Sequence

from distillknob.report.drawing.markup import (
    plural,
    rows,
)
from distillknob.report.names import sentence
from distillknob.report.opening.answer import Line, Tone
from distillknob.report.opening.pair import about
from distillknob.report.read import Source
from distillknob.verdicts.findings import badge, group_of, ranked


def in_the_way(source: Source) -> Sequence[Line]:
    """Name the trap that the diagnosis tells first, in the order of `verdicts.findings`."""
    run = source.diagnose
    findings = [row for row in rows(run.result.get("findings")) if row.get("applicable", True)] if run else []
    if not findings:
        if run is not None and not run.finished:
            return [Line("Not known yet", "the diagnosis hasn't finished.")]
        if run is not None:
            return [Line("Nothing could be asked", "no check of the diagnosis applies to this pair.", section="traps")]
        return [Line("Not measured here", "no diagnosis was run.", command=about(source, "diagnose"))]
    knob = rows(run.result.get("knob")) if run else []
    groups = [group_of(row, knob) for row in findings]
    checks, usual = plural(len(findings), "check"), groups.count("background")
    traps = sum(group in ("premise", "pair") for group in groups)
    first = ranked(findings, knob)[0]
    on = f" on {first.get('task')}" if first.get("task") else ""
    what = f"{sentence(first.get('name')).lower()}{on}"
    if not traps:
        common = f"{usual} of {checks} fired as on most pairs." if usual else f"none of {checks} found a trap."
        return [Line("Nothing that is this pair's own", common, tone="good", section="traps")]
    more = f"; {usual} more as on most pairs" if usual else ""
    tone: Tone = "bad" if first.get("severity") == "high" else "warn"
    told = f"of {checks}, the first ({badge(first)}) is {what}{more}."
    return [Line(plural(traps, "trap"), told, tone=tone, section="traps")]
