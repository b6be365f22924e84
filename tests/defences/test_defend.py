"""The stage `defend`: its losses by the textbook, which weights move, and a run that goes on where it was stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from distillknob import tasks
from distillknob.cli.text import result_text
from distillknob.defences.config import DefendConfig
from distillknob.defences.losses import Repelled
from distillknob.defences.stage import defend, tokens_before_the_answer
from distillknob.defences.trainer import DefendTrainer
from distillknob.defences.weights import add_noise, train_head_alone, untie
from distillknob.distillation.losses import States, View
from distillknob.errors import BadInputError, RunFailedError
from distillknob.models.heads import Head
from distillknob.models.load import load_model
from distillknob.runs.model_record import RECORD
from distillknob.runs.run import Run
from distillknob.tasks import get_task, register_task
from distillknob.tasks.generated.qa import QA
from interrupted import Stopped
from pairs import Pair
from result_types import faults_below


class Even(QA):
    """Questions on which tiny models are right now and then: an answer of even length is. The last word is what they
    commit to."""

    name = "even"

    def grade(self, completion: str, reference: Any) -> float:
        return float(len(completion) % 2 == 0)

    def committed(self, completion: str) -> str | None:
        return completion.split()[-1] if completion.split() else None


@pytest.fixture(autouse=True)
def _even(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "_REGISTRY", dict(tasks._REGISTRY))
    register_task("even", Even)


def config(pair: Pair, **values: Any) -> DefendConfig:
    return DefendConfig(
        **{
            "teacher": pair.teacher,
            "proxy": pair.student,
            "tasks": ["even"],
            "problems": 12,
            "candidates": 6,
            "max_steps": 6,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-2,
            "lr_scheduler_type": "constant",
            "gradient_checkpointing": False,
            "max_completion_length": 24,
            **values,
        }
    )


def tensors(run: Run) -> dict[str, torch.Tensor]:
    return load_file(run.path / "model" / "model.safetensors")


# The loss


def head(seed: int, width: int = 5, hidden: int = 3) -> Head:
    torch.manual_seed(seed)
    return Head(torch.randn(width, hidden), None, 1.0, None)


def view(own: Head, reference: Head, kl_mask: list[list[bool]], items: float) -> tuple[View, torch.Tensor]:
    torch.manual_seed(5)
    hidden = torch.randn(2, 3, 3, requires_grad=True)
    there = torch.randn(2, 3, 3)
    batch = {
        "completion_ids": torch.tensor([[1, 2, 3], [4, 0, 0]]),
        "kl_mask": torch.tensor(kl_mask),
        "kl_items": torch.tensor([items, items]),
    }
    counted = torch.tensor([[True, True, True], [True, False, False]])
    seen = View(batch, counted, 4, lambda: States(own, hidden), lambda prompt, model: States(reference, there))
    return seen, hidden


@pytest.mark.parametrize(("temperature", "squared"), [(2.0, False), (4.0, True)])
def test_the_loss_is_cross_entropy_less_a_masked_mean_of_the_kl(temperature: float, squared: bool) -> None:
    own, reference, mask = head(1), head(2), [[True, True, False], [True, False, False]]
    seen, hidden = view(own, reference, mask, 3.0)
    loss = Repelled(0.3, temperature, squared=squared)
    value = loss.value(seen)
    (gradient,) = torch.autograd.grad(value, hidden)

    again = hidden.detach().requires_grad_()
    logits, theirs = again @ own.weight_VH.T, seen.teacher().hidden_BCH @ reference.weight_VH.T
    ids = seen.batch["completion_ids"]
    nll = -logits.log_softmax(-1).gather(-1, ids[..., None])[..., 0][seen.counted_BC].sum() / 4
    p, q = (logits / temperature).log_softmax(-1), (theirs / temperature).log_softmax(-1)
    kl = (p.exp() * (p - q)).sum(-1)[torch.tensor(mask)].mean()
    expected = nll - 0.3 * kl * (temperature**2 if squared else 1)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, again)[0])
    assert loss.parts == {"cross_entropy": pytest.approx(float(nll)), "kl": pytest.approx(float(kl))}


def test_a_micro_batch_without_a_token_for_the_kl_has_the_cross_entropy_alone() -> None:
    seen, _ = view(head(1), head(2), [[False] * 3] * 2, 3.0)
    loss = Repelled(0.3, 2.0, squared=False)
    plain, _ = view(head(1), head(2), [[True] * 3] * 2, 3.0)
    torch.testing.assert_close(loss.value(seen), Repelled(0.0, 2.0, squared=False).value(plain))
    assert loss.parts["kl"] == 0


def test_a_kl_that_is_infinite_stays_so() -> None:
    """Two heads with a bias of −inf in another place: a token that is possible to one and not to the other."""
    never = torch.zeros(5)
    never[2] = -torch.inf
    seen, _ = view(head(1), Head(head(2).weight_VH, never, 1.0, None), [[True] * 3] * 2, 3.0)
    assert float(Repelled(0.3, 2.0, squared=False).value(seen)) == -float("inf")


# The tokens before the answer


@pytest.mark.parametrize("name", ["math", "qa", "instruct"])
def test_the_tokens_before_the_answer_are_those_of_the_working(teacher: Any, name: str) -> None:
    task, tokenizer = get_task(name), teacher.tokenizer
    for example in task.examples("train", 10):
        for text in example.solutions.values():
            ids = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
            before = tokens_before_the_answer(task, tokenizer, text, ids)
            working, answer = tokenizer.decode(ids[:before]), tokenizer.decode(ids[before:], skip_special_tokens=True)
            assert task.committed(answer) == task.committed(text)
            assert (task.committed(working) is None) and (name != "instruct" or before == 0)


# Weights


def test_a_tied_head_gets_a_copy_of_its_own_that_is_saved_with_the_model(tiny_pair: Pair, tmp_path: Path) -> None:
    model: Any = load_model(tiny_pair.teacher).model
    model.config.tie_word_embeddings = True
    model.tie_weights()
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert untie(model) and not untie(model)
    train_head_alone(model)
    assert [name for name, p in model.named_parameters() if p.requires_grad] == ["lm_head.weight"]
    with torch.no_grad():
        model.get_output_embeddings().weight.add_(1.0)
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    torch.testing.assert_close(saved["lm_head.weight"], saved["model.embed_tokens.weight"] + 1.0)


def test_noise_moves_what_is_trained_by_a_share_of_its_size(tiny_pair: Pair) -> None:
    model, original = (load_model(tiny_pair.teacher).model for _ in range(2))
    model.get_input_embeddings().requires_grad_(False)
    add_noise(model, 0.01, seed=3)
    again = load_model(tiny_pair.teacher).model
    again.get_input_embeddings().requires_grad_(False)
    add_noise(again, 0.01, seed=3)
    for (name, moved), before, repeated in zip(
        model.named_parameters(), original.parameters(), again.parameters(), strict=True
    ):
        share = float((moved - before).norm() / before.norm())
        assert share == 0 if not moved.requires_grad else 0.003 < share < 0.03, name
        assert torch.equal(moved, repeated)


# The stage


@pytest.fixture(scope="module")
def tied(tiny_pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """The tiny pair, the teacher's head and embedding being one matrix."""
    folder = tmp_path_factory.mktemp("tied")
    loaded = load_model(tiny_pair.teacher)
    model: Any = loaded.model
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)
    return Pair(str(folder), tiny_pair.student)


