"""Scored pieces, laid out and summed by answer."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from scored import PROMPTS, TOKENS, noise, sampled


def test_answers_are_laid_out_token_by_token() -> None:
    sample = sampled(noise(PROMPTS * TOKENS, 5), noise(PROMPTS * TOKENS, 5, seed=2), ks=(1, 5))
    inside = torch.arange(PROMPTS * TOKENS) % TOKENS < (torch.arange(PROMPTS * TOKENS) // TOKENS) % TOKENS + 1
    ragged = replace(sample, answer_N=sample.answer_N[inside])
    values, mask = ragged.by_answer(torch.arange(PROMPTS * TOKENS)[inside])
    assert mask.sum(1).tolist() == [i % TOKENS + 1 for i in range(PROMPTS)]
    assert values[3].tolist() == [60, 61, 62, 63, *[0] * (TOKENS - 4)]


def test_an_answer_s_sum_is_over_its_own_tokens() -> None:
    sample = sampled(noise(PROMPTS * TOKENS, 5), noise(PROMPTS * TOKENS, 5, seed=2), ks=(1, 5))
    sums = sample.per_answer(sample.teacher_logprob_N)
    assert sums.tolist() == pytest.approx(sample.teacher_logprob_N.view(PROMPTS, TOKENS).sum(1).tolist(), rel=1e-5)
    assert sample.prompt_N.tolist() == sample.answer_N.tolist()
