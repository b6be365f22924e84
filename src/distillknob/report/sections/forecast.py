"""This section shows what a diagnosis foretells from samples, before any training: of students of the teacher as it is,
and of a teacher that is turned."""

from __future__ import annotations

from collections.abc import Sequence

from distillknob.report.drawing.markup import Html, Row, Section, count, join, mapping, number, part, rows
from distillknob.report.read import RunData, Source
from distillknob.report.sections.gap import forecast_table
from distillknob.report.sections.knob import frontier_figure, knob_sentence, knob_table, reward_table

NAME = "forecast"
NOT_MEASURED = "Foretold from samples of both models, before any training. No student was trained for it."


def forecast_section(source: Source) -> Section | None:
    """Show the forecasts of the diagnosis; None where it made none."""
    if source.diagnose is None:
        return None
    result = source.diagnose.result
    knob = rows(result.get("knob"))
    how_far = f"{knob_sentence(knob)} {_answers(source.diagnose, knob)}".strip()
    shown = [
        part(
            "A student of the teacher as it is",
            "What the student would score if it took over the teacher's habits and learned nothing else.",
            forecast_table(rows(result.get("forecast"))),
        ),
        part("How far the knob can turn", how_far, _knob(result)),
        part(
            "By reward",
            "Which way of writing each reward would favour, over all problems alike, and what that changes for a "
            "student that writes as the teacher does. At η above 0 a reward protects if such a student falls, at η "
            "below 0 it teaches if it rises.",
            reward_table(rows(result.get("knob_rewards"))),
        ),
    ]
    return Section(NAME, "What is foretold", NOT_MEASURED, join(*shown)) if any(shown) else None


def _answers(run: RunData, knob: Sequence[Row]) -> str:
    """On which answers the teacher's score rests, where the diagnosis scores it on others above."""
    drawn = next((samples for row in knob if (samples := number(row.get("samples")))), None)
    above = number(mapping(run.run.config).get("samples"))
    if drawn is None or above is None or drawn == above:
        return ""
    return (
        f"The teacher's score now is that of {count(drawn)} answers to each problem; how often it is right above is "
        f"told by {count(above)}."
    )


def _knob(result: Row) -> Html | None:
    """The table of the knob's forecast and its frontier; nothing in results from before there was one."""
    shown = [knob_table(rows(result.get("knob"))), frontier_figure(rows(result.get("frontier")))]
    return join(*shown) if any(shown) else None
