"""Private steps: clipped problem by problem, with noise, on Poisson samples, by an accountant's bound."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distilling import config_of, weights
from distillknob.cli.text import result_text
from distillknob.distillation.card import student_card
from distillknob.distillation.check import check
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.stage import distill
from distillknob.distillation.trainer import DistillTrainer
from distillknob.divergences.dense import divergence
from distillknob.errors import BadInputError
from distillknob.inputs.preflight import Preflight
from distillknob.models.load import load_model
from distillknob.runs.run import Run
from pairs import Pair

pytest.importorskip("opacus", reason="private steps need Opacus: pip install 'distillknob[dp]'")

from distillknob.distillation.privacy import Budget, epsilon_of, noise_for

VALUES: dict[str, Any] = {"method": "dp_opd", "problems": 8, "lr_scheduler_type": "constant"}


class Seen(DistillTrainer):
    """Keeps each step's gradient, as the optimizer gets it, the rows that were drawn, and what was generated."""

    steps: list[dict[str, Any]]

    def _drawn(self) -> list[dict[str, Any]]:
        rows = super()._drawn()
        Seen.steps.append({"rows": [row["prompt"][0]["content"] for row in rows], "generated": 0})
        return rows

    def _rolled_out(self, prompt_ids: Any) -> Any:
        Seen.steps[-1]["generated"] = len(prompt_ids)
        return super()._rolled_out(prompt_ids)

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        loss = super().training_step(*args, **kwargs)
        model: Any = self.model
        gradient = {name: weight.grad.clone() for name, weight in model.named_parameters()}
        Seen.steps[-1] |= {"gradient": gradient, "loss": float(loss)}
        return loss


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    monkeypatch.setattr(Seen, "steps", rows, raising=False)
    return rows


def private(pair: Pair, folder: Path, **values: Any) -> Run:
    return distill(config_of(pair, **{**VALUES, **values}), folder, trainer_class=Seen)


def norm(gradient: dict[str, Tensor]) -> float:
    return float(sum(tensor.square().sum() for tensor in gradient.values()) ** 0.5)


def of_examples(pair: Pair, run: Run) -> list[dict[str, Tensor]]:
    """The gradient of each trace's own mean forward KL at the start, by plain forward passes."""
    teacher, student = load_model(pair.teacher), load_model(pair.student)
    gradients = []
    for row in run.samples():
        prompt = student.tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False)
        ids, first = torch.tensor([[*prompt, *row["completion_ids"]]]), len(prompt) - 1
        student.model.zero_grad()
        with torch.no_grad():
            theirs = teacher.model(input_ids=ids).logits[0, first:-1]
        divergence(student.model(input_ids=ids).logits[0, first:-1], theirs, "forward_kl").mean().backward()
        gradients.append({name: weight.grad.clone() for name, weight in student.model.named_parameters()})  # type: ignore[union-attr]
    return gradients


# What a step is


def test_without_noise_a_step_is_the_mean_of_the_clipped_gradients(
    tiny_pair: Pair, tmp_path: Path, steps: list[dict[str, Any]]
) -> None:
    """Every problem is drawn where a batch is all of them. The clipping norm lies between the gradients' norms."""
    alone = private(tiny_pair, tmp_path / "first", dp_noise=0.0, lmbda=0.0, max_steps=1, per_device_train_batch_size=8)
    gradients = of_examples(tiny_pair, alone)
    norms = sorted(map(norm, gradients))
    clip = (norms[3] + norms[4]) / 2
    values = {"dp_noise": 0.0, "lmbda": 0.0, "max_steps": 1, "per_device_train_batch_size": 8}
    private(tiny_pair, tmp_path / "run", **values, dp_max_grad_norm=clip)
    step = steps[-1]
    assert len(set(step["rows"])) == 8
    factors = [min(1.0, clip / norm(gradient)) for gradient in gradients]
    assert sum(factor < 1 for factor in factors) == 4
    for name, gradient in step["gradient"].items():
        parts = [factor * one[name] for factor, one in zip(factors, gradients, strict=True)]
        torch.testing.assert_close(gradient, torch.stack(parts).sum(0) / 8, rtol=1e-3, atol=1e-6)


def test_gradients_of_norm_3_and_a_half_add_1_and_a_half(tiny_pair: Pair, tmp_path: Path) -> None:
    """Opacus' optimizer as it is used here, on two gradients of one problem each."""
    seen: list[Tensor] = []

    class TwoGradients(DistillTrainer):
        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            weights_of: Any = self._gradients.params
            for size in (3.0, 0.5):
                gradients = [torch.zeros(1, *weight.shape) for weight in weights_of]
                gradients[0].flatten()[0] = size
                before = [None if weight.summed_grad is None else weight.summed_grad.clone() for weight in weights_of]
                self._add(gradients)
                start = 0.0 if before[0] is None else before[0]
                seen.append((weights_of[0].summed_grad - start).norm())
            for weight in weights_of:
                weight.grad_sample = weight.summed_grad = None
            return super().training_step(*args, **kwargs)

    settings = config_of(tiny_pair, **VALUES, dp_noise=0.0, max_steps=1)
    distill(settings, tmp_path / "run", trainer_class=TwoGradients)
    assert [float(one) for one in seen] == pytest.approx([1.0, 0.5], rel=1e-4)


