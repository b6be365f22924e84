"""The distances to teacher and oracle on a student's way, and the trap that they tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from distilling import config_of, weights
from distillknob.cli.text import result_text
from distillknob.diagnosis.traps.teacher_hacking import BY_ORACLE, hacking_by_oracle, turned_up
from distillknob.distillation import learning_curve
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.oracle import Distances
from distillknob.distillation.stage import distill
from distillknob.divergences.dense import divergence
from distillknob.errors import BadInputError
from distillknob.evaluation.measure import sample_and_grade
from distillknob.models.base import LanguageModel
from distillknob.planning.hardware import GPUS, Engine
from distillknob.planning.workload import workload
from distillknob.runs.run import load_run
from distillknob.tasks import get_task
from pairs import Pair

PROXY, GOLDEN = (1.0, 0.5, 0.25, 0.2), (1.0, 0.6, 0.7, 0.9)


def of_problems(means: tuple[float, ...], *, spread: float = 0.01) -> list[list[float]]:
    """Eight problems' distances with these means at each point."""
    return [[mean + spread * (number - 3.5) for number in range(8)] for mean in means]


def test_a_golden_distance_that_turns_up_is_flagged_from_the_third_point_on() -> None:
    assert turned_up(PROXY, GOLDEN) == [False, False, True, True]
    finding = hacking_by_oracle("math", [0, 10, 20, 30], of_problems(PROXY), of_problems(GOLDEN))
    assert finding.severity == "high" and finding.value == pytest.approx(0.5) and finding.n == 8
    assert "first at step 20" in finding.cause
    assert finding.plot is not None and list(finding.plot["series"][1]["y"]) == pytest.approx(list(GOLDEN))


@pytest.mark.parametrize(
    ("proxy", "golden", "cause"),
    [
        (PROXY, (1.0, 0.6, 0.4, 0.3), "lowest at the end"),
        ((1.0, 0.5, 0.8, 1.2), GOLDEN, "didn't fall since"),  # both grow: the student moves away from either
        (PROXY, (0.0, 0.0, 0.0, 0.0), "lowest at the end"),
    ],
)
def test_nothing_is_flagged_where_both_fall_or_both_grow(
    proxy: tuple[float, ...], golden: tuple[float, ...], cause: str
) -> None:
    assert not any(turned_up(proxy, golden))
    finding = hacking_by_oracle("math", [0, 10, 20, 30], of_problems(proxy), of_problems(golden, spread=0.0))
    assert finding.severity == "none" and cause in finding.cause and finding.applicable


def test_a_rise_within_its_noise_is_none() -> None:
    noisy = [*of_problems(GOLDEN[:2], spread=0.0), [0.62, 0.7, 0.5, 0.8, 0.55, 0.6, 0.75, 0.5]]
    finding = hacking_by_oracle("math", [0, 10, 20], of_problems(PROXY[:3]), noisy)
    assert finding.severity == "none" and finding.value > 0
    assert not hacking_by_oracle("math", [0, 10], of_problems(PROXY[:2]), of_problems(GOLDEN[:2])).applicable


def test_a_distance_is_the_kl_of_the_student_s_own_answers(teacher: LanguageModel, student: LanguageModel) -> None:
    task = get_task("math")
    measured = sample_and_grade(student, task, task.examples("train", 3), 1, max_new_tokens=8)
    columns = Distances(teacher, student).columns(student, measured)
    assert columns["golden/math"] == pytest.approx(0.0, abs=1e-6)  # the oracle is the student
    by_hand = []
    for example, (sample,) in zip(measured.examples, measured.samples, strict=True):
        prompt = student.tokenizer.apply_chat_template(
            task.messages(example), add_generation_prompt=True, return_dict=False
        )
        ids = torch.tensor([[*prompt, *sample.token_ids]])
        with torch.no_grad():
            ours, theirs = (one.model(input_ids=ids).logits[0, len(prompt) - 1 : -1] for one in (student, teacher))
        by_hand.append(float(divergence(ours, theirs, "reverse_kl").mean()))
    assert columns["distances/math"]["proxy"] == pytest.approx(by_hand, rel=1e-4)
    assert columns["proxy/math"] == pytest.approx(sum(by_hand) / 3, rel=1e-4)


