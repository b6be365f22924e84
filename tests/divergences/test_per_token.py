"""What the traps read off two next-token distributions, against the textbook in float64."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from distillknob.divergences.per_token import token_stats
from distillknob.divergences.top_k import topk_gap
from textbook import LOG2, pair, reference


def test_token_stats_agree_with_the_textbook() -> None:
    student, teacher = pair(13, 200, 1.0)
    ks = (50, 1, 7, 200, 1000)
    stats = token_stats(student.view(2, 4, 200), teacher.view(2, 4, 200), ks, temperature=1.4)
    x, y = student.view(2, 4, 200), teacher.view(2, 4, 200)
    logq, logp = (t.double().div(1.4).log_softmax(-1) for t in (x, y))
    p, q = logp.exp(), logq.exp()

    def close(ours: Tensor, theirs: Tensor, atol: float = 1e-9) -> None:
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=atol)

    close(stats.forward_kl, reference(x, y, "forward_kl", temperature=1.4))
    close(stats.reverse_kl, reference(x, y, "reverse_kl", temperature=1.4))
    close(stats.teacher_entropy, -(p * logp).sum(-1))
    close(stats.student_entropy, -(q * logq).sum(-1))
    close(stats.teacher_log_partition, (y.double() / 1.4).logsumexp(-1))
    close(stats.student_log_partition, (x.double() / 1.4).logsumexp(-1))
    for column, k in enumerate(ks):
        ids = y.topk(min(k, 200)).indices
        close(stats.forward_kl_topk[..., column], (p * (logp - logq)).gather(-1, ids).sum(-1), atol=1e-6)
        close(stats.reverse_kl_topk[..., column], (q * (logq - logp)).gather(-1, ids).sum(-1), atol=1e-6)
        close(stats.teacher_mass_topk[..., column], p.gather(-1, ids).sum(-1))
        close(stats.student_mass_topk[..., column], q.gather(-1, ids).sum(-1))
    order = sorted(range(len(ks)), key=ks.__getitem__)
    for parts, whole in (
        (stats.forward_parts_topk, stats.forward_kl),
        (stats.reverse_parts_topk, stats.reverse_kl),
    ):
        assert (parts >= 0).all()
        assert all((parts[..., a] <= parts[..., b]).all() for a, b in pairwise(order))
        assert torch.equal(parts[..., 3], whole)
        assert torch.equal(parts[..., 4], whole)


@pytest.mark.parametrize("distance", [0.01, 1.0, 8.0])
def test_the_gap_of_a_top_k_is_what_its_buckets_leave_out(distance: float) -> None:
    student, teacher = (t.double() for t in pair(31, 300, distance))
    stats = token_stats(student, teacher, [1, 7, 299, 300, 400])
    for column, k in enumerate(stats.ks):
        expected = topk_gap(student, teacher, "forward_kl", k)
        torch.testing.assert_close(stats.forward_gap_topk[:, column], expected, rtol=1e-6, atol=1e-12)
    single = token_stats(student.float(), teacher.float(), [7])
    torch.testing.assert_close(
        single.forward_gap_topk[:, 0].double(), stats.forward_gap_topk[:, 1], rtol=1e-3, atol=1e-6
    )


def test_token_stats_of_impossible_tokens_and_of_nothing() -> None:
    student = torch.tensor([[0.0, -math.inf, -math.inf]])
    stats = token_stats(student, torch.tensor([[0.0, 0.0, -math.inf]]), [1, 3])
    assert stats.forward_kl.tolist() == [math.inf]
    assert stats.reverse_kl.tolist() == pytest.approx([LOG2])
    assert stats.teacher_entropy.tolist() == pytest.approx([LOG2])
    assert stats.student_entropy.tolist() == [0]
    none = token_stats(student[:0], student[:0], [1, 2])
    assert none.forward_kl.shape == (0,)
    assert none.forward_parts_topk.shape == (0, 2)


def test_the_kl_of_rare_tokens_is_what_one_bucket_for_them_leaves_out() -> None:
    student, teacher = (side[:6].double() for side in pair(6, 60, 3.0))
    teacher[1] = 0.0  # nothing is rare
    student[2] = teacher[2]
    student[3, teacher[3].argmin()] = -math.inf
    rare_kl = token_stats(student, teacher, [5], rare=0.05).rare_kl
    assert rare_kl is not None
    for row in range(6):
        p, q = teacher[row].softmax(-1), student[row].softmax(-1)
        rare = p < 0.05 * p.max()
        bucket = [torch.cat([side[~rare], side[rare].sum()[None]]) for side in (p, q)]
        kls = [float(torch.where(a > 0, a * (a / b).log(), 0.0).sum()) for a, b in ((p, q), bucket)]
        assert float(rare_kl[row]) == pytest.approx(kls[0] - kls[1], abs=1e-12)
    assert rare_kl[1] == rare_kl[2] == 0.0 and rare_kl[3] == math.inf and rare_kl[0] > 0
    single = token_stats(student.view(2, 3, 60).float(), teacher.view(2, 3, 60).float(), [5], rare=0.05).rare_kl
    torch.testing.assert_close(single, rare_kl.view(2, 3).float())


def test_token_stats_do_not_sort_the_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    widths: list[int] = []
    topk = Tensor.topk

    def recorded(self: Tensor, k: int, *args: Any, **kwargs: Any) -> Any:
        widths.append(k)
        return topk(self, k, *args, **kwargs)

    monkeypatch.setattr(Tensor, "topk", recorded)
    token_stats(*pair(1, 50, 1.0), [1, 8, 50, 60])
    assert widths == [8]


def textbook_rare_kl(x: Tensor, y: Tensor, rare: float) -> Tensor:
    """P · KL(teacher given rare ‖ student given rare) of each row, P the mass of the teacher's rare tokens."""
    values = []
    for q, p in zip(x.double().softmax(-1), y.double().softmax(-1), strict=True):
        p, q = (side[p < rare * p.max()] for side in (p, q))
        given_rare = p[p > 0] / p.sum(), q[p > 0] / q.sum()
        values.append(p.sum() * (given_rare[0] * (given_rare[0] / given_rare[1]).log()).sum())
    return torch.stack(values)


@pytest.mark.parametrize("ks", [[1], [5, 20], [5, 60], [60]])
@pytest.mark.parametrize("spread", [0.0, 0.3, 2.0, 8.0])
def test_the_statistics_tell_the_kl_of_rare_tokens_in_the_same_pass(ks: list[int], spread: float) -> None:
    """Whether the tokens that are said are fewer than the top ones at hand, more, or all."""
    generator = torch.Generator().manual_seed(5)
    student, teacher = (torch.randn(40, 60, generator=generator, dtype=torch.float64) * spread for _ in range(2))
    teacher[:5] *= 0.1  # rows of several kinds in one block
    teacher[5, :7], student[5, :7] = -math.inf, -math.inf
    student[6, 9] = -math.inf
    for temperature in (1.0, 2.0):
        rare_kl = token_stats(student, teacher, ks, rare=0.05, temperature=temperature).rare_kl
        wanted = textbook_rare_kl(student / temperature, teacher / temperature, 0.05)
        torch.testing.assert_close(rare_kl, wanted, atol=1e-12, rtol=1e-9)
    same = token_stats(teacher, teacher, ks, rare=0.05).rare_kl
    assert same is not None and same.abs().max() == 0
    assert token_stats(student, teacher, ks).rare_kl is None
