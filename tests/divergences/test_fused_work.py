"""What the fused divergence computes, holds and refuses; TRL's and Liger's beside it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from distillknob.divergences import rows as fused_rows
from distillknob.divergences.fused import chunk_rows, fused_divergence
from distillknob.divergences.kernel import Spec, value_and_grad
from distillknob.errors import BadInputError
from two_heads import Case, close

# What is computed, and what is not


class _Products(torch.overrides.TorchFunctionMode):
    """Counts the multiply-adds of matrix products."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (torch.mm, Tensor.addmm_):
            a, b = args[-2:]
            self.count += a.shape[0] * a.shape[1] * b.shape[1]
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("needs", "masked", "products"),
    [
        ((True, True), False, 4),  # two projections and two gradients: the fewest there can be
        ((True, False), False, 3),  # a frozen head
        ((False, True), False, 3),
        ((False, False), False, 2),
        ((True, True), True, 1),  # a quarter of the rows, a quarter of the work
    ],
)
def test_no_product_is_computed_in_vain(needs: tuple[bool, bool], masked: bool, products: int) -> None:
    hidden, head = torch.randn(200, 8), torch.randn(50, 8)
    student, student_head = hidden.clone().requires_grad_(needs[0]), head.clone().requires_grad_(needs[1])
    mask = torch.arange(200) % 4 == 0 if masked else None
    with _Products() as counted:
        value = fused_divergence(student, student_head, hidden, head + 1, "jsd", mask=mask)
        if value.requires_grad:
            value.backward()
    assert counted.count == products * 200 * 50 * 8
    assert (student.grad is not None, student_head.grad is not None) == needs
    if mask is not None:
        assert student.grad is not None and (student.grad[~mask] == 0).all()


def test_no_gradient_reaches_the_teacher_or_the_weights() -> None:
    hidden, head, t_hidden, t_head = (torch.randn(5, 4, requires_grad=True) for _ in range(4))
    weights = torch.rand(5, requires_grad=True)
    fused_divergence(hidden, head, t_hidden, t_head, "jsd", weights=weights).backward()
    assert [t.grad is None for t in (hidden, head, t_hidden, t_head, weights)] == [False, False, True, True, True]


def test_backward_twice_and_scaled() -> None:
    case = Case(9)
    value = case.fused("jsd")
    once = torch.autograd.grad(value, case.inputs, retain_graph=True)
    scaled = torch.autograd.grad(3 * value, case.inputs)
    close(scaled, [3 * grad for grad in once], 1e-12)


def test_autocast_does_not_lower_the_precision() -> None:
    case = Case(10, dtype=torch.float32)
    plain = case.fused("forward_kl")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(case.fused("forward_kl"), plain)


def test_small_gradients_survive_until_the_loss_is_scaled() -> None:
    """Divided by a batch's 16,384 tokens a gradient is below float16's smallest number, and its scale may be above the
    largest."""
    case = Case(12, dtype=torch.float16, capped=False)
    exact = Case(12, capped=False)
    for ours, plain in zip((*case.inputs, *case.teacher), (*exact.inputs, *exact.teacher), strict=True):
        plain.data.copy_(ours.data)
    scaled = torch.autograd.grad(65536 * case.fused("jsd", num_items=16384), case.inputs)
    assert {grad.dtype for grad in scaled} == {torch.float16}
    close([grad.double() for grad in scaled], exact.grads(65536 * exact.fused("jsd", num_items=16384)), 2e-3)


