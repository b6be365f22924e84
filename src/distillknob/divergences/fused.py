"""`divergence` from hidden states and heads, without the [N, V] logits: the same values, the same gradients.

One pass over chunks of rows. A chunk is projected by both heads, turned into divergences and, in the same visit, into
the gradient of the student's logits, which is multiplied into the gradients of hidden states and head at once. Nothing
of width V outlives its group of chunks and backward only scales: four matrix products, which is as few as there can be.
Rows that are masked out are dropped before anything is computed for them.

Two sizes matter. A chunk has enough rows that its matrix products are bound by arithmetic and not by reading the
head; within a chunk, the elementwise work runs on blocks of rows that stay in the cache. On a GPU `torch.compile` makes
few kernels of it for the whole chunk (`rows`), whose number of rows is therefore always the same; where Triton, a C
compiler or Python's headers are missing, a warning says so and PyTorch's operations do it, to the same values, in some
four times the time of the whole.

On a GPU, heads and hidden states of one half-precision type are multiplied as they are, with sums and logits in
float32 (`products`). In bfloat16 the gradient of the logits is rounded to it as well before it is multiplied, as
autograd does behind a bfloat16 head. It then takes half of the logits' room, and that of several chunks is held: the
sum of the head's gradients is twice as large as the head, and is read and written once a group. Where all rows are one
group there is no such sum. float16 has too few exponents for these gradients: there the backward products are float32.

Left out on purpose: tiles of the vocabulary, which bound the chunk in V as well but project both models twice; heads
that are sharded over devices (gather them first); gradients to the teacher and to `weights`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from distillknob.divergences import products
from distillknob.divergences.kernel import Spec, check_top_k, compute_dtype
from distillknob.divergences.rows import Comparison, Finish, compare_in_blocks, compiled_rows
from distillknob.errors import BadInputError

# Rows per chunk, between which the vocabulary's width chooses. A chunk reads both heads and writes the head's gradient,
# which on a CPU costs 128 rows some 15 % of their products' time, 256 rows 7 % and 512 rows 4 %.
_FEWEST_ROWS, _MOST_ROWS = 128, 1024
# What a chunk may take. On a CPU, where these are both models' logits, the system hands out each page of them anew at
# every call, which costs more than larger chunks save beyond this.
_CPU_CHUNK_BYTES, _DEVICE_CHUNK_BYTES = 1 << 26, 1 << 30
# Of one row and token: on a GPU two logits, four chunks' gradients in bfloat16, and a float32 that the kernels keep.
_CPU_TOKEN_BYTES, _DEVICE_TOKEN_BYTES = 8, 20
_GROUPED_CHUNKS = 4  # whose gradients are held for one product, where they are bfloat16


def fused_divergence(
    student_hidden: Tensor,
    student_head: Tensor,
    teacher_hidden: Tensor,
    teacher_head: Tensor,
    kind: str,
    *,
    mask: Tensor | None = None,
    beta: float = 0.5,
    temperature: float = 1.0,
    student_bias: Tensor | None = None,
    teacher_bias: Tensor | None = None,
    student_softcap: float | None = None,
    teacher_softcap: float | None = None,
    student_logit_scale: float = 1.0,
    teacher_logit_scale: float = 1.0,
    num_items: int | Tensor | None = None,
    weights: Tensor | None = None,
    reduction: str = "sum",
    top_k: int | None = None,
    t2: bool = False,
    alpha: float = 0.1,
    jsd_scale: str = "trl",
) -> Tensor:
    """Σ over masked-in rows of weight · divergence(student row, teacher row), over `num_items`. In nats.

    Args:
      student_hidden [..., Hs], teacher_hidden [..., Ht]: what the heads are applied to, the same leading axes (N rows
        in all) already aligned: row i of both predicts the same token. student_head [Vs, Hs], teacher_head [Vt, Ht],
        biases [Vs], [Vt]. Widths Vs ≠ Vt are compared on the shared part, as in `divergence`.
      mask: [...] which rows count (bool, or 0/1); weights: [...] factor of each row; both cost nothing where zero.
      *_logit_scale, *_softcap: logits = softcap·tanh(scale·(hidden·headᵀ + bias) / softcap), as Cohere and Gemma.
      num_items: what the sum is divided by; None is the number of masked-in rows (at least 1). Give the count of the
        whole batch when a batch is spread over micro-batches or processes, and add up the gradients (a DDP that
        averages over W processes needs the loss times W).
      reduction: "sum" as above, a scalar; "none" gives weight · divergence [...] for every row, 0 where masked out,
        not divided by num_items. Its backward computes everything a second time, as the gradient's factors are not
        known before.
      kind, beta, temperature, top_k, t2, alpha, jsd_scale: as in `divergence`.

    Returns: float32, or float64 where an input is. Gradients reach student_hidden, student_head and student_bias, each
      only if it requires one, and are accumulated in the computation's type. Logits of half-precision inputs, and all
      that is computed of them, are float32. Extra memory is two chunks of logits, whatever N, and in half precision the
      head's gradient in float32.

    Raises: BadInputError where shapes don't fit each other or a parameter is out of range.
    """
    spec = Spec.of(kind, beta=beta, alpha=alpha, temperature=temperature, jsd_scale=jsd_scale)
    check_top_k(top_k)
    student = _Side.of("student", student_hidden, student_head, student_bias, student_logit_scale, student_softcap)
    teacher = _Side.of("teacher", teacher_hidden, teacher_head, teacher_bias, teacher_logit_scale, teacher_softcap)
    lead = student_hidden.shape[:-1]
    for name, rows in (("teacher_hidden", teacher_hidden[..., 0]), ("mask", mask), ("weights", weights)):
        if rows is not None and rows.shape != lead:
            raise BadInputError(f"{name} has rows {list(rows.shape)}, student_hidden has {list(lead)}")
    if reduction not in ("sum", "none"):
        raise BadInputError(f"reduction must be 'sum' or 'none', got {reduction!r}")
    if isinstance(num_items, int | float) and num_items <= 0:
        raise BadInputError(
            f"num_items must be positive, got {num_items}: pass the number of tokens in the whole batch"
        )

    dtype = compute_dtype(student_hidden, student_head, teacher_hidden, teacher_head)
    rows, factors = _valid_rows(len(student.hidden), mask, weights, dtype, student_hidden.device)
    if reduction == "sum":
        if num_items is None:
            num_items = max(1, len(student.hidden) if mask is None else int((mask != 0).sum()))
        factors = factors / num_items
    if t2:
        factors = factors * temperature**2
    teacher = teacher.detached()
    job = _Job(student, teacher, spec, top_k, rows, factors, dtype)
    wanted = torch.is_grad_enabled()  # which is off inside of an autograd function
    result = _Fused.apply(student.hidden, student.head, student.bias, job, reduction == "sum", wanted)
    return result if reduction == "sum" else result.view(lead)


@dataclass(frozen=True)
class _Side:
    """One model's way from hidden states to logits."""

    hidden: Tensor  # [N, H]
    head: Tensor  # [V, H]
    finish: Finish

    @classmethod
    def of(
        cls, who: str, hidden: Tensor, head: Tensor, bias: Tensor | None, scale: float, softcap: float | None
    ) -> _Side:
        if head.ndim != 2 or hidden.ndim < 1 or hidden.shape[-1] != head.shape[1] or 0 in head.shape:
            raise BadInputError(
                f"{who}_hidden {list(hidden.shape)} must be [..., H] and {who}_head {list(head.shape)} [V, H]"
            )
        if bias is not None and bias.shape != head.shape[:1]:
            raise BadInputError(f"{who}_bias {list(bias.shape)} must be [V] = {list(head.shape[:1])}")
        if softcap is not None and not softcap > 0:
            raise BadInputError(f"{who}_softcap must be positive or None, got {softcap}")
        return cls(hidden.reshape(-1, hidden.shape[-1]), head, Finish(bias, scale, softcap))

    @property
    def bias(self) -> Tensor | None:
        """[V]"""
        return self.finish.bias

    def detached(self) -> _Side:
        finish = self.finish if self.bias is None else replace(self.finish, bias=self.bias.detach())
        return replace(self, hidden=self.hidden.detach(), head=self.head.detach(), finish=finish)


