"""Calibration on tiny models: what a step trains on, what stops a run, and what a kill leaves behind."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.integrations import integration_utils
from trl import GRPOTrainer

from distillknob.calibration import stage
from distillknob.calibration.advantage import calibrated_advantages, group_centred, group_z_score, token_advantages
from distillknob.calibration.guard import UtilityGuard
from distillknob.calibration.held_out import HeldOut, log_ratio_turned, task_scores
from distillknob.calibration.stage import CalibrationConfig, CalibrationTrainer, calibrate, train_and_guard
from distillknob.cli.main import main
from distillknob.errors import BadInputError
from distillknob.models.base import LanguageModel
from distillknob.models.load import load_model
from distillknob.models.same_text import spelled
from distillknob.models.sampling import Sample
from distillknob.models.scoring import answer_ids, sequence_logprob, token_logprobs
from distillknob.runs.journal import Journal
from distillknob.runs.model_record import RECORD, read_record, teacher_warning
from distillknob.runs.run import Run, load_run, verify_manifest
from distillknob.tasks import get_task
from distillknob.training.config import plain_config


def even_length(completions: list[Any], **kwargs: Any) -> list[float]:
    """A task that tiny models are right on about half of the time."""
    return [float(len(completion[0]["content"]) % 2 == 0) for completion in completions]


def config(pair: Any, **values: Any) -> CalibrationConfig:
    return CalibrationConfig(
        **{
            "teacher": pair.teacher,
            "target": pair.student,
            "tasks": ["qa"],
            "problems": 8,
            "max_steps": 2,
            "per_device_train_batch_size": 8,
            "num_generations": 4,
            "learning_rate": 5e-3,
            "lr_scheduler_type": "constant",
            "gradient_checkpointing": False,
            "guard_steps": 1,
            "guard_problems": 4,
            "guard_samples": 2,
            "utility_tolerance": 0.9,
            **values,
        }
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(folder / "model.safetensors")
    return found


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Recorder(CalibrationTrainer):
    """Keeps each batch with what it was made of, and scores it anew while the policy is still the one that drew it."""

    kept: list[dict[str, Any]]

    def _log_ratio(self, batch: dict[str, Any], rollout: Any) -> torch.Tensor:
        found = super()._log_ratio(batch, rollout)
        policy = self.target._replace(model=self.model)  # the pair's tokenizer
        ids = [
            row[mask.bool()].tolist()
            for row, mask in zip(batch["completion_ids"], batch["completion_mask"], strict=True)
        ]
        texts = self._tokenizer.batch_decode(ids, skip_special_tokens=True)
        finished, prompts = rollout["finished"], rollout["prompts"]
        canonical = answer_ids(policy, texts, finished)
        self.kept.append(
            {
                "log_ratio": found,
                "ids": ids,
                "prompts": prompts,
                "texts": texts,
                "finished": finished,
                "canonical": [a == b for a, b in zip(ids, canonical, strict=True)],
                "drawn": torch.stack([t.sum() for t in token_logprobs(policy, prompts, ids)]),
                "policy": sequence_logprob(policy, prompts, texts, finished),
                "target": torch.stack([t.sum() for t in token_logprobs(self.target, prompts, ids)]),
                "tokens": torch.tensor([len(row) for row in ids]),
            }
        )
        return found

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        self.kept[-1] |= {"advantages": batch["advantages"], "rewards": self._rollout["rewards"]}
        self.kept[-1]["in_time"] = self._rollout["in_time"]
        return batch


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The batches of every trainer that `calibrate` makes from now on."""
    kept: list[dict[str, Any]] = []
    monkeypatch.setattr(Recorder, "kept", kept, raising=False)
    monkeypatch.setattr(stage, "CalibrationTrainer", Recorder)
    return kept


class Killed(Exception):
    """Stands for a kill: nothing in the stage catches it."""


