"""The stage `calibrate` on tiny models: what comes out, and what a kill leaves behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from distillknob.calibration.config import CalibrationConfig
from distillknob.calibration.held_out import task_scores
from distillknob.calibration.stage import calibrate
from distillknob.calibration.trainer import CalibrationTrainer
from distillknob.errors import BadInputError
from distillknob.models.load import load_model
from distillknob.runs.journal import Journal
from distillknob.runs.run import load_run
from pairs import Pair
from small_calibrations import Killed, config, even_length, killed_behind_step, same, weights


def test_the_model_is_an_ordinary_one_and_has_moved(tiny_pair: Pair, tmp_path: Path) -> None:
    run = calibrate(config(tiny_pair, eta=0.5), tmp_path / "run", reward_funcs=even_length)
    model = AutoModelForCausalLM.from_pretrained(run.path / "model")
    tokenizer = AutoTokenizer.from_pretrained(run.path / "model")
    assert tokenizer.get_vocab() == load_model(tiny_pair.teacher).tokenizer.get_vocab()
    assert tokenizer.chat_template is not None
    assert "η = 0.5" in (run.path / "model" / "README.md").read_text()
    before = weights(Path(tiny_pair.teacher))
    assert not same(weights(run.path / "model"), before)
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
    # A finished run is opened as it is; with another η it is refused.
    again = calibrate(config(tiny_pair, eta=0.5), tmp_path / "run", reward_funcs=even_length)
    assert again.result == run.result
    with pytest.raises(BadInputError, match=r"another config \(.*eta"):
        calibrate(config(tiny_pair, eta=-0.5), tmp_path / "run")


def test_a_jsonl_task_can_be_calibrated_on(tiny_pair: Pair, tmp_path: Path) -> None:
    rows = [{"prompt": f"Where is the lamp {i}?", "reference": "here"} for i in range(60)]
    (tmp_path / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = config(tiny_pair, tasks=[f"jsonl:{tmp_path / 'task.jsonl'}"], max_completion_length=8, max_steps=1)
    assert calibrate(values, tmp_path / "run").result["outcome"] == "finished"


def test_data_that_do_not_fill_a_step_are_told(tiny_pair: Pair, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="3 problems to train on, but a step takes 4"):
        calibrate(config(tiny_pair, problems=3, per_device_train_batch_size=16), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_killed_run_resumes_to_the_weights_of_an_unbroken_one(tiny_pair: Pair, tmp_path: Path) -> None:
    def values() -> CalibrationConfig:
        return config(tiny_pair, max_steps=4, guard_steps=2, eta=0.5)

    unbroken = calibrate(values(), tmp_path / "unbroken", reward_funcs=even_length)
    with pytest.raises(Killed):
        calibrate(values(), tmp_path / "killed", reward_funcs=killed_behind_step(3))
    assert not load_run(tmp_path / "killed").complete
    with pytest.raises(BadInputError, match=r"unfinished run of calibrate.*pass --resume"):
        calibrate(values(), tmp_path / "killed", reward_funcs=even_length)
    resumed = calibrate(values(), tmp_path / "killed", resume=True, reward_funcs=even_length)
    assert same(weights(resumed.path / "model"), weights(unbroken.path / "model"))
    assert [row["step"] for row in resumed.metrics()] == [1, 2, 3, 4]
    for a, b in zip(resumed.metrics(), unbroken.metrics(), strict=True):
        assert a["loss"] == b["loss"] and a["log_ratio"] == pytest.approx(b["log_ratio"], abs=1e-6)
    assert {k: v for k, v in resumed.result.items()} == unbroken.result


def test_a_run_killed_before_its_first_checkpoint_starts_over(tiny_pair: Pair, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        calibrate(config(tiny_pair, guard_steps=5), tmp_path / "run", reward_funcs=killed_behind_step(1))
    run = calibrate(config(tiny_pair, guard_steps=5), tmp_path / "run", resume=True, reward_funcs=even_length)
    assert [row["step"] for row in run.metrics()] == [1, 2]


def test_a_run_killed_behind_its_training_measures_on_and_trains_no_step_again(
    tiny_pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = calibrate(config(tiny_pair), tmp_path / "whole", reward_funcs=even_length)

    def killed(model: Any, task: Any, examples: Any, config: Any, what: str, *more: Any, **own: Any) -> Any:
        if what == "after":
            raise Killed
        return task_scores(model, task, examples, config, what, *more, **own)

    with pytest.raises(Killed):
        calibrate(config(tiny_pair), tmp_path / "run", reward_funcs=even_length, measure=killed)

    class NoTrainer(CalibrationTrainer):
        def __init__(self, *args: Any, **kwargs: Any):
            raise AssertionError("the training is over")

    drawn: list[Path] = []
    keep = Journal.keep

    def watched(self: Journal, *batch: Any) -> None:
        drawn.append(Path(str(self._folder)))
        keep(self, *batch)

    monkeypatch.setattr(Journal, "keep", watched)
    again: dict[str, Any] = {"resume": True, "reward_funcs": even_length, "trainer_class": NoTrainer}
    run = calibrate(config(tiny_pair), tmp_path / "run", **again)
    assert run.result == whole.result
    assert drawn and not any("look-0/step-0" in folder.as_posix() for folder in drawn)
