"""The few answers of an attack that its page shows: of the teachers, of the students that came furthest, and of those
that got nothing right, of which a score of 0 says too little."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from distillknob.attacks.measured import Row
from distillknob.attacks.target import Target
from distillknob.results.examples import ExampleRow

_WITHOUT = 3  # students of a target with nothing right


def examples_of(
    targets: Sequence[Target],
    rows: Sequence[Row],
    results: Mapping[str, Mapping[str, Any]],
    teachers: Mapping[str, Mapping[str, Any]],
) -> list[ExampleRow]:
    """Return the first test problem of each task with answers to it. `results` are those of finished cells by name,
    `teachers` the targets' own by label; those of older versions kept no answers."""
    shown: dict[tuple[str, str], ExampleRow] = {}
    for who, task, kept in _kept(targets, rows, results, teachers):
        place = shown.setdefault(
            (task, kept["prompt"]),
            {"task": task, "prompt": kept["prompt"], "reference": kept["reference"], "answers": []},
        )
        place["answers"].append(
            {
                "who": who,
                "text": kept["text"],
                "score": kept["score"],
                "finished": kept["finished"],
                "style": kept["style"],
            }
        )
    return list(shown.values())


def _kept(
    targets: Sequence[Target],
    rows: Sequence[Row],
    results: Mapping[str, Mapping[str, Any]],
    teachers: Mapping[str, Mapping[str, Any]],
) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Who wrote an answer, on which task, and the answer with its problem."""
    for target in targets:
        for task, kept in teachers.get(target.label, {}).get("examples", {}).items():
            yield f"{target.label} itself", task, kept
        for row in _chosen([one for one in rows if one.cell.target == target]):
            for task, measured in results.get(row.cell.name, {}).get("measured", {}).get("test", {}).items():
                if "example" in measured:
                    by = f"by {row.arm.name}" if not row.arm.teacher_free else f"of the control {row.arm.name}"
                    yield f"{row.cell.attacker} {by}, {target.label}", task, measured["example"]


def _chosen(rows: Sequence[Row]) -> list[Row]:
    """The arm that scores best, and the first of those that get nothing right."""
    done = [row for row in rows if row.measured is not None]
    best = sorted(done, key=lambda row: -(row.measured.score if row.measured is not None else 0.0))[:1]
    nothing = [row for row in done if row.measured is not None and row.measured.score == 0 and row not in best]
    return [*best, *nothing[:_WITHOUT]]
