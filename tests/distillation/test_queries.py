"""Weights of traces: hand-computed cases, what is refused, and that a training weighs by them and resumes with them."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from distilling import config, keep
from distillknob.distillation.check import check
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.queries.agreement import Agreement, agreement
from distillknob.distillation.queries.base import Traces, of_mean_1
from distillknob.distillation.queries.learnability import Learnability, learnability
from distillknob.distillation.queries.robust import Robust, robust_shares
from distillknob.distillation.stage import distill
from distillknob.errors import BadInputError
from distillknob.inputs.preflight import Preflight
from distillknob.models.base import LanguageModel
from distillknob.models.scoring import token_logprobs
from distillknob.runs.journal import Journal
from distillknob.tasks import get_task
from distillknob.training.grading import graded_by
from pairs import Pair


def worst(shares: list[float], gains: list[float], wrong: int) -> float:
    """What the shares are worth when the adversary has taken its traces."""
    values = sorted(share * gain for share, gain in zip(shares, gains, strict=True))
    return sum(values[: len(values) - wrong])


def test_robust_shares_by_hand() -> None:
    gains = [1.0, 0.8, 0.5, 0.1]
    shares = robust_shares(gains, 1)
    assert shares == pytest.approx([0.2353, 0.2941, 0.4706, 0.0], abs=1e-4)
    assert worst(shares, gains, 1) == pytest.approx(0.4706, abs=1e-4)
    assert robust_shares(gains, 0) == [1.0, 0.0, 0.0, 0.0]
    assert robust_shares([0.1, 0.5, 1.0, 0.8], 1) == pytest.approx([0.0, 0.4706, 0.2353, 0.2941], abs=1e-4)
    assert sum(robust_shares([0.0, 0.0, 0.0], 1)) == pytest.approx(1)  # a student that knows all: no 1/0


@pytest.mark.parametrize("wrong", [1, 2, 4])
def test_no_other_shares_are_safer(wrong: int) -> None:
    draw = random.Random(wrong)
    gains = [draw.uniform(0.05, 3) for _ in range(7)]
    best = worst(robust_shares(gains, wrong), gains, wrong)
    for _ in range(3000):
        other = of_mean_1([draw.expovariate(1) * draw.choice([0, 1, 1]) + 1e-9 for _ in gains])
        assert worst([one / 7 for one in other], gains, wrong) <= best + 1e-9


def test_what_is_left_to_learn_and_what_both_agree_on() -> None:
    assert learnability([3.0, 1.0, 2.0], [1.0, 2.0, 2.0]) == [2.0, 0.0, 0.0]
    assert agreement([1.0, 2.0], [1.0, 3.0], 1.0) == pytest.approx([1.0, 0.36788], abs=1e-5)
    assert agreement([1.0, 2.0], [1.0, 3.0], 0.0) == [1.0, 1.0]
    assert agreement([0.0, 0.0], [2000.0, 3000.0], 1.0) == [1.0, 0.0]  # far apart everywhere: no 0/0
    assert of_mean_1([2.0, 0.0, 1.0]) == [2.0, 0.0, 1.0]


METHODS = {"sft_robust": {"wrong_share": 0.3}, "sft_learnability": {}, "sft_agreement": {"strength": 2.0}}


@pytest.mark.parametrize(("method", "options"), METHODS.items())
def test_traces_weigh_by_both_models_losses(
    tiny_pair: Pair,
    teacher: LanguageModel,
    student: LanguageModel,
    tmp_path: Path,
    batches: list[dict[str, Any]],
    method: str,
    options: dict[str, float],
) -> None:
    settings = config(tiny_pair, method, target=tiny_pair.teacher, options=options)
    run = keep(settings, tmp_path / "run")
    rows = run.samples()
    prompts, ids = [row["prompt"] for row in rows], [row["completion_ids"] for row in rows]
    theirs, ours = ([-float(row.mean()) for row in token_logprobs(one, prompts, ids)] for one in (teacher, student))
    plain = {
        "sft_robust": lambda: [len(rows) * share for share in robust_shares(ours, 0.3 * len(rows))],
        "sft_learnability": lambda: of_mean_1(learnability(ours, theirs)),
        "sft_agreement": lambda: of_mean_1(agreement(theirs, ours, 2.0)),
    }[method]()
    weights = [row["weight"] for row in rows]
    assert weights == pytest.approx(plain, rel=1e-3) and len(set(weights)) > 3
    assert sum(weights) == pytest.approx(len(weights))
    seen = {float(row[0]) for batch in batches for row in batch["weight"]}  # in float32
    assert len(seen) > 3 and all(any(one == pytest.approx(weight, rel=1e-5) for weight in weights) for one in seen)


def graded_rows(student: LanguageModel, right: int) -> list[dict[str, Any]]:
    """Four traces of solutions and of nonsense, with what a grader reads."""
    task, rows = get_task("qa"), []
    for place, example in enumerate(task.examples("train", 4)):
        text = example.gold_solution if place < right else "one two three"
        ids = [*student.tokenizer(text, add_special_tokens=False)["input_ids"], student.ends[0]]
        row = {"prompt": task.messages(example), "completion": text, "completion_ids": ids}
        rows.append({**row, **graded_by(task, example, None)})
    return rows


def test_the_grader_says_how_many_traces_are_wrong(student: LanguageModel, capsys: pytest.CaptureFixture[str]) -> None:
    traces = Traces(graded_rows(student, right=3), student, None, None, Journal())
    assert Robust().grades and not Robust(wrong_share=0.25).grades
    assert Robust().weights(traces) == Robust(wrong_share=0.25).weights(traces)
    assert "4 of 4 traces count, 1 may be wrong" in capsys.readouterr().err
    with pytest.raises(BadInputError, match="0 of 4 traces are wrong"):
        Robust().weights(Traces(graded_rows(student, right=4), student, None, None, Journal()))


def test_a_teacher_that_is_never_right_is_told(tiny_pair: Pair, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="8 of 8 traces are wrong, so that none of them teaches anything"):
        distill(config(tiny_pair, "sft_robust"), tmp_path / "run")


def test_a_file_of_traces_is_weighed_too(tiny_pair: Pair, tmp_path: Path) -> None:
    file = tmp_path / "traces.jsonl"
    texts = ["yes", "no", "it is 4", "perhaps so", "one two three", "a b c d e", "4", "never"]
    file.write_text("".join(json.dumps({"prompt": "What?", "completion": text}) + "\n" for text in texts))
    values = {"traces": "file", "traces_file": str(file)}
    run = distill(config(tiny_pair, "sft_agreement", **values), tmp_path / "run")
    assert len({row["weight"] for row in run.samples()}) > 3


def test_what_was_scored_is_not_scored_again(
    tiny_pair: Pair, teacher: LanguageModel, student: LanguageModel, tmp_path: Path
) -> None:
    ids = [
        student.tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("one two", "three four five", "yes")
    ]
    rows = [{"prompt": [{"role": "user", "content": f"Go {len(one)}"}], "completion_ids": one} for one in ids]
    passes: list[int] = []
    hooks = [one.model.base_model.register_forward_hook(lambda *_: passes.append(1)) for one in (teacher, student)]
    weights = []
    for _ in range(2):
        weights.append(Agreement().weights(Traces(rows, student, teacher, None, Journal(tmp_path))))
        passes.append(0)
    for hook in hooks:
        hook.remove()
    assert weights[0] == weights[1] and passes[0] == 1 and passes[-2:] == [0, 0]


def test_a_target_that_knows_no_more_is_told(student: LanguageModel) -> None:
    rows = [{"prompt": [{"role": "user", "content": "Go"}], "completion_ids": [5, 6]}]
    with pytest.raises(BadInputError, match="finds no trace likelier"):
        Learnability().weights(Traces(rows, student, None, student, Journal()))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "sft_robust", "traces": "teacher_verified"}, "where no trace is wrong"),
        ({"method": "sft_robust", "options": {"wrong_share": 0.0}}, "wrong_share=0"),
        ({"method": "sft_robust", "traces": "file", "traces_file": "x"}, "no answers to grade"),
        ({"method": "gkd", "query_weights": "agreement"}, "set lmbda to 0"),
        ({"method": "gkd", "query_weights": "agreement", "cache": "x"}, "lie there unweighed"),
        ({"method": "gkd", "divergence": "uld", "lmbda": 0.0, "query_weights": "robust"}, "no sum over single tokens"),
    ],
)
def test_what_makes_no_sense_is_told(values: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        DistillConfig(**values)


def test_models_without_a_difference_are_told_before_any_weight_is_loaded(tiny_pair: Pair) -> None:
    for values, message in (
        ({"method": "sft_learnability"}, "target and student are the same model"),
        ({"method": "sft_agreement", "teacher": tiny_pair.student}, "teacher and student are the same model"),
        (
            {"method": "sft_agreement", "teacher": "http://localhost:1/v1/chat/completions#model"},
            "gives no log-probabilities",
        ),
    ):
        with pytest.raises(BadInputError, match=message):
            check(config(tiny_pair, **values), Preflight())
