"""The way each answer is written in: the task's own, or that of the teacher's answer that is written most like it."""

from __future__ import annotations

from typing import Any

import numpy as np

from diagnosed import Diagnose, fired, recipe_lines
from distillknob.diagnosis.ways import OTHER, ways_of
from distillknob.evaluation.clusters import cluster, likened
from distillknob.evaluation.measure import Measured
from distillknob.models.sampling import Sample
from distillknob.tasks import Example
from planted import ASKED, PlantedTask, Table

PROMPTS = [f"start with {i}, then add {i + 1} and {i + 2}" for i in range(20)]


def stepwise(i: int) -> str:
    return f"{i}+{i + 1}=a\n+{i + 2}=b\nAnswer: b"


def at_once(i: int) -> str:
    return f"{i}+{i + 1}+{i + 2}=b\nAnswer: b"


def test_answers_of_another_model_are_likened_to_those_that_are_written_so() -> None:
    taught = [make(i) for i in range(20) for make in (stepwise, at_once)]
    of = [i for i in range(20) for _ in range(2)]
    clusters = cluster(PROMPTS, taught, of)
    assert len(clusters.nearest) == 2
    like = likened(PROMPTS, taught, of, clusters.labels, [at_once(3), stepwise(5), " ", "§§§"], [3, 5, 0, 0])
    assert like.tolist() == [clusters.labels[1], clusters.labels[0], -1, -1]
    assert len(np.unique(clusters.labels[::2])) == 1


def measured(task: Any, texts: list[list[str]]) -> Measured:
    examples = [Example(task.name, f"k{i}", PROMPTS[i], "") for i in range(len(texts))]
    samples = [[Sample(text=text, token_ids=[1], finished=True) for text in row] for row in texts]
    return Measured(task, examples, samples, texts, [[1.0] * len(row) for row in texts])


def test_ways_keep_the_form_of_the_answers() -> None:
    task = PlantedTask()
    teacher = measured(task, [[stepwise(i), at_once(i)] for i in range(20)])
    student = measured(task, [[at_once(i), "", stepwise(i)] for i in range(20)])
    ways = ways_of(task, teacher.examples, teacher, student)
    assert not ways.named and {len(row) for row in ways.teacher} == {2} and {len(row) for row in ways.student} == {3}
    for taught, own in zip(ways.teacher, ways.student, strict=True):
        assert own == [taught[1], OTHER, taught[0]] and taught[0] != taught[1]


def test_named_ways_are_taken_as_they_are() -> None:
    task = PlantedTask(style_of=lambda words: "short" if len(words) < 3 else "other")
    ways = ways_of(task, [], measured(task, [["a b"]]), measured(task, [["a b c d"]]))
    assert ways.named and ways.teacher == [["short"]] and ways.student == [[OTHER]]


def two_ways(hard: float) -> Table:
    """Answers in one way or another of five words each; in the second the fourth comes with this probability."""
    first = {f"a{i}": {f"a{i + 1}": 1.0} for i in range(4)}
    second = {f"b{i}": {f"b{i + 1}": 1.0} for i in (0, 1, 3)} | {"b2": {"b3": hard, "c": 1 - hard}, "c": {"b4": 1.0}}
    return {ASKED: {"a0": 0.5, "b0": 0.5}} | first | second


def test_the_capacity_gap_is_asked_over_clusters_where_no_way_is_named(diagnose_tables: Diagnose) -> None:
    """One of two ways costs the student log 20 = 3 nats more: on half of the answers, so that the gap is 1.5."""
    student = two_ways(0.05)
    result = diagnose_tables(two_ways(0.999), student, PlantedTask(), candidates=8)
    finding = result["capacity_gap"]
    assert fired(finding, "medium", "high") and 1.2 < finding["value"] < 1.8
    assert "clusters of answers that are written alike" in finding["cause"]
    assert ("method", "sft_best_of_n_sure") in recipe_lines(finding["remedy"])
    assert result["forecast"] == []  # which asks for named ways


def test_where_all_is_written_alike_there_is_no_gap_to_ask_for(diagnose_tables: Diagnose) -> None:
    table: Table = {ASKED: {"first": 1.0}, "first": {"comes": 1.0}}
    finding = diagnose_tables(table, table, PlantedTask())["capacity_gap"]
    assert not finding["applicable"] and "written alike" in finding["cause"] and "styles" in finding["cause"]