def test_without_gradients_none_is_formed(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted: set[bool] = set()

    def spied(x: Tensor, y: Tensor, spec: Spec, top_k: int | None, with_grad: bool) -> tuple[Tensor, Tensor | None]:
        wanted.add(with_grad)
        return value_and_grad(x, y, spec, top_k, with_grad)

    monkeypatch.setattr(fused_rows, "value_and_grad", spied)
    case = Case(13)
    with torch.no_grad():
        plain = case.fused("jsd")
    assert wanted == {False}
    assert torch.equal(case.fused("jsd").detach(), plain) and wanted == {False, True}


def test_a_head_changed_before_the_backward_pass_is_told() -> None:
    case = Case(14)
    value = case.fused("jsd", reduction="none").sum()
    with torch.no_grad():
        case.inputs[1].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


def test_chunks_are_even_and_bounded() -> None:
    cpu = torch.device("cpu")
    assert chunk_rows(0, 50, cpu) == 1
    assert chunk_rows(257, 1_000_000, cpu) == 86  # three of at most 128
    sizes = [chunk_rows(8192, width, cpu) for width in (100, 2_048, 32_768, 151_936)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] <= 1024
    assert sizes[-1] == 128
    assert all(8 * width * rows <= 1 << 26 for width, rows in zip((2_048, 32_768), sizes[1:3], strict=True))


def test_nothing_of_the_size_of_the_logits_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0
    empty = torch.empty

    def watch(shape: Any, *args: Any, **kwargs: Any) -> Tensor:
        nonlocal largest
        made = empty(shape, *args, **kwargs)
        largest = max(largest, made.numel())
        return made

    monkeypatch.setattr("distillknob.divergences.fused.torch.empty", watch)
    student = torch.randn(4096, 4, requires_grad=True)
    fused_divergence(student, torch.randn(40_000, 4), torch.randn(4096, 4), torch.randn(40_000, 4), "forward_kl",
                     mask=torch.arange(4096) < 256)  # fmt: skip
    assert largest == chunk_rows(256, 40_000, torch.device("cpu")) * 40_000


# Parity


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_trls_chunked_loss_agrees(beta: float) -> None:
    from trl.trainer.distillation_trainer import _chunked_divergence_loss

    case = Case(11, dtype=torch.float32)
    case.teacher = [case.teacher[0], *(t[:40] for t in case.teacher[1:])]  # TRL wants one width
    given = case.logit_options
    theirs, _, _ = _chunked_divergence_loss(
        case.inputs[0].unsqueeze(0), case.teacher[0].unsqueeze(0), case.inputs[1], case.teacher[1],
        case.mask.unsqueeze(0), beta, num_items_in_batch=17,
        student_lm_head_bias=case.inputs[2], teacher_lm_head_bias=case.teacher[2],
        student_logit_scale=given["student_logit_scale"], teacher_logit_scale=given["teacher_logit_scale"],
        student_final_logit_softcapping=given["student_softcap"],
        teacher_final_logit_softcapping=given["teacher_softcap"], temperature=1.3,
    )  # fmt: skip
    ours = case.fused("jsd", beta=beta, temperature=1.3, mask=case.mask, num_items=17)
    close([ours], [theirs], 2e-6)
    close(case.grads(ours), case.grads(theirs), 5e-6)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_ligers_fused_loss_agrees(beta: float) -> None:
    liger = pytest.importorskip("liger_kernel.chunked_loss")
    hidden, teacher = torch.randn(64, 16, requires_grad=True), torch.randn(64, 16)
    head, teacher_head = torch.randn(90, 16, requires_grad=True), torch.randn(90, 16)
    loss = liger.LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=beta, compiled=False)
    theirs = loss(hidden, head, teacher, teacher_head, torch.zeros(64, dtype=torch.long))
    ours = fused_divergence(hidden, head, teacher, teacher_head, "jsd", beta=beta)
    close([ours], [theirs], 1e-5)
    close(torch.autograd.grad(ours, (hidden, head)), torch.autograd.grad(theirs, (hidden, head)), 1e-5)


# What a bad input is told


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"kind": "kld"}, "unknown divergence 'kld'"),
        ({"student_head": torch.ones(7, 3)}, r"student_hidden \[5, 4\].*\[7, 3\]"),
        ({"teacher_hidden": torch.ones(6, 4)}, r"teacher_hidden has rows \[6\].*\[5\]"),
        ({"mask": torch.ones(4)}, r"mask has rows \[4\]"),
        ({"weights": torch.ones(5, 1)}, r"weights has rows \[5, 1\]"),
        ({"student_bias": torch.ones(3)}, r"student_bias \[3\] must be \[V\] = \[7\]"),
        ({"teacher_softcap": 0.0}, "teacher_softcap must be positive"),
        ({"reduction": "mean"}, "'sum' or 'none', got 'mean'"),
        ({"num_items": 0}, "num_items must be positive, got 0"),
        ({"top_k": -1}, "top-k.*-1"),
    ],
)
def test_a_bad_input_is_told_what_was_wrong(changes: dict[str, Any], told: str) -> None:
    call: dict[str, Any] = {
        "student_hidden": torch.ones(5, 4),
        "student_head": torch.ones(7, 4),
        "teacher_hidden": torch.ones(5, 4),
        "teacher_head": torch.ones(7, 4),
        "kind": "jsd",
    }
    with pytest.raises(BadInputError, match=told):
        fused_divergence(**{**call, **changes})