def test_what_one_problem_adds_does_not_depend_on_its_batch(
    tiny_pair: Pair, tmp_path: Path, steps: list[dict[str, Any]]
) -> None:
    """One problem less moves the sum before the noise by at most C; here by just that problem's clipped gradient."""
    values = {"dp_noise": 0.0, "lmbda": 0.0, "max_steps": 1, "dp_max_grad_norm": 0.5}
    private(tiny_pair, tmp_path / "all", **values, per_device_train_batch_size=8)
    whole = steps[-1]["gradient"]

    class OneLess(Seen):
        def _drawn(self) -> list[dict[str, Any]]:
            return sorted(super()._drawn(), key=lambda row: str(row["prompt"]))[1:]

    settings = config_of(tiny_pair, **{**VALUES, **values, "per_device_train_batch_size": 8})
    distill(settings, tmp_path / "less", trainer_class=OneLess)
    moved = {name: 8 * (whole[name] - gradient) for name, gradient in steps[-1]["gradient"].items()}
    assert 0.1 < norm(moved) <= 0.5 * 1.001


def test_noise_has_the_size_that_the_accountant_knows_and_is_new_each_time(
    tiny_pair: Pair, tmp_path: Path, steps: list[dict[str, Any]]
) -> None:
    values = {"dp_noise": 50.0, "dp_max_grad_norm": 0.1, "max_steps": 2, "lmbda": 0.0, "learning_rate": 1e-9}
    for name in ("one", "two"):
        private(tiny_pair, tmp_path / name, **values)
    flat = [torch.cat([tensor.flatten() for tensor in step["gradient"].values()]) for step in steps]
    for gradient in flat:  # σ·C over the mean size of a batch; the clipped gradients are lost in it
        assert float(gradient.std()) == pytest.approx(50.0 * 0.1 / 4, rel=0.02)
    assert abs(float(torch.corrcoef(torch.stack([flat[0], flat[2]]))[0, 1])) < 0.02  # the same seed, step and config


def test_samples_are_poisson_s(tiny_pair: Pair, tmp_path: Path, steps: list[dict[str, Any]]) -> None:
    """Eight problems by an eighth of a chance each: batches of several sizes; an empty one is a step of noise alone."""
    values = {"dp_noise": 1.0, "lmbda": 0.0, "max_steps": 40, "max_completion_length": 4}
    private(tiny_pair, tmp_path / "run", **values, per_device_train_batch_size=1)
    sizes = [len(step["rows"]) for step in steps]
    assert len(sizes) == 40 and len(set(sizes)) >= 3 and 0.3 < sum(sizes) / 40 < 1.8
    assert 0 in sizes  # the chance of none is a third a step
    empty = steps[sizes.index(0)]
    assert empty["loss"] == 0.0 and norm(empty["gradient"]) > 0


def test_steps_on_traces_generate_nothing_and_own_samples_are_drawn_for_the_step_s_problems(
    tiny_pair: Pair, tmp_path: Path, steps: list[dict[str, Any]]
) -> None:
    private(tiny_pair, tmp_path / "traces", lmbda=0.0)
    assert [step["generated"] for step in steps] == [0, 0]
    steps.clear()
    private(tiny_pair, tmp_path / "own", lmbda=1.0, traces="none", per_device_train_batch_size=8)
    assert [step["generated"] for step in steps] == [8, 8]


# The bound


def test_the_noise_of_an_epsilon_keeps_it() -> None:
    noise = noise_for(2.0, 1e-5, 0.01, 500)
    spent, less = (epsilon_of(one, 1e-5, 0.01, 500) for one in (noise, 0.99 * noise))
    assert spent is not None and less is not None and spent <= 2.0 < less
    assert spent == pytest.approx(2.0, rel=0.01)
    assert epsilon_of(0.0, 1e-5, 0.01, 500) is None
    more, rarer = epsilon_of(noise, 1e-5, 0.01, 1000), epsilon_of(noise, 1e-5, 0.005, 500)
    assert more is not None and rarer is not None and rarer < spent < more


def test_the_whole_batch_without_sampling_is_the_gaussian_mechanism() -> None:
    """One step that draws everyone: ε by Rényi at order a is a/2σ² + log(1/δ)/(a−1), less what conversion saves."""
    sigma, delta = 4.0, 1e-5
    by_hand = min(a / (2 * sigma**2) + torch.log(torch.tensor(1 / delta)).item() / (a - 1) for a in range(2, 64))
    spent = epsilon_of(sigma, delta, 1.0, 1)
    assert spent is not None and 0.7 * by_hand < spent <= by_hand


