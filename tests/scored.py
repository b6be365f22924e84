"""Scored answers made of logits or log-probabilities, as `diagnose` would gather them."""

from __future__ import annotations

from typing import Any

import torch

from distillknob.diagnosis.pair_scores import RARE
from distillknob.diagnosis.samples import (
    ScoredTokens,
)
from distillknob.divergences.per_token import token_stats
from distillknob.divergences.sequence import enumerate_sequences

VOCABULARY, PROMPTS, TOKENS = 200, 80, 20


def sampled(
    teacher: torch.Tensor,
    student: torch.Tensor,
    *,
    ks: tuple[int, ...] = (1, 5, 50, VOCABULARY),
    policy: str = "off_policy",
) -> ScoredTokens:
    """One answer a prompt, TOKENS tokens each, from logits [PROMPTS·TOKENS, V]."""
    generator = torch.Generator().manual_seed(0)
    source = teacher if policy == "off_policy" else student
    token_N = torch.multinomial(source.softmax(-1), 1, generator=generator)[:, 0]
    stats = token_stats(student, teacher, list(ks), rare=RARE)
    assert stats.rare_kl is not None
    return ScoredTokens(
        task="planted",
        policy=policy,
        prompt_A=torch.arange(PROMPTS),
        answer_N=torch.arange(PROMPTS).repeat_interleave(TOKENS),
        token_N=token_N,
        forward_kl_N=stats.forward_kl,
        reverse_kl_N=stats.reverse_kl,
        teacher_logprob_N=teacher.log_softmax(-1).gather(-1, token_N[:, None])[:, 0],
        student_logprob_N=student.log_softmax(-1).gather(-1, token_N[:, None])[:, 0],
        student_entropy_N=stats.student_entropy,
        forward_parts_topk_NK=stats.forward_parts_topk,
        forward_gap_topk_NK=stats.forward_gap_topk,
        rare_kl_N=stats.rare_kl,
        ks=ks,
        texts={i: f"<{i}>" for i in range(teacher.size(-1))},
    )


def of_logprobs(
    prompt_A: torch.Tensor, answer_N: torch.Tensor, teacher_N: torch.Tensor, student_N: torch.Tensor, policy: str
) -> ScoredTokens:
    """Answers with log-probabilities and nothing else."""
    zeros = torch.zeros(len(answer_N))
    return ScoredTokens(
        task="planted",
        policy=policy,
        prompt_A=prompt_A,
        answer_N=answer_N,
        token_N=zeros.long(),
        forward_kl_N=zeros,
        reverse_kl_N=zeros,
        teacher_logprob_N=teacher_N,
        student_logprob_N=student_N,
        student_entropy_N=zeros,
        forward_parts_topk_NK=zeros[:, None],
        forward_gap_topk_NK=zeros[:, None],
        rare_kl_N=zeros,
        ks=(1,),
        texts={},
    )


def markov(table: torch.Tensor) -> Any:
    """Next-token log-probabilities over three tokens: each depends on the last one, the first on nothing."""
    return lambda ids: (table[ids[:, -1]] if ids.size(1) else table[:1].expand(len(ids), -1)).log_softmax(-1)


def noise(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def listed_pair(answers: int, policy: str) -> tuple[ScoredTokens, float, float]:
    """A teacher and a student over three tokens and sequences of four, of which all 81 can be listed: a large sample
    of one policy, and the exact sequence-level KLs, forward and reverse."""
    first, second = noise(3, 3, seed=11).double(), noise(3, 3, seed=12).double()
    ids, teacher = enumerate_sequences(markov(first), 3, 4)
    _, student = enumerate_sequences(markov(0.5 * first + 0.5 * second), 3, 4)
    forward = float((teacher.exp() * (teacher - student)).sum())
    reverse = float((student.exp() * (student - teacher)).sum())
    weights = (student if policy == "on_policy" else teacher).exp()
    drawn = torch.multinomial(weights, answers, replacement=True, generator=torch.Generator().manual_seed(4))
    # The whole sequence's log-probability in one entry.
    sample = of_logprobs(torch.arange(answers) // 2, torch.arange(answers), teacher[drawn], student[drawn], policy)
    assert ids.shape == (81, 4) and forward > 0.01 and reverse > 0.01
    return sample, forward, reverse
