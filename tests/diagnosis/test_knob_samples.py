"""What a diagnosis gathers of a knob: the answers and rewards that a calibration would see."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from diagnosed import Diagnose, config, right, written
from distillknob.calibration.config import CalibrationConfig
from distillknob.diagnosis.config import DiagnoseConfig, KnobReward
from distillknob.diagnosis.knob_samples import first_of, knob_samples
from distillknob.diagnosis.samples import KnobSamples, Missing
from distillknob.diagnosis.stage import diagnose
from distillknob.diagnosis.ways import ways_of
from distillknob.errors import BadInputError
from distillknob.evaluation.measure import sample_and_grade
from distillknob.models.heads import checked_head
from distillknob.models.load import load_model
from distillknob.models.scoring import token_logprobs
from distillknob.runs.journal import Journal
from distillknob.tasks import get_task
from pairs import Pair
from planted import ASKED, PlantedTask, Table

# After the first word, in which the two models agree, the teacher is sure, and the student is of one way alone.
TEACHER: Table = {ASKED: {"easy": 0.5, "hard": 0.5}, "easy": {"then": 1.0}, "hard": {"so": 1.0}} | {
    word: {"right": 1.0} for word in ("then", "so")
}
STUDENT: Table = {**TEACHER, "hard": {"so": 0.2, "then": 0.8}}


def of_knob(result: dict[str, Any], scope: str = "ways") -> list[dict[str, Any]]:
    return [row for row in result["knob"] if row["scope"] == scope]


def test_a_pair_whose_ways_cost_otherwise_is_told_from_its_own_samples(diagnose_tables: Diagnose) -> None:
    result = diagnose_tables(TEACHER, STUDENT, PlantedTask(right, written), candidates=16)
    below, above = of_knob(result)
    # The hard way costs the student log 5, and half of the answers go it.
    assert below["log_ratio"] == pytest.approx(0.5 * math.log(5), abs=0.15)
    assert below["log_ratio_after"] == pytest.approx(0.0, abs=0.02)
    assert above["log_ratio_after"] == pytest.approx(math.log(5), abs=0.02)
    assert below["turns"] == above["turns"] == "far" and below["n"] == 120
    assert below["kl"] == pytest.approx(math.log(2), abs=0.1) and below["samples"] == 8
    assert [one["way"] for one in below["ways"]] == ["easy", "hard"]
    told = result["knob_range"]
    assert told["value"] == pytest.approx(math.log(5), abs=0.05) and told["severity"] == "none"
    assert len(result["frontier"]) == 28
    by_reward = {(row["eta"], row["reward"]): row for row in result["knob_rewards"]}
    assert list(by_reward) == [(eta, reward) for eta in (-0.5, 0.5) for reward in get_args(KnobReward)]
    for eta, row in ((-0.5, below), (0.5, above)):
        of_reward = by_reward[eta, "sure_tokens"]
        assert all(of_reward[name] == row[name] for name in ("turns", "kl", "score_after", "student_after", "n"))
        assert {name: of_reward[name] for name in ("way", "before", "after")} in row["ways"]
        assert of_reward["certainty"] == 1.0


def test_more_answers_for_the_knob_change_nothing_else(tiny_pair: Pair, tmp_path: Path) -> None:
    runs = [
        diagnose(config(tiny_pair, tasks=["math"], gradient_problems=0, knob_samples=n), tmp_path / str(n)).result
        for n in (0, 4)
    ]
    told = [[row for row in result.pop("findings") if row["name"] != "knob_range"] for result in runs]
    assert told[0] == told[1]
    for result in runs:
        del result["knob"], result["knob_rewards"], result["frontier"]
    assert runs[0] == runs[1]


@pytest.mark.parametrize(
    ("samples", "why"), [(0, "left out, as knob_samples is 0"), (1, "chooses among several answers to a problem")]
)
def test_one_answer_a_problem_can_t_be_answered_by(diagnose_tables: Diagnose, samples: int, why: str) -> None:
    result = diagnose_tables(TEACHER, STUDENT, PlantedTask(right, written), knob_samples=samples, problems=5)
    told = result["knob_range"]
    assert not told["applicable"] and why in told["cause"] and told["value"] is None
    assert result["knob"] == result["knob_rewards"] == result["frontier"] == []


def test_answers_in_a_batch_have_the_rewards_that_they_have_alone(tiny_pair: Pair) -> None:
    """Answers of several lengths lie padded in a batch; no pad has a log-ratio."""
    teacher, student, task = load_model(tiny_pair.teacher), load_model(tiny_pair.student), get_task("instruct")
    drawn = sample_and_grade(teacher, task, task.examples("train", 6), 3, seed=0)
    assert len({len(one.token_ids) for row in drawn.samples for one in row}) > 1
    graded = replace(drawn, scores=[[1.0 if one.finished else 0.0 for one in row] for row in drawn.samples])
    tokens = [len(one.token_ids) for row in drawn.samples for one in row]
    for reward in get_args(KnobReward):
        values = DiagnoseConfig(knob_samples=3, knob_reward=reward)
        whole = knob_samples(
            task, teacher, student, graded, ways_of(task, graded.examples, graded, graded), values, Journal()
        )
        assert isinstance(whole, KnobSamples) and bool(whole.right_A.any())
        alone = []
        for i in range(6):
            one = replace(
                graded,
                examples=[graded.examples[i]],
                samples=[graded.samples[i]],
                answers=[graded.answers[i]],
                scores=[graded.scores[i]],
            )
            told = knob_samples(task, teacher, student, one, ways_of(task, one.examples, one, one), values, Journal())
            assert isinstance(told, KnobSamples)
            # A mean is told of a mean answer, which is another one here.
            scale = sum(tokens) / len(tokens) / float(told.tokens_A.double().mean())
            alone.append(told.log_ratio_A * (scale if reward == "sequence_mean" else 1))
        assert torch.allclose(whole.log_ratio_A, torch.cat(alone), atol=1e-4)
        if reward.startswith("sequence"):
            flat = [(i, one) for i, row in enumerate(graded.samples) for one in row]
            sides = [
                token_logprobs(
                    model, [task.messages(graded.examples[i]) for i, _ in flat], [one.token_ids for _, one in flat]
                )
                for model in (teacher, student)
            ]
            apart = torch.stack([a.double().sum() - b.double().sum() for a, b in zip(*sides, strict=True)])
            if reward == "sequence_mean":
                apart *= sum(tokens) / len(tokens) / torch.tensor(tokens)
            assert torch.allclose(whole.log_ratio_A[whole.right_A], apart[whole.right_A], atol=1e-4)


def test_a_right_answer_that_the_student_can_t_say_stops_the_forecast_and_says_why(tiny_pair: Pair) -> None:
    teacher, student, task = load_model(tiny_pair.teacher), load_model(tiny_pair.student), get_task("math")
    drawn = first_of(sample_and_grade(teacher, task, task.examples("train", 2), 4, seed=0), 2)
    assert [len(row) for row in drawn.samples] == [len(row) for row in drawn.scores] == [2, 2]
    drawn = replace(drawn, scores=[[1.0 if one.finished else 0.0 for one in row] for row in drawn.samples])
    checked_head(student.model)  # looked at once a model: a broken checkpoint is refused there
    with torch.no_grad():
        student.model.get_output_embeddings().weight.fill_(math.nan)
    assert any(one.finished for row in drawn.samples for one in row)
    ways = ways_of(task, drawn.examples, drawn, drawn)
    told = knob_samples(task, teacher, student, drawn, ways, DiagnoseConfig(knob_samples=2), Journal())
    assert isinstance(told, Missing) and "calibrate would stop there" in told.why


def test_two_tokenizers_are_told_by_spans(tiny_pair: Pair, tiny_other: str, tmp_path: Path) -> None:
    values = config(tiny_pair, student=tiny_other, tasks=["math"], gradient_problems=0)
    result = diagnose(values, tmp_path / "run").result
    (told,) = (row for row in result["findings"] if row["name"] == "knob_range")
    assert told["applicable"] or "right in none" in told["cause"]


def test_a_task_that_names_no_ways_is_told_by_answers_that_are_written_alike(diagnose_tables: Diagnose) -> None:
    teacher: Table = {ASKED: {"first": 0.5, "second": 0.5}} | {
        "first": {"comes": 1.0},
        "comes": {"this": 1.0},
        "second": {"follows": 1.0},
        "follows": {"that": 1.0},
    }
    result = diagnose_tables(teacher, {**teacher, "second": {"follows": 0.2, "comes": 0.8}}, PlantedTask(), problems=60)
    below, above = of_knob(result)
    assert len(below["ways"]) == 2 and all("like '" in one["way"] for one in below["ways"])
    assert below["turns"] == above["turns"] == "far" and below["student"] is None


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"knob_samples": -1}, "knob_samples=-1"),
        ({"knob_etas": []}, r"knob_etas=\[\]"),
        ({"knob_etas": [0.0]}, r"knob_etas=\[0.0\]"),
        ({"knob_etas": [math.inf]}, "finite numbers"),
        ({"knob_beta": 0.0}, "knob_beta=0.0: without an anchor"),
        ({"knob_reward": "influence"}, "knob_reward='influence'.*sequence, sequence_mean"),
    ],
)
def test_a_forecast_that_can_t_be_made_is_refused(values: dict[str, Any], what: str) -> None:
    with pytest.raises(BadInputError, match=what):
        DiagnoseConfig(**values)


def test_what_is_foretold_by_default_is_what_calibrate_does_by_default() -> None:
    ours, theirs = DiagnoseConfig.__dataclass_fields__, CalibrationConfig.__dataclass_fields__
    assert ours["knob_beta"].default == theirs["beta"].default
    assert ours["knob_reward"].default == theirs["reward"].default
