"""The dense divergences: one table of properties for every kind, numbers worked out by hand, float64 references."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distillknob.divergences.dense import KINDS, divergence
from distillknob.divergences.per_token import token_stats
from textbook import LOG2, LOG3, pair, reference

BOUNDED = ("jsd", "skew_forward_kl", "skew_reverse_kl", "total_variation")


OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"temperature": 2.5},
    {"beta": 0.1, "alpha": 0.7},
    {"beta": 0.9, "jsd_scale": "unit", "temperature": 0.5},
    {"top_k": 3},
    {"t2": True, "temperature": 3.0, "top_k": 1},
)


any_pair = st.builds(
    pair,
    seed=st.integers(0, 2**31),
    vocabulary=st.integers(1, 70),
    distance=st.sampled_from([0.0, 1e-4, 1e-2, 1.0, 30.0]),
    offset=st.sampled_from([0.0, -17.0, 1e4]),
)


any_dtype = st.sampled_from([torch.float32, torch.bfloat16, torch.float64])


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(logits=any_pair, dtype=any_dtype, options=st.sampled_from(OPTIONS), data=st.data())
def test_properties_that_every_kind_has(
    kind: str, logits: tuple[Tensor, Tensor], dtype: torch.dtype, options: dict[str, Any], data: st.DataObject
) -> None:
    student, teacher = (t.to(dtype) for t in logits)
    # Some tokens impossible for both, for the student alone and for the teacher alone; never all.
    for tensors in data.draw(st.lists(st.sampled_from([(student, teacher), (student,), (teacher,)]), max_size=2)):
        token = data.draw(st.integers(0, student.shape[1]))
        if 0 < token < student.shape[1]:
            for tensor in tensors:
                tensor[0, token] = -math.inf
    student.requires_grad_()
    teacher.requires_grad_()
    value = divergence(student, teacher, kind, **options)
    value.sum().backward()

    assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert value.shape == student.shape[:-1]
    assert (value >= 0).all()  # and so no NaN
    assert teacher.grad is None and student.grad is not None
    assert student.grad.isfinite().all()
    if kind in BOUNDED:
        assert value.isfinite().all()
    if kind == "total_variation":
        most = options.get("temperature", 1) ** 2 if options.get("t2") else 1
        assert (value <= most * (1 + 1e-5)).all()
    # The models' logits matter up to a constant: the gradient has no part along it, but for bfloat16's rounding of each
    # entry by up to 2^-8 of its size: once as it is stored, and again where backward multiplies it by T².
    rounding = (2 if options.get("t2") else 1) * 2**-8 if dtype == torch.bfloat16 else 0.0
    along, size = student.grad.double().sum(-1).abs(), student.grad.double().abs().sum(-1)
    assert (along <= 1e-4 + rounding * size).all()
    # Identical models: exactly zero, and so is the gradient.
    same = student.detach().clone().requires_grad_()
    nothing = divergence(same, same.detach().clone(), kind, **options)
    nothing.sum().backward()
    assert (nothing == 0).all()
    assert same.grad is not None and (same.grad == 0).all()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    vocabulary=st.sampled_from([2, 40, 700, 33_000]),
    distance=st.sampled_from([1e-3, 1e-2, 0.3, 3.0, 30.0]),
    offset=st.sampled_from([0.0, 20.0]),
    options=st.sampled_from(
        ({}, {"temperature": 2.0}, {"temperature": 0.1}, {"beta": 0.99}, {"beta": 1e-3, "alpha": 0.9})
    ),
)
def test_float32_is_right_to_1e5_relative_down_to_1e6(
    kind: str, seed: int, vocabulary: int, distance: float, offset: float, options: dict[str, Any]
) -> None:
    student, teacher = pair(seed, vocabulary, distance, offset, rows=4)
    value = divergence(student, teacher, kind, **options).double()
    truth = reference(student, teacher, kind, **options)
    assert ((value - truth).abs() <= 1e-5 * truth.clamp_min(1e-6)).all()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20, deadline=None)
@given(logits=any_pair, beta=st.sampled_from([0.01, 0.3, 0.99]), alpha=st.sampled_from([0.01, 0.5, 0.99]))
def test_float64_agrees_with_the_textbook(kind: str, logits: tuple[Tensor, Tensor], beta: float, alpha: float) -> None:
    student, teacher = (t.double() for t in logits)
    value = divergence(student, teacher, kind, beta=beta, alpha=alpha)
    # At an offset of 1e4 the reference's own log-softmax has lost four digits.
    torch.testing.assert_close(value, reference(student, teacher, kind, beta, alpha), rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_by_finite_differences(kind: str, options: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(3)
    student, teacher = (2 * torch.randn(5, 7, generator=generator, dtype=torch.float64) for _ in "st")
    student[0, 2] = teacher[0, 2] = -math.inf
    possible = student[0] > -math.inf

    def of_possible(x: Tensor) -> Tensor:  # finite differences can't step a −inf
        rows = student.clone()
        rows[0] = rows[0].masked_scatter(possible, x[:6])
        rows[1:] = x[6:].view(4, 7)
        return divergence(rows, teacher, kind, **options)

    x = torch.cat([student[0][possible], student[1:].flatten()]).requires_grad_()
    assert torch.autograd.gradcheck(of_possible, (x,))


@pytest.mark.parametrize("kind", KINDS)
def test_a_chain_of_blocks_is_one_computation(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = pair(1, 50, 1.0, rows=9)
    whole = divergence(student, teacher, kind)
    monkeypatch.setattr("distillknob.divergences.kernel.CORE_CACHE_BYTES", 4 * 100)
    torch.testing.assert_close(divergence(student, teacher, kind), whole, rtol=1e-6, atol=0)
    torch.testing.assert_close(divergence(student.view(3, 3, 50), teacher.view(3, 3, 50), kind).flatten(), whole)
    assert divergence(student[0], teacher[0], kind).shape == ()
    assert divergence(student[:0], teacher[:0], kind).shape == (0,)


# Teacher (½, ½), student (¼, ¾); m = (3/8, 5/8) for β = ½; (0.5·½ + 0.5·¼, …) for α = ½ is the same m.
BY_HAND = {
    "forward_kl": LOG2 - LOG3 / 2,  # ½·log(½/¼) + ½·log(½/¾)
    "reverse_kl": 3 / 4 * LOG3 - LOG2,  # ¼·log(¼/½) + ¾·log(¾/½)
    "jsd": (math.log(4 / 3) / 2 + math.log(4 / 5) / 2) / 2 + (math.log(2 / 3) / 4 + 3 / 4 * math.log(6 / 5)) / 2,
    "skew_forward_kl": math.log(4 / 3) / 2 + math.log(4 / 5) / 2,
    "skew_reverse_kl": math.log(2 / 3) / 4 + 3 / 4 * math.log(6 / 5),
    "total_variation": 1 / 4,
}


@pytest.mark.parametrize("kind", KINDS)
def test_two_tokens_by_hand(kind: str) -> None:
    student, teacher = torch.tensor([[0.25, 0.75]]).log(), torch.zeros(1, 2)
    assert divergence(student, teacher, kind, alpha=0.5).item() == pytest.approx(BY_HAND[kind], rel=1e-6)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("forward_kl", math.inf),  # the student can't say what the teacher does half the time
        ("reverse_kl", LOG2),  # log(1/½)
        ("jsd", (math.log(2 / 3) / 2 + LOG2 / 2) / 2 + math.log(4 / 3) / 2),  # m = (3/4, 1/4)
        ("skew_forward_kl", math.log(0.5 / 0.95) / 2 + math.log(10) / 2),
        ("skew_reverse_kl", -math.log(0.55)),
        ("total_variation", 0.5),
    ],
)
def test_impossible_tokens_by_hand(kind: str, expected: float) -> None:
    student = torch.tensor([[0.0, -math.inf, -math.inf]], requires_grad=True)
    value = divergence(student, torch.tensor([[0.0, 0.0, -math.inf]]), kind)
    value.sum().backward()
    assert value.item() == pytest.approx(expected, rel=5e-6)
    assert student.grad is not None and student.grad.tolist() == [[0, 0, 0]]


def test_an_impossible_token_of_the_teacher_makes_the_reverse_kl_infinite_and_its_gradient_zero() -> None:
    student = torch.zeros(2, 3, requires_grad=True)
    teacher = torch.tensor([[0.0, 0.0, -math.inf], [1.0, 0.0, 0.0]])
    value = divergence(student, teacher, "reverse_kl")
    value.sum().backward()
    assert value[0] == math.inf
    assert value[1].isfinite()
    assert student.grad is not None
    assert (student.grad[0] == 0).all()
    assert (student.grad[1] != 0).any()


@pytest.mark.parametrize("kind", KINDS)
def test_extreme_logits(kind: str) -> None:
    student = torch.tensor([[1e4, -1e4, 0.0], [1e4, 1e4, -1e4], [0.0, 1e4, -1e4]], requires_grad=True)
    teacher = torch.tensor([[-1e4, 1e4, 0.0], [1e4, 1e4, -1e4], [0.0, 1e4, 1e4]])
    value = divergence(student, teacher, kind)
    value.sum().backward()
    torch.testing.assert_close(value.double(), reference(student, teacher, kind).detach(), rtol=5e-6, atol=1e-15)
    assert student.grad is not None and student.grad.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_rows_without_a_distribution_are_nan_and_spoil_no_other(kind: str) -> None:
    student = torch.zeros(4, 3)
    student[0] = -math.inf
    student[1, 1] = math.nan
    student[2, 0] = math.inf
    assert divergence(student, torch.ones(4, 3), kind).isnan().tolist() == [True, True, True, False]


@pytest.mark.parametrize("kind", KINDS)
def test_a_padded_vocabulary_changes_nothing(kind: str) -> None:
    student, teacher = pair(5, 30, 1.0)
    padding = torch.full((8, 6), 3.0)  # what an untrained embedding row may well say
    value = divergence(student, teacher, kind)
    torch.testing.assert_close(divergence(torch.cat([student, padding], 1), teacher, kind), value)
    torch.testing.assert_close(divergence(student, torch.cat([teacher, padding], 1), kind), value)
    assert (divergence(torch.cat([teacher, padding], 1), teacher, kind) == 0).all()


def test_bf16_keeps_a_small_kl() -> None:
    # Liger's kernel, in bfloat16 throughout, is 22 % off at a KL of 2e-4.
    student, teacher = (t.bfloat16() for t in pair(2, 500, 0.02))
    truth = reference(student, teacher, "forward_kl")
    assert 1e-5 < truth.min() < 1e-3
    torch.testing.assert_close(divergence(student, teacher, "forward_kl").double(), truth, rtol=1e-5, atol=0)


def test_the_ends_of_jsd() -> None:
    student, teacher = pair(7, 40, 2.0)
    for beta, kind in ((0.0, "forward_kl"), (1.0, "reverse_kl")):
        kl = divergence(student, teacher, kind)
        near = abs(beta - 1e-6)
        for scale in ("trl", "unit"):
            assert torch.equal(divergence(student, teacher, "jsd", beta=beta, jsd_scale=scale), kl)
        unit = divergence(student.double(), teacher.double(), "jsd", beta=near, jsd_scale="unit")
        torch.testing.assert_close(unit.float(), kl, rtol=1e-3, atol=1e-6)  # continuous
        assert (divergence(student, teacher, "jsd", beta=near) < 1e-4).all()  # TRL's jumps
    trl = divergence(student, teacher, "jsd", beta=0.3)
    torch.testing.assert_close(divergence(student, teacher, "jsd", beta=0.3, jsd_scale="unit"), trl / (0.3 * 0.7))


@pytest.mark.parametrize("end", ["forward_kl", "reverse_kl"])
def test_a_skew_of_zero_is_the_kl(end: str) -> None:
    student, teacher = pair(8, 40, 2.0)
    assert torch.equal(divergence(student, teacher, "skew_" + end, alpha=0.0), divergence(student, teacher, end))


def test_t2_keeps_the_gradients_size() -> None:
    student, teacher = (t.double() / 100 for t in pair(9, 40, 2.0))
    sizes = []
    for temperature in (1.0, 4.0):
        x = student.clone().requires_grad_()
        divergence(x, teacher, "forward_kl", temperature=temperature, t2=True).sum().backward()
        assert x.grad is not None
        sizes.append(x.grad.norm().item())
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


@pytest.mark.parametrize("beta", [0.0, 0.2, 0.5, 1.0])
def test_gkd_agrees(beta: float) -> None:
    from trl.experimental.gkd import GKDTrainer

    student, teacher = (t.double().view(2, 4, 40) for t in pair(11, 40, 1.0))
    theirs = GKDTrainer.generalized_jsd_loss(student, teacher, beta=beta, temperature=1.7, reduction="none").sum(-1)
    ours = divergence(student, teacher, "jsd", beta=beta, temperature=1.7)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_does_not_lower_the_precision(kind: str) -> None:
    student, teacher = pair(2, 60, 3.0)
    student.requires_grad_()
    student_logits = student
    found = []
    for enabled in (False, True):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            value = divergence(student_logits, teacher, kind)
            stats = token_stats(student, teacher, [3])
        found.append((value, *torch.autograd.grad(value.sum(), student), stats.student_entropy, stats.reverse_kl))
    assert all(torch.equal(plain, cast) for plain, cast in zip(*found, strict=True))
