"""Divergences of a pair at every token, against those of plain forward passes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from distillknob.diagnosis.pair_scores import score_pair
from distillknob.diagnosis.samples import ScoredTokens
from distillknob.divergences.dense import divergence
from distillknob.errors import BadInputError
from distillknob.models.base import LanguageModel
from distillknob.models.chat import prompt_ids
from distillknob.models.scoring import answer_ids
from distillknob.tasks import get_task

Prompt = list[dict[str, str]]


def problems(n: int = 4) -> tuple[list[Prompt], list[str]]:
    """Prompts and solutions of very different lengths."""
    rows = [(get_task(name), e) for name in ("instruct", "math", "qa") for e in get_task(name).examples("train", n)]
    return [task.messages(e) for task, e in rows], [text for _, e in rows for text in [e.gold_solution]]


def scored(
    teacher: LanguageModel,
    student: LanguageModel,
    prompts: list[Prompt],
    ids: list[list[int]],
    ks: list[int],
    batch_tokens: int = 16_384,
) -> ScoredTokens:
    """The pair's scores, each answer being one to a problem of its own."""
    named: dict[str, Any] = {"task": "mixed", "policy": "off_policy", "prompt_A": torch.arange(len(ids))}
    return score_pair(teacher, student, prompts, ids, ks, batch_tokens=batch_tokens, **named)


def plainly(language_model: LanguageModel, prompt: Prompt, ids: list[int]) -> torch.Tensor:
    """log P of each id, in float64, without batch, padding or mask."""
    before = prompt_ids(language_model.tokenizer, [prompt])[0]
    with torch.no_grad():
        logits = language_model.model(torch.tensor([before + ids])).logits[0].double()
    logprobs = logits.log_softmax(-1)[len(before) - 1 : -1]
    return logprobs[torch.arange(len(ids)), torch.tensor(ids)]


def test_a_model_against_itself_differs_by_exactly_nothing(teacher: LanguageModel) -> None:
    prompts, texts = problems(2)
    pair = scored(teacher, teacher, prompts, answer_ids(teacher, texts, [True] * 6), [1, 5, 2048], batch_tokens=200)
    for name in ("forward_kl_N", "reverse_kl_N", "forward_parts_topk_NK", "forward_gap_topk_NK", "rare_kl_N"):
        assert (getattr(pair, name) == 0).all(), name
    assert torch.equal(pair.teacher_logprob_N, pair.student_logprob_N)
    assert (pair.student_entropy_N > 0).all()


def test_a_pair_s_divergences_are_the_core_s_at_every_token(teacher: LanguageModel, student: LanguageModel) -> None:
    prompts, texts = problems(2)
    ids = answer_ids(teacher, texts, [True] * 6)
    pair = scored(teacher, student, prompts, ids, [1, 50, 10_000, 1], batch_tokens=150)
    assert pair.ks == (1, 50, 10_000)
    assert pair.answer_N.tolist() == [i for i, row in enumerate(ids) for _ in row]
    assert pair.token_N.tolist() == [token for row in ids for token in row]
    assert pair.texts == {token: teacher.tokenizer.decode([token]) for row in ids for token in row}
    at = 0
    for prompt, row in zip(prompts, ids, strict=True):
        here = slice(at, at + len(row))
        at += len(row)
        before = prompt_ids(teacher.tokenizer, [prompt])[0]
        with torch.no_grad():
            t, s = (m.model(torch.tensor([before + row])).logits[0, len(before) - 1 : -1] for m in (teacher, student))
        for kind, values_N in (("forward_kl", pair.forward_kl_N), ("reverse_kl", pair.reverse_kl_N)):
            torch.testing.assert_close(values_N[here].double(), divergence(s, t, kind).double(), atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(
            pair.teacher_logprob_N[here].double(), plainly(teacher, prompt, row), atol=1e-4, rtol=0
        )
        torch.testing.assert_close(
            pair.student_logprob_N[here].double(), plainly(student, prompt, row), atol=1e-4, rtol=0
        )
    # Over the whole vocabulary the parts are the whole; over less they are less.
    torch.testing.assert_close(pair.forward_parts_topk_NK[:, 2], pair.forward_kl_N, atol=1e-5, rtol=1e-4)
    assert (pair.forward_parts_topk_NK.diff(dim=1) >= -1e-6).all()


def test_a_pair_with_two_tokenizers_is_refused(teacher: LanguageModel, other: LanguageModel) -> None:
    prompts, texts = problems(1)
    with pytest.raises(BadInputError, match=r"different tokenizers.*use sequence_logprob"):
        scored(teacher, other, prompts, answer_ids(teacher, texts, [True] * 3), [1])


def test_logits_are_formed_in_blocks(
    teacher: LanguageModel, student: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts, texts = problems(2)
    ids = answer_ids(teacher, texts, [True] * 6)
    whole = scored(teacher, student, prompts, ids, [1, 50])
    monkeypatch.setattr("distillknob.models.heads._CPU_LOGITS_BYTES", 4 * 2048 * 7)
    blocks = scored(teacher, student, prompts, ids, [1, 50])
    for name in ("forward_kl_N", "forward_parts_topk_NK", "forward_gap_topk_NK", "student_logprob_N"):
        torch.testing.assert_close(getattr(blocks, name), getattr(whole, name), atol=1e-5, rtol=1e-4)
    assert torch.equal(blocks.token_N, whole.token_N) and torch.equal(blocks.answer_N, whole.answer_N)
