"""What a method trains on tiny models: its loss against a plain one, and on whose samples."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM

from distilling import config, weights
from distillknob.distillation import pair
from distillknob.distillation.batches import first_tokens
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.stage import distill
from distillknob.distillation.trainer import DistillTrainer
from distillknob.divergences.dense import divergence
from distillknob.divergences.kernel import KINDS
from distillknob.errors import BadInputError
from distillknob.methods import METHODS, Method
from distillknob.models.base import LanguageModel
from distillknob.models.load import load_model
from distillknob.runs.run import Run, verify_manifest
from distillknob.tasks.base import GeneratedTask
from distillknob.tasks.generated.qa import QA
from pairs import Pair


class Recorder(DistillTrainer):
    """Computes each loss a second time, plainly: whole logits of a whole forward."""

    kept: list[dict[str, Any]]

    def _compute_loss(self, unwrapped_student: Any, inputs: dict[str, Any], num_items_in_batch: Any) -> Any:
        found = super()._compute_loss(unwrapped_student, inputs, num_items_in_batch)
        ids = torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1)
        mask = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
        counted = inputs["loss_mask"].bool()
        width = counted.size(1)
        with torch.no_grad():
            student = unwrapped_student(input_ids=ids, attention_mask=mask).logits[:, -width - 1 : -1]
            if not self.loss.asks_teacher:
                plain = cross_entropy(student.transpose(1, 2), inputs["completion_ids"], reduction="none")
            else:
                if "teacher_prompt_ids" in inputs:
                    ids = torch.cat([inputs["teacher_prompt_ids"], inputs["completion_ids"]], dim=1)
                    mask = torch.cat([inputs["teacher_prompt_mask"], inputs["completion_mask"]], dim=1)
                teacher = self.teacher_model(input_ids=ids, attention_mask=mask).logits[:, -width - 1 : -1]
                plain = divergence(student, teacher, self.args.objective.loss, beta=self.args.beta)
        self.kept.append(
            {
                "loss": float(found[0]),
                "plain": float(plain[counted].sum() / num_items_in_batch),
                "items": int(num_items_in_batch),
                "counted": int(counted.sum()),
                "completions": [row[m].tolist() for row, m in zip(inputs["completion_ids"], counted, strict=True)],
                "step": self.state.global_step,
            }
        )
        return found


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    kept: list[dict[str, Any]] = []
    monkeypatch.setattr(Recorder, "kept", kept, raising=False)
    return kept


def record(values: DistillConfig, folder: Path) -> Run:
    return distill(values, folder, trainer_class=Recorder)


def is_plain(method: Method) -> bool:
    """Is its loss the cross-entropy, or a divergence of the core, of both models as they are at every token?"""
    usual = Method(label="", summary="", formula="", when="", loss="", traces="", lmbda=0)
    parts = ("weights", "teacher", "soft_target", "queries", "edit", "first", "num_generations", "epsilon")
    as_usual = all(getattr(method, part) == getattr(usual, part) for part in parts)
    return as_usual and method.loss in ("hard_label", *KINDS) and method.context in ("plain", "reference")


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if is_plain(method)])
def test_each_method_trains_by_its_loss(
    tiny_pair: Pair, tmp_path: Path, recorded: list[dict[str, Any]], parity: GeneratedTask, method: str
) -> None:
    # The tiny teacher is sure of no token: only soft weights tell its answers apart.
    selection = "sure_tokens_soft" if method == "sft_best_of_n_sure" else None
    run = record(config(tiny_pair, method, selection=selection), tmp_path / "run")
    assert len(recorded) == 2
    for batch in recorded:
        assert batch["items"] == batch["counted"] > 0
        assert batch["loss"] == pytest.approx(batch["plain"], rel=2e-4, abs=1e-6)
        assert math.isfinite(batch["loss"]) and batch["loss"] > 0
    result = run.result
    assert {"teacher", "student", "method", "steps", "tokens", "learning_rate", "final_loss", "traces"} <= set(result)
    assert (result["stage"], result["method"], result["steps"]) == ("distill", method, 2)
    assert (result["teacher"], result["student"], result["learning_rate"]) == (*tiny_pair, 5e-3)
    assert result["traces"] == len(run.samples()) >= 1
    assert result["tokens"] > 0
    losses = [row["loss"] for row in run.metrics() if "loss" in row]
    assert result["final_loss"] == pytest.approx(sum(losses) / len(losses))
    model = AutoModelForCausalLM.from_pretrained(run.path / "model")
    assert model.num_parameters() > 0
    before, after = weights(tiny_pair.student), weights(run.path / "model")
    assert before.keys() == after.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert verify_manifest(run.path) == []


@pytest.mark.parametrize("wider", ["teacher", "student"])
def test_embeddings_padded_to_another_width_are_compared_on_the_shared_part(
    tiny_pair: Pair, tmp_path: Path, recorded: list[dict[str, Any]], wider: str
) -> None:
    """Two sizes of a family may share a tokenizer and pad their embeddings to two widths."""
    model, tokenizer = load_model(getattr(tiny_pair, wider))
    model.resize_token_embeddings(2112, mean_resizing=False)
    model.save_pretrained(tmp_path / wider)
    tokenizer.save_pretrained(tmp_path / wider)
    pair = tiny_pair._replace(**{wider: str(tmp_path / wider)})
    record(config(pair, "gkd", lmbda=0.0, traces="gold", max_steps=1), tmp_path / "run")
    (batch,) = recorded
    assert batch["items"] > 10 and batch["loss"] == pytest.approx(batch["plain"], rel=2e-4)


def test_the_teacher_s_own_options_are_used(tiny_pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    class Seen(DistillTrainer):
        def train(self, *args: Any, **kwargs: Any) -> Any:
            seen.append(self.teacher_model.config._attn_implementation)
            return super().train(*args, **kwargs)

    asked = []

    def recorded(name: str, *, options: Any = None, **kwargs: Any) -> LanguageModel:
        asked.append(options)
        return load_model(name, options=options, **kwargs)

    monkeypatch.setattr(pair, "load_model", recorded)
    for way in ("eager", "sdpa"):
        given = {"attn_implementation": way}
        values = config(tiny_pair, "gkd", max_steps=1, teacher_model_init_kwargs=given, teacher_model_revision="v2")
        distill(values, tmp_path / way, trainer_class=Seen)
    assert seen == ["eager", "sdpa"]
    assert asked == [{"attn_implementation": way, "revision": "v2"} for way in seen]


def test_the_trainer_loads_a_teacher_by_its_name(tiny_pair: Pair, tmp_path: Path, student: LanguageModel) -> None:
    rows = [{"prompt": [{"role": "user", "content": "2 + 2"}], "completion_ids": [5, 6]}] * 4
    values = config(tiny_pair, "gkd", lmbda=0.0, output_dir=str(tmp_path / "run"), max_completion_length=8)
    trainer = DistillTrainer(
        AutoModelForCausalLM.from_pretrained(tiny_pair.student),
        tiny_pair.teacher,
        values,
        train_dataset=Dataset.from_list(rows),
        processing_class=student.tokenizer,
    )
    trainer.train()
    named: Any = trainer.teacher_model
    expected = weights(tiny_pair.teacher)
    held = named.state_dict()
    assert expected and all(torch.equal(held[name].cpu(), weight) for name, weight in expected.items())


def test_sft_learns_the_stored_tokens_and_their_end(
    tiny_pair: Pair, tmp_path: Path, recorded: list[dict[str, Any]], student: LanguageModel
) -> None:
    values = config(tiny_pair, "sft_gold", problems=8)
    run = record(values, tmp_path / "run")
    stored = {tuple(row["completion_ids"]) for row in run.samples()}
    assert {row["completion"] for row in run.samples()} == {
        e.gold_solution for e in QA().examples("train", 8, seed=values.seed)
    }
    seen = [tuple(row) for batch in recorded for row in batch["completions"]]
    assert len(seen) == 8 and set(seen) == stored
    assert all(row[-1] == student.tokenizer.eos_token_id for row in seen)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_gkd_s_beta_reaches_the_divergence(
    tiny_pair: Pair, tmp_path: Path, recorded: list[dict[str, Any]], beta: float
) -> None:
    record(config(tiny_pair, "gkd", lmbda=0.0, beta=beta, max_steps=1), tmp_path / "run")
    (batch,) = recorded
    assert batch["loss"] == pytest.approx(batch["plain"], rel=2e-4)


def test_gkd_is_the_jensen_shannon_divergence_unless_told_otherwise() -> None:
    """TRL's DistillationConfig has beta 1, at which the divergence is the reverse KL: on-policy distillation."""
    assert DistillConfig(method="gkd").beta == 0.5


