"""What a step of a calibration trains on, and TRL's hooks that it stands on."""

from __future__ import annotations

import inspect
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from trl import GRPOTrainer  # type: ignore[attr-defined]

from distillknob.calibration.advantage import calibrated_advantages, group_centred, token_advantages
from distillknob.calibration.guard import UtilityGuard
from distillknob.calibration.rows import training_rows
from distillknob.calibration.stage import calibrate
from distillknob.calibration.trainer import CalibrationTrainer
from distillknob.errors import BadInputError
from distillknob.models.load import load_model
from distillknob.models.same_text import spelled
from distillknob.models.scoring import sequence_logprob, token_logprobs
from distillknob.runs.run import verify_manifest
from distillknob.tasks import get_task
from distillknob.training.advantages import group_z_score
from distillknob.training.entropy_band import weights_in_band
from distillknob.training.grading import task_reward
from pairs import Pair
from small_calibrations import Recorder, config, even_length, same


@pytest.mark.parametrize(("eta", "gate"), [(-0.7, True), (0.7, False)])
def test_a_step_trains_on_the_task_and_eta_times_the_log_ratio(
    tiny_pair: Pair, tmp_path: Path, recorder: type[Recorder], eta: float, gate: bool
) -> None:
    run = calibrate(
        config(tiny_pair, eta=eta, gate=gate, per_device_train_batch_size=24),  # some groups have two right samples
        tmp_path / "run",
        reward_funcs=even_length,
        trainer_class=recorder,
    )
    assert len(recorder.batches) == 2
    moved = 0.0
    for batch in recorder.batches:
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
    for row, batch in zip(run.metrics(), recorder.batches, strict=True):
        assert row["log_ratio"] == pytest.approx(float(batch["log_ratio"].mean()), abs=1e-4)
        assert row["task_score/qa"] == pytest.approx(float(batch["rewards"].mean()))
        assert math.isfinite(row["anchor_kl"]) and row["anchor_beta"] == pytest.approx(0.1)
    assert verify_manifest(run.path) == []


