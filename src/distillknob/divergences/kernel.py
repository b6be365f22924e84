"""The arithmetic under every divergence: a block of rows of logits in, values and gradients out.

Letters: p is the teacher's distribution, q the student's, d = log p − log q, N rows, V the vocabulary. In nats.

How the numbers are kept right. The textbook Σ p·(log p − log q) cancels: near p = q its terms are of first order and
its sum of second, so that float32 leaves noise of 1e-7 and negative values. Here every divergence is a sum of terms
w·φ(r) with φ(r) = r − 1 + exp(−r) ≥ 0, r a log-ratio and w a probability (the added −w + w·exp(−r) sum to zero over a
vocabulary). Every term is non-negative, zero exactly where the models agree, and an error common to all log-ratios of a
row, as a rounded normaliser makes it, drops out to first order. For small r, φ is a series; the log-ratio itself comes
from the difference of the logits in float64, never from two rounded log-softmaxes. Gradients are written out, so that
nothing is differentiated through a branch, and the fused path can form them with the value.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from distillknob.errors import BadInputError, nearest

KINDS = ("forward_kl", "reverse_kl", "jsd", "skew_forward_kl", "skew_reverse_kl", "total_variation")

# Below this |log-ratio| the series of φ is used, above it the plain form: its error there is under 1e-6 of φ.
_SERIES_BELOW = 0.5
# φ(r) = r²·(1/2! − r/3! + r²/4! − …); the first term left out is 8e-7 of φ at |r| = 0.5.
_SERIES = tuple((-1) ** n / math.factorial(n + 2) for n in range(6))
_SERIES_FLOAT64 = tuple((-1) ** n / math.factorial(n + 2) for n in range(13))
# Stands for an infinite log-ratio: finite, so that its product with a probability of zero is zero and not NaN.
FAR = 1e30
# A mixture's logarithm stops changing here, exp(−40) being beneath its rounding; further out exp(d) would
# overflow.
_MIXTURE_FAR = 40.0


@dataclass(frozen=True)
class Spec:
    """Which divergence, checked and with the limits β ∈ {0, 1} and α = 0 already turned into the KLs that they are."""

    kind: str
    weight: float = 0.5  # of the mixture: β (of p in jsd) or α (of the first argument in a skewed KL)
    inverse_temperature: float = 1.0
    unit_jsd: bool = False

    @classmethod
    def of(cls, kind: str, *, beta: float, alpha: float, temperature: float, jsd_scale: str) -> Spec:
        """Check what a caller gave. Raises BadInputError with the value and the remedy."""
        if kind not in KINDS:
            raise BadInputError(f"unknown divergence {kind!r}{nearest(str(kind), KINDS)}; known: {', '.join(KINDS)}")
        if not (math.isfinite(temperature) and temperature > 0):
            raise BadInputError(f"temperature must be positive and finite, got {temperature}")
        if not 0 <= beta <= 1:
            raise BadInputError(f"beta must lie in [0, 1], got {beta}")
        if not 0 <= alpha < 1:
            raise BadInputError(f"alpha must lie in [0, 1), got {alpha}: at 1 a skewed KL is zero for any student")
        if jsd_scale not in ("trl", "unit"):
            raise BadInputError(f"jsd_scale must be 'trl' or 'unit', got {jsd_scale!r}")
        if kind == "jsd" and beta in (0, 1):
            kind = "reverse_kl" if beta else "forward_kl"
        if kind.startswith("skew_") and alpha == 0:
            kind = kind.removeprefix("skew_")
        return cls(kind, beta if kind == "jsd" else alpha, 1 / temperature, jsd_scale == "unit")


def compute_dtype(*tensors: Tensor) -> torch.dtype:
    """float64 where one of the tensors is, else float32 whatever they are."""
    return torch.float64 if any(t.dtype == torch.float64 for t in tensors) else torch.float32


def check_top_k(k: int | None) -> None:
    """Raise BadInputError unless k is None or a positive integer."""
    if k is not None and (isinstance(k, bool) or not isinstance(k, int) or k < 1):
        raise BadInputError(f"a top-k needs a positive integer, got {k!r}")


def value_and_grad(
    student_NV: Tensor, teacher_NV: Tensor, spec: Spec, top_k: int | Tensor | None, with_grad: bool
) -> tuple[Tensor, Tensor | None]:
    """Divergence [N] of a block of rows, and its gradient [N, V] in the student's logits where it is asked for.

    Both logits are float32 or float64, of the same type. top_k may also be the ids [N, K] of a stored teacher, whose
    buckets are then `teacher_NV` [N, K + 1].
    """
    if top_k is None:
        return _full_value_and_grad(student_NV, teacher_NV, spec, with_grad)
    if isinstance(top_k, Tensor):
        ids, teacher_buckets = top_k, teacher_NV
    else:
        ids = teacher_NV.topk(min(top_k, teacher_NV.shape[1]), dim=-1).indices
        teacher_buckets, _ = _buckets(teacher_NV, ids, spec)
    student_buckets, rest_NV = _buckets(student_NV, ids, spec)
    value, grad = _full_value_and_grad(
        student_buckets, teacher_buckets, replace(spec, inverse_temperature=1), with_grad
    )
    value = value.to(student_NV.dtype)
    if grad is None:
        return value, None
    # The tail's gradient falls on its tokens in proportion to their share of it.
    tail = student_buckets[:, -1:].masked_fill(student_buckets[:, -1:] == -math.inf, 0.0)
    spread = rest_NV.sub_(tail).exp_().mul_(grad[:, -1:]).scatter_(-1, ids, grad[:, :-1])
    return value, spread.mul_(spec.inverse_temperature).to(student_NV.dtype)


def _buckets(logits_NV: Tensor, ids_NK: Tensor, spec: Spec) -> tuple[Tensor, Tensor]:
    """Log-weights [N, K + 1] of the tokens `ids` and of all others together, and the logits with `ids` taken out.

    In float64: the tail's log-weight is a sum over the vocabulary, and its rounding would show in a small divergence.
    """
    tempered = logits_NV.double() * spec.inverse_temperature
    rest = tempered.scatter(-1, ids_NK, -math.inf)
    return torch.cat([tempered.gather(-1, ids_NK), rest.logsumexp(-1, keepdim=True)], dim=-1), rest


def _full_value_and_grad(x_NV: Tensor, y_NV: Tensor, spec: Spec, with_grad: bool) -> tuple[Tensor, Tensor | None]:
    pair = compare(x_NV, y_NV, spec)
    terms, score = _terms(spec, pair.p, pair.q, pair.d)
    value = terms.sum(-1).clamp_(min=0)
    del terms
    lacks = {"forward_kl": pair.student_lacks, "reverse_kl": pair.teacher_lacks}.get(spec.kind)
    infinite = None if lacks is None else lacks.any(-1)
    if infinite is not None:
        value.masked_fill_(infinite, math.inf)
    if not with_grad:
        return value, None
    if score is None:  # forward KL, whose score −p/q is infinite where q underflows; the product is not
        grad = pair.q.sub_(pair.p)
    else:  # any other: the softmax's Jacobian applied to the score
        grad = score.sub_(torch.linalg.vecdot(pair.q, score).unsqueeze(-1)).mul_(pair.q)
    if infinite is not None:
        grad.masked_fill_(infinite.unsqueeze(-1), 0.0)
    return value, grad if spec.inverse_temperature == 1 else grad.mul_(spec.inverse_temperature)


@dataclass
class Pair:
    """Two distributions and their log-ratio, [N, V] each; the masks are None where no logit is −inf."""

    p: Tensor
    q: Tensor
    d: Tensor  # log p − log q, clamped to ±FAR; 0 where both are impossible
    teacher_max: Tensor  # [N, 1] the largest logit
    student_max: Tensor
    teacher_total: Tensor  # [N, 1] Σ exp((logit − largest) / T)
    student_total: Tensor
    student_lacks: Tensor | None  # p > 0 and the student's logit is −inf
    teacher_lacks: Tensor | None


def compare(x_NV: Tensor, y_NV: Tensor, spec: Spec) -> Pair:
    scale = spec.inverse_temperature
    q, x_max, x_total = _softmax(x_NV, scale)
    p, y_max, y_total = _softmax(y_NV, scale)
    shift = (y_max.double() - x_max) * scale + (y_total.double() / x_total).log()  # log Z_teacher − log Z_student
    d64 = y_NV.to(torch.float64, copy=True).sub_(x_NV)
    if scale != 1:
        d64.mul_(scale)
    d = d64.sub_(shift).to(x_NV.dtype)
    student_lacks = teacher_lacks = None
    # Compiled code has no branches on data, and none is worth having where all of this is one kernel.
    if torch.compiler.is_compiling() or torch.minimum(x_NV.amin(-1), y_NV.amin(-1)).isneginf().any():
        student_never, teacher_never = x_NV.isneginf(), y_NV.isneginf()
        d.masked_fill_(student_never & teacher_never, 0.0).clamp_(-FAR, FAR)
        # Where a row has no distribution at all its probability is NaN, not 0, and so stays the value.
        student_lacks, teacher_lacks = student_never & (p > 0) & (q == 0), teacher_never & (q > 0) & (p == 0)
    if spec.kind == "total_variation":
        # |p − q| is of first order in d, so the shift's rounding shows: one Newton step towards Σ (p − q) = 0.
        gap = torch.maximum(p, q).mul_(torch.expm1(-d.abs())).mul_(d.sign())
        d.add_(torch.log1p(gap.sum(-1, keepdim=True)))
    return Pair(p, q, d, y_max, x_max, y_total, x_total, student_lacks, teacher_lacks)


def _softmax(logits_NV: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """softmax(scale·logits) [N, V], the largest logit [N, 1] and Σ exp(scale·(logit − largest)) [N, 1].

    Not torch.softmax: on a CPU its sum runs in one float32 per lane and is 1e-5 off at 32,000 tokens; torch.sum's is
    a tree.
    """
    largest = logits_NV.amax(-1, keepdim=True)
    probs = logits_NV - largest
    if scale != 1:
        probs.mul_(scale)
    total = probs.exp_().sum(-1, keepdim=True)
    return probs.div_(total), largest, total


def _terms(spec: Spec, p: Tensor, q: Tensor, d: Tensor) -> tuple[Tensor, Tensor | None]:
    """The divergence's non-negative terms, and its score: the derivative in q up to a constant (None: −p/q)."""
    kind, weight = spec.kind, spec.weight
    if kind == "forward_kl":
        return excess(p, d, q), None
    if kind == "reverse_kl":
        return excess(q, -d, p), -d
    if kind == "total_variation":
        return torch.expm1(-d.abs()).mul_(torch.maximum(p, q)).mul_(-0.5), d.sign().mul_(-0.5)
    d = d.clamp(-_MIXTURE_FAR, _MIXTURE_FAR)
    if kind == "jsd":
        mixture = torch.lerp(q, p, weight)
        # Their difference is d. The one that the heavier weight keeps away from 0 at large |d| is the one to subtract.
        if weight <= 0.5:
            log_q_over_m = torch.expm1(d).mul_(weight).log1p_().neg_()
            log_p_over_m = d.add_(log_q_over_m)
        else:
            log_p_over_m = torch.expm1(-d).mul_(1 - weight).log1p_().neg_()
            log_q_over_m = log_p_over_m - d
        p_part, q_part = (1 / (1 - weight), 1 / weight) if spec.unit_jsd else (weight, 1 - weight)
        terms = excess(p, log_p_over_m, mixture).mul_(p_part)
        terms.add_(excess(q, log_q_over_m, mixture), alpha=q_part)
        return terms, log_q_over_m.mul_(q_part)
    if kind == "skew_forward_kl":
        log_p_over_m = torch.expm1(-d).mul_(1 - weight).log1p_().neg_()
        terms = excess(p, log_p_over_m, torch.lerp(q, p, weight))
        return terms, log_p_over_m.expm1_().mul_(weight - 1)
    log_q_over_m = torch.expm1(d).mul_(1 - weight).log1p_().neg_()
    terms = excess(q, log_q_over_m, torch.lerp(p, q, weight))
    return terms, log_q_over_m.sub_(torch.expm1(log_q_over_m), alpha=weight)


