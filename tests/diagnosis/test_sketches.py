"""Sketches of gradients against the gradients."""

from __future__ import annotations

import torch
from torch.nn import Parameter

from distillknob.diagnosis.sketches import EXACT, SKETCH, GradientSums, _signs, fold, products
from scored import noise

SMALL = 1009  # numbers of a sketch whose error is large enough to be measured


def sketched(vector: torch.Tensor, seed: int, size: int = SMALL) -> torch.Tensor:
    signs, into = _signs(torch.Generator().manual_seed(seed), size), torch.zeros(size)
    fold(vector, f"name {seed}", signs, into)
    return into


def vectors() -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Pairs with little in common and much, without a pattern and with those that weights have."""
    length = 20 * SMALL + 17
    a, b = noise(length), noise(length, seed=2)
    columns = torch.zeros(length)
    columns[::64] = 1.0  # one input of a layer alone
    steps = torch.arange(length).div(SMALL, rounding_mode="floor").float()
    return {"noise": (a, b), "near": (a, a + 0.1 * b), "columns": (columns, columns * b), "blocks": (steps + a, steps)}


def test_inner_products_are_right_in_the_mean_and_within_the_stated_error() -> None:
    for name, (a, b) in vectors().items():
        lengths, expected = float(a.norm() * b.norm()), float(torch.dot(a.double(), b.double()))
        errors = torch.tensor(
            [(float(torch.dot(sketched(a, seed), sketched(b, seed))) - expected) / lengths for seed in range(400)]
        )
        assert float(errors.square().mean().sqrt()) <= 1.15 * 2 / SMALL**0.5, name
        assert abs(float(errors.mean())) <= 4 * float(errors.std()) / 400**0.5, name


def test_sketches_add_up_and_follow_from_the_name_alone() -> None:
    a, b = noise(3 * SMALL + 5), noise(3 * SMALL + 5, seed=2)
    assert torch.allclose(sketched(a + b, 3), sketched(a, 3) + sketched(b, 3), atol=1e-4)
    assert torch.equal(sketched(a, 3), sketched(a, 3)) and not torch.allclose(sketched(a, 3), sketched(a, 4))
    short = sketched(a[:7], 3)  # no two of a block meet
    assert torch.equal(short[short != 0].abs().sort().values, a[:7].abs().sort().values)


def test_gradients_are_collected_parameter_by_parameter_and_let_go() -> None:
    weights = {"a": Parameter(noise(40, 50)), "b": Parameter(noise(50, seed=2)), "c": Parameter(noise(3, seed=3))}
    weights["b"].grad = torch.ones(50)
    expected = torch.autograd.grad((weights["a"] @ weights["b"]).square().sum(), [weights["a"], weights["b"]])
    for exact in (EXACT, 0):
        sums = GradientSums(weights, 2, exact)
        for _ in range(2):
            with sums.collecting(1):
                (weights["a"] @ weights["b"]).square().sum().backward()
        assert weights["a"].grad is None and torch.equal(weights["b"].grad, torch.ones(50))
        assert not sums.values[0].any()
        if sums.whole:
            assert torch.allclose(sums.values[1], 2 * torch.cat([*(e.reshape(-1) for e in expected), torch.zeros(3)]))
        else:
            assert sums.values.size(1) == SKETCH
            square = 4 * sum(float(e.square().sum()) for e in expected)
            assert abs(float(products(list(sums.values))[1, 1]) / square - 1) < 5 * 2 / SKETCH**0.5
