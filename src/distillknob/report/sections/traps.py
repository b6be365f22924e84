"""This section shows the traps of a pair before any calibration: pilot table, per-token scatter, tail share,
findings."""

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
    decimal,
    decimal_range,
    join,
    mapping,
    not_run,
    number,
    part,
    percent,
    percent_range,
    plural,
    points,
    points_range,
    rows,
    table,
    tag,
    text,
    with_range,
)
from distillknob.report.drawing.plots import WIDE, Series, line_plot, whole_percent
from distillknob.report.drawing.svg import Scale, figure
from distillknob.report.names import sentence, series_style
from distillknob.report.read import RunData, Source
from distillknob.report.rows import distinct, find, where
from distillknob.report.sections.estimates import (
    myopia_sentence,
    myopia_table,
    off_policy_sentence,
    off_policy_table,
    quadrant_table,
)
from distillknob.report.sections.findings import findings_cards, findings_sentence
from distillknob.report.sections.gap import (
    preference_table,
    prefix_sentence,
    prefix_table,
    style_sentence,
    style_table,
)
from distillknob.report.sections.scatter import scatter_figure, scatter_sentence

_KL = {"forward_kl": "forward KL", "reverse_kl": "reverse KL"}


def traps_section(source: Source) -> Section:
    """Show what makes this pair hard to distil."""
    title = "The traps of this pair"
    if source.diagnose is None:
        pair = mapping(source.main.result.get("pair"))
        command = source.command("diagnose", "diagnose", teacher=pair.get("teacher"), student=pair.get("student"))
        return Section("traps", title, None, not_run("the traps of this pair", command))
    result = source.diagnose.result
    if not result:
        message = f"The diagnosis in {source.diagnose.path} has no result yet: it is running, or it stopped."
        return Section("traps", title, None, tag("p", message, class_="not-run"))
    pilot, scatter, tail = rows(result.get("pilot")), rows(result.get("scatter")), rows(result.get("tail"))
    off_policy, myopia = rows(result.get("off_policy")), rows(result.get("myopia"))
    quadrant = quadrant_table(rows(result.get("quadrant")))
    style, prefix, findings = (rows(result.get(name)) for name in ("style", "prefix", "findings"))
    knob = rows(result.get("knob"))
    body = [
        part("How often the two are right", _asked(source.diagnose), accuracy_table(rows(result.get("accuracy")))),
        part("What was found, and what to do about it", None, findings_cards(source, findings, knob)),
        part("How far teacher and student lie apart", pilot_sentence(pilot), pilot_table(pilot)),
        part("Where the token KL comes from", scatter_sentence(scatter), scatter_figure(scatter)),
        part("How much of it lies in the tail", tail_sentence(tail), tail_figure(tail)),
        part("What training on the top K leaves out", None, left_out_table(tail)),
        part("Which tokens carry it", None, quadrant),
        part("What off-policy estimates are worth", off_policy_sentence(off_policy), off_policy_table(off_policy)),
        part("What a sampled token tells of the gradient", myopia_sentence(myopia), myopia_table(myopia)),
        part(
            "Which wrong answers the teacher prefers",
            "How often the teacher finds a wrong answer of the student likelier than a right one. Where both are "
            "written in one way, it tells right from wrong. Between two ways its habits speak too.",
            preference_table(rows(result.get("preference"))),
        ),
        part("Ways of writing", style_sentence(style), style_table(style)),
        part("The teacher on the student's beginnings", prefix_sentence(prefix), prefix_table(prefix)),
    ]
    return Section("traps", title, findings_sentence(findings, knob), join(*body))


def _asked(run: RunData) -> str:
    """How many answers to a problem the two are judged by."""
    config = run.run.config
    samples, candidates = number(config.get("samples")), number(config.get("candidates"))
    if samples is None or candidates is None:
        return ""
    return (
        f"On problems of the train split: {plural(int(samples), 'answer')} of the teacher to each, and "
        f"{int(max(samples, candidates))} of the student."
    )


def accuracy_table(accuracy: Sequence[Row]) -> Html | None:
    """Show how often teacher and student are right, a row a task."""
    if not accuracy:
        return None
    body: list[list[Child]] = [
        [
            text(row.get("task")) if row.get("graded") else f"{text(row.get('task'))} (score)",
            with_range(percent(row.get("teacher")), percent_range(row.get("teacher_interval"))),
            with_range(percent(row.get("student")), percent_range(row.get("student_interval"))),
            with_range(points(row.get("difference")), points_range(row.get("interval"))),
            count(row.get("n")),
        ]
        for row in accuracy
    ]
    return table(["Task", "Teacher right", "Student right", "Teacher's lead, points", "Problems"], body)


def pilot_table(pilot: Sequence[Row]) -> Html | None:
    """Show the divergences of the pair, one row a divergence, one column a task."""
    if not pilot:
        return None
    tasks = distinct(pilot, "task")
    body: list[list[Child]] = []
    for level in distinct(pilot, "level", ("token", "span", "sequence")):
        for direction in distinct(where(pilot, level=level), "direction"):
            for policy in distinct(where(pilot, level=level, direction=direction), "policy"):
                own = where(pilot, level=level, direction=direction, policy=policy)
                name = f"{sentence(level)}, {_KL.get(direction, direction)}"
                note = f"{policy.replace('_', '-')} · {text(own[0].get('unit'))}"
                kind = join(tag("div", name), tag("div", note, class_="more"))
                body.append([kind, *(_pilot_cell(find(own, task=task)) for task in tasks)])
    return table(["Divergence", *tasks], body, class_="named")