@dataclass(frozen=True)
class _Job:
    """Everything but what autograd must see; `rows` is None where all N rows count."""

    student: _Side
    teacher: _Side
    spec: Spec
    top_k: int | None
    rows: Tensor | None  # [M] indices of the rows that count
    factors: Tensor  # [M] of their divergence in the result
    dtype: torch.dtype

    def run(self, needs: tuple[bool, bool, bool]) -> tuple[Tensor, list[Tensor | None]]:
        """The divergences [M], and the gradients of Σ factors · divergence that are needed (hidden, head, bias)."""
        student, count = self.student, len(self.factors)
        short = student.head.dtype == torch.bfloat16 and products.multiplied_as_they_are(student.hidden, student.head)
        # The gradients of all rows take no more than the head's in float32 would.
        whole = short and needs[1] and 0 < count <= 2 * student.head.shape[1]
        gradients = _Gradients(self, needs, whole)
        values = self._pass(gradients, short, any(needs))
        return values, gradients.kept()

    def _pass(self, gradients: _Gradients, short: bool, with_grad: bool) -> Tensor:
        """The divergences [M], and their gradients to `gradients`; `short` where these are bfloat16."""
        student, teacher, count, device = self.student, self.teacher, len(self.factors), self.factors.device
        width = min(len(student.head), len(teacher.head))
        compiled = compiled_rows() if device.type == "cuda" and self.dtype == torch.float32 else None
        step = chunk_rows(count, width, device)
        padded = -(-count // step) * step  # all chunks are of one size, and of the last one some rows aren't read
        group = max(padded, step) if gradients.whole else step * (_GROUPED_CHUNKS if short else 1)
        how = Comparison(student.finish, teacher.finish, self.spec, self.top_k)
        values = self.factors.new_zeros(padded)
        factors = torch.nn.functional.pad(self.factors, (0, padded - count))
        x_nV, y_nV = (torch.empty((step, width), dtype=self.dtype, device=device) for _ in "xy")
        apart = torch.empty((min(group, padded), width), dtype=student.head.dtype, device=device) if short else None
        for first in range(0, count, group):
            last = min(first + group, count)
            for start in range(first, last, step):
                chunk, size = slice(start, start + step), min(step, last - start)
                rows = slice(start, start + size) if self.rows is None else self.rows[start : start + size]
                products.project(student.hidden[rows], student.head, x_nV[:size])
                products.project(teacher.hidden[rows], teacher.head, y_nV[:size])
                grad_nV = (x_nV if apart is None else apart[start - first :][:step]) if with_grad else None
                if compiled is not None:
                    compiled(how, x_nV, y_nV, factors[chunk], values[chunk], grad_nV)
                else:
                    grad_nV = None if grad_nV is None else grad_nV[:size]
                    part = slice(start, start + size)
                    compare_in_blocks(how, x_nV[:size], y_nV[:size], factors[part], values[part], grad_nV)
            if with_grad:
                gradients.add(slice(first, last), (x_nV if apart is None else apart)[: last - first])
        return values[:count]


class _Gradients:
    """The gradients of a job's hidden states, head and bias, each where it is needed: sums over groups of rows."""

    def __init__(self, job: _Job, needs: tuple[bool, bool, bool], whole: bool) -> None:
        self.job, self.whole = job, whole
        student, dtype, device = job.student, job.dtype, job.student.hidden.device
        kept = _kept_dtype(student.hidden.dtype)
        self.hidden = torch.zeros(student.hidden.shape, dtype=kept, device=device) if needs[0] else None
        summed = needs[1] and not whole
        self.head = torch.zeros(student.head.shape, dtype=dtype, device=device) if summed else None
        self.bias = torch.zeros(len(student.head), dtype=dtype, device=device) if needs[2] else None

    def add(self, group: slice, grad_nV: Tensor) -> None:
        """Add what the logits' gradient of a group of rows makes of each; where `whole`, of the one that there is."""
        job, student = self.job, self.job.student
        rows = group if job.rows is None else job.rows[group]
        if self.hidden is not None:
            self.hidden[rows] = products.hidden_gradient(grad_nV, student.head).to(self.hidden.dtype)
        if self.bias is not None:
            self.bias[: grad_nV.shape[1]] += grad_nV.sum(0, dtype=self.bias.dtype)
        if self.whole:
            self.head = products.head_gradient(grad_nV, student.hidden[rows], len(student.head), student.head.dtype)
        elif self.head is not None:
            products.add_head_gradient(self.head, grad_nV, student.hidden[rows])

    def kept(self) -> list[Tensor | None]:
        """Hidden states, head and bias, in the types that they are kept in."""
        student = self.job.student
        head = None if self.head is None else self.head.to(_kept_dtype(student.head.dtype))
        bias = None if self.bias is None or student.bias is None else self.bias.to(_kept_dtype(student.bias.dtype))
        return [self.hidden, head, bias]


def _kept_dtype(dtype: torch.dtype) -> torch.dtype:
    """What a gradient is kept in until the loss's scale is known. Divided by a batch's tokens it is below float16's
    smallest number, which is why losses are scaled there at all."""
    return torch.float32 if dtype == torch.float16 else dtype


class _Fused(torch.autograd.Function):
    """Gradients of a sum are formed in the forward pass; those of single rows wait for their factors."""

    @staticmethod
    def forward(ctx, hidden, head, bias, job, summed, grad_wanted):  # type: ignore[no-untyped-def]
        ctx.job, ctx.summed = job, summed
        ctx.dtypes = [None if tensor is None else tensor.dtype for tensor in (hidden, head, bias)]
        needs = tuple(grad_wanted and need for need in ctx.needs_input_grad[:3])
        with torch.autocast(hidden.device.type, enabled=False):
            values, grads = job.run(needs if summed else (False, False, False))
        if summed:
            ctx.save_for_backward(*grads)
            ctx.job = None
            return (values * job.factors).sum(dtype=torch.float64).to(job.dtype)
        # The job keeps them; autograd is shown them too, so that it tells when one is changed before the backward pass.
        sides = (job.student, job.teacher)
        ctx.save_for_backward(*(tensor for side in sides for tensor in (side.hidden, side.head, side.bias)))
        weighted = values * job.factors
        if job.rows is None:
            return weighted
        return weighted.new_zeros(len(hidden)).index_copy_(0, job.rows, weighted)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_result):  # type: ignore[no-untyped-def]
        if ctx.summed:
            grads = ctx.saved_tensors
            if grad_result != 1:  # the usual 1 spares a copy of the head's gradient
                grads = [None if grad is None else grad * grad_result.to(grad.dtype) for grad in grads]
            return *_cast(grads, ctx.dtypes), None, None, None
        job, _ = ctx.job, ctx.saved_tensors
        wanted = grad_result if job.rows is None else grad_result[job.rows]
        again = replace(job, factors=job.factors * wanted)
        with torch.autocast(wanted.device.type, enabled=False):
            _, grads = again.run(ctx.needs_input_grad[:3])
        return *_cast(grads, ctx.dtypes), None, None, None


