"""Calibrations with each reward, from the config to the verdict, and stopped on the way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distillknob.calibration.rows import training_rows
from distillknob.calibration.stage import calibrate
from distillknob.calibration.trainer import CalibrationTrainer
from distillknob.errors import BadInputError
from distillknob.models.load import load_model
from distillknob.tasks import get_task
from pairs import Pair
from small_calibrations import Killed, Recorder, config, even_length, killed_behind_step, same, weights


def trained(pair: Pair, folder: Path, **values: Any) -> dict[str, Any]:
    settings = config(pair, guard=False, gate=False, **values)
    return dict(calibrate(settings, folder, reward_funcs=even_length).result)


@pytest.mark.parametrize(
    ("values", "quantity"),
    [
        ({"reward": "sure_tokens_soft"}, "log-ratio to the target on sure tokens"),
        ({"reward": "co_distilled", "co_distilled_steps": 2}, "log-ratio to the co-distilled target"),
        ({"reward": "sequence", "calibration_scale": "signal"}, "log-ratio to the target"),
    ],
)
def test_a_calibration_with_each_reward_is_judged_by_it(
    tiny_pair: Pair, tmp_path: Path, values: dict[str, Any], quantity: str
) -> None:
    turned = trained(tiny_pair, tmp_path / "run", eta=-2.0, max_steps=3, **values)["turned"]
    assert turned["quantity"] == quantity and turned["difference"] is not None
    assert turned["reason"].startswith(f"the {quantity}")


@pytest.mark.parametrize("target", ["tiny_other", "both"])
def test_a_target_of_another_tokenizer_and_an_ensemble_with_it(
    tiny_pair: Pair, tiny_other: str, tmp_path: Path, target: str
) -> None:
    values = {"target": tiny_other} if target == "tiny_other" else {"more_targets": [tiny_other]}
    result = trained(tiny_pair, tmp_path / "run", reward="sure_tokens_soft", max_steps=1, **values)
    assert result["turned"]["difference"] is not None
    assert ("mean over 2 targets" in result["turned"]["quantity"]) == (target == "both")


def test_a_killed_run_with_a_target_that_learns_resumes_to_the_same_weights(tiny_pair: Pair, tmp_path: Path) -> None:
    def values() -> Any:
        learning = {"co_distilled_steps": 3, "co_distilled_every": 3, "co_distilled_learning_rate": 1e-2}
        held = {"task_term": "hold"}
        return config(tiny_pair, reward="co_distilled", max_steps=5, guard_steps=2, eta=0.5, **learning, **held)

    unbroken = calibrate(values(), tmp_path / "unbroken", reward_funcs=even_length)
    with pytest.raises(Killed):
        calibrate(values(), tmp_path / "killed", reward_funcs=killed_behind_step(4))
    resumed = calibrate(values(), tmp_path / "killed", resume=True, reward_funcs=even_length)
    assert same(weights(resumed.path / "model"), weights(unbroken.path / "model"))
    assert [row["loss"] for row in resumed.metrics()] == [row["loss"] for row in unbroken.metrics()]
    assert resumed.result == unbroken.result


def test_a_task_that_is_held_has_no_part_in_the_advantage_while_it_stands(
    tiny_pair: Pair, tmp_path: Path, recorder: type[Recorder]
) -> None:
    class Held(recorder):  # type: ignore[misc, valid-type]
        """The original is told to be right on nothing, so that its score stands whatever the policy does."""

        def _calibration_values(self, *args: Any) -> Any:
            self.hold.baseline = dict.fromkeys(self.hold.baseline, 0.0)
            return super()._calibration_values(*args)

    values = config(tiny_pair, task_term="hold", eta=0.0, guard=False)
    calibrate(values, tmp_path / "run", reward_funcs=even_length, trainer_class=Held)
    assert recorder.batches and all(batch["advantages"].abs().sum() == 0 for batch in recorder.batches)


def test_a_task_is_held_at_the_original_s_reward_by_reward_functions_of_one_s_own(
    tiny_pair: Pair, tmp_path: Path
) -> None:
    held: list[dict[str, float]] = []

    class Watched(CalibrationTrainer):
        def train(self, *args: Any, **kwargs: Any) -> Any:
            assert self.hold is not None
            held.append(self.hold.baseline)
            return super().train(*args, **kwargs)

    def tens(completions: list[Any], **kwargs: Any) -> list[float]:
        return [10.0] * len(completions)

    values = config(tiny_pair, task_term="hold", guard=False, max_steps=1)
    calibrate(values, tmp_path / "run", reward_funcs=tens, trainer_class=Watched)
    assert held == [{"qa": 10.0}]


def test_a_held_task_needs_the_original_s_score(tiny_pair: Pair, tmp_path: Path) -> None:
    model, tokenizer = load_model(tiny_pair.teacher)
    settings = config(tiny_pair, task_term="hold", output_dir=str(tmp_path), max_completion_length=8)
    arguments: dict[str, Any] = {"args": settings, "processing_class": tokenizer, "target": tiny_pair.student}
    rows = training_rows([get_task("qa")], 8, 0)
    with pytest.raises(BadInputError, match="pass baseline="):
        CalibrationTrainer(model=model, reward_funcs=[even_length], train_dataset=rows, **arguments)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"reward": "sure_tokens", "beta": 0.0, "guard": False}, "set beta above 0"),
        ({"reward": "sure"}, "reward='sure': choices are sequence"),
        ({"task_term": "held"}, "choices are reward, hold"),
        ({"calibration_scale": "batch"}, "choices are group, signal"),
        ({"co_distilled_every": 0}, "co_distilled_every"),
        ({"co_distilled_learning_rate": 0.0}, "must be above 0"),
        ({"influence_samples": 1}, "at least 2"),
        ({"target_url": "http://there", "more_targets": ["a"]}, "serves one target"),
    ],
)
def test_settings_of_a_reward_that_cannot_work_are_refused(
    tiny_pair: Pair, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadInputError, match=message):
        config(tiny_pair, **values)


@pytest.mark.parametrize("reward", ["co_distilled", "influence"])
def test_a_served_target_that_would_be_copied_is_refused_before_any_work(
    tiny_pair: Pair, tmp_path: Path, reward: str
) -> None:
    values = config(tiny_pair, reward=reward, target=f"http://127.0.0.1:9#m#{tiny_pair.student}")
    with pytest.raises(BadInputError, match="behind a server"):
        calibrate(values, tmp_path / "run")