def test_a_run_says_what_it_spent(tiny_pair: Pair, tmp_path: Path) -> None:
    run = distill(config_of(tiny_pair, **VALUES, dp_epsilon=8.0), tmp_path / "run")
    spent = run.result["privacy"]
    assert spent["epsilon"] == pytest.approx(8.0, rel=0.02) and spent["epsilon"] <= 8.0
    assert (spent["steps"], spent["problems"], spent["sampling_rate"]) == (2, 8, 0.5)
    assert spent["delta"] == pytest.approx(1 / 80)
    card = (run.path / "model" / "README.md").read_text(encoding="utf-8")
    assert f"ε = {spent['epsilon']:.2f}" in card and "traces, losses and scores are not" in " ".join(card.split())
    assert f"ε = {spent['epsilon']:.2f}" in result_text(run)
    assert DistillConfig(method="dp_opd").objective.epsilon == 2.0


def test_a_run_without_noise_claims_nothing(tiny_pair: Pair, tmp_path: Path) -> None:
    run = distill(config_of(tiny_pair, **VALUES, dp_noise=0.0), tmp_path / "run")
    assert run.result["privacy"]["epsilon"] is None
    assert "not private" in (run.path / "model" / "README.md").read_text(encoding="utf-8")
    assert "no bound" in result_text(run)


def test_without_private_steps_nothing_is_said_of_privacy(tiny_pair: Pair, tmp_path: Path) -> None:
    run = distill(config_of(tiny_pair, method="gkd"), tmp_path / "run")
    assert "privacy" not in run.result and "privacy" not in result_text(run)
    assert "private" not in student_card(config_of(tiny_pair, method="gkd"), run.path, "t", ["math"], 2, None)


def test_an_adapter_is_trained_privately_too(tiny_pair: Pair, tmp_path: Path) -> None:
    values = {"use_peft": True, "lora_r": 4, "lora_target_modules": "all-linear", "merge_adapter": True}
    run = distill(config_of(tiny_pair, **VALUES, **values), tmp_path / "run")
    start = weights(tiny_pair.student)
    assert any((one - start[name]).abs().max() > 1e-4 for name, one in weights(run.path / "model").items())


# What is refused


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"tokens": "tip"}, "tokens=tip.*would depend on the others"),
        ({"tokens_per_step": 10}, "tokens_per_step=10.*would depend"),
        ({"lmbda": 1.0, "traces": "none", "num_generations": 2}, "num_generations=2.*would depend"),
        ({"context": "demonstration"}, "context=demonstration.*would depend"),
        ({"divergence": "relations"}, "divergence=relations.*would depend"),
        ({"gradient_accumulation_steps": 4}, "per_device_train_batch_size to 32"),
        ({"dp_noise": 1.0, "dp_epsilon": 2.0}, "one follows from the other"),
        ({"dp_epsilon": 0.0}, "must be above 0"),
        ({"dp_noise": -1.0}, "must be 0 or more"),
        ({"dp_delta": 1.5}, "between 0 and 1"),
        ({"dp_max_grad_norm": 0.0}, "must be above 0"),
        ({"method": "gkd", "dp_delta": 1e-5}, "no step is private here"),
    ],
)
def test_what_private_steps_cannot_go_with_is_refused(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadInputError, match=reason):
        DistillConfig(**{"method": "dp_opd", **values})


def test_a_problem_that_stands_in_several_rows_is_refused(tiny_pair: Pair, tmp_path: Path) -> None:
    rows = [{"prompt": prompt, "completion": "Yes."} for prompt in ("One?", "Two?", "Three?", "Two?")]
    path = tmp_path / "traces.jsonl"
    values = {**VALUES, "lmbda": 0.0, "traces": "file", "traces_file": str(path), "per_device_train_batch_size": 2}
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with pytest.raises(BadInputError, match=r"one problem 2 times .*Two\?"):
        distill(config_of(tiny_pair, **values), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows[:3]))
    check(config_of(tiny_pair, **values), Preflight(1))
    with pytest.raises(BadInputError, match="the tasks math, math have one problem 2 times"):
        check(config_of(tiny_pair, **VALUES, tasks=["math", "math"]), Preflight(1))


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(BadInputError, match="run in one process, and here are FSDP"):
        DistillConfig(method="dp_opd")


def test_an_epsilon_that_no_noise_keeps_is_told_before_any_work(tiny_pair: Pair, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no noise up to"):
        distill(config_of(tiny_pair, **VALUES, dp_epsilon=1e-7, dp_delta=1e-12), tmp_path / "run")
    assert not (tmp_path / "run" / "samples.jsonl").exists()


def test_a_budget_follows_from_the_config() -> None:
    settings = DistillConfig(method="gkd", dp_noise=1.5, dp_delta=1e-6, per_device_train_batch_size=4)
    budget = Budget.of(settings, 100, 10)
    assert (budget.noise, budget.delta, budget.rate) == (1.5, 1e-6, 0.04)