def _cast(grads: Sequence[Tensor | None], dtypes: Sequence[torch.dtype | None]) -> list[Tensor | None]:
    return [None if grad is None else grad.to(dtype) for grad, dtype in zip(grads, dtypes, strict=True)]


def chunk_rows(rows: int, width: int, device: torch.device) -> int:
    """How many rows of width V to project at once: on a CPU such that all chunks have about the same size, on a GPU
    whatever their number, so that one shape is compiled.

    As many as the memory allowed for them holds, but no fewer than make a product with a head worth reading it (2·n
    operations a weight, against memory that delivers one weight for some tens of them). Caches don't matter here: a
    product's tiles and the blocks of elementwise work are smaller than a chunk.
    """
    on_cpu = device.type == "cpu"
    budget, token = (_CPU_CHUNK_BYTES, _CPU_TOKEN_BYTES) if on_cpu else (_DEVICE_CHUNK_BYTES, _DEVICE_TOKEN_BYTES)
    most = min(max(budget // (token * width), _FEWEST_ROWS), _MOST_ROWS)
    return max(1, -(-rows // max(1, -(-rows // most)))) if on_cpu else most


def chunk_bytes(rows: int, width: int, device: torch.device) -> int:
    """What a chunk takes beyond the gradients of hidden states and heads, in bytes."""
    token = _CPU_TOKEN_BYTES if device.type == "cpu" else _DEVICE_TOKEN_BYTES
    return token * width * chunk_rows(rows, width, device)


def _valid_rows(
    count: int, mask: Tensor | None, weights: Tensor | None, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor | None, Tensor]:
    """Indices of the rows that count (None: all), and their weights."""
    factors = torch.ones(count, dtype=dtype, device=device)
    if weights is not None:
        factors = weights.detach().reshape(-1).to(dtype)
    counts = factors != 0
    if mask is not None:
        counts = counts & (mask.reshape(-1) != 0)
    rows = counts.nonzero().squeeze(1)
    return (None, factors) if len(rows) == count else (rows, factors[rows])