def excess(weight: Tensor, ratio: Tensor, other: Tensor) -> Tensor:
    """weight·(ratio − 1 + exp(−ratio)), where other = weight·exp(−ratio): non-negative, accurate at any ratio."""
    series = _SERIES_FLOAT64 if ratio.dtype == torch.float64 else _SERIES
    bounded = ratio.clamp(-_SERIES_BELOW, _SERIES_BELOW)
    near = bounded * series[-1]
    for coefficient in series[-2:0:-1]:
        near.add_(coefficient).mul_(bounded)
    near.add_(series[0]).mul_(bounded.square_()).mul_(weight)
    # A choice by 0.0 and 1.0, which lerp makes exactly: torch.where is several times slower on a CPU.
    is_near = torch.abs(ratio, out=bounded).lt_(_SERIES_BELOW)
    far = (ratio - 1).mul_(weight).add_(other)
    return torch.lerp(far, near, is_near, out=far)


def terms_at(spec: Spec, logp: Tensor, logq: Tensor) -> Tensor:
    """The terms at given log-probabilities (float64, not normalised), infinite where a KL is."""
    logp, logq = torch.broadcast_tensors(logp, logq)
    never = logp.isneginf() & logq.isneginf()
    d = torch.where(never, 0.0, logp - logq).clamp(-FAR, FAR)
    terms, _ = _terms(spec, logp.exp(), logq.exp(), d)
    if spec.kind in ("forward_kl", "reverse_kl"):
        terms = torch.where((d.abs() == FAR) & ((d > 0) == (spec.kind == "forward_kl")), math.inf, terms)
    return terms


