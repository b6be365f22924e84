"""Plackett–Luce lists: hand-computed values and gradients, invariances, the cut at K, and what a label is."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from distilling import config_of, keep
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.losses.plackett_luce import plackett_luce, rank_only
from distillknob.errors import BadInputError
from pairs import Pair

TEACHER = torch.tensor([[2.0, 1.0, 0.0]], dtype=torch.float64)
GENERATOR = torch.Generator().manual_seed(5)
OURS, THEIRS = (torch.randn(6, 30, generator=GENERATOR, dtype=torch.float64) * 2 for _ in range(2))
LABELS = torch.randint(30, (6,), generator=GENERATOR)


def pld(student: Tensor, teacher: Tensor, label: Tensor, *, labelled: bool = True, **options: Any) -> Tensor:
    return plackett_luce(student, teacher, label, torch.full_like(label, int(labelled)), **{"top_k": 99, **options})


def textbook(student: Tensor, teacher: Tensor, label: int | None) -> float:
    """The paper's loss of one token over its whole vocabulary, term by term."""
    order = sorted(range(len(teacher)), key=lambda i: (i != label, -float(teacher[i])))
    alpha = teacher.softmax(-1)
    places = [alpha[one] * (student[order[k:]].logsumexp(-1) - student[one]) for k, one in enumerate(order)]
    return float(torch.stack(places).sum())


def test_the_value_and_the_gradient_by_hand() -> None:
    student = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    value = pld(student, TEACHER, torch.tensor([0]))
    alpha = TEACHER[0].softmax(-1)
    assert float(value.detach()) == pytest.approx(float(alpha[0] * math.log(3) + alpha[1] * math.log(2)))
    assert float(value.detach()) == pytest.approx(0.90047, abs=1e-5)
    value.sum().backward()
    assert student.grad is not None
    assert student.grad[0].tolist() == pytest.approx([-0.4435, 0.0994, 0.3441], abs=1e-4)
    assert float(pld(torch.zeros(1, 3), TEACHER, torch.tensor([2]))) == pytest.approx(0.56002, abs=1e-5)


def test_where_both_agree_the_gradient_is_not_zero() -> None:
    """The loss isn't proper: the page of methods says so, and this holds it to that."""
    student = TEACHER.clone().requires_grad_()
    pld(student, TEACHER, torch.tensor([0])).sum().backward()
    assert student.grad is not None
    assert student.grad[0].tolist() == pytest.approx([-0.2227, 0.0970, 0.1257], abs=1e-4)
    assert float(pld(40 * TEACHER, TEACHER, torch.tensor([0]))) < 1e-9


@pytest.mark.parametrize("labelled", [True, False])
def test_with_every_token_listed_it_is_the_textbook_s(labelled: bool) -> None:
    ours = pld(OURS, THEIRS, LABELS, labelled=labelled)
    rows = zip(OURS, THEIRS, LABELS.tolist(), strict=True)
    assert ours.tolist() == pytest.approx([textbook(s, t, y if labelled else None) for s, t, y in rows])
    torch.testing.assert_close(pld(OURS + 7, THEIRS, LABELS, labelled=labelled), ours)
    assert not torch.allclose(pld(2 * OURS, THEIRS, LABELS, labelled=labelled), ours)


def test_a_cut_list_keeps_the_whole_vocabulary_in_its_denominators() -> None:
    cut, whole = pld(OURS, THEIRS, LABELS, top_k=28), pld(OURS, THEIRS, LABELS, top_k=29)
    assert (whole - cut >= 0).all() and (whole - cut).max() < 0.02  # the places left out weigh next to nothing
    alone = pld(OURS, THEIRS, LABELS, top_k=1)
    alpha, rest = THEIRS.softmax(-1), OURS.scatter(-1, LABELS[:, None], -math.inf)
    second = THEIRS.scatter(-1, LABELS[:, None], -math.inf).argmax(-1)
    first = alpha.gather(-1, LABELS[:, None])[:, 0] * cross_entropy(OURS, LABELS, reduction="none")
    after = alpha.gather(-1, second[:, None])[:, 0] * cross_entropy(rest, second, reduction="none")
    torch.testing.assert_close(alone, first + after)


def test_gradients_of_a_cut_list_are_those_of_differences() -> None:
    student = OURS.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: pld(s, THEIRS, LABELS, top_k=5), (student,))
    assert torch.autograd.gradcheck(lambda s: rank_only(s, THEIRS, LABELS, top_k=5), (student,))


def test_a_sure_teacher_leaves_the_cross_entropy() -> None:
    sure = torch.full((6, 30), -200.0).double().scatter(-1, LABELS[:, None], 0.0)
    torch.testing.assert_close(pld(OURS, sure, LABELS, top_k=5), cross_entropy(OURS, LABELS, reduction="none"))


def test_ranks_alone_are_copied() -> None:
    plain = rank_only(OURS, THEIRS, LABELS, top_k=5)
    torch.testing.assert_close(rank_only(OURS, THEIRS.sinh(), LABELS, top_k=5), plain)
    of_label = torch.zeros_like(OURS).scatter(-1, LABELS[:, None], 3.0)
    torch.testing.assert_close(rank_only(OURS + of_label, THEIRS + of_label, LABELS, top_k=5), plain)
    student = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    value = rank_only(student, TEACHER, torch.tensor([1]), top_k=9)
    assert float(value.detach()) == pytest.approx(math.log(2) / 2)  # of two places, the second of which is certain
    value.sum().backward()
    assert student.grad is not None and student.grad[0].tolist() == pytest.approx([-0.25, 0.0, 0.25])


def test_on_stored_traces_their_token_is_first_and_on_own_samples_the_teacher_s(
    tiny_pair: Pair, tmp_path: Path, batches: list[dict[str, Any]]
) -> None:
    for lmbda in (0.0, 1.0):
        run = keep(config_of(tiny_pair, method="pld", lmbda=lmbda, options={"top_k": 4}), tmp_path / f"run-{lmbda}")
        assert all(row["loss"] > 0 for row in run.metrics() if "loss" in row)
    assert [int(batch["labelled"].unique()) for batch in batches] == [1, 1, 0, 0]


def test_a_student_learns_ranks_beside_its_labels(
    tiny_pair: Pair, tmp_path: Path, batches: list[dict[str, Any]]
) -> None:
    keep(config_of(tiny_pair, method="rank_only", max_steps=1, options={"top_k": 4}), tmp_path / "run")
    keep(config_of(tiny_pair, method="sft", max_steps=1), tmp_path / "sft")
    both, label = (batch["loss"] for batch in batches)
    assert 0 < both - label < math.log(4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "rank_only", "lmbda": 1.0}, "set lmbda to 0, or use pld"),
        ({"method": "rank_only", "options": {"top_k": 1}}, "top_k to 1"),
        ({"method": "pld", "options": {"top_k": 2.5}}, "top_k to 2.5: it counts something"),
        ({"method": "pld", "options": {"top_k": math.inf}}, "top_k to inf: it must be a finite number"),
        ({"method": "pld", "options": {"top_k": math.nan}}, "top_k to nan: it must be a finite number"),
        ({"method": "pld", "soft_target": "power"}, "plackett_luce doesn't learn the teacher's distributions as such"),
        ({"method": "pld", "temperature": 2.0}, "temperature=2.0"),
        ({"method": "pld", "cache": "x"}, "a cache holds"),
    ],
)
def test_what_makes_no_sense_is_told(values: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        DistillConfig(**values)
