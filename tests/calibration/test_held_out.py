"""The guard's held-out problems: what stops a run, what is kept, and how far the knob turned."""

from __future__ import annotations

import gc
import json
import math
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from distillknob.calibration.guard import UtilityGuard
from distillknob.calibration.held_out import HeldOut, remark_on_sure_tokens, reward_turned, task_scores
from distillknob.calibration.problems import problems_of, train_and_guard
from distillknob.calibration.rewards.choice import make_reward
from distillknob.calibration.stage import _loaded_with, calibrate
from distillknob.calibration.trainer import CalibrationTrainer
from distillknob.cli.main import main
from distillknob.errors import BadInputError
from distillknob.models.base import LanguageModel
from distillknob.models.load import load_model
from distillknob.models.sampling import Sample
from distillknob.models.scoring import answer_ids, token_logprobs
from distillknob.runs.model_record import RECORD, read_record, teacher_warning
from distillknob.tasks import get_task
from hub_standin import faults_of, metadata_of
from pairs import Pair
from small_calibrations import after_step, config, even_length, perfect, same, scored, stopped, weights

# Problems that resolve a tolerance of five points, for answers that nobody samples.
MANY: dict[str, Any] = {"utility_tolerance": 0.05, "guard_problems": 100, "guard_problems_max": 100}


def test_a_collapse_stops_the_run_and_keeps_the_last_good_checkpoint(tiny_pair: Pair, tmp_path: Path) -> None:
    values = config(tiny_pair, max_steps=6, **MANY, problems=12)
    run = calibrate(values, tmp_path / "run", reward_funcs=after_step(2, lambda step: 0.0), measure=perfect)
    result = stopped(run)
    assert (result["steps"], result["kept_step"]) == (3, 2)
    assert "the score on qa collapsed: 0.000 at step 3" in result["reason"]
    assert "guard stopped the run" in (run.path / "model" / "README.md").read_text()
    assert not same(weights(run.path / "model"), weights(Path(tiny_pair.teacher)))