def kill_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killer(stage.StageProgress):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == step:
                raise Killed

    monkeypatch.setattr(stage, "StageProgress", Killer)


# A step


@pytest.mark.parametrize(("eta", "gate"), [(-0.7, True), (0.7, False)])
def test_a_step_trains_on_the_task_and_eta_times_the_log_ratio(
    tiny_pair: Any, tmp_path: Path, recorded: list[dict[str, Any]], eta: float, gate: bool
) -> None:
    run = calibrate(config(tiny_pair, eta=eta, gate=gate), tmp_path / "run", reward_funcs=even_length)
    assert len(recorded) == 2
    moved = 0.0
    for batch in recorded:
        rewards = batch["rewards"][:, 0]
        assert rewards.tolist() == even_length([[{"content": text}] for text in batch["texts"]])
        right = (rewards >= 1) & torch.tensor(batch["in_time"])  # what was cut off isn't right, whatever its reward
        wanted = calibrated_advantages(rewards, batch["log_ratio"], eta, 4, right_B=right if gate else None)
        assert torch.allclose(batch["advantages"], wanted, atol=1e-6)
        moved += float((wanted - calibrated_advantages(rewards, batch["log_ratio"], 0.0, 4)).abs().sum())
        # Both are scored on the tokens that were drawn, of which a text would have the usual spelling.
        torch.testing.assert_close(batch["log_ratio"], batch["drawn"] - batch["target"], atol=2e-3, rtol=1e-4)
        usual = torch.tensor([c and f for c, f in zip(batch["canonical"], batch["finished"], strict=True)])
        assert usual.any()
        torch.testing.assert_close(
            batch["log_ratio"][usual], (batch["policy"] - batch["target"])[usual], atol=2e-3, rtol=1e-4
        )
    assert moved > 0.5
    result = run.result
    assert (result["eta"], result["outcome"], result["steps"], result["kept_step"]) == (eta, "finished", 2, 2)
    assert [row["task"] for row in result["guard"]] == ["qa"]
    assert [row["step"] for row in run.metrics()] == [1, 2]
    for row, batch in zip(run.metrics(), recorded, strict=True):
        assert row["log_ratio"] == pytest.approx(float(batch["log_ratio"].mean()), abs=1e-4)
        assert row["task_score/qa"] == pytest.approx(float(batch["rewards"].mean()))
        assert math.isfinite(row["anchor_kl"]) and row["anchor_beta"] == pytest.approx(0.1)
    assert verify_manifest(run.path) == []


