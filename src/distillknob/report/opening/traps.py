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
from distillknob.report.sections.findings import by_severity


def in_the_way(source: Source) -> Sequence[Line]:
    """Name the gravest trap that the diagnosis found."""
    run = source.diagnose
    findings = [row for row in rows(run.result.get("findings")) if row.get("applicable", True)] if run else []
    if not findings:
        if run is not None and not run.finished:
            return [Line("Not known yet", "the diagnosis hasn't finished.")]
        return [Line("Not measured here", "no diagnosis was run.", command=about(source, "diagnose"))]
    tones: dict[str, Tone] = {"high": "bad", "medium": "warn"}
    grave = [row for row in findings if row.get("severity") in tones]
    checks = plural(len(findings), "check")
    if not grave:
        return [Line("Nothing grave", f"none of {checks} found a trap.", tone="good", section="traps")]
    worst = by_severity(grave)[0]
    on = f" on {worst.get('task')}" if worst.get("task") else ""
    severity = str(worst.get("severity"))
    what = f"of {checks}, the gravest ({severity}) is {sentence(worst.get('name')).lower()}{on}."
    return [Line(plural(len(grave), "trap"), what, tone=tones[severity], section="traps")]