def test_values_that_are_not_finite_stop_the_run_with_finite_weights(
    tiny_pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = CalibrationTrainer._policy_logprobs

    def broken(self: Any, batch: Any) -> torch.Tensor:
        logprobs = inner(self, batch)
        return logprobs * math.nan if self.state.global_step == 1 else logprobs

    monkeypatch.setattr(CalibrationTrainer, "_policy_logprobs", broken)
    values = config(tiny_pair, max_steps=4, **MANY)
    result = stopped(calibrate(values, tmp_path / "run", reward_funcs=after_step(9, lambda step: 1.0), measure=perfect))
    assert result["kept_step"] == 1
    assert "not finite" in result["reason"] or "ran away" in result["reason"]
    assert all(torch.isfinite(value).all() for value in weights(tmp_path / "run" / "model").values())


def test_a_run_lost_from_the_start_gives_the_original_back(tiny_pair: Pair, tmp_path: Path) -> None:
    values = config(tiny_pair, **MANY)
    run = calibrate(values, tmp_path / "run", reward_funcs=after_step(0, lambda step: 0.0), measure=perfect)
    assert (run.result["outcome"], run.result["kept_step"]) == ("stopped", 0)
    assert same(weights(run.path / "model"), weights(Path(tiny_pair.teacher)))


def test_what_does_not_hold_on_unseen_problems_is_not_kept(tiny_pair: Pair, tmp_path: Path) -> None:
    """The training samples look good throughout, the unseen problems only up to step 1."""
    calls: list[str] = []

    def scores(model: Any, task: Any, examples: Sequence[Any], config: Any, what: str, *_: Any, **__: Any) -> HeldOut:
        calls.append(what)
        return scored(examples, 0.0 if len(calls) == 2 else 1.0)  # before, after step 2, after step 1, fresh ones

    values = config(tiny_pair, **MANY)
    run = calibrate(values, tmp_path / "run", reward_funcs=after_step(9, lambda step: 1.0), measure=scores)
    result = run.result
    assert (result["outcome"], result["steps"], result["kept_step"]) == ("finished", 2, 1)
    assert "not kept: qa changed by -1.000" in result["events"][-1]["what"]
    assert same(weights(run.path / "model"), weights(run.path / "checkpoints" / "checkpoint-1"))


def test_the_log_ratio_is_measured_on_held_out_problems_before_and_after(tiny_pair: Pair, tmp_path: Path) -> None:
    """Without a guard, and ungated: every sample of every held-out problem counts."""
    values = {"guard": False, "gate": False, "eta": -4.0, "max_steps": 3, "tasks": ["qa", "instruct"]}
    run = calibrate(config(tiny_pair, **values), tmp_path / "run", reward_funcs=even_length)
    turned = run.result["turned"]
    assert (turned["problems"], turned["unit"], turned["over"]) == (8, "nats an answer", "all samples")
    assert turned["difference"] == pytest.approx(turned["after"] - turned["before"])
    assert turned["interval"][0] < turned["difference"] < turned["interval"][1]

    # Scored anew from the model that came out, it is the same figure.
    target = load_model(tiny_pair.student)
    tasks = [get_task(name) for name in ("qa", "instruct")]
    settings = config(tiny_pair, **values)
    means = []
    for name in (tiny_pair.teacher, str(run.path / "model")):
        model = load_model(name)
        ratios = []
        for task in tasks:
            held_out = task_scores(model, task, problems_of(task, settings).look(0), settings, "anew")
            ids = [sample.token_ids for sample in held_out.samples]
            scores = [token_logprobs(one, held_out.prompts, ids) for one in (model, target)]
            ratios += [float(a.sum() - b.sum()) for a, b in zip(*scores, strict=True)]
        means.append(sum(ratios) / len(ratios))
    assert [turned["before"], turned["after"]] == pytest.approx(means, abs=1e-4)
    card = (run.path / "model" / "README.md").read_text()
    assert f"({turned['verdict']})" in card and f"{turned['after']:.2f} after" in card
    assert "distillable" not in card and "Not measured here: whether students" in card
    assert faults_of(card) == [] and "No attack on this model has been run" in card
    scores = metadata_of(card)["model-index"][0]["results"]
    assert [row["dataset"]["type"] for row in scores] == ["qa", "instruct"]
    (metric,) = scores[0]["metrics"]
    low, high = metric["args"]["difference_interval_95"]
    assert f"| {metric['value']:.3f} |" in card and low <= metric["args"]["difference"] <= high


@pytest.mark.parametrize(
    ("reward", "unit"),
    [("sequence", "nats an answer"), ("sequence_mean", "nats a token"), ("token", "nats a token")],
)
def test_the_held_out_log_ratio_counts_right_finished_samples_in_the_reward_s_unit(
    tiny_pair: Pair, reward: str, unit: str, student: LanguageModel
) -> None:
    prompt = [{"role": "user", "content": "What is 2 + 3?"}]
    drawn = [Sample("Answer: 5", answer_ids(student, ["Answer: 5"], [True])[0], finished=True)] * 4

    tokens = len(drawn[0].token_ids)

    def wrote(rewarded: list[bool], shift: float) -> dict[str, HeldOut]:
        """Samples whose log-probabilities are so much in the reward's unit."""
        each = [torch.full((tokens,), total / tokens) for total in (shift, shift + 1, shift, 99.0)]
        rows = each if reward == "sequence" else [row * tokens for row in each]
        return {"qa": HeldOut([[1.0] * 2] * 2, [prompt] * 4, drawn, rewarded, rows)}

    values = config(tiny_pair, reward=reward, eta=-0.5)
    before, after = wrote([True, True, True, False], 5.0), wrote([True, False, False, False], 3.0)
    chosen = make_reward(values, [student], student.tokenizer)
    turned = reward_turned(before, after, chosen, lambda: student, student.tokenizer, values, kept_step=2)
    logprob = token_logprobs(student, [prompt], [drawn[0].token_ids])[0]
    target = float(logprob.sum()) if reward == "sequence" else float(logprob.mean())
    assert (turned.unit, turned.problems, turned.over) == (unit, 1, "right and finished samples")
    assert turned.before == pytest.approx(5.5 - target, abs=1e-5)
    assert turned.after == pytest.approx(3.0 - target, abs=1e-5)
    assert turned.verdict == "can't tell" and turned.interval is None and "1 held-out problem" in turned.reason


def test_an_unchanged_teacher_is_called_the_original(
    tiny_pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All steps were done and kept, at a learning rate of 0."""
    run = calibrate(config(tiny_pair, learning_rate=0.0, eta=0.25), tmp_path / "run")
    turned = run.result["turned"]
    assert run.result["kept_step"] == 2 and turned["same"] and turned["verdict"] == "not at all"
    assert (turned["difference"], turned["interval"]) == (0.0, None)
    card = (run.path / "model" / "README.md").read_text()
    assert "not calibrated: it is the original" in card and "distillable" not in card
    record = json.loads((run.path / "model" / RECORD).read_text())
    assert record == read_record(str(run.path / "model")) and record["turned"] == turned
    assert "is the original: model/ gives the same answers" in str(teacher_warning(str(run.path / "model")))
    words = ["calibrate", "--config", str(run.path / "config.yaml"), "--output", str(run.path)]
    assert (main(words), main([*words, "--require-turned"])) == (0, 1)
    assert main([*words, "--require-turned", "--eta", "0"]) == 2
    assert "The knob did not turn: model/ gives the same answers" in capsys.readouterr().out


def test_the_guard_compares_rewards_with_rewards(
    tiny_pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the scale of the reward functions, which needn't be that of the task's scores; None is no reward."""
    guards: list[UtilityGuard] = []
    made = UtilityGuard.__post_init__

    def watched(self: UtilityGuard) -> None:
        guards.append(self)
        made(self)

    def hundreds(completions: list[Any], **kwargs: Any) -> list[float | None]:
        return [None if i % 4 == 0 else 300.0 + 100.0 * (i % 2) for i in range(len(completions))]

    def extra(
        completions: list[Any], finished: list[bool], answer_text: list[str], **kwargs: Any
    ) -> list[float | None]:
        assert len(finished) == len(answer_text) == len(completions)
        return [None if i % 4 == 0 else 50.0 for i in range(len(completions))]

    monkeypatch.setattr(UtilityGuard, "__post_init__", watched)
    values = config(tiny_pair, max_steps=1, utility_tolerance=0.9)
    calibrate(values, tmp_path / "run", reward_funcs=[hundreds, extra])
    (guard,) = guards
    # Of four answers one has no reward, two have 450, one 350.
    assert guard.baseline["qa"] == pytest.approx((450 + 350 + 450) / 3)
    assert guard.variance is not None and guard.variance["qa"] == pytest.approx(20000 / 9)

    def nothing(completions: list[Any], **kwargs: Any) -> list[None]:
        return [None] * len(completions)

    with pytest.raises(BadInputError, match="give none of 8 answers to 'qa' a reward"):
        calibrate(config(tiny_pair), tmp_path / "none", reward_funcs=nothing)


def test_without_a_guard_nothing_is_judged(tiny_pair: Pair, tmp_path: Path) -> None:
    run = calibrate(config(tiny_pair, guard=False, beta=0.0), tmp_path / "run", reward_funcs=even_length)
    assert (run.result["outcome"], run.result["kept_step"], run.result["events"]) == ("finished", 2, [])


def test_without_a_guard_the_trainer_s_own_checkpoints_are_made(tiny_pair: Pair, tmp_path: Path) -> None:
    values = {"guard": False, "save_steps": 1, "save_total_limit": 1}
    run = calibrate(config(tiny_pair, **values), tmp_path / "run", reward_funcs=even_length)
    assert [path.name for path in (run.path / "checkpoints").glob("checkpoint-*")] == ["checkpoint-2"]


@pytest.mark.parametrize(("spare", "held_out"), [(-1000, 200), (0, 400), (1, 400), (40, 400), (299, 400), (500, 400)])
def test_a_task_that_is_hardly_larger_than_asked_leaves_the_guard_enough(spare: int, held_out: int) -> None:
    class Some:
        name = "some"

        def examples(self, split: str, n: int, *, seed: int) -> list[int]:
            return list(range(min(n, 2000 + spare)))

    trained, guarded = train_and_guard(Some(), 2000, 400, 0)  # type: ignore[arg-type]
    assert len(guarded) == held_out and len(trained) == min(2000, 2000 + spare - held_out)
    assert not {*trained} & {*guarded}


def test_the_model_that_was_trained_is_gone_when_the_kept_one_is_measured(tiny_pair: Pair, tmp_path: Path) -> None:
    """TRL's Trainer and the model that it patched hold themselves: two large teachers would not fit."""
    trained: list[weakref.ref[Any]] = []
    alive = []

    def noting(model: LanguageModel, task: Any, examples: Any, values: Any, what: str, *more: Any, **own: Any) -> Any:
        if what == "before":
            trained.append(weakref.ref(model.model))
        else:
            alive.append(trained[0]() is not None)
        return task_scores(model, task, examples, values, what, *more, **own)

    gc.disable()  # so that no chance collection frees it
    try:
        calibrate(config(tiny_pair, max_steps=1), tmp_path / "run", reward_funcs=even_length, measure=noting)
    finally:
        gc.enable()
    assert alive and not any(alive)


def test_a_teacher_that_is_sure_of_hardly_anything_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    def wrote(*probabilities: float) -> dict[str, HeldOut]:
        rows = [torch.tensor(probabilities).log(), torch.zeros(9)]
        return {"qa": HeldOut([[1.0, 0.0]], [], [], [True, False], rows)}  # the second isn't rewarded

    remark_on_sure_tokens(wrote(*[0.5] * 99, 0.95))
    assert "to 1.0 % of the tokens of its right answers to 'qa'" in capsys.readouterr().err
    remark_on_sure_tokens(wrote(*[0.5] * 8, 0.95, 0.99))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("values", "of_teacher", "of_adapter"),
    [
        ({"use_peft": True}, {}, {}),
        (
            {"use_peft": True, "model_init_kwargs": {"dtype": "float32", "revision": "main"}},
            {"dtype": "float32", "revision": "main"},
            {"dtype": "float32"},
        ),
        ({}, {"dtype": "float32"}, {"dtype": "float32"}),
    ],
)
def test_what_is_compared_is_loaded_in_one_type(
    tiny_pair: Pair, values: dict[str, Any], of_teacher: dict[str, Any], of_adapter: dict[str, Any]
) -> None:
    own = config(tiny_pair, **values)
    assert _loaded_with(own, own.teacher) == of_teacher
    assert _loaded_with(own, "runs/x/checkpoints/checkpoint-3") == of_adapter
