"""The way that each answer of a pair is written in: the task's own ways, or clusters where the task names none.

The teacher's answers are clustered by what they have in common (`evaluation/clusters.py`). An answer of the student is
in the cluster of the teacher's answer that is written most like it. A cluster has no name: it is called by the answer
in its middle.

Left out on purpose: clusters of both models' answers together. On a pair of the engineer's trial, whose ways are known,
they parted right answers from wrong ones (docs/research/lab-notebook.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from distillknob.evaluation.clusters import cluster, likened
from distillknob.evaluation.measure import Measured
from distillknob.tasks import Example, Task
from distillknob.tasks.base import as_prompt

OTHER = "other"  # what tasks call an answer in none of the ways that they name
SHOWN = 40  # characters of an answer that stands for those written alike


@dataclass(frozen=True)
class Ways:
    """The way of each of the teacher's and of the student's answers, [P][S], and whether the task names them."""

    teacher: list[list[str]]
    student: list[list[str]]
    named: bool


def ways_of(task: Task, examples: Sequence[Example], teacher: Measured, student: Measured) -> Ways:
    """Return the ways of both models' answers to the same problems."""
    named = [[[task.style(sample.text) for sample in row] for row in drawn.samples] for drawn in (teacher, student)]
    if any(way != OTHER for drawn in named for row in drawn for way in row):
        return Ways(teacher=named[0], student=named[1], named=True)
    prompts = [as_prompt(task.messages(example)) for example in examples]
    (taught, taught_of), (own, own_of) = (_flat(drawn) for drawn in (teacher, student))
    clusters = cluster(prompts, taught, taught_of)
    names = [f"{number}: {_shown(taught[nearest])}" for number, nearest in enumerate(clusters.nearest, start=1)]
    like = likened(prompts, taught, taught_of, clusters.labels, own, own_of)
    return Ways(
        teacher=_rows([names[label] for label in clusters.labels], teacher),
        student=_rows([names[label] if label >= 0 else OTHER for label in like], student),
        named=False,
    )


def _flat(drawn: Measured) -> tuple[list[str], list[int]]:
    """All answers, and the problem of each."""
    return (
        [sample.text for row in drawn.samples for sample in row],
        [problem for problem, row in enumerate(drawn.samples) for _ in row],
    )


def _rows(ways: Sequence[str], drawn: Measured) -> list[list[str]]:
    following = iter(ways)
    return [[next(following) for _ in row] for row in drawn.samples]


def _shown(text: str) -> str:
    """The beginning of what a model wrote, without what a terminal would obey."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return f"like {line[:SHOWN]!r}" if line else "says nothing"
