"""Merged spans between two tokenizers, compared token by token where both vocabularies have the token, and by shape
elsewhere (GOLD as in TRL; p is the teacher, q the student).

    w·JSD_β(p, q) over the common tokens + (1 − w)·Σ_k |p₍ₖ₎ − q₍ₖ₎| over each side's others, sorted

A span of several tokens has the distribution where it begins, times the probabilities of the tokens that follow in it:
what is left is no distribution, but a whole span's weight. w is the share of the teacher's vocabulary that the student
has. With one tokenizer every span is a token, w is 1, and the loss is GKD's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from distillknob.distillation.losses.base import Rollouts, States, View
from distillknob.distillation.losses.blocks import by_blocks
from distillknob.distillation.losses.cross_tokenizer import CrossTokenizer, span_starts
from distillknob.distillation.losses.spans import by_span, token_logprob
from distillknob.distillation.losses.uld import sorted_apart
from distillknob.divergences.kernel import compute_dtype


@dataclass(frozen=True)
class Common:
    """The tokens of both vocabularies: `student_M` and `teacher_M` are their ids on either side, `share` is how much
    of the teacher's vocabulary they are."""

    student_M: Tensor
    teacher_M: Tensor
    share: float


def common_tokens(student: PreTrainedTokenizerBase, teacher: PreTrainedTokenizerBase) -> Common:
    """Return the tokens that are written alike in both; the ends of an answer are alike whatever they are called."""
    ours, theirs = student.get_vocab(), teacher.get_vocab()
    pairs = {theirs[token]: ours[token] for token in theirs if token in ours}
    ends = student.eos_token_id, teacher.eos_token_id
    if None not in ends and ends[0] not in pairs.values():
        pairs[ends[1]] = ends[0]
    ids = sorted((own, other) for other, own in pairs.items())
    both = torch.tensor(ids, dtype=torch.long).reshape(-1, 2)
    return Common(both[:, 0], both[:, 1], len(ids) / max(1, len(set(theirs.values()))))


def merged(logits_NV: Tensor, later_N: Tensor) -> Tensor:
    """Return log of what each span's tokens come to, [N, V]: the distribution where it begins times the probability of
    what follows in it, whose logarithm is `later_N`."""
    return logits_NV.to(compute_dtype(logits_NV)).log_softmax(-1) + later_N[:, None]


def measures_jsd(logq_NM: Tensor, logp_NM: Tensor, beta: float) -> Tensor:
    """Return JSD_β in nats of measures that need not add up to 1, [N], never negative for 0 < β < 1; at exactly 0 it is
    Σ p·log(p/q), at 1 Σ q·log(q/p), as for distributions."""
    p_NM, q_NM = logp_NM.exp(), logq_NM.exp()
    if beta in (0, 1):
        return (p_NM * (logp_NM - logq_NM) if beta == 0 else q_NM * (logq_NM - logp_NM)).sum(-1)
    mixed_NM = (beta * p_NM + (1 - beta) * q_NM).clamp(min=torch.finfo(p_NM.dtype).tiny).log()
    return (beta * p_NM * (logp_NM - mixed_NM) + (1 - beta) * q_NM * (logq_NM - mixed_NM)).sum(-1)


def sorted_l1(q_NA: Tensor, p_NB: Tensor) -> Tensor:
    """Return the L1 distance of the sorted rows, [N], the shorter ones filled up with zeros."""
    return sorted_apart(q_NA, p_NB).sum(-1)


def gold_loss(logq_NV: Tensor, logp_NW: Tensor, common: Common, beta: float) -> Tensor:
    """Return the loss of each span, [N], from both sides' merged logarithms over their own vocabularies."""
    ours_M, theirs_M = common.student_M.to(logq_NV.device), common.teacher_M.to(logp_NW.device)
    matched_N = measures_jsd(logq_NV[:, ours_M], logp_NW[:, theirs_M], beta)
    if common.share == 1:
        return matched_N
    return common.share * matched_N + (1 - common.share) * sorted_l1(
        _others(logq_NV, ours_M), _others(logp_NW, theirs_M)
    )


def _others(logprob_NV: Tensor, common_M: Tensor) -> Tensor:
    other_V = torch.ones(logprob_NV.size(-1), dtype=torch.bool, device=logprob_NV.device)
    other_V[common_M] = False
    return logprob_NV[:, other_V].exp()


@dataclass
class Gold(CrossTokenizer):
    """The loss over a batch's spans. What both vocabularies have in common is looked up at the first batch."""

    beta: float = 0.5
    common: Common | None = field(default=None, init=False)

    reads = ("beta",)

    def prepare(self, rollouts: Rollouts) -> Mapping[str, Tensor]:
        if self.common is None and rollouts.teacher is not None:
            self.common = common_tokens(rollouts.student.tokenizer, rollouts.teacher.tokenizer)
        return super().prepare(rollouts)

    def value(self, view: View) -> Tensor:
        if self.common is None:
            raise ValueError("the common tokens are those of a prepared batch")
        common, batch = self.common, view.batch
        student, teacher = view.student, view.teacher()
        ours_NH, later_N = _begins(student, batch["completion_ids"], batch["student_span"])
        with torch.no_grad():
            theirs_NH, their_later_N = _begins(teacher, batch["teacher_completion_ids"], batch["teacher_span"])

        def of_block(ours_NH: Tensor, theirs_NH: Tensor, later_N: Tensor, their_later_N: Tensor) -> Tensor:
            with torch.no_grad():
                logp_NW = merged(teacher.head.logits(theirs_NH), their_later_N).to(ours_NH.device)
            return gold_loss(merged(student.head.logits(ours_NH), later_N), logp_NW, common, self.beta).sum()

        larger = max((student.head, teacher.head), key=lambda head: len(head.weight_VH))
        blocks = by_blocks(larger, of_block, ours_NH, theirs_NH, later_N, their_later_N)
        return (sum(blocks[1:], start=blocks[0]) if blocks else ours_NH.sum()) / view.items


def _begins(states: States, ids_BC: Tensor, span_BC: Tensor) -> tuple[Tensor, Tensor]:
    """The hidden states where spans begin, [N, H], and the log-probability of what follows in each, [N]."""
    starts_BC = span_starts(span_BC)
    later_BC = token_logprob(states.head, states.hidden_BCH, ids_BC, span_BC.masked_fill(starts_BC, -1))
    spans = int(span_BC.max()) + 1 if span_BC.numel() else 0
    later_BS = by_span(later_BC, span_BC, spans)
    inside_BS = torch.arange(spans, device=span_BC.device) < starts_BC.sum(1, keepdim=True)
    return states.hidden_BCH[starts_BC], later_BS[inside_BS]
