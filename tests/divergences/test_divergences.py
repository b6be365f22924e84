"""The dense divergences: one table of properties for every kind, numbers worked out by hand, float64 references."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distillknob.divergences.dense import (
    KINDS,
    divergence,
    divergence_from_topk,
    rare_token_kl,
    token_stats,
    topk_bound,
    topk_gap,
    topk_of,
)
from distillknob.divergences.sequence import ESTIMATORS, enumerate_sequences, moments, sequence_kl
from distillknob.errors import BadInputError
from distillknob.models.chat import prompt_ids
from distillknob.models.load import load_model
from distillknob.models.scoring import answer_ids, answer_logits, batches
from distillknob.tasks import get_task

BOUNDED = ("jsd", "skew_forward_kl", "skew_reverse_kl", "total_variation")
OPTIONS = (
    {},
    {"temperature": 2.5},
    {"beta": 0.1, "alpha": 0.7},
    {"beta": 0.9, "jsd_scale": "unit", "temperature": 0.5},
    {"top_k": 3},
    {"t2": True, "temperature": 3.0, "top_k": 1},
)

# The textbook formulas, in float64 from log-softmaxes: what the library's other form is checked against.


def reference(
    x: Tensor, y: Tensor, kind: str, beta: float = 0.5, alpha: float = 0.1, temperature: float = 1.0
) -> Tensor:
    logq, logp = (torch.log_softmax(logits.double() / temperature, dim=-1) for logits in (x, y))

    def kl(loga: Tensor, logb: Tensor) -> Tensor:
        return torch.where(loga > -math.inf, loga.exp() * (loga - logb), 0.0).sum(-1)

    def mix(loga: Tensor, logb: Tensor, share: float) -> Tensor:
        return torch.logaddexp(loga + math.log(share), logb + math.log(1 - share))

    if kind == "forward_kl":
        return kl(logp, logq)
    if kind == "reverse_kl":
        return kl(logq, logp)
    if kind == "jsd":
        mixture = mix(logp, logq, beta)
        return beta * kl(logp, mixture) + (1 - beta) * kl(logq, mixture)
    if kind == "skew_forward_kl":
        return kl(logp, mix(logp, logq, alpha))
    if kind == "skew_reverse_kl":
        return kl(logq, mix(logq, logp, alpha))
    return (logp.exp() - logq.exp()).abs().sum(-1) / 2


def pair(seed: int, vocabulary: int, distance: float, offset: float = 0.0, rows: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    teacher = 4 * torch.randn(rows, vocabulary, generator=generator)
    return teacher + distance * torch.randn(rows, vocabulary, generator=generator) + offset, teacher


# ---- Properties of every kind -------------------------------------------------------------------------------------

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
def test_properties_that_every_kind_has(kind, logits, dtype, options, data):
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
    assert teacher.grad is None
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
    assert (same.grad == 0).all()


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
def test_float32_is_right_to_1e5_relative_down_to_1e6(kind, seed, vocabulary, distance, offset, options):
    student, teacher = pair(seed, vocabulary, distance, offset, rows=4)
    value = divergence(student, teacher, kind, **options).double()
    truth = reference(student, teacher, kind, **options)
    assert ((value - truth).abs() <= 1e-5 * truth.clamp_min(1e-6)).all()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20, deadline=None)
@given(logits=any_pair, beta=st.sampled_from([0.01, 0.3, 0.99]), alpha=st.sampled_from([0.01, 0.5, 0.99]))
def test_float64_agrees_with_the_textbook(kind, logits, beta, alpha):
    student, teacher = (t.double() for t in logits)
    value = divergence(student, teacher, kind, beta=beta, alpha=alpha)
    # At an offset of 1e4 the reference's own log-softmax has lost four digits.
    torch.testing.assert_close(value, reference(student, teacher, kind, beta, alpha), rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_by_finite_differences(kind, options):
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
def test_a_chain_of_blocks_is_one_computation(kind, monkeypatch):
    student, teacher = pair(1, 50, 1.0, rows=9)
    whole = divergence(student, teacher, kind)
    monkeypatch.setattr("distillknob.divergences.kernel.CORE_CACHE_BYTES", 4 * 100)
    torch.testing.assert_close(divergence(student, teacher, kind), whole, rtol=1e-6, atol=0)
    torch.testing.assert_close(divergence(student.view(3, 3, 50), teacher.view(3, 3, 50), kind).flatten(), whole)
    assert divergence(student[0], teacher[0], kind).shape == ()
    assert divergence(student[:0], teacher[:0], kind).shape == (0,)


# ---- By hand ------------------------------------------------------------------------------------------------------

LOG2, LOG3 = math.log(2), math.log(3)
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
def test_two_tokens_by_hand(kind):
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
def test_impossible_tokens_by_hand(kind, expected):
    student = torch.tensor([[0.0, -math.inf, -math.inf]], requires_grad=True)
    value = divergence(student, torch.tensor([[0.0, 0.0, -math.inf]]), kind)
    value.sum().backward()
    assert value.item() == pytest.approx(expected, rel=5e-6)
    assert student.grad.tolist() == [[0, 0, 0]]


def test_an_impossible_token_of_the_teacher_makes_the_reverse_kl_infinite_and_its_gradient_zero():
    student = torch.zeros(2, 3, requires_grad=True)
    teacher = torch.tensor([[0.0, 0.0, -math.inf], [1.0, 0.0, 0.0]])
    value = divergence(student, teacher, "reverse_kl")
    value.sum().backward()
    assert value[0] == math.inf
    assert value[1].isfinite()
    assert (student.grad[0] == 0).all()
    assert (student.grad[1] != 0).any()


@pytest.mark.parametrize("kind", KINDS)
def test_extreme_logits(kind):
    student = torch.tensor([[1e4, -1e4, 0.0], [1e4, 1e4, -1e4], [0.0, 1e4, -1e4]], requires_grad=True)
    teacher = torch.tensor([[-1e4, 1e4, 0.0], [1e4, 1e4, -1e4], [0.0, 1e4, 1e4]])
    value = divergence(student, teacher, kind)
    value.sum().backward()
    torch.testing.assert_close(value.double(), reference(student, teacher, kind).detach(), rtol=5e-6, atol=1e-15)
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_rows_without_a_distribution_are_nan_and_spoil_no_other(kind):
    student = torch.zeros(4, 3)
    student[0] = -math.inf
    student[1, 1] = math.nan
    student[2, 0] = math.inf
    assert divergence(student, torch.ones(4, 3), kind).isnan().tolist() == [True, True, True, False]


@pytest.mark.parametrize("kind", KINDS)
def test_a_padded_vocabulary_changes_nothing(kind):
    student, teacher = pair(5, 30, 1.0)
    padding = torch.full((8, 6), 3.0)  # what an untrained embedding row may well say
    value = divergence(student, teacher, kind)
    torch.testing.assert_close(divergence(torch.cat([student, padding], 1), teacher, kind), value)
    torch.testing.assert_close(divergence(student, torch.cat([teacher, padding], 1), kind), value)
    assert (divergence(torch.cat([teacher, padding], 1), teacher, kind) == 0).all()


def test_bf16_keeps_a_small_kl():
    # Liger is 22 % off at 2e-4 (peers.md, 10).
    student, teacher = (t.bfloat16() for t in pair(2, 500, 0.02))
    truth = reference(student, teacher, "forward_kl")
    assert 1e-5 < truth.min() < 1e-3
    torch.testing.assert_close(divergence(student, teacher, "forward_kl").double(), truth, rtol=1e-5, atol=0)


def test_the_ends_of_jsd():
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
def test_a_skew_of_zero_is_the_kl(end):
    student, teacher = pair(8, 40, 2.0)
    assert torch.equal(divergence(student, teacher, "skew_" + end, alpha=0.0), divergence(student, teacher, end))


def test_t2_keeps_the_gradients_size():
    student, teacher = (t.double() / 100 for t in pair(9, 40, 2.0))
    sizes = []
    for temperature in (1.0, 4.0):
        x = student.clone().requires_grad_()
        divergence(x, teacher, "forward_kl", temperature=temperature, t2=True).sum().backward()
        sizes.append(x.grad.norm().item())
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


# ---- Parity -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("beta", [0.0, 0.2, 0.5, 1.0])
def test_gkd_agrees(beta):
    from trl.experimental.gkd import GKDTrainer

    student, teacher = (t.double().view(2, 4, 40) for t in pair(11, 40, 1.0))
    theirs = GKDTrainer.generalized_jsd_loss(student, teacher, beta=beta, temperature=1.7, reduction="none").sum(-1)
    ours = divergence(student, teacher, "jsd", beta=beta, temperature=1.7)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12)


# ---- Top-k ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_top_k_by_buckets(kind):
    student, teacher = (t.double() for t in pair(12, 60, 1.5))
    previous = torch.zeros(8, dtype=torch.float64)
    full = divergence(student, teacher, kind)
    for k in (1, 5, 30, 60, 99):
        value = divergence(student, teacher, kind, top_k=k)
        ids = teacher.topk(min(k, 60)).indices
        buckets = []
        for logits in (student, teacher):
            probs = logits.softmax(-1)
            tail = probs.scatter(-1, ids, 0.0).sum(-1, keepdim=True)
            buckets.append(torch.cat([probs.gather(-1, ids), tail], -1).log())
        torch.testing.assert_close(value, reference(*buckets, kind), rtol=1e-9, atol=1e-12)
        assert (value >= previous - 1e-12).all()  # finer buckets tell more
        if k < 60:
            torch.testing.assert_close(topk_gap(student, teacher, kind, k), full - value, rtol=1e-7, atol=1e-12)
        previous = value
    torch.testing.assert_close(previous, full)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), k=st.integers(1, 20), distance=st.sampled_from([0.01, 1.0, 5.0]))
def test_a_stored_teacher_gives_the_same_value_and_a_bound(kind, seed, k, distance):
    student, teacher = pair(seed, 30, distance)
    x = student.clone().requires_grad_()
    value = divergence(x, teacher, kind, top_k=k, temperature=1.3)
    (grad,) = torch.autograd.grad(value.sum(), x)
    ids, logprobs, tail, floor = topk_of(teacher, k, temperature=1.3)
    stored = divergence_from_topk(x, ids, logprobs, tail, kind, temperature=1.3)
    torch.testing.assert_close(stored, value, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(torch.autograd.grad(stored.sum(), x)[0], grad, rtol=1e-4, atol=1e-7)

    gap = topk_gap(student, teacher, kind, k, temperature=1.3)
    with_floor = topk_bound(student, ids, logprobs, tail, kind, floor_logprob=floor, temperature=1.3)
    without = topk_bound(student, ids, logprobs, tail, kind, temperature=1.3)
    assert (gap <= with_floor * (1 + 1e-9) + 1e-12).all()
    assert (with_floor <= without * (1 + 1e-9) + 1e-12).all()
    assert without.isinf().all() == (kind == "reverse_kl")


def test_the_bound_is_reached_by_the_worst_tail():
    # Teacher (0.4, 0.3, 0.3, 0), stored: its first token alone. The tail's 0.6 fits on two seats of at most 0.4: the
    # worst teacher has 0.4 on the student's least likely tail token and 0.2 on the next.
    student = torch.tensor([[0.7, 0.2, 0.09, 0.01]], dtype=torch.float64).log()
    ids, logprobs, tail = torch.tensor([[0]]), torch.tensor([[0.4]]).double().log(), torch.tensor([0.6]).double().log()
    worst = 0.4 * math.log(0.4 / 0.01) + 0.2 * math.log(0.2 / 0.09) - 0.6 * math.log(0.6 / 0.3)
    bound = topk_bound(student, ids, logprobs, tail, "forward_kl").item()
    assert worst <= bound <= worst * 1.15  # the seat that is half filled is counted by its chord


@pytest.mark.parametrize("task", ["math", "qa", "instruct"])
@pytest.mark.parametrize("k", [5, 50])
def test_on_the_embedded_pair_the_bound_is_within_ten_times_the_gap(task, k):
    made = get_task(task)
    examples = made.examples("train", 12, seed=5)
    messages = [made.messages(example) for example in examples]
    teacher, student = load_model("zoo:teacher"), load_model("zoo:student")
    texts = answer_ids(teacher, [example.gold_solution for example in examples], [True] * len(examples))
    rows = list(batches(prompt_ids(teacher.tokenizer, messages), texts, teacher.model.device, 2048))
    with torch.no_grad():
        p, q = (torch.cat([answer_logits(m, b)[b.answer_mask_BA] for b in rows]) for m in (teacher, student))
    ids, logprobs, tail, floor = topk_of(p, k)
    for kind in KINDS:
        gap = topk_gap(q, p, kind, k)
        bound = topk_bound(q, ids, logprobs, tail, kind, floor_logprob=floor)
        assert (gap <= bound * (1 + 1e-9) + 1e-12).all()
        # Total variation's gap is zero wherever one model lies above the other throughout the tail, and a skewed
        # reverse KL's is of second order: what is known of the tail says nothing of either (docs/lab-notebook.md).
        if kind not in ("total_variation", "skew_reverse_kl"):
            assert (bound / gap).median() <= 10, kind


def test_the_tail_is_not_renormalised_away():
    # Renormalised over the top token this is zero; the truth is large (peers.md, 6), and training feels it (7).
    student = torch.tensor([[0.0, 12.0, 12.0]], requires_grad=True)
    value = divergence(student, torch.tensor([[12.0, 0.0, 0.0]]), "forward_kl", top_k=1)
    value.sum().backward()
    assert value.item() == pytest.approx(12 + LOG2, rel=1e-3)
    torch.testing.assert_close(student.grad, torch.tensor([[-1.0, 0.5, 0.5]]), rtol=1e-4, atol=1e-4)
    # Near certainty the bucket's gradient stays a difference of probabilities (14).
    sure = torch.tensor([[40.0, 0.0, 0.0]], requires_grad=True)
    divergence(sure, torch.tensor([[39.0, 0.0, 0.0]]), "reverse_kl", top_k=1).sum().backward()
    assert sure.grad.abs().max() < 1e-12


# ---- token_stats ----------------------------------------------------------------------------------------------------


def test_token_stats_agree_with_the_textbook():
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
def test_the_gap_of_a_top_k_is_what_its_buckets_leave_out(distance):
    student, teacher = (t.double() for t in pair(31, 300, distance))
    stats = token_stats(student, teacher, [1, 7, 299, 300, 400])
    for column, k in enumerate(stats.ks):
        expected = topk_gap(student, teacher, "forward_kl", k)
        torch.testing.assert_close(stats.forward_gap_topk[:, column], expected, rtol=1e-6, atol=1e-12)
    single = token_stats(student.float(), teacher.float(), [7])
    torch.testing.assert_close(
        single.forward_gap_topk[:, 0].double(), stats.forward_gap_topk[:, 1], rtol=1e-3, atol=1e-6
    )


def test_token_stats_of_impossible_tokens_and_of_nothing():
    student = torch.tensor([[0.0, -math.inf, -math.inf]])
    stats = token_stats(student, torch.tensor([[0.0, 0.0, -math.inf]]), [1, 3])
    assert stats.forward_kl.tolist() == [math.inf]
    assert stats.reverse_kl.tolist() == pytest.approx([LOG2])
    assert stats.teacher_entropy.tolist() == pytest.approx([LOG2])
    assert stats.student_entropy.tolist() == [0]
    none = token_stats(student[:0], student[:0], [1, 2])
    assert none.forward_kl.shape == (0,)
    assert none.forward_parts_topk.shape == (0, 2)


def test_the_kl_of_rare_tokens_is_what_one_bucket_for_them_leaves_out():
    student, teacher = (side[:6].double() for side in pair(6, 60, 3.0))
    teacher[1] = 0.0  # nothing is rare
    student[2] = teacher[2]
    student[3, teacher[3].argmin()] = -math.inf
    found = rare_token_kl(student, teacher, 0.05)
    for row in range(6):
        p, q = teacher[row].softmax(-1), student[row].softmax(-1)
        rare = p < 0.05 * p.max()
        bucket = [torch.cat([side[~rare], side[rare].sum()[None]]) for side in (p, q)]
        kls = [float(torch.where(a > 0, a * (a / b).log(), 0.0).sum()) for a, b in ((p, q), bucket)]
        assert float(found[row]) == pytest.approx(kls[0] - kls[1], abs=1e-12)
    assert found[1] == found[2] == 0.0 and found[3] == math.inf and found[0] > 0
    torch.testing.assert_close(rare_token_kl(student.float(), teacher.float(), 0.05), found.float())
    assert rare_token_kl(student.view(2, 3, 60), teacher.view(2, 3, 60), 0.05).shape == (2, 3)


def test_token_stats_do_not_sort_the_vocabulary(monkeypatch):
    asked = []
    topk = Tensor.topk
    monkeypatch.setattr(Tensor, "topk", lambda self, k, *a, **b: asked.append(k) or topk(self, k, *a, **b))
    token_stats(*pair(1, 50, 1.0), [1, 8, 50, 60])
    assert asked == [8]


# ---- Sequence-level estimators ------------------------------------------------------------------------------------


def policy(seed: int, vocabulary: int = 4):
    table = torch.randn(vocabulary + 1, vocabulary, generator=torch.Generator().manual_seed(seed)).log_softmax(-1)
    return lambda ids: table[ids[:, -1] if ids.shape[1] else torch.full((len(ids),), vocabulary)]


def test_exact_sequence_kl_by_the_chain_rule():
    student, teacher = policy(1), policy(2)
    ids, logp = enumerate_sequences(student, 4, 5)
    _, logq = enumerate_sequences(teacher, 4, 5)
    assert ids.shape == (4**5, 5)
    # Σ over steps of the expected per-token KL under the sampler's own prefixes.
    chain = 0.0
    for step in range(5):
        prefixes, weight = enumerate_sequences(student, 4, step) if step else (ids[:1, :0], torch.zeros(1).double())
        per_token = divergence(student(prefixes), teacher(prefixes), "reverse_kl").double()
        chain += (weight.exp() * per_token).sum().item()
    assert moments(logp, logq, "k1").kl == pytest.approx(chain, rel=1e-6)


def test_bias_and_variance_of_the_estimators():
    _, logp = enumerate_sequences(policy(1), 4, 5)
    _, logq = enumerate_sequences(policy(2), 4, 5)
    exact = {name: moments(logp, logq, name) for name in ESTIMATORS}
    assert exact["k1"].bias == pytest.approx(0, abs=1e-6)
    assert exact["k3"].bias == pytest.approx(0, abs=1e-6)
    assert abs(exact["k2"].bias) > 0.05
    # Close policies: k2's bias is of third order, and k2 and k3 vary far less than k1.
    near = torch.log_softmax(logp + 0.02 * torch.randn(len(logp), generator=torch.Generator().manual_seed(0)), -1)
    close = {name: moments(logp, near, name) for name in ESTIMATORS}
    assert abs(close["k2"].bias) < 0.05 * close["k2"].kl
    assert max(close["k2"].variance, close["k3"].variance) < 0.01 * close["k1"].variance
    # And a sample shows what was promised.
    drawn = torch.multinomial(logp.exp(), 20_000, replacement=True, generator=torch.Generator().manual_seed(1))
    for name, moment in exact.items():
        values = sequence_kl(logp[drawn].unsqueeze(1), logq[drawn].unsqueeze(1), name)
        assert values.mean().item() == pytest.approx(moment.mean, abs=5 * math.sqrt(moment.variance / 20_000))


@pytest.mark.parametrize("kind", KINDS)
def test_autocast_does_not_lower_the_precision(kind):
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


def test_estimators_of_what_the_other_policy_cannot_write_are_infinite():
    for name in ESTIMATORS:
        assert sequence_kl(torch.tensor([[-1.0, -1.0]]), torch.tensor([[-1.0, -math.inf]]), name).item() == math.inf
        assert moments(torch.tensor([0.5, 0.5]).log(), torch.tensor([1.0, 0.0]).log(), name).kl == math.inf


def test_estimators_by_hand_and_masked():
    sampler, other = torch.tensor([[-1.0, -2.0, -math.inf]]), torch.tensor([[-2.0, -2.5, 0.0]])
    mask = torch.tensor([[1, 1, 0]])
    hand = {"k1": 1.5, "k2": 1.125, "k3": 1.5 - 1 + math.exp(-1.5)}
    for name, expected in hand.items():
        assert sequence_kl(sampler, other, name, mask=mask).item() == pytest.approx(expected)


# ---- What a bad input is told ---------------------------------------------------------------------------------------

X = torch.zeros(2, 3)
IDS, LOGPS, TAIL = torch.zeros(2, 1, dtype=torch.long), torch.full((2, 1), -LOG2), torch.full((2,), -LOG2)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: divergence(X, X, "forwardkl"), "did you mean 'forward_kl'"),
        (lambda: divergence(X, X[:1], "jsd"), r"\[2, 3\].*\[1, 3\]"),
        (lambda: divergence(X, X, "jsd", beta=1.5), "beta.*1.5"),
        (lambda: divergence(X, X, "skew_forward_kl", alpha=1.0), "alpha.*1.0"),
        (lambda: divergence(X, X, "jsd", temperature=0.0), "temperature.*0"),
        (lambda: divergence(X, X, "jsd", jsd_scale="gkd"), "jsd_scale.*'gkd'"),
        (lambda: divergence(X, X, "jsd", top_k=0), "top-k.*0"),
        (lambda: divergence(X.long(), X, "jsd"), "floating point.*int64"),
        (lambda: divergence(X[:, :0], X, "jsd"), "empty"),
        (lambda: token_stats(X, X, [1, -2]), "-2"),
        (lambda: divergence_from_topk(X, IDS + 5, LOGPS, TAIL, "jsd"), "from 5 to 5.*3 tokens"),
        (lambda: divergence_from_topk(X, IDS, LOGPS, TAIL[:1], "jsd"), r"tail_logprob.*\[1\]"),
        (lambda: topk_of(X, 4), "k = 4.*3 tokens"),
        (lambda: sequence_kl(X, X, "k4"), "unknown estimator 'k4'"),
        (lambda: sequence_kl(X, X[:, :1], "k1"), r"\[2, 3\].*\[2, 1\]"),
        (lambda: sequence_kl(X, X, "k1", mask=X[:1]), r"mask \[1, 3\]"),
        (lambda: moments(X[0], X[0], "k1"), "sum to 3"),
        (lambda: enumerate_sequences(policy(1), 10, 10), "can't be listed"),
    ],
)
def test_a_bad_input_is_told_what_was_wrong(call, told):
    with pytest.raises(BadInputError, match=told):
        call()


@pytest.mark.parametrize("ks", [[1], [5, 20], [5, 60], [60]])
@pytest.mark.parametrize("spread", [0.0, 0.3, 2.0, 8.0])
def test_the_statistics_tell_the_kl_of_rare_tokens_in_the_same_pass(ks, spread):
    """Whether the tokens that are said are fewer than the top ones at hand, more, or all."""
    generator = torch.Generator().manual_seed(5)
    student, teacher = (torch.randn(40, 60, generator=generator, dtype=torch.float64) * spread for _ in range(2))
    teacher[:5] *= 0.1  # rows of several kinds in one block
    teacher[5, :7], student[5, :7] = -math.inf, -math.inf
    student[6, 9] = -math.inf
    for temperature in (1.0, 2.0):
        found = token_stats(student, teacher, ks, rare=0.05, temperature=temperature).rare_kl
        wanted = rare_token_kl(student / temperature, teacher / temperature, 0.05)
        torch.testing.assert_close(found, wanted, atol=1e-12, rtol=1e-9)
    assert token_stats(teacher, teacher, ks, rare=0.05).rare_kl.abs().max() == 0
    assert token_stats(student, teacher, ks).rare_kl is None