def shared_part(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Logits over the tokens that both have. Raises BadInputError for shapes that don't match."""
    if not (student.is_floating_point() and teacher.is_floating_point()):
        raise BadInputError(f"logits must be floating point, got {student.dtype} and {teacher.dtype}")
    if student.ndim == 0 or teacher.ndim == 0 or student.shape[:-1] != teacher.shape[:-1]:
        raise BadInputError(
            f"student logits {list(student.shape)} and teacher logits {list(teacher.shape)} must agree in every axis "
            "but the last, which is the vocabulary"
        )
    shared = min(student.shape[-1], teacher.shape[-1])
    if shared == 0:
        raise BadInputError("the vocabulary is empty: the logits' last axis has length 0")
    return student[..., :shared], teacher[..., :shared]


def row_blocks(rows: int, width: int, device: torch.device) -> Iterator[slice]:
    """Slices of rows on which a chain of elementwise operations stays in cache, or on a GPU fills it.

    A block of [n, V] has about eight tensors alive at once; the operations on it are bound by where these lie.
    """
    elements = torch.get_num_threads() * CORE_CACHE_BYTES // 4 if device.type == "cpu" else 1 << 24
    step = max(1, elements // max(width, 1))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def _cache_bytes(name: str, usual: int) -> int:
    """A cache's size as the C library tells it (Linux), else a usual one."""
    try:
        size = os.sysconf(name)
    except (AttributeError, ValueError, OSError):
        size = 0
    return size if size > 0 else usual


CORE_CACHE_BYTES = _cache_bytes("SC_LEVEL2_CACHE_SIZE", 1 << 19)