def test_the_target_may_have_another_tokenizer_and_the_ratio_may_be_a_mean(
    tiny_pair: Pair, tiny_other: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[tuple[Any, Any, torch.Tensor, torch.Tensor]] = []
    inner = CalibrationTrainer._calibration_values

    def keep(self: Any, batch: Any, right_b: Any) -> torch.Tensor:
        found, rollout, (target,) = inner(self, batch, right_b), self._rollout, self.targets
        policy = target._replace(model=self.model, tokenizer=self.processing_class)
        ids = [r[m.bool()].tolist() for r, m in zip(batch["completion_ids"], batch["completion_mask"], strict=True)]
        drawn = torch.stack([t.mean() for t in token_logprobs(policy, rollout["prompts"], ids)])
        texts = spelled(self.processing_class, rollout["ids"], rollout["finished"])
        of_target = [rollout["prompts"], texts, rollout["finished"]]
        assert target.tokenizer.get_vocab() != self.processing_class.get_vocab()
        kept.append((ids, rollout, found, drawn - sequence_logprob(target, *of_target, reduction="mean")))
        return found

    monkeypatch.setattr(CalibrationTrainer, "_calibration_values", keep)
    values = config(tiny_pair, target=tiny_other, reward="sequence_mean", max_steps=1, eta=0.5)
    calibrate(values, tmp_path / "run", reward_funcs=even_length)
    ((_, _, found, wanted),) = kept
    torch.testing.assert_close(found, wanted, atol=1e-3, rtol=1e-4)


def test_each_token_may_have_its_own_log_ratio(tiny_pair: Pair, tmp_path: Path, recorder: type[Recorder]) -> None:
    run = calibrate(
        config(tiny_pair, eta=-0.7, reward="token"),
        tmp_path / "run",
        reward_funcs=even_length,
        trainer_class=recorder,
    )
    for row, batch in zip(run.metrics(), recorder.batches, strict=True):
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


@pytest.mark.parametrize("reward", ["sequence", "token"])
def test_samples_that_drive_the_entropy_out_of_its_band_are_left_out(
    tiny_pair: Pair, tmp_path: Path, recorder: type[Recorder], reward: str
) -> None:
    """A fresh policy's entropy lies far above the band, so that samples which are pushed away have no part."""
    band = {"entropy_band": [0.1, 0.2, 0.1, 0.2], "reward": reward, "guard": False, "max_steps": 1}
    calibrate(config(tiny_pair, eta=-0.7, **band), tmp_path / "run", reward_funcs=even_length, trainer_class=recorder)
    (batch,) = recorder.batches
    right = (batch["rewards"][:, 0] >= 1) & torch.tensor(batch["in_time"])
    task = batch["rewards"][:, 0]
    if reward == "token":
        mask = torch.arange(batch["log_ratio"].size(1)) < batch["tokens"][:, None]
        plain = token_advantages(task, batch["log_ratio"], mask, -0.7, 4, right_B=right)
        mean, shown = (plain * mask).sum(1) / mask.sum(1), mask
    else:
        plain = calibrated_advantages(task, batch["log_ratio"], -0.7, 4, right_B=right)
        mean, shown = plain, torch.ones_like(plain, dtype=torch.bool)
    weights = weights_in_band(mean, 9.0, (0.1, 0.2), 4)
    assert (weights == 0).any() and (weights > 1).any()
    wanted = plain * (weights if plain.ndim == 1 else weights[:, None])
    assert torch.allclose(batch["advantages"][shown], wanted[shown], atol=1e-5)


def test_a_wide_band_leaves_a_calibration_bit_for_bit_as_it_is(tiny_pair: Pair, tmp_path: Path) -> None:
    logs = []
    for name, band in (("without", []), ("wide", [0.0, 99.0, 0.0, 99.0])):
        values = config(tiny_pair, eta=-0.7, guard=False, entropy_band=band)
        run = calibrate(values, tmp_path / name, reward_funcs=even_length)
        logs.append([(row["loss"], row["grad_norm"]) for row in run.metrics()])
    assert logs[0] == logs[1] and len(logs[0]) == 2


def test_a_log_ratio_a_token_needs_one_tokenizer(tiny_pair: Pair, tiny_other: str, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="another tokenizer"):
        calibrate(config(tiny_pair, target=tiny_other, reward="token"), tmp_path / "run", reward_funcs=even_length)
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize("reward", ["sequence", "sequence_mean", "token"])
def test_the_anchor_may_stand_in_the_reward(
    tiny_pair: Pair, tmp_path: Path, recorder: type[Recorder], reward: str
) -> None:
    values = {"anchor": "reward", "reward": reward, "max_steps": 3, "learning_rate": 3e-3, "beta": 0.5}
    run = calibrate(
        config(tiny_pair, eta=0.0, guard=False, **values),
        tmp_path / "run",
        reward_funcs=even_length,
        trainer_class=recorder,
    )
    original, kls = load_model(tiny_pair.teacher), []
    for row, batch in zip(run.metrics(), recorder.batches, strict=True):
        before = torch.stack([t.sum() for t in token_logprobs(original, batch["prompts"], batch["ids"])])
        apart = batch["drawn"] - before  # log π_θ − log π_0 of each sample
        assert row["anchor_kl"] == pytest.approx(float(apart.sum() / batch["tokens"].sum()), abs=1e-4)
        kls.append(float(apart.abs().max()))
        task = group_z_score(batch["rewards"][:, 0], 4)
        if reward != "token":
            by = batch["tokens"] if reward == "sequence_mean" else 1
            wanted = task - 0.5 * group_centred(apart / by, 4)
            torch.testing.assert_close(batch["advantages"], wanted, atol=2e-3, rtol=1e-3)
        else:
            mask = torch.arange(batch["advantages"].size(1)) < batch["tokens"][:, None]
            found = ((task[:, None] - batch["advantages"]) * mask).sum(1) / 0.5
            torch.testing.assert_close(found, apart, atol=4e-3, rtol=1e-3)
    assert kls[0] == pytest.approx(0.0, abs=1e-3) and kls[-1] > 0.01  # the first step's policy is the original


def test_an_anchor_in_the_reward_leaves_none_in_the_loss(tiny_pair: Pair, tmp_path: Path) -> None:
    # Rewards tie, and the first step's policy is the original: the reward has nothing to say, whatever beta is.
    still = [lambda completions, **kwargs: [0.0] * len(completions)]
    values = {"anchor": "reward", "eta": 0.0, "beta": 5.0, "max_steps": 1, "guard": False}
    run = calibrate(config(tiny_pair, **values), tmp_path / "run", reward_funcs=still)
    before, after = (load_file(Path(p) / "model.safetensors") for p in (tiny_pair.teacher, run.path / "model"))
    assert same(before, after)


def test_the_embedded_tasks_grade_the_samples(tiny_pair: Pair, tmp_path: Path, recorder: type[Recorder]) -> None:

    run = calibrate(config(tiny_pair, tasks=["qa", "instruct"], max_steps=1), tmp_path / "run", trainer_class=recorder)
    (batch,) = recorder.batches
    assert batch["rewards"].shape == (8, 1)
    scores = run.metrics()[0]
    assert {"task_score/qa", "task_score/instruct"} & scores.keys()
    assert [row["task"] for row in run.result["guard"]] == ["qa", "instruct"]
    # Grading by hand: the dataset's references come back from JSON as they went in.
    row = training_rows([get_task("instruct")], 1, 0)[0]
    example = get_task("instruct").examples("train", 1, seed=0)[0]
    columns = [[{"role": "assistant", "content": "thoughts"}]], [row["task"]], [row["reference"]]
    assert task_reward(*columns, finished=[True], answer_text=[example.gold_solution]) == [1.0]
    assert task_reward(*columns, finished=[False], answer_text=[example.gold_solution]) == [0.0]


def test_a_sample_without_a_reward_counts_in_nothing(
    tiny_pair: Pair, tmp_path: Path, recorder: type[Recorder], monkeypatch: pytest.MonkeyPatch
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
        trainer_class=recorder,
    )
    (batch,) = recorder.batches
    assert batch["advantages"][[0, 4, 5, 6, 7]].tolist() == [0.0] * 5
    among = calibrated_advantages(torch.tensor([1.0, 0.0, 1.0]), batch["log_ratio"][1:4], -0.5, 3)
    torch.testing.assert_close(batch["advantages"][1:4], among, atol=1e-5, rtol=1e-5)
    assert seen == [[pytest.approx(2 / 3)]]


def test_the_guard_sees_one_score_a_prompt(
    tiny_pair: Pair, tmp_path: Path, recorder: type[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[float]] = []
    observe = UtilityGuard.observe

    def watched(self: UtilityGuard, scores: Any, log_ratio: float) -> None:
        seen.append(sorted(value for values in scores.values() for value in values))
        observe(self, scores, log_ratio)

    monkeypatch.setattr(UtilityGuard, "observe", watched)
    values = config(tiny_pair, max_steps=2)
    calibrate(values, tmp_path / "run", reward_funcs=even_length, trainer_class=recorder)
    assert len(seen) == len(recorder.batches) == 2
    for scores, batch in zip(seen, recorder.batches, strict=True):
        by_prompt = batch["rewards"].sum(1).view(-1, values.num_generations).mean(1)
        assert scores == pytest.approx(sorted(by_prompt.tolist()))


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
