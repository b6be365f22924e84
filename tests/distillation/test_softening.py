"""Softening of probabilities: hand-computed cases, laws of composition, a cache's top k, and a short training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from distilling import config_of, keep
from distillknob.distillation.cache.config import CacheConfig
from distillknob.distillation.cache.stage import cache_teacher
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.soft_targets.power import Power, power
from distillknob.distillation.soft_targets.uniform_mix import UniformMix, uniform_mix
from distillknob.divergences.dense import divergence
from distillknob.divergences.top_k import topk_of
from distillknob.errors import BadInputError
from distillknob.methods import METHODS
from pairs import Pair

Z = torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64)
P = Z.softmax(-1)
WIDE = torch.randn(4, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3


def test_a_power_of_probabilities_is_a_temperature_on_logits() -> None:
    softer = power(P.log(), 3.0).softmax(-1)
    assert softer.tolist() == pytest.approx([0.4484, 0.3213, 0.2302], abs=1e-4)
    torch.testing.assert_close(softer, (Z / 3).softmax(-1))
    torch.testing.assert_close(power(WIDE.log_softmax(-1), 3.0).softmax(-1), power(WIDE, 3.0).softmax(-1))


def test_both_compose() -> None:
    torch.testing.assert_close(power(power(WIDE, 2.0), 1.5), power(WIDE, 3.0))
    twice, once = uniform_mix(uniform_mix(WIDE, 0.3), 0.2), uniform_mix(WIDE, 1 - 0.8 * 0.7)
    torch.testing.assert_close(twice, once)
    torch.testing.assert_close(uniform_mix(Z, 0.25).exp(), 0.75 * P + 0.25 / 3)


def test_neutral_values_leave_the_logits_as_they_are() -> None:
    assert power(WIDE, 1.0) is WIDE and uniform_mix(WIDE, 0.0) is WIDE


def test_ties_stay_and_a_zero_stays_under_the_power_alone() -> None:
    tied = torch.tensor([1.0, 1.0, 0.0, -math.inf], dtype=torch.float64)
    by_power, by_mix = power(tied, 3.0).softmax(-1), uniform_mix(tied, 0.2).exp()
    assert by_power[0] == by_power[1] > by_power[2] and by_power[3] == 0
    assert by_mix[0] == by_mix[1] > by_mix[2] and float(by_mix[3]) == pytest.approx(0.2 / 4)
    assert float(by_mix.sum()) == pytest.approx(1) and uniform_mix(tied, 0.0)[3] == -math.inf


@pytest.mark.parametrize("soften", [lambda z: power(z, 4.0), lambda z: uniform_mix(z, 0.4)])
def test_the_ranking_stays_and_the_entropy_rises(soften: Any) -> None:
    softer = soften(WIDE)
    assert torch.equal(softer.argsort(-1), WIDE.argsort(-1))
    before, after = (torch.distributions.Categorical(logits=one).entropy() for one in (WIDE, softer))
    assert (after > before).all()


def test_the_gradient_leads_to_the_softened_target() -> None:
    student = WIDE.flip(-1).clone().requires_grad_()
    divergence(student, power(WIDE, 2.0), "forward_kl").sum().backward()
    torch.testing.assert_close(student.grad, student.detach().softmax(-1) - (WIDE / 2).softmax(-1))


def test_the_power_of_a_top_k_is_that_of_its_logits_and_the_mix_is_not() -> None:
    ids, logprobs, tail, _ = topk_of(WIDE, 8)
    softer, rest = Power(softness=3.0).of_top_k(logprobs, tail, 50)
    torch.testing.assert_close(softer, (WIDE.gather(-1, ids) / 3).log_softmax(-1))
    assert (rest == -math.inf).all()
    cut = logprobs.log_softmax(-1)
    assert (uniform_mix(cut, 0.3) - uniform_mix(WIDE, 0.3).gather(-1, ids).log_softmax(-1)).abs().max() > 1e-3
    mixed, of_others = UniformMix(mix=0.3).of_top_k(logprobs, tail, 50)
    whole = uniform_mix(WIDE, 0.3).exp()
    torch.testing.assert_close(mixed.exp(), whole.gather(-1, ids))
    torch.testing.assert_close(of_others.exp(), 1 - whole.gather(-1, ids).sum(-1))
    every_id, every, nothing, _ = topk_of(WIDE, 50)
    mixed, of_others = UniformMix(mix=0.3).of_top_k(every, nothing, 50)
    torch.testing.assert_close(mixed.exp(), whole.gather(-1, every_id))
    assert (of_others == -math.inf).all()
    for neutral in (Power(softness=1.0), UniformMix(mix=0.0)):
        assert neutral.of_top_k(logprobs, tail, 50) == (logprobs, tail)


SOFTENED = [("kd_power", {"softness": 3.0}), ("kd_uniform_mix", {"mix": 0.3})]


@pytest.mark.parametrize(("method", "options"), SOFTENED)
def test_the_student_learns_the_softened_teacher(
    tiny_pair: Pair, tmp_path: Path, batches: list[dict[str, Any]], method: str, options: dict[str, float]
) -> None:
    plain = keep(config_of(tiny_pair, method=method, soft_target="plain"), tmp_path / "plain")
    neutral = {"softness": 1.0} if method == "kd_power" else {"mix": 0.0}
    same = keep(config_of(tiny_pair, method=method, options=neutral), tmp_path / "neutral")
    softer = keep(config_of(tiny_pair, method=method, options=options), tmp_path / "softer")
    first = [run.metrics()[0]["loss"] for run in (plain, same, softer)]
    assert first[1] == pytest.approx(first[0], rel=1e-4) and abs(first[2] - first[0]) > 1e-3
    assert len(batches) == 6 and all(batch["loss"] > 0 for batch in batches)


@pytest.mark.parametrize(("method", "options"), SOFTENED)
def test_a_cache_serves_a_softened_teacher(
    tiny_pair: Pair, tmp_path: Path, batches: list[dict[str, Any]], method: str, options: dict[str, float]
) -> None:
    shared: dict[str, Any] = {"problems": 12, "max_completion_length": 12}
    cache = cache_teacher(CacheConfig(teacher=tiny_pair.teacher, top_k=8, **shared), tmp_path / "cache").path
    for values in ({"soft_target": "plain"}, {"options": options}):
        keep(config_of(tiny_pair, method=method, cache=str(cache), **values), tmp_path / f"run-{len(batches)}")
    plain, softer = batches[0]["loss"], batches[2]["loss"]
    assert plain > 0 and softer > 0 and abs(plain - softer) > 1e-3


def test_what_a_cache_cannot_soften_is_told() -> None:
    with pytest.raises(BadInputError, match="reverse_kl is infinite"):
        DistillConfig(method="kd_power", divergence="reverse_kl", cache="x")
    with pytest.raises(BadInputError, match="use soft_target power or uniform_mix"):
        DistillConfig(method="logit_standardised", cache="x")
    assert METHODS["kd_power"].soft_target == DistillConfig(method="kd_power", cache="x").objective.soft_target


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "kd_power", "options": {"softness": 0.0}}, "softness to 0.0"),
        ({"method": "kd_uniform_mix", "options": {"mix": 1.0}}, "mix to 1.0"),
        ({"method": "kd_power", "options": {"mix": 0.5}}, "mix"),
        ({"method": "sft", "soft_target": "power"}, "hard_label doesn't learn the teacher's"),
    ],
)
def test_what_makes_no_sense_is_told(values: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        DistillConfig(**values)