def test_an_oracle_is_asked_at_each_point_of_the_curve(
    tiny_pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learning_curve, "CURVE_PROBLEMS", 5)
    values: dict[str, Any] = {"method": "gkd", "lmbda": 0.0, "max_steps": 4, "curve_steps": 2, "problems": 8}
    run = distill(config_of(tiny_pair, **values, oracle=tiny_pair.student), tmp_path / "run")
    points = [row for row in run.metrics() if "golden/math" in row]
    assert [row["step"] for row in points] == [0, 2, 4]
    assert all(len(row["distances/math"]["proxy"]) == 5 and "eval/math" in row for row in points)
    golden = [row["golden/math"] for row in points]
    assert golden[0] == pytest.approx(0.0, abs=1e-6) and golden[2] > 1e-3  # it leaves the student that it was
    finding = run.result["findings"][1]
    assert (finding["name"], finding["task"]) == (BY_ORACLE, "math") and finding["applicable"]
    assert run.result["findings"][0]["name"] == "teacher_hacking"
    assert ("teacher_hacking_by_oracle" in result_text(run)) is (finding["severity"] != "none")
    without = distill(config_of(tiny_pair, **values), tmp_path / "without")
    first, second = (weights(one.path / "model") for one in (run, without))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert len(without.result["findings"]) == 1


def test_the_last_of_two_phases_is_measured_by_the_oracle(
    tiny_pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learning_curve, "CURVE_PROBLEMS", 3)
    values: dict[str, Any] = {"max_steps": 4, "curve_steps": 1, "problems": 16, "max_completion_length": 6}
    run = distill(config_of(tiny_pair, method="opd_after_sft", **values, oracle=tiny_pair.student), tmp_path / "run")
    before = load_run(tmp_path / "run" / "first")
    assert before.config["oracle"] is None and not [row for row in before.metrics() if "golden/math" in row]
    assert [row["step"] for row in run.metrics() if "golden/math" in row] == [0, 1, 2]
    assert [row["name"] for row in run.result["findings"]] == ["teacher_hacking", BY_ORACLE]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"curve_steps": 0}, "with curve_steps=0"),
        ({"method": "sft"}, "sft doesn't read here"),
        ({"teacher_weights": "itself", "context": "reference"}, "doesn't read here"),
        ({"cache": "x", "lmbda": 0.0}, "doesn't read here"),
    ],
)
def test_an_oracle_with_which_nothing_is_compared_is_refused(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadInputError, match=reason):
        DistillConfig(**{"method": "gkd", "oracle": "zoo:teacher", "curve_steps": 2, **values})


def test_an_oracle_of_another_tokenizer_is_refused(tiny_pair: Pair, tiny_other: str, tmp_path: Path) -> None:
    settings = config_of(tiny_pair, method="gkd", curve_steps=2, oracle=tiny_other)
    with pytest.raises(BadInputError, match="different tokenizers"):
        distill(settings, tmp_path / "run")


def test_a_dry_run_counts_the_oracle(tiny_pair: Pair) -> None:
    values: dict[str, Any] = {"method": "gkd", "curve_steps": 2}
    without, counted = (
        workload("distill", config_of(tiny_pair, **values, **more), Engine(GPUS["h100"]))
        for more in ({}, {"oracle": tiny_pair.student})
    )
    assert [name for name, _ in counted.resident] == ["teacher", "oracle"]
    added = {phase.what: phase.rows for phase in counted.phases[len(without.phases) :]}
    measured = without.phases[-1].rows
    assert added == {"proxy distance": measured, "golden distance": measured, "distances, student": 2 * measured}
