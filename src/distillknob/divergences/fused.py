"""`divergence` from hidden states and heads, without the [N, V] logits: the same values, the same gradients.

One pass over chunks of rows. A chunk is projected by both heads, turned into divergences and, in the same visit, into
the gradient of the student's logits, which is multiplied into the gradients of hidden states and head at once. Nothing
of width V outlives its chunk and backward only scales: four matrix products, which is as few as there can be. Rows that
are masked out are dropped before anything is computed for them.

Two sizes matter. A chunk has enough rows that its matrix products are bound by arithmetic and not by reading the
head; within a chunk, the elementwise work runs on blocks of rows that stay in the cache (`row_blocks`).

Left out on purpose: tiles of the vocabulary, which bound the chunk in V as well but project both models twice; heads
that are sharded over devices (gather them first); gradients to the teacher and to `weights`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from distillknob.divergences.kernel import Spec, check_top_k, compute_dtype, row_blocks, value_and_grad
from distillknob.errors import BadInputError

# Rows per chunk, between which the vocabulary's width chooses. A chunk reads both heads and writes the head's gradient,
# which on a CPU costs 128 rows some 15 % of their products' time, 256 rows 7 % and 512 rows 4 %.
_FEWEST_ROWS, _MOST_ROWS = 128, 1024
# What a chunk's logits of both models may take. On a CPU the system hands out each page of them anew at every call,
# which costs more than larger chunks save beyond this.
_CPU_CHUNK_BYTES, _DEVICE_CHUNK_BYTES = 1 << 26, 1 << 30
# Heads in another type than the computation's are converted this many tokens at a time.
_CONVERTED_TOKENS = 8192


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
      only if it requires one, and are accumulated in the computation's type. Half-precision inputs are computed in
      float32. Extra memory is two chunks of logits, whatever N.

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
    bias: Tensor | None  # [V]
    scale: float
    softcap: float | None

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
        return cls(hidden.reshape(-1, hidden.shape[-1]), head, bias, scale, softcap)

    def detached(self) -> _Side:
        bias = None if self.bias is None else self.bias.detach()
        return replace(self, hidden=self.hidden.detach(), head=self.head.detach(), bias=bias)

    def project(self, hidden_nH: Tensor, out_nV: Tensor) -> None:
        """Plain hidden·headᵀ of the first V tokens; `finish` does the rest, block by block."""
        for tokens, head in _head_parts(self.head, out_nV.shape[1], hidden_nH.dtype):
            torch.mm(hidden_nH, head.t(), out=out_nV[:, tokens])

    def finish(self, logits_nV: Tensor) -> None:
        """Bias, scale and soft-cap, in place."""
        if self.bias is not None:
            logits_nV.add_(self.bias[: logits_nV.shape[1]])
        if self.scale != 1:
            logits_nV.mul_(self.scale)
        if self.softcap is not None:
            logits_nV.div_(self.softcap).tanh_().mul_(self.softcap)

    def chain(self, grad_nV: Tensor, logits_nV: Tensor) -> None:
        """Turn a gradient in the finished logits into one in hidden·headᵀ + bias, in place."""
        if self.softcap is not None:
            grad_nV.mul_(1 - (logits_nV / self.softcap).square_())
        if self.scale != 1:
            grad_nV.mul_(self.scale)


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
        student, teacher, dtype = self.student, self.teacher, self.dtype
        device = student.hidden.device
        width = min(len(student.head), len(teacher.head))
        values = torch.zeros(len(self.factors), dtype=dtype, device=device)
        kept = _kept_dtype(student.hidden.dtype)
        grad_hidden = torch.zeros(student.hidden.shape, dtype=kept, device=device) if needs[0] else None
        grad_head = torch.zeros(student.head.shape, dtype=dtype, device=device) if needs[1] else None
        grad_bias = torch.zeros(len(student.head), dtype=dtype, device=device) if needs[2] else None
        step = chunk_rows(len(values), width, device)
        x_buffer, y_buffer = (torch.empty((step, width), dtype=dtype, device=device) for _ in "xy")
        for start in range(0, len(values), step):
            chunk = slice(start, min(start + step, len(values)))
            rows = chunk if self.rows is None else self.rows[chunk]
            hidden_nH = student.hidden[rows].to(dtype)
            x_nV, y_nV = x_buffer[: chunk.stop - start], y_buffer[: chunk.stop - start]
            student.project(hidden_nH, x_nV)
            teacher.project(teacher.hidden[rows].to(dtype), y_nV)
            self._to_gradient(x_nV, y_nV, values[chunk], self.factors[chunk], any(needs))
            if grad_hidden is not None:
                grad_nH = torch.zeros_like(hidden_nH)
                for tokens, head in _head_parts(student.head, width, dtype):
                    grad_nH.addmm_(x_nV[:, tokens], head)
                grad_hidden[rows] = grad_nH.to(grad_hidden.dtype)
            if grad_head is not None:
                grad_head[:width].addmm_(x_nV.t(), hidden_nH)
            if grad_bias is not None:
                grad_bias[:width] += x_nV.sum(0)
        grad_head = None if grad_head is None else grad_head.to(_kept_dtype(student.head.dtype))
        grad_bias = None if grad_bias is None or student.bias is None else grad_bias.to(_kept_dtype(student.bias.dtype))
        return values, [grad_hidden, grad_head, grad_bias]

    def _to_gradient(self, x_nV: Tensor, y_nV: Tensor, values: Tensor, factors: Tensor, with_grad: bool) -> None:
        """Fill in the chunk's values, and overwrite the student's projections with the gradient of these."""
        for block in row_blocks(len(x_nV), x_nV.shape[1], x_nV.device):
            x, y = x_nV[block], y_nV[block]
            self.student.finish(x)
            self.teacher.finish(y)
            values[block], grad = value_and_grad(x, y, self.spec, self.top_k, with_grad)
            if grad is not None:
                self.student.chain(grad, x)
                torch.mul(grad, factors[block].unsqueeze(-1), out=x)


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
    """How many rows of width V to project at once, so that all chunks have about the same size.

    As many as the memory allowed for them holds, but no fewer than make a product with a head worth reading it (2·n
    operations a weight, against memory that delivers one weight for some tens of them). Caches don't matter here: a
    product's tiles and the blocks of elementwise work are smaller than a chunk.
    """
    budget = _CPU_CHUNK_BYTES if device.type == "cpu" else _DEVICE_CHUNK_BYTES
    most = min(max(budget // (8 * width), _FEWEST_ROWS), _MOST_ROWS)
    return max(1, -(-rows // max(1, -(-rows // most))))


def _head_parts(head_VH: Tensor, width: int, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """The head's first `width` tokens in the computation's type: whole where it has that type, else converted part
    by part, so that no second head is held."""
    step = width if head_VH.dtype == dtype else _CONVERTED_TOKENS
    for start in range(0, width, step):
        tokens = slice(start, min(start + step, width))
        yield tokens, head_VH[tokens].to(dtype)


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
