"""This section shows how students fail, and what teachers and students actually wrote.

What models wrote is shown as text, whole up to a length that a page can bear.
"""

from __future__ import annotations

from collections.abc import Sequence

from distillknob.report.drawing.markup import (
    MISSING,
    Child,
    Html,
    Row,
    Section,
    bounds,
    count,
    details,
    join,
    listed,
    mapping,
    number,
    percent,
    percent_range,
    plural,
    rows,
    stacked,
    table,
    tag,
    text,
)
from distillknob.report.drawing.plots import Dot, dot_plot
from distillknob.report.drawing.svg import Scale, figure, swatch
from distillknob.report.names import (
    FAILURE_MODES,
    FORMER,
    METHODS,
    failure_name,
    method_name,
    ordered,
    sentence,
    signed_eta,
    student_name,
    teacher_name,
    teacher_style,
)
from distillknob.report.read import Source
from distillknob.report.rows import by_teacher, distinct, eta_of, find, focus, sample_size, where
from distillknob.report.sections.students import row_name, student_legend
from distillknob.verdicts.teachers import label_of

MOST_CHARACTERS = 4000  # of one answer


def failures_section(source: Source) -> Section:
    """Show the rate of each failure mode by student."""
    title = "How the students fail"
    result = source.main.result
    students = [row for row in rows(result.get("students")) if mapping(row.get("failure_modes"))]
    if not students:
        return Section("failures", title, None, source.nothing("no failure modes of students were measured"))
    chosen = focus(result)
    method = chosen[1] if chosen else "gkd"
    shown = [row for row in students if row.get("method") in ("none", method)]
    modes = ordered((mode for row in students for mode in mapping(row.get("failure_modes"))), list(FAILURE_MODES))
    # A sweep has a student for each η and seed: a table, but no plot to look at.
    plot = None if source.main.stage == "sweep" else _failures_figure(shown or students, modes, method)
    body = join(plot, details("All students and methods", _failures_table(students, modes)))
    return Section("failures", title, _failures_sentence(shown or students, modes), body)


def _rate(row: Row, mode: str) -> tuple[float | None, object]:
    cell = mapping(mapping(row.get("failure_modes")).get(mode))
    return number(cell.get("rate")), cell.get("interval")


def _failures_sentence(students: Sequence[Row], modes: Sequence[str]) -> str:
    """The most frequent failure, and what the original's student does there."""
    rates = [(rate, row, mode) for row in students for mode in modes if (rate := _rate(row, mode)[0]) is not None]
    if not rates:
        return "No rate could be measured."
    worst, row, mode = max(rates, key=lambda item: item[0])
    if worst == 0:
        return "No student shows any of the failure modes."
    summary = (
        f"The most frequent failure is {failure_name(mode).lower()} of the {student_name(row)} on {row.get('task')}: "
        f"{percent(worst)} {percent_range(_rate(row, mode)[1])}".rstrip()
    )
    base = find(students, teacher="original", task=row.get("task"))
    if base is None or base is row:
        return f"{summary}."
    return f"{summary}, against {percent(_rate(base, mode)[0])} for that of the original."


def _failures_figure(students: Sequence[Row], modes: Sequence[str], method: str) -> Html | None:
    panels = []
    ends = [end for row in students for mode in modes for end in bounds(_rate(row, mode)[1]) or ()]
    x = Scale.fit([*ends, *(_rate(row, mode)[0] for row in students for mode in modes)], include=(0.0,))
    measured = [mode for mode in modes if any(_rate(row, mode)[0] is not None for row in students)]
    if not measured:
        return None
    for mode in measured:
        tasks = distinct(students, "task")
        groups = [(task, [_dot(row, mode) for row in by_teacher(where(students, task=task))]) for task in tasks]
        panels.append(dot_plot(failure_name(mode).partition(" (")[0], groups, x, x_label="share of the answers"))
    unmeasured = [failure_name(mode).lower() for mode in modes if mode not in measured]
    missing = f" Not measured: {listed(unmeasured)}." if unmeasured else ""
    caption = (
        f"How often each student ({method_name(method)}) fails in which way. Lines are 95 % intervals. Each mark: "
        f"{sample_size(students)}. {'; '.join(map(failure_name, measured))}.{missing}"
    )
    return figure(panels, caption, student_legend(students))