def test_the_target_may_have_another_tokenizer_and_the_ratio_may_be_a_mean(
    tiny_pair: Any, tiny_other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[tuple[Any, Any, torch.Tensor, torch.Tensor]] = []
    inner = CalibrationTrainer._log_ratio

    def keep(self: Any, batch: Any, rollout: Any) -> torch.Tensor:
        found = inner(self, batch, rollout)
        policy = self.target._replace(model=self.model, tokenizer=self.processing_class)
        ids = [r[m.bool()].tolist() for r, m in zip(batch["completion_ids"], batch["completion_mask"], strict=True)]
        drawn = torch.stack([t.mean() for t in token_logprobs(policy, rollout["prompts"], ids)])
        texts = spelled(self.processing_class, rollout["ids"], rollout["finished"])
        of_target = [rollout["prompts"], texts, rollout["finished"]]
        assert self.target.tokenizer.get_vocab() != self.processing_class.get_vocab()
        kept.append((ids, rollout, found, drawn - sequence_logprob(self.target, *of_target, reduction="mean")))
        return found

    monkeypatch.setattr(CalibrationTrainer, "_log_ratio", keep)
    values = config(tiny_pair, target=tiny_other, log_ratio="mean", max_steps=1, eta=0.5)
    calibrate(values, tmp_path / "run", reward_funcs=even_length)
    ((_, _, found, wanted),) = kept
    torch.testing.assert_close(found, wanted, atol=1e-3, rtol=1e-4)


def test_each_token_may_have_its_own_log_ratio(tiny_pair: Any, tmp_path: Path, recorded: list[dict[str, Any]]) -> None:
    run = calibrate(config(tiny_pair, eta=-0.7, log_ratio="token"), tmp_path / "run", reward_funcs=even_length)
    for row, batch in zip(run.metrics(), recorded, strict=True):
        target = load_model(tiny_pair.student)
        right = (batch["rewards"][:, 0] >= 1) & torch.tensor(batch["in_time"])
        theirs = token_logprobs(target, batch["prompts"], batch["ids"])
        assert batch["log_ratio"].shape == batch["advantages"].shape
        for found, logprob, drawn in zip(batch["log_ratio"], theirs, batch["drawn"], strict=True):
            assert float(found.sum()) == pytest.approx(float(drawn - logprob.sum()), abs=2e-3)
            assert found[len(logprob) :].abs().sum() == 0
        mask = torch.arange(batch["log_ratio"].size(1)) < batch["tokens"][:, None]
        wanted = token_advantages(batch["rewards"][:, 0], batch["log_ratio"], mask, -0.7, 4, right_B=right)
        assert torch.allclose(batch["advantages"][mask], wanted[mask], atol=1e-5)
        assert row["log_ratio"] == pytest.approx(float(batch["log_ratio"].sum(1).mean()), abs=1e-4)


def test_a_log_ratio_a_token_needs_one_tokenizer(tiny_pair: Any, tiny_other: str, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="another tokenizer"):
        calibrate(config(tiny_pair, target=tiny_other, log_ratio="token"), tmp_path / "run", reward_funcs=even_length)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize("log_ratio", ["sum", "mean", "token"])
def test_the_anchor_may_stand_in_the_reward(
    tiny_pair: Any, tmp_path: Path, recorded: list[dict[str, Any]], log_ratio: str
) -> None:
    values = {"anchor": "reward", "log_ratio": log_ratio, "max_steps": 3, "learning_rate": 3e-3, "beta": 0.5}
    run = calibrate(config(tiny_pair, eta=0.0, guard=False, **values), tmp_path / "run", reward_funcs=even_length)
    original, kls = load_model(tiny_pair.teacher), []
    for row, batch in zip(run.metrics(), recorded, strict=True):
        before = torch.stack([t.sum() for t in token_logprobs(original, batch["prompts"], batch["ids"])])
        apart = batch["drawn"] - before  # log π_θ − log π_0 of each sample
        assert row["anchor_kl"] == pytest.approx(float(apart.sum() / batch["tokens"].sum()), abs=1e-4)
        kls.append(float(apart.abs().max()))
        task = group_z_score(batch["rewards"][:, 0], 4)
        if log_ratio != "token":
            by = batch["tokens"] if log_ratio == "mean" else 1
            wanted = task - 0.5 * group_centred(apart / by, 4)
            torch.testing.assert_close(batch["advantages"], wanted, atol=2e-3, rtol=1e-3)
        else:
            mask = torch.arange(batch["advantages"].size(1)) < batch["tokens"][:, None]
            found = ((task[:, None] - batch["advantages"]) * mask).sum(1) / 0.5
            torch.testing.assert_close(found, apart, atol=4e-3, rtol=1e-3)
    assert kls[0] == pytest.approx(0.0, abs=1e-3) and kls[-1] > 0.01  # the first step's policy is the original


def test_an_anchor_in_the_reward_leaves_none_in_the_loss(tiny_pair: Any, tmp_path: Path) -> None:
    # Rewards tie, and the first step's policy is the original: the reward has nothing to say, whatever beta is.
    still = [lambda completions, **kwargs: [0.0] * len(completions)]
    values = {"anchor": "reward", "eta": 0.0, "beta": 5.0, "max_steps": 1, "guard": False}
    run = calibrate(config(tiny_pair, **values), tmp_path / "run", reward_funcs=still)
    before, after = (load_file(Path(p) / "model.safetensors") for p in (tiny_pair.teacher, run.path / "model"))
    assert same(before, after)


def test_the_model_is_an_ordinary_one_and_has_moved(tiny_pair: Any, tmp_path: Path) -> None:
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


def test_the_embedded_tasks_grade_the_samples(tiny_pair: Any, tmp_path: Path, recorded: list[dict[str, Any]]) -> None:
    from distillknob.tasks import get_task

    run = calibrate(config(tiny_pair, tasks=["qa", "instruct"], max_steps=1), tmp_path / "run")
    (batch,) = recorded
    assert batch["rewards"].shape == (8, 1)
    scores = run.metrics()[0]
    assert {"task_score/qa", "task_score/instruct"} & scores.keys()
    assert [row["task"] for row in run.result["guard"]] == ["qa", "instruct"]
    # Grading by hand: the dataset's references come back from JSON as they went in.
    row = stage.training_rows([get_task("instruct")], 1, 0)[0]
    example = get_task("instruct").examples("train", 1, seed=0)[0]
    columns = [[{"role": "assistant", "content": "thoughts"}]], [row["task"]], [row["reference"]]
    assert stage.task_reward(*columns, finished=[True], answer_text=[example.gold_solution]) == [1.0]
    assert stage.task_reward(*columns, finished=[False], answer_text=[example.gold_solution]) == [0.0]


def test_a_jsonl_task_can_be_calibrated_on(tiny_pair: Any, tmp_path: Path) -> None:
    rows = [{"prompt": f"Where is the lamp {i}?", "reference": "here"} for i in range(60)]
    (tmp_path / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = config(
        tiny_pair, tasks=[f"jsonl:{tmp_path / 'task.jsonl'}"], max_completion_length=8, max_steps=1, guard_problems=2
    )
    assert calibrate(values, tmp_path / "run").result["outcome"] == "finished"


def test_data_that_do_not_fill_a_step_are_told(tiny_pair: Any, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="3 problems to train on, but a step takes 4"):
        calibrate(config(tiny_pair, problems=3, per_device_train_batch_size=16), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_s_config_repeats_it(tiny_pair: Any) -> None:
    """TRL fills in two fields of which it takes one alone."""
    made = config(tiny_pair, gradient_accumulation_steps=2)
    assert (made.generation_batch_size, made.steps_per_generation) == (16, 2)
    again = CalibrationConfig(**plain_config(made))
    assert again.generation_batch_size == 16 and plain_config(again) == plain_config(made)


# TRL's hooks


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("_calculate_rewards", ["self", "inputs", "prompts", "completions", "completion_ids_list"]),
        ("_generate_and_score_completions", ["self", "inputs"]),
        ("_compute_loss", ["self", "model", "inputs"]),
    ],
)
def test_trl_s_hooks_have_the_signatures_that_we_override(name: str, wanted: list[str]) -> None:
    assert list(inspect.signature(getattr(GRPOTrainer, name)).parameters) == wanted
    ours = getattr(CalibrationTrainer, name)
    assert list(inspect.signature(ours).parameters) == wanted


def test_trl_s_functions_take_what_we_pass() -> None:
    logps = inspect.signature(GRPOTrainer._get_per_token_logps_and_entropies).parameters
    assert list(logps)[:6] == ["self", "model", "input_ids", "attention_mask", "logits_to_keep", "batch_size"]
    turn = inspect.signature(GRPOTrainer._generate_single_turn).parameters
    assert list(turn)[:5] == ["self", "prompt_ids", "images", "multimodal_fields", "num_generations"]
    source = inspect.getsource(GRPOTrainer)
    for attribute in ("self.eos_token_ids =", "self.reward_weights =", "self.beta =", "self._tokenizer ="):
        assert attribute in source, f"TRL no longer sets {attribute}"


def test_the_installed_trl_is_one_that_the_hooks_were_checked_with() -> None:
    from importlib.metadata import version

    assert version("trl").startswith("1.16."), "read the methods that our trainers override again before widening this"


# Bad input


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"eta": math.nan}, "eta=nan: must be a finite number"),
        ({"eta": math.inf}, "eta=inf"),
        ({"eta": -math.inf}, "eta=-inf"),
        ({"num_generations": 1}, "num_generations=1: a group of one has no z-score"),
        ({"temperature": 0.7}, "temperature=0.7"),
        ({"tasks": []}, "tasks is empty"),
        ({"beta": 0.0}, "beta=0.0: the guard works by the anchor"),
        ({"utility_tolerance": 0.0}, "utility_tolerance=0.0"),
        ({"utility_tolerance": 1.0}, "utility_tolerance=1.0"),
        ({"problems": 0}, "problems=0"),
        ({"guard_steps": 0}, "guard_steps=0"),
        ({"guard_samples": 0}, "guard_samples=0"),
        ({"log_ratio": "median"}, "log_ratio='median'"),
        ({"advantage": "batch"}, "advantage='batch'"),
        ({"anchor": "reward", "beta": 0.0, "guard": False}, "there is no anchor to put there"),
        ({"target_device": "gpu"}, "target_device='gpu' is no device"),
        ({"scale_rewards": "none"}, "scale_rewards='none'"),
        ({"eval_strategy": "epoch"}, "eval_strategy='epoch'"),
        ({"mask_truncated_completions": True}, "would hide answers that were cut from one side of the log-ratio"),
    ],
)
def test_settings_that_cannot_work_are_told(tiny_pair: Any, values: dict[str, Any], what: str) -> None:
    with pytest.raises(BadInputError, match=what):
        config(tiny_pair, **values)


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ({"teacher": "/no/teacher"}, "no checkpoint folder '/no/teacher'"),
        ({"target": "/no/target"}, "no checkpoint folder '/no/target'"),
        ({"tasks": ["maths"]}, "no task named 'maths'"),
    ],
)
def test_what_is_not_there_is_told_before_anything_is_written(
    tiny_pair: Any, tmp_path: Path, values: dict[str, Any], what: str
) -> None:
    with pytest.raises(BadInputError, match=what):
        calibrate(config(tiny_pair, **values), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_knob_without_a_target_is_told(tiny_pair: Any, tmp_path: Path) -> None:
    model, tokenizer = load_model(tiny_pair.teacher)
    values = config(tiny_pair, output_dir=str(tmp_path), max_completion_length=8)
    rows = stage.training_rows([get_task("qa")], 8, 0)
    arguments: dict[str, Any] = {"args": values, "train_dataset": rows, "processing_class": tokenizer}
    with pytest.raises(BadInputError, match="needs a calibration target"):
        CalibrationTrainer(model=model, reward_funcs=[even_length], **arguments)


# Kills


def test_a_killed_run_resumes_to_the_weights_of_an_unbroken_one(tiny_pair: Any, tmp_path: Path) -> None:
    def values() -> CalibrationConfig:
        return config(tiny_pair, max_steps=4, guard_steps=2, eta=0.5)

    unbroken = calibrate(values(), tmp_path / "unbroken", reward_funcs=even_length)
    with pytest.MonkeyPatch.context() as patch:
        kill_at(3, patch)
        with pytest.raises(Killed):
            calibrate(values(), tmp_path / "killed", reward_funcs=even_length)
    assert not load_run(tmp_path / "killed").complete
    with pytest.raises(BadInputError, match=r"unfinished run of calibrate.*pass --resume"):
        calibrate(values(), tmp_path / "killed", reward_funcs=even_length)
    resumed = calibrate(values(), tmp_path / "killed", resume=True, reward_funcs=even_length)
    assert same(weights(resumed.path / "model"), weights(unbroken.path / "model"))
    assert [row["step"] for row in resumed.metrics()] == [1, 2, 3, 4]
    for a, b in zip(resumed.metrics(), unbroken.metrics(), strict=True):
        assert a["loss"] == b["loss"] and a["log_ratio"] == pytest.approx(b["log_ratio"], abs=1e-6)
    assert {k: v for k, v in resumed.result.items()} == unbroken.result


def test_a_run_killed_before_its_first_checkpoint_starts_over(
    tiny_pair: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        kill_at(2, patch)
        with pytest.raises(Killed):
            calibrate(config(tiny_pair, guard_steps=5), tmp_path / "run", reward_funcs=even_length)
    run = calibrate(config(tiny_pair, guard_steps=5), tmp_path / "run", resume=True, reward_funcs=even_length)
    assert [row["step"] for row in run.metrics()] == [1, 2]


def test_a_run_killed_behind_its_training_measures_on_and_trains_no_step_again(
    tiny_pair: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = calibrate(config(tiny_pair), tmp_path / "whole", reward_funcs=even_length)

    def killed(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(stage, "_scores_of", killed)
        with pytest.raises(Killed):
            calibrate(config(tiny_pair), tmp_path / "run", reward_funcs=even_length)
    # Neither the trainer is needed again nor what the original wrote.
    monkeypatch.setattr(stage, "CalibrationTrainer", killed)
    drawn: list[Path] = []
    keep = Journal.keep

    def watched(self: Journal, *batch: Any) -> None:
        drawn.append(Path(str(self._folder)))
        keep(self, *batch)

    monkeypatch.setattr(Journal, "keep", watched)
    run = calibrate(config(tiny_pair), tmp_path / "run", resume=True, reward_funcs=even_length)
    assert run.result == whole.result
    assert drawn and not any("unfinished/before" in folder.as_posix() for folder in drawn)


# The guard


def scored(tasks: Any, right: float) -> dict[str, HeldOut]:
    """Four problems with two scores each, of an answer that nobody scores."""
    samples = [Sample("", [1], finished=True)] * 8
    return {task.name: HeldOut([[right, right]] * 4, [], samples, [], []) for task in tasks}


def perfect(language_model: Any, tasks: Any, *_: Any) -> dict[str, HeldOut]:
    """Stands for the teacher's scores before and after: always right."""
    return scored(tasks, 1.0)


def after_step(last: int, then: Callable[[int], float]) -> Callable[..., list[float]]:
    """Right up to step `last`, and what `then` says from there on."""

    def reward(completions: list[Any], trainer_state: Any, **kwargs: Any) -> list[float]:
        step = trainer_state.global_step + 1 if trainer_state.max_steps else 0  # 0: what the original wrote
        return [1.0 if step <= last else then(step)] * len(completions)

    return reward


def stopped(run: Run) -> dict[str, Any]:
    result = run.result
    assert result["outcome"] == "stopped" and result["reason"]
    assert result["events"] and verify_manifest(run.path) == []
    kept = run.path / "checkpoints" / f"checkpoint-{result['kept_step']}"
    assert same(weights(run.path / "model"), weights(kept))
    return result


def test_a_collapse_stops_the_run_and_keeps_the_last_good_checkpoint(
    tiny_pair: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "task_scores", perfect)
    values = config(tiny_pair, max_steps=6, utility_tolerance=0.05, problems=12)
    run = calibrate(values, tmp_path / "run", reward_funcs=after_step(2, lambda step: 0.0))
    result = stopped(run)
    assert (result["steps"], result["kept_step"]) == (3, 2)
    assert "the score on qa collapsed: 0.000 at step 3" in result["reason"]
    assert "guard stopped the run" in (run.path / "model" / "README.md").read_text()
    assert not same(weights(run.path / "model"), weights(Path(tiny_pair.teacher)))


def test_values_that_are_not_finite_stop_the_run_with_finite_weights(
    tiny_pair: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner = CalibrationTrainer._log_ratio

    def broken(self: Any, batch: Any, rollout: Any) -> torch.Tensor:
        found = inner(self, batch, rollout)
        return found * math.nan if self.state.global_step == 1 else found

    monkeypatch.setattr(stage, "task_scores", perfect)
    monkeypatch.setattr(CalibrationTrainer, "_log_ratio", broken)
    values = config(tiny_pair, max_steps=4, utility_tolerance=0.05)
    result = stopped(calibrate(values, tmp_path / "run", reward_funcs=after_step(9, lambda step: 1.0)))
    assert result["kept_step"] == 1
    assert "not finite" in result["reason"] or "ran away" in result["reason"]
    assert all(torch.isfinite(value).all() for value in weights(tmp_path / "run" / "model").values())


def test_a_run_lost_from_the_start_gives_the_original_back(
    tiny_pair: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "task_scores", perfect)
    values = config(tiny_pair, utility_tolerance=0.05)
    run = calibrate(values, tmp_path / "run", reward_funcs=after_step(0, lambda step: 0.0))
    assert (run.result["outcome"], run.result["kept_step"]) == ("stopped", 0)
    assert same(weights(run.path / "model"), weights(Path(tiny_pair.teacher)))


def test_what_does_not_hold_on_unseen_problems_is_not_kept(
    tiny_pair: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The training samples look good throughout, the unseen problems only up to step 1."""
    calls: list[str] = []

    def scores(language_model: Any, tasks: Any, config: Any, what: str, *_: Any) -> dict[str, HeldOut]:
        calls.append(what)
        return scored(tasks, 0.0 if len(calls) == 2 else 1.0)  # before, after step 2, after step 1

    monkeypatch.setattr(stage, "task_scores", scores)
    values = config(tiny_pair, utility_tolerance=0.05)
    run = calibrate(values, tmp_path / "run", reward_funcs=after_step(9, lambda step: 1.0))
    result = run.result
    assert (result["outcome"], result["steps"], result["kept_step"]) == ("finished", 2, 1)
    assert "not kept: qa changed by -1.000" in result["events"][-1]["what"]
    assert same(weights(run.path / "model"), weights(run.path / "checkpoints" / "checkpoint-1"))


def test_the_guard_sees_one_score_a_prompt(
    tiny_pair: Any, tmp_path: Path, recorded: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[float]] = []
    observe = UtilityGuard.observe

    def watched(self: UtilityGuard, scores: Any, log_ratio: float) -> None:
        seen.append(sorted(value for values in scores.values() for value in values))
        observe(self, scores, log_ratio)

    monkeypatch.setattr(UtilityGuard, "observe", watched)
    values = config(tiny_pair, max_steps=2)
    calibrate(values, tmp_path / "run", reward_funcs=even_length)
    assert len(seen) == len(recorded) == 2
    for scores, batch in zip(seen, recorded, strict=True):
        by_prompt = batch["rewards"].sum(1).view(-1, values.num_generations).mean(1)
        assert scores == pytest.approx(sorted(by_prompt.tolist()))


def test_the_log_ratio_is_measured_on_held_out_problems_before_and_after(tiny_pair: Any, tmp_path: Path) -> None:
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
        for held_out in task_scores(model, tasks, settings, "anew").values():
            ids = [sample.token_ids for sample in held_out.samples]
            scores = [token_logprobs(one, held_out.prompts, ids) for one in (model, target)]
            ratios += [float(a.sum() - b.sum()) for a, b in zip(*scores, strict=True)]
        means.append(sum(ratios) / len(ratios))
    assert [turned["before"], turned["after"]] == pytest.approx(means, abs=1e-4)
    card = (run.path / "model" / "README.md").read_text()
    assert f"({turned['verdict']})" in card and f"{turned['after']:.2f} after" in card
    assert "distillable" not in card and "Not measured here: whether students" in card


@pytest.mark.parametrize(
    ("log_ratio", "unit"), [("sum", "nats an answer"), ("mean", "nats a token"), ("token", "nats a token")]
)
def test_the_held_out_log_ratio_counts_right_finished_samples_in_the_reward_s_unit(
    tiny_pair: Any, log_ratio: str, unit: str, student: LanguageModel
) -> None:
    prompt = [{"role": "user", "content": "What is 2 + 3?"}]
    drawn = [Sample("Answer: 5", answer_ids(student, ["Answer: 5"], [True])[0], finished=True)] * 4

    def wrote(rewarded: list[bool], shift: float) -> dict[str, HeldOut]:
        return {"qa": HeldOut([[1.0] * 2] * 2, [prompt] * 4, drawn, rewarded, [shift, shift + 1, shift, 99.0])}

    values = config(tiny_pair, log_ratio=log_ratio, eta=-0.5)
    before, after = wrote([True, True, True, False], 5.0), wrote([True, False, False, False], 3.0)
    turned = log_ratio_turned(before, after, student, student.tokenizer, values, kept_step=2)
    logprob = token_logprobs(student, [prompt], [drawn[0].token_ids])[0]
    target = float(logprob.sum()) if log_ratio == "sum" else float(logprob.mean())
    assert (turned.unit, turned.problems, turned.over) == (unit, 1, "right and finished samples")
    assert turned.before == pytest.approx(5.5 - target, abs=1e-5)
    assert turned.after == pytest.approx(3.0 - target, abs=1e-5)
    assert turned.verdict == "can't tell" and turned.interval is None and "1 held-out problem" in turned.reason


def test_an_unchanged_teacher_is_called_the_original(
    tiny_pair: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
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


def test_a_sample_without_a_reward_counts_in_nothing(
    tiny_pair: Any, tmp_path: Path, recorded: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a reward function says None of what it can't score."""
    seen: list[list[float]] = []
    monkeypatch.setattr(
        UtilityGuard,
        "observe",
        lambda self, scores, log_ratio: seen.append([v for one in scores.values() for v in one]),
    )
    values = config(tiny_pair, max_steps=1, gate=False)
    calibrate(
        values,
        tmp_path / "run",
        reward_funcs=lambda completions, **kwargs: [None, 1.0, 0.0, 1.0, None, None, None, None],
    )
    (batch,) = recorded
    assert batch["advantages"][[0, 4, 5, 6, 7]].tolist() == [0.0] * 5
    among = calibrated_advantages(torch.tensor([1.0, 0.0, 1.0]), batch["log_ratio"][1:4], -0.5, 3)
    torch.testing.assert_close(batch["advantages"][1:4], among, atol=1e-5, rtol=1e-5)
    assert seen == [[pytest.approx(2 / 3)]]


def test_the_guard_compares_rewards_with_rewards(
    tiny_pair: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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


def test_without_a_guard_nothing_is_judged(tiny_pair: Any, tmp_path: Path) -> None:
    run = calibrate(config(tiny_pair, guard=False, beta=0.0), tmp_path / "run", reward_funcs=even_length)
    assert (run.result["outcome"], run.result["kept_step"], run.result["events"]) == ("finished", 2, [])


def test_without_a_guard_the_trainer_s_own_checkpoints_are_made(tiny_pair: Any, tmp_path: Path) -> None:
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


def test_what_is_not_installed_is_told_before_any_work(tiny_pair: Any) -> None:
    from distillknob.distillation.stage import DistillConfig

    known = {"neptune", "dvclive", "comet_ml"} - set(integration_utils.get_available_reporting_integrations())
    for make in (CalibrationConfig, DistillConfig):
        with pytest.raises(BadInputError, match="isn't installed: pip install"):
            make(teacher=tiny_pair.teacher, report_to=[min(known)])
        with pytest.raises(BadInputError, match="isn't installed: pip install no-such-tracker"):
            make(teacher=tiny_pair.teacher, report_to="no-such-tracker")
