"""This part of a calibration shows what the knob moved: figures, named ways of writing, and clusters of answers."""

from __future__ import annotations

from distillknob.report.drawing.markup import (
    MISSING,
    Child,
    Html,
    Row,
    bounds,
    count,
    decimal,
    decimal_range,
    details,
    join,
    number,
    percent,
    plural,
    points,
    points_range,
    rows,
    table,
    tag,
    text,
    with_range,
)
from distillknob.report.names import sentence, teacher_name
from distillknob.report.read import RunData
from distillknob.verdicts.teachers import is_original

SHARES = ("finished", "sure")
OWN_SURENESS = (
    "Sure is told by each teacher's own probabilities. A teacher that settles on one way of writing has less to choose "
    "from, so the share may rise whichever way the knob is turned."
)
FIGURES = {
    "tokens": "Tokens of a right answer",
    "finished": "Finished answers",
    "different": "Different right answers to a problem",
    "sure": "Sure tokens of right answers (own probability above 0.9)",
}


def moved_part(name: str, run: RunData) -> Html | None:
    """Show what moved on each task from the original teacher to the kept one, on the guard's held-out problems."""
    tasks = rows(run.result.get("moved"))
    if not tasks:
        return None
    parts = [_task(task, is_original(run.result)) for task in tasks]
    summary = f"What moved at {teacher_name(name)}: {plural(len(tasks), 'task')}"
    return details(summary, *parts, is_open=len(tasks) == 1)


def _task(task: Row, same: bool) -> Html:
    figures, ways, clusters = (rows(task.get(key)) for key in ("figures", "ways", "clusters"))
    body: list[list[Child]] = [
        [
            FIGURES.get(str(row.get("name")), sentence(row.get("name"))),
            *_moved(row, is_share=row.get("name") in SHARES, same=same),
        ]
        for row in figures
    ]
    body += [[f"Answers in the way {text(row.get('way'))}", *_moved(row, is_share=True, same=same)] for row in ways]
    of_clusters: list[list[Child]] = [
        [tag("pre", text(row.get("example")), dir="auto"), *_moved(row, is_share=True, same=same)] for row in clusters
    ]
    head = ["Before", "After", "Difference"]
    return join(
        tag("h3", text(task.get("task")), class_="small"),
        table([f"On {count(task.get('problems'))} held-out problems", *head], body),
        tag("p", OWN_SURENESS, class_="more") if _is_sure(figures) else None,
        tag("p", _sentence(task, clusters), class_="more"),
        table(["The answer nearest to a cluster's centre", *head], of_clusters) if len(clusters) > 1 else None,
    )


def _is_sure(figures: list[Row]) -> bool:
    return any(row.get("name") == "sure" and number(row.get("difference")) is not None for row in figures)


def _moved(row: Row, *, is_share: bool, same: bool) -> list[Child]:
    show = percent if is_share else decimal
    change: Child = MISSING
    if number(row.get("difference")) is not None:
        if same:
            change = "0: the same model"
        elif is_share:
            change = with_range(f"{points(row.get('difference'))} points", points_range(row.get("interval")))
        else:
            change = with_range(decimal(row.get("difference")), decimal_range(row.get("interval")))
    return [show(row.get("before")), show(row.get("after")), change]


def _sentence(task: Row, clusters: list[Row]) -> str:
    """What the clusters are, and how many of them moved."""
    if len(clusters) < 2:
        return "Nothing separates the answers of both teachers into clusters that are written differently."
    moved = sum(pair[0] > 0 or pair[1] < 0 for row in clusters if (pair := bounds(row.get("interval"))))
    silhouette = number(task.get("silhouette"))
    apart = f" (silhouette {decimal(silhouette, 2)})" if silhouette is not None else ""
    return (
        f"{plural(len(clusters), 'cluster')} of answers that are written alike, whatever they are about{apart}: the "
        f"share of {moved} of them moved by more than chance, the largest change first."
    )