def _dot(row: Row, mode: str) -> Dot:
    rate, interval = _rate(row, mode)
    return Dot(
        name=row_name(row),
        value=rate,
        interval=bounds(interval),
        style=teacher_style(row.get("teacher")),
        tip=f"{student_name(row)}: {percent(rate)} {percent_range(interval)}",
    )


def _failures_table(students: Sequence[Row], modes: Sequence[str]) -> Html:
    body: list[list[Child]] = []
    for task in distinct(students, "task"):
        for method in distinct(students, "method", list(METHODS)):
            for row in by_teacher(where(students, task=task, method=method)):
                rates = [_rate(row, mode) for mode in modes]
                cells = [stacked(percent(rate), percent_range(interval)) for rate, interval in rates]
                whose = [label_of(row), method_name(method), signed_eta(eta_of(row)), text(row.get("seed"))]
                body.append([task, *whose, *cells])
    return table(["Task", "Teacher", "Method", "η", "Seed", *map(failure_name, modes)], body, numeric_from=3)


def samples_section(source: Source) -> Section:
    """Show the same prompts answered by teachers and students, side by side."""
    title = "Sample answers"
    examples = rows(source.main.result.get("examples"))
    if not examples:
        return Section("samples", title, None, source.nothing("no sample answers were kept"))
    answers = [answer for example in examples for answer in rows(example.get("answers"))]
    unfinished = sum(answer.get("finished") is False for answer in answers)
    takeaway = (
        f"{plural(len(examples), 'prompt')} with {plural(len(answers), 'answer')}, of which {unfinished} did not "
        "finish. They are examples, not a measurement."
    )
    body = [
        details(
            join(tag("b", text(example.get("task"))), f" · {_one_line(example.get('prompt'))}"),
            _example(example),
            is_open=index == 0,
        )
        for index, example in enumerate(examples)
    ]
    return Section("samples", title, takeaway, join(body))


def kept_samples_section(source: Source) -> Section | None:
    """The same of a run that may have kept none, as those of older versions."""
    return samples_section(source) if rows(source.main.result.get("examples")) else None


def _one_line(prompt: object) -> str:
    line = " ".join(text(prompt).split())
    return line if len(line) <= 90 else f"{line[:89]}…"


def _example(example: Row) -> Html:
    cards = [_answer(answer) for answer in rows(example.get("answers"))]
    prompt = tag("div", tag("h3", "Prompt", class_="small"), _written(example.get("prompt")), class_="asked")
    reference = tag("div", tag("h3", "Reference", class_="small"), _written(example.get("reference")), class_="asked")
    return join(tag("div", prompt, reference, class_="cards"), tag("div", cards, class_="cards"))


def _answer(answer: Row) -> Html:
    who = text(answer.get("who"))
    # Answers from before they named their teacher tell it within `who`.
    former = next((name for name in (*reversed(FORMER), "original") if name in who.split()), "none")
    teacher = str(answer.get("teacher") or former)
    who = who.replace(former, teacher_name(former)) if former in FORMER else who
    score = number(answer.get("score"))
    level = "none" if score is None else "right" if score >= 1 else "high" if score <= 0 else "medium"
    notes = [
        sentence(answer["style"]) if answer.get("style") not in (None, "", "other") else None,
        "not finished" if answer.get("finished") is False else None,
    ]
    badge = tag("span", f"score {MISSING if score is None else f'{score:.2g}'}", class_=f"badge {level}")
    shape, css = teacher_style(teacher)
    return tag(
        "article",
        tag("header", tag("h3", swatch(shape, css), who, class_="small"), badge),
        _written(answer.get("text")),
        tag("p", " · ".join(note for note in notes if note), class_="more"),
        class_="card",
    )


def _written(value: object) -> Html:
    """Text as it was written; `dir` keeps a text from turning the page around it."""
    written = text(value)
    cut = f"\n… {count(len(written) - MOST_CHARACTERS)} characters more" if len(written) > MOST_CHARACTERS else ""
    return tag("pre", written[:MOST_CHARACTERS], tag("i", cut) if cut else None, dir="auto")