def _pilot_cell(row: Row | None) -> Child:
    if row is None:
        return MISSING
    value = with_range(decimal(row.get("value")), decimal_range(row.get("interval")))
    return join(tag("div", value), tag("div", f"n = {count(row.get('n'))}", class_="more"))


def pilot_sentence(pilot: Sequence[Row]) -> str:
    """Say which task has the lowest token KL, and how much less sure off-policy reverse KL is."""
    sentences = []
    forward = [
        (value, text(row.get("task")))
        for row in where(pilot, level="token", direction="forward_kl", policy="on_policy")
        if (value := number(row.get("value"))) is not None
    ]
    if len(forward) > 1:
        (low, lowest), (high, highest) = min(forward), max(forward)
        sentences.append(
            f"On-policy, the token-level forward KL is lowest on {lowest} ({decimal(low)} nats a token) and highest on "
            f"{highest} ({decimal(high)})."
        )
    ratios = []
    for task in distinct(pilot, "task"):
        reverse = where(pilot, task=task, level="sequence", direction="reverse_kl")
        on, off = (_width(find(reverse, policy=policy)) for policy in ("on_policy", "off_policy"))
        if on and off is not None:
            ratios.append((off / on, task))
    if ratios:
        ratio, task = max(ratios)
        whose = "the interval of the sequence-level reverse KL"
        sentences.append(
            f"Off-policy, {whose} is no wider than on-policy."
            if ratio < 1.05
            else f"Off-policy, {whose} is up to {ratio:.1f} times as wide as on-policy ({task})."
        )
    return " ".join(sentences)


def _width(row: Row | None) -> float | None:
    pair = bounds(row.get("interval")) if row is not None else None
    return None if pair is None else pair[1] - pair[0]


def tail_figure(tail: Sequence[Row]) -> Html | None:
    """Draw the share of the token KL that the top K tokens carry, a line a task."""
    usable = [row for row in tail if (number(row.get("k")) or 0) > 0 and number(row.get("share")) is not None]
    if not usable:
        return None
    tasks = distinct(usable, "task")
    ks = sorted({k for row in usable if (k := number(row.get("k"))) is not None})
    series = []
    for index, task in enumerate(tasks):
        own = sorted(where(usable, task=task), key=lambda row: number(row.get("k")) or 0)
        spread = [bounds(row.get("interval")) for row in own]
        ys = [number(row.get("share")) for row in own]
        series.append(Series(task, series_style(index), [number(row.get("k")) for row in own], ys, spread))
    ends = [end for one in series for pair in one.spread if pair for end in pair]
    y = Scale.fit([*(value for one in series for value in one.ys), *ends], include=(0,))
    panel = line_plot(
        "carried by the top K",
        series,
        Scale.fit(ks, log=True),
        y,
        x_label="K",
        y_label="share of the token KL",
        x_ticks=[(k, count(k)) for k in ks],
        y_format=whole_percent,
        value_format=percent,
        width=WIDE,
    )
    caption = (
        "The share of the token KL that the teacher's K likeliest tokens hold. The later a line reaches 100 %, the "
        f"more of the KL lies in the tail. Upright lines are 95 % intervals. {len(usable)} shares of "
        f"{plural(len(tasks), 'task')}."
    )
    return figure([panel], caption, [(*one.style, one.name) for one in series])


def tail_sentence(tail: Sequence[Row]) -> str:
    """Say on which task the smallest K carries least."""
    usable = [row for row in tail if number(row.get("k")) is not None and number(row.get("share")) is not None]
    if not usable:
        return ""
    smallest = min(number(row.get("k")) or 0 for row in usable)
    own = [row for row in usable if number(row.get("k")) == smallest]
    least = min(own, key=lambda row: number(row.get("share")) or 0.0)
    carried = f"{percent(least.get('share'))} {percent_range(least.get('interval'))}".strip()
    place = text(least.get("task")) + (", the least of all tasks" if len(own) > 1 else "")
    return f"The teacher's top {count(smallest)} holds {carried} of the token KL on {place}."


def left_out_table(tail: Sequence[Row]) -> Html | None:
    """Show the part of the forward KL that the top K and one bucket for the rest miss, one row a K, one column a
    task."""
    usable = [row for row in tail if number(row.get("left_out")) is not None]
    if not usable:
        return None
    tasks = distinct(usable, "task")
    body: list[list[Child]] = []
    for k in sorted({value for row in usable if (value := number(row.get("k"))) is not None}):
        here = [row for row in usable if number(row.get("k")) == k]
        own = [find(here, task=task) or {} for task in tasks]
        body.append(
            [count(k), *(with_range(_exactly(row.get("left_out")), _pair(row.get("left_out_interval"))) for row in own)]
        )
    return table(["K, nats a token left out", *tasks], body, class_="named")


def _exactly(value: object) -> str:
    finite = number(value)
    return MISSING if finite is None else f"{finite:.2g}"


def _pair(interval: object) -> str:
    pair = bounds(interval)
    return "" if pair is None else f"[{pair[0]:.2g}, {pair[1]:.2g}]"