def test_accumulated_batches_weigh_every_token_the_same(
    tiny_pair: Pair, tmp_path: Path, recorded: list[dict[str, Any]]
) -> None:
    values = config(tiny_pair, "sft", per_device_train_batch_size=2, gradient_accumulation_steps=2, max_steps=1)
    record(values, tmp_path / "run")
    first, second = recorded
    assert first["items"] == second["items"] == first["counted"] + second["counted"]
    for batch in recorded:
        assert batch["loss"] == pytest.approx(batch["plain"], rel=2e-4)


# On- and off-policy


@pytest.mark.parametrize("method", ["gkd", "sft"])
@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_budget_of_tokens_a_step_is_held_exactly(
    tiny_pair: Pair, tmp_path: Path, recorded: list[dict[str, Any]], method: str, accumulation: int
) -> None:
    settings = config(
        tiny_pair, method, tokens_per_step=7, gradient_accumulation_steps=accumulation, problems=20, max_steps=3
    )
    result = record(settings, tmp_path / "run").result
    assert result["tokens"] == 7 * 3
    assert [row["items"] for row in recorded] == [7] * 3 * accumulation
    assert all(row["loss"] == pytest.approx(row["plain"], rel=1e-4) for row in recorded)


def test_the_first_tokens_of_a_mask() -> None:
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 0, 0]])
    assert first_tokens(mask, 4).tolist() == [[1, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert first_tokens(mask, 99).equal(mask)


def coin(seed: int, lmbda: float, steps: int) -> list[bool]:
    trainer: Any = SimpleNamespace(args=SimpleNamespace(seed=seed, share_on_policy=lmbda))
    return [DistillTrainer.on_policy(trainer, step) for step in range(steps)]


def test_the_coin_is_drawn_from_seed_and_step() -> None:
    assert coin(0, 0.5, 200) == coin(0, 0.5, 200)
    assert coin(0, 0.5, 200) != coin(1, 0.5, 200)
    for lmbda in (0.25, 0.5, 0.8):
        assert abs(sum(coin(3, lmbda, 3000)) / 3000 - lmbda) < 0.03
    assert not any(coin(0, 0.0, 500)) and all(coin(0, 1.0, 500))


def test_gkd_mixes_stored_and_own_samples_by_the_coin(
    tiny_pair: Pair, tmp_path: Path, recorded: list[dict[str, Any]]
) -> None:
    values = config(tiny_pair, "gkd", max_steps=6, problems=24)
    run = record(values, tmp_path / "run")
    wanted = coin(values.seed, 0.5, 6)
    assert len(set(wanted)) == 2
    assert [row["on_policy"] for row in run.metrics() if "on_policy" in row] == [float(own) for own in wanted]
    stored = {tuple(row["completion_ids"]) for row in run.samples()}
    for batch, own in zip(recorded, wanted, strict=True):
        assert all(tuple(row) in stored for row in batch["completions"]) != own


def test_the_student_s_own_samples_end_by_their_eos_or_at_the_limit(
    tiny_pair: Pair, tmp_path: Path, recorded: list[dict[str, Any]], student: LanguageModel
) -> None:
    record(config(tiny_pair, "opd_rkl", max_completion_length=10), tmp_path / "run")
    eos = student.tokenizer.eos_token_id
    for row in (row for batch in recorded for row in batch["completions"]):
        assert (row[-1] == eos or len(row) == 10) and row.count(eos) <= 1


# Two tokenizers


def test_divergences_between_two_tokenizers_are_refused_and_sft_is_not(
    tiny_pair: Pair, tiny_other: str, tmp_path: Path, recorded: list[dict[str, Any]], other: LanguageModel
) -> None:
    for method in ("gkd", "opd_rkl"):
        with pytest.raises(BadInputError, match=f"{method} compares next-token distributions.*different tokenizers"):
            record(config(tiny_pair, method, student=tiny_other), tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    run = record(config(tiny_pair, "sft", student=tiny_other), tmp_path / "run")
    for row in run.samples():
        assert other.tokenizer.decode(row["completion_ids"], skip_special_tokens=True) == row["completion"]
    assert all(batch["loss"] == pytest.approx(batch["plain"], rel=2e-4) for batch in recorded)
    assert run.result["steps"] == 2