def test_doge_raises_the_kl_to_the_proxy_and_moves_the_head_alone(tied: Pair, tmp_path: Path) -> None:
    run = defend(config(tied, strength=2.0), tmp_path / "run")
    assert run.result["untied"] and run.result["moved"] == "head"
    first, last = run.result["kl"]
    rows = [row["kl"] for row in run.metrics() if row.get("kl") is not None]
    assert len(rows) == 6 and rows[-1] > rows[0] and (first, last) == (rows[0], pytest.approx(sum(rows) / 6))
    before, after = load_file(Path(tied.teacher) / "model.safetensors"), tensors(run)
    changed = {name for name in after if name not in before or not torch.equal(after[name], before[name])}
    assert changed == {"lm_head.weight"}
    loaded: Any = load_model(str(run.path / "model")).model
    assert torch.equal(loaded.get_output_embeddings().weight, after["lm_head.weight"])
    assert not faults_below(run.path) and not (run.path / "model" / RECORD).exists()
    assert "its head" in result_text(run) and "defended by doge" in (run.path / "model" / "README.md").read_text()


def test_without_strength_it_is_sft_on_ones_own_answers(tiny_pair: Pair, tmp_path: Path) -> None:
    run = defend(config(tiny_pair, strength=0, trained="all"), tmp_path / "run")
    first, last = (row["cross_entropy"] for row in (run.metrics()[0], run.metrics()[5]))
    assert last < first and run.metrics()[0]["loss"] == pytest.approx(first)


