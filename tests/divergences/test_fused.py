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

from distillknob.divergences.dense import KINDS
from distillknob.divergences.fused import fused_divergence
from distillknob.runtime.processes import disconnect
from launch import launch
from two_heads import OPTIONS, Case, close

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
    disconnect()


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
