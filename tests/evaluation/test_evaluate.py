"""Evaluation: figures recomputed by hand from the samples, on the same problems for every model."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distillknob.cli.layout import percent
from distillknob.cli.text import result_text
from distillknob.errors import BadInputError
from distillknob.evaluation.config import EvaluateConfig
from distillknob.evaluation.failure_modes import MODES, failure_mode
from distillknob.evaluation.stage import evaluate
from distillknob.evaluation.task_result import TaskResult, difference, evaluate_task
from distillknob.models.base import LanguageModel
from distillknob.runs.run import verify_manifest
from distillknob.stats import pass_at_k
from distillknob.tasks import get_task
from distillknob.tasks.generated.qa import QA
from pairs import Pair

PROBLEMS, SAMPLES = 12, 5


class Parity(QA):
    """Questions on which tiny models are right about half of the time."""

    def grade(self, completion: str, reference: Any) -> float:
        return float(len(completion) % 2 == 0)


def measured(language_model: LanguageModel, **options: Any) -> TaskResult:
    return evaluate_task(
        language_model, Parity(), **{"problems": PROBLEMS, "samples": SAMPLES, "k": 3, "seed": 2, **options}
    )


@pytest.fixture(scope="module")
def result(teacher: LanguageModel) -> TaskResult:
    return measured(teacher)


def test_pass_rates_are_those_of_the_samples(result: TaskResult) -> None:
    assert result.scores_PN.shape == (PROBLEMS, SAMPLES)
    assert 0 < result.scores_PN.mean() < 1
    assert not all(row["finished"] for row in result.rows)  # those that were cut off are wrong, whatever they say
    counted = [row["finished"] and row["text"].strip() and len(row["text"]) % 2 == 0 for row in result.rows]
    scores = np.array([bool(right) for right in counted], dtype=float).reshape(PROBLEMS, SAMPLES)
    assert np.array_equal(result.scores_PN, scores)
    assert result.pass_at_1 is not None and result.pass_at_k is not None
    assert result.pass_at_1.mean == pytest.approx(scores.mean())
    assert result.score.mean == pytest.approx(scores.mean())
    # pass@3 by counting the triples of 5 samples that hold a right one.
    by_hand = [1 - math.comb(SAMPLES - int(right), 3) / math.comb(SAMPLES, 3) for right in scores.sum(1)]
    assert result.pass_at_k.mean == pytest.approx(np.mean(by_hand))
    assert result.pass_at_k.mean == pytest.approx(np.mean(pass_at_k(SAMPLES, scores.sum(1).astype(int), 3)))
    assert result.pass_at_1.low <= result.pass_at_1.mean <= result.pass_at_1.high
    assert result.pass_at_1.n == PROBLEMS  # clustered by prompt: 12 problems, not 60 samples
    assert result.chance == 0.25
    assert result.finished_rate == pytest.approx(np.mean([row["finished"] for row in result.rows]))
    assert np.allclose(result.per_problem, scores.mean(1))


def test_each_sample_carries_its_failure_mode_and_style(result: TaskResult) -> None:
    task = Parity()
    for row in result.rows:
        assert row["mean_logprob"] < 0
        assert row["failure_mode"] == failure_mode(task, row["text"], row["score"], row["mean_logprob"])
        assert row["style"] == task.style(row["text"])
    assert set(result.modes) == set(MODES)
    for mode, rate in result.modes.items():
        assert rate.mean == pytest.approx(np.mean([row["failure_mode"] == mode for row in result.rows]))
    assert sum(result.styles.values()) == pytest.approx(1.0)


def test_the_same_seed_measures_the_same(teacher: LanguageModel, result: TaskResult) -> None:
    assert measured(teacher).rows == result.rows
    other = measured(teacher, seed=3)
    assert [row["prompt"] for row in other.rows] != [row["prompt"] for row in result.rows]


def test_every_model_gets_the_same_problems_and_differences_are_paired(
    student: LanguageModel, result: TaskResult
) -> None:
    weak = measured(student)
    assert [row["prompt"] for row in weak.rows] == [row["prompt"] for row in result.rows]
    change = difference(result, weak)
    assert change.mean == pytest.approx(weak.score.mean - result.score.mean)
    assert change.low <= change.mean <= change.high
    nothing = difference(result, result)
    assert nothing.mean == 0.0 and nothing.low < 0.0 < nothing.high  # few prompts leave room for a difference


def test_pass_at_k_is_told_only_where_it_means_something(teacher: LanguageModel) -> None:
    few = measured(teacher, samples=2, k=3)
    row = dict(few.as_row())
    assert few.pass_at_k is None and row["pass@3"] is None and row["pass@3_interval"] is None
    open_ended = evaluate_task(teacher, get_task("instruct"), problems=6, samples=3, k=2)
    assert open_ended.pass_at_1 is None and open_ended.pass_at_k is None
    assert set(open_ended.modes) == {"local_decoding_degradation"}
    assert open_ended.as_row()["pass@1"] == open_ended.score.mean


def config(*models: str, **values: Any) -> EvaluateConfig:
    return EvaluateConfig(
        **{"models": list(models), "tasks": ["qa", "instruct"], "problems": 6, "samples": 4, **values}
    )


def test_two_names_of_one_model_differ_by_exactly_nothing(tiny_pair: Pair, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_pair.teacher, tmp_path / "copy")
    run = evaluate(config(tiny_pair.teacher, str(copy), tiny_pair.student, tasks=["qa"]), tmp_path / "run")
    same, other = run.result["differences"]
    assert (same["difference"], same["interval"], same["same"]) == (0.0, [0.0, 0.0], True)
    scores = [model["tasks"][0]["score"] for model in run.result["models"]]
    assert other["difference"] == pytest.approx(scores[2] - scores[0]) and not other["same"]
    told = result_text(run)
    assert f"each model − {tiny_pair.teacher}" in told and "0: the same model" in told
    assert percent(other["difference"], other["interval"], signed=True) in told


def test_a_run_holds_every_model_task_and_sample(tiny_pair: Pair, tiny_other: str, tmp_path: Path) -> None:
    values = config(tiny_pair.teacher, tiny_pair.student, tiny_other, k=2)
    run = evaluate(values, tmp_path / "run")
    result = run.result
    assert [entry["model"] for entry in result["models"]] == values.models
    for entry in result["models"]:
        assert [task["task"] for task in entry["tasks"]] == ["qa", "instruct"]
        for task in entry["tasks"]:
            rows = [r for r in run.samples() if (r["model"], r["task"]) == (entry["model"], task["task"])]
            assert len(rows) == 24 == task["n_problems"] * task["n_samples"]
            assert task["score"] == pytest.approx(np.mean([row["score"] for row in rows]))
            grade = get_task(task["task"]).grade
            for row in rows:
                counts = row["finished"] and row["text"].strip()
                assert row["score"] == pytest.approx(grade(row["text"], row["reference"]) if counts else 0.0)
            assert task["interval"][0] <= task["pass@1"] <= task["interval"][1]
    assert [(d["a"], d["b"], d["task"]) for d in result["differences"]] == [
        (tiny_pair.teacher, other, task) for other in (tiny_pair.student, tiny_other) for task in ("qa", "instruct")
    ]
    assert verify_manifest(run.path) == []
    assert evaluate(values, tmp_path / "run").result == result  # opened as it is
    with pytest.raises(BadInputError, match=r"another config \(.*samples"):
        evaluate(config(tiny_pair.teacher, tiny_pair.student, tiny_other, k=2, samples=5), tmp_path / "run")


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"tasks": []}, "tasks is empty"),
        ({"problems": 0}, "problems=0"),
        ({"samples": 0}, "samples=0"),
        ({"k": 0}, "k=0"),
    ],
)
def test_settings_that_cannot_work_are_told(values: dict[str, Any], what: str) -> None:
    with pytest.raises(BadInputError, match=what):
        config("a", **values)
    with pytest.raises(BadInputError, match="models is empty"):
        config()


def test_a_missing_model_task_or_split_is_told(tiny_pair: Pair, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no checkpoint folder '/no/such'"):
        evaluate(config(tiny_pair.teacher, "/no/such"), tmp_path / "run")
    with pytest.raises(BadInputError, match="did you mean 'instruct'"):
        evaluate(config(tiny_pair.teacher, tasks=["instuct"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(BadInputError, match="no split 'testing', did you mean 'test'"):
        evaluate(config(tiny_pair.teacher, split="testing"), tmp_path / "run")