def test_a_nasty_teacher_leaves_the_original_which_a_plain_copy_could_not(tiny_pair: Pair, tmp_path: Path) -> None:
    values = {"method": "nasty", "strength": 0.5, "max_steps": 5}
    run = defend(config(tiny_pair, **values), tmp_path / "run")
    rows = [row["kl"] for row in run.metrics() if row.get("kl") is not None]
    assert 0 < rows[0] < rows[-1] and run.result["reference"] == tiny_pair.teacher

    # A copy's KL is 0, and so is its gradient: the loss is the cross-entropy alone.
    own = head(1)
    seen, hidden = view(own, own, [[True] * 3] * 2, 6.0)
    there = States(own, hidden.detach())
    copied = View(seen.batch, seen.counted_BC, 4, lambda: States(own, hidden), lambda prompt, model: there)
    gradients = [
        torch.autograd.grad(Repelled(strength, 4.0, squared=True).value(copied), hidden)[0] for strength in (0.0, 0.5)
    ]
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=0)


def test_an_adapter_is_trained_and_saved_as_one(tiny_pair: Pair, tmp_path: Path) -> None:
    run = defend(config(tiny_pair, use_peft=True, lora_r=2, max_steps=2), tmp_path / "run")
    assert run.result["moved"] == "adapter" and (run.path / "model" / "adapter_model.safetensors").exists()


def test_a_resumed_run_ends_as_an_unbroken_one(tiny_pair: Pair, tmp_path: Path) -> None:
    values = {"method": "nasty", "strength": 0.5, "max_steps": 4, "save_strategy": "steps", "save_steps": 1}
    whole = defend(config(tiny_pair, **values), tmp_path / "whole")

    class StoppedTrainer(DefendTrainer):
        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            if self.state.global_step == 2:
                raise Stopped
            return super().training_step(*args, **kwargs)

    with pytest.raises(Stopped):
        defend(config(tiny_pair, **values), tmp_path / "part", trainer_class=StoppedTrainer)
    resumed = defend(config(tiny_pair, **values), tmp_path / "part", resume=True)
    ours, theirs = tensors(resumed), tensors(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert resumed.samples() == whole.samples()
    assert defend(config(tiny_pair, **values), tmp_path / "part").path == resumed.path  # complete: as it is


def test_a_kl_that_is_infinite_ends_the_run(tiny_pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(DefendTrainer):
        def _compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            loss, *rest = super()._compute_loss(*args, **kwargs)
            return loss - float("inf"), *rest

    with pytest.raises(RunFailedError, match=r"loss.* not finite at step 1"):
        defend(config(tiny_pair), tmp_path / "run", trainer_class=Broken)


# What is refused


def refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        make()


def test_a_proxy_with_another_tokenizer_is_refused_before_any_work(
    tiny_pair: Pair, tiny_other: str, tmp_path: Path
) -> None:
    values = config(tiny_pair, proxy=tiny_other)
    refused(lambda: defend(values, tmp_path / "run"), "another tokenizer than the teacher")
    assert not (tmp_path / "run").exists()


def test_a_task_whose_answers_have_no_working_is_refused(tiny_pair: Pair, tmp_path: Path) -> None:
    class Whole(Even):
        name = "whole"

        def committed(self, completion: str) -> str | None:
            return completion or None

    register_task("whole", Whole)
    values = config(tiny_pair, tasks=["whole"])
    refused(lambda: defend(values, tmp_path / "run"), "no right answer to whole has any: .* or method nasty")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "nice"}, "method='nice'"),
        ({"method": "nasty", "noise": 0}, "noise=0: from the original itself the KL has no gradient"),
        ({"strength": -1.0}, "strength=-1.0"),
        ({"kl_temperature": 0.0}, "kl_temperature=0.0"),
        ({"trained": "body"}, "trained='body'"),
        ({"trained": "head", "use_peft": True}, "trained='head' moves the head itself"),
        ({"temperature": 2.0}, "temperature=2.0 does nothing in defend: kl_temperature"),
        ({"beta": 0.5}, "beta=0.5 does nothing in defend: strength"),
        ({"teacher_model_revision": "old"}, "use that"),
        ({"tasks": []}, "tasks is empty"),
        ({"top_p": 0.9}, "top_p=0.9"),
    ],
)
def test_settings_that_cannot_work_are_refused(tiny_pair: Pair, values: dict[str, Any], message: str) -> None:
    refused(lambda: config(tiny_pair, **values), message)
