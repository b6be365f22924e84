"""The fused divergence: the dense one's values and gradients, without its tensors."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from distillknob.divergences import fused
from distillknob.divergences.dense import KINDS, divergence
from distillknob.divergences.fused import chunk_rows, fused_divergence
from distillknob.divergences.kernel import Spec, value_and_grad
from distillknob.errors import BadInputError
from launch import launch

OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"temperature": 2.0, "t2": True},
    {"top_k": 3, "beta": 0.2},
    {"jsd_scale": "unit", "beta": 0.9, "alpha": 0.5, "temperature": 0.7},
)


class Case:
    """Hidden states and heads of two models of different widths, sizes and Gemma-like logits."""

    def __init__(self, seed: int, rows: int = 23, dtype: torch.dtype = torch.float64, capped: bool = True) -> None:
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

        self.inputs = [draw(rows, 6).requires_grad_(), draw(40, 6).requires_grad_(), draw(40).requires_grad_()]
        self.teacher = [draw(rows, 9), draw(43, 9), draw(43)]
        self.mask = torch.rand(rows, generator=generator) < 0.7
        self.weights = torch.rand(rows, generator=generator).to(dtype)
        self.logit_options: dict[str, Any] = (
            {"student_softcap": 4.0, "teacher_softcap": 6.0, "student_logit_scale": 0.7, "teacher_logit_scale": 1.2}
            if capped
            else {}
        )

    def fused(self, kind: str, **options: Any) -> Tensor:
        (hidden, head, bias), (t_hidden, t_head, t_bias) = self.inputs, self.teacher
        values = {"student_bias": bias, "teacher_bias": t_bias, **self.logit_options, **options}
        return fused_divergence(hidden, head, t_hidden, t_head, kind, **values)

    def dense(self, kind: str, **options: Any) -> Tensor:
        """Divergence [N] from the logits."""

        def logits(tensors: list[Tensor], scale: float, cap: float | None) -> Tensor:
            hidden, head, bias = tensors
            dtype = torch.float64 if hidden.dtype == torch.float64 else torch.float32
            raw = (hidden.to(dtype) @ head.to(dtype).T + bias.to(dtype)) * scale
            return raw if cap is None else cap * torch.tanh(raw / cap)

        given = self.logit_options
        student = logits(self.inputs, given.get("student_logit_scale", 1.0), given.get("student_softcap"))
        teacher = logits(self.teacher, given.get("teacher_logit_scale", 1.0), given.get("teacher_softcap"))
        return divergence(student, teacher, kind, **options)

    def grads(self, value: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(value, self.inputs)


def close(ours: Any, theirs: Any, tolerance: float) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == b.dtype
        assert (a - b).abs().max() <= tolerance * b.abs().max()


# The table of properties, for every kind


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    rows=st.sampled_from([1, 5, 130, 300]),
    options=st.sampled_from(OPTIONS),
    capped=st.booleans(),
    reduction=st.sampled_from(["sum", "none"]),
    use=st.tuples(st.booleans(), st.booleans(), st.sampled_from([None, 7, torch.tensor(11)])),
)
def test_same_values_and_gradients_as_the_dense_one(
    kind: str,
    seed: int,
    rows: int,
    options: dict[str, Any],
    capped: bool,
    reduction: str,
    use: tuple[bool, bool, int | Tensor | None],
) -> None:
    case = Case(seed, rows=rows, capped=capped)
    masked, weighted, num_items = use
    given: dict[str, Any] = {"num_items": num_items, "reduction": reduction}
    if masked:
        given["mask"] = case.mask
    if weighted:
        given["weights"] = case.weights
    dense = case.dense(kind, **options)
    dense = dense * (case.mask if masked else 1) * (case.weights if weighted else 1)
    fused = case.fused(kind, **given, **options)
    if reduction == "none":
        close([fused], [dense], 1e-11)
        factors = torch.linspace(-1, 2, rows, dtype=torch.float64)  # not all rows matter the same afterwards
        fused, dense = (fused * factors).sum(), (dense * factors).sum()
    else:
        items = num_items if num_items is not None else max(1, case.mask.sum() if masked else rows)
        dense = dense.sum() / items
        close([fused], [dense], 1e-11)
    close(case.grads(fused), case.grads(dense), 1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_float32_is_no_worse_than_dense(kind: str) -> None:
    exact, single = Case(1, rows=64, capped=False), Case(1, rows=64, capped=False)
    single.inputs = [t.detach().float().requires_grad_() for t in single.inputs]
    single.teacher = [t.float() for t in single.teacher]
    exact.inputs = [t.detach().double().requires_grad_() for t in single.inputs]
    exact.teacher = [t.double() for t in single.teacher]
    truth = exact.dense(kind).sum() / 64
    off_dense = (single.dense(kind).sum() / 64 - truth).abs()
    assert (single.fused(kind) - truth).abs() <= torch.maximum(off_dense, 1e-6 * truth)
    close(
        [g.double() for g in single.grads(single.fused(kind))],
        exact.grads(truth),
        2e-6,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_is_computed_in_float32(kind: str) -> None:
    case = Case(2, rows=40, dtype=torch.bfloat16)
    value, dense = case.fused(kind), case.dense(kind).sum() / 40
    assert value.dtype == torch.float32
    close([value], [dense], 2e-6)
    close(case.grads(value), case.grads(dense), 1e-2)  # rounded to bf16 at the end


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", KINDS)
def test_identical_models_are_at_zero_whatever_the_padding(kind: str, dtype: torch.dtype) -> None:
    hidden, head = torch.randn(33, 13).to(dtype).requires_grad_(), torch.randn(500, 13).to(dtype)
    padded = torch.cat([head, torch.randn(12, 13).to(dtype)])
    for student, teacher in ((head, head), (head, head.clone()), (padded, head), (head, padded)):
        value = fused_divergence(hidden, student, hidden.detach().clone(), teacher, kind)
        (grad,) = torch.autograd.grad(value, hidden)
        assert value.item() == 0
        assert (grad == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_by_finite_differences(kind: str) -> None:
    case = Case(3, rows=4)
    case.inputs = [t.detach().clone().requires_grad_() for t in case.inputs]

    def value(*inputs: Tensor) -> Tensor:
        case.inputs = list(inputs)
        return case.fused(kind, weights=case.weights, temperature=1.5)

    assert torch.autograd.gradcheck(value, tuple(case.inputs))


@pytest.mark.parametrize("kind", KINDS)
def test_impossible_tokens_by_a_bias(kind: str) -> None:
    case = Case(4, capped=False)
    with torch.no_grad():
        case.inputs[2][3] = case.teacher[2][3] = -math.inf
        case.inputs[2][5] = -math.inf
    value = case.fused(kind, reduction="none")
    torch.testing.assert_close(value, case.dense(kind))
    assert value.isinf().all() == (kind == "forward_kl")
    for grad in case.grads(case.fused(kind)):
        assert grad.isfinite().all()


# Sums over micro-batches and processes


@pytest.mark.parametrize("kind", ["forward_kl", "jsd"])
def test_unequal_micro_batches_add_up(kind: str) -> None:
    case = Case(5, rows=31)
    items = int(case.mask.sum())
    whole = case.fused(kind, mask=case.mask)
    (hidden, head, bias), (t_hidden, t_head, t_bias) = case.inputs, case.teacher
    parts = []
    for part in (slice(0, 2), slice(2, 20), slice(20, 20), slice(20, 31)):
        parts.append(
            fused_divergence(
                hidden[part], head, t_hidden[part], t_head, kind, mask=case.mask[part], num_items=items,
                student_bias=bias, teacher_bias=t_bias, **case.logit_options,
            )
        )  # fmt: skip
    total = torch.stack(parts).sum()
    close([total], [whole], 1e-12)
    close(case.grads(total), case.grads(whole), 1e-12)


def _data_parallel(store: str) -> None:
    """One of two processes: its share of the batch, gradients averaged as DistributedDataParallel does."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    case = Case(6, rows=20, dtype=torch.float32, capped=False)
    share = slice(0, 13) if rank == 0 else slice(13, 20)
    head = torch.nn.Linear(6, 40)
    head.load_state_dict({"weight": case.inputs[1].detach(), "bias": case.inputs[2].detach()})

    class Loss(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = head

        def forward(self, hidden: Tensor, teacher: Tensor, mask: Tensor, items: Tensor) -> Tensor:
            return fused_divergence(
                hidden, self.head.weight, teacher, case.teacher[1], "jsd", mask=mask, num_items=items,
                student_bias=self.head.bias, teacher_bias=case.teacher[2],
            )  # fmt: skip

    items = case.mask[share].sum()
    torch.distributed.all_reduce(items)
    model = torch.nn.parallel.DistributedDataParallel(Loss())
    loss = model(case.inputs[0][share], case.teacher[0][share], case.mask[share], items)
    (loss * 2).backward()  # times the number of processes, as DDP averages
    if rank == 0:
        torch.save([head.weight.grad, head.bias.grad], f"{store}/grads.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_give_the_gradient_of_one(tmp_path: Path) -> None:
    case = Case(6, rows=20, dtype=torch.float32, capped=False)
    whole = case.grads(case.fused("jsd", mask=case.mask))[1:]
    done = launch(_data_parallel, (str(tmp_path),), tmp_path / "log", processes=2)
    assert not any(done.statuses), done.stderr[-3000:]
    close(torch.load(tmp_path / "grads.pt"), whole, 1e-6)


def test_an_empty_mask_is_zero_with_gradients_of_zero() -> None:
    case = Case(7)
    nothing = torch.zeros(23, dtype=torch.bool)
    for reduction in ("sum", "none"):
        value = case.fused("jsd", mask=nothing, reduction=reduction).sum()
        assert value.item() == 0
        assert all((grad == 0).all() for grad in case.grads(value))
    hidden = torch.zeros(0, 6, requires_grad=True)
    fused_divergence(hidden, torch.ones(4, 6), torch.zeros(0, 6), torch.ones(4, 6), "jsd").backward()
    assert hidden.grad is not None and hidden.grad.shape == (0, 6)


def test_a_masked_row_may_hold_anything() -> None:
    case = Case(8)
    kept = case.fused("reverse_kl", mask=case.mask)
    with torch.no_grad():
        case.inputs[0][~case.mask] = math.nan
        case.teacher[0][~case.mask] = math.inf
    again = case.fused("reverse_kl", mask=case.mask.long())
    assert torch.equal(kept, again)
    assert all(grad.isfinite().all() for grad in case.grads(again))


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

    monkeypatch.setattr(fused, "value_and_grad", spied)
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
