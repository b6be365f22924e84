"""Answers scored behind a prompt that is read once have the log-probabilities of whole rows, on every architecture."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from distillknob.models.base import LanguageModel
from distillknob.models.chat import prompt_ids
from distillknob.models.load import load_model
from distillknob.models.scoring import token_logprobs
from distillknob.models.shared_prefix import grouped_batches, worthwhile
from tiny_architectures import ARCHITECTURES, made

PROMPTS = [
    [{"role": "user", "content": text}]
    for text in ("Hi", "Start with 12. Add 30, then 5, and take 7 away. What is it, and why?", "Who is Ada?")
]


def answers(rows: int) -> list[list[int]]:
    """Answers of 0 to 6 tokens."""
    generator = torch.Generator().manual_seed(3)
    return [torch.randint(20, 900, (i % 7,), generator=generator).tolist() for i in range(rows)]


@contextmanager
def tokens_read(model: LanguageModel) -> Iterator[list[int]]:
    """How many tokens each forward pass reads."""
    counts: list[int] = []
    hook = model.model.get_input_embeddings().register_forward_pre_hook(lambda _, args: counts.append(args[0].numel()))
    try:
        yield counts
    finally:
        hook.remove()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_log_probabilities_are_those_of_whole_rows(architecture: str, tmp_path: Path) -> None:
    model = load_model(made(architecture, tmp_path / "model", 3))
    prompts = [prompt for prompt in PROMPTS for _ in range(9)]
    ids = answers(len(prompts))
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(1)).tolist()
    prompts, ids = [prompts[i] for i in order], [ids[i] for i in order]
    with tokens_read(model) as alone:
        whole = [token_logprobs(model, [prompt], [answer])[0] for prompt, answer in zip(prompts, ids, strict=True)]
    for batch_tokens in (100_000, 150):
        with tokens_read(model) as together:
            logprobs = token_logprobs(model, prompts, ids, batch_tokens=batch_tokens)
        assert sum(together) < 0.8 * sum(alone)
        for one, other, answer in zip(logprobs, whole, ids, strict=True):
            assert len(one) == len(other) == len(answer)
            torch.testing.assert_close(one, other, atol=3e-4, rtol=1e-4)


def test_a_prompt_is_read_once(teacher: LanguageModel) -> None:
    prompts = prompt_ids(teacher.tokenizer, [prompt for prompt in PROMPTS for _ in range(4)])
    ids = [[5, 6, 7]] * 6 + [[]] + [[8]] * 5
    seen: list[int] = []
    for batch in grouped_batches(prompts, ids, torch.device("cpu"), 10_000):
        assert len(batch.prompt_ids_PT) == len({tuple(prompts[i]) for i in batch.rows})
        for row, i in enumerate(batch.rows):
            place = int(batch.prompt_R[row])
            kept = batch.prompt_ids_PT[place][batch.prompt_mask_PT[place].bool()].tolist()
            assert kept == list(prompts[i])
            assert batch.answer_ids_RA[row][batch.answer_mask_RA[row]].tolist() == ids[i]
        seen += batch.rows
    assert sorted(seen) == [i for i in range(12) if ids[i]]


def test_what_is_not_worth_it() -> None:
    long: list[Any] = [[1] * 40]
    assert worthwhile(long * 8, [[1] * 20] * 8)
    assert not worthwhile([[1, i] for i in range(8)], [[1] * 20] * 8)  # no two prompts are alike
    assert not worthwhile([[1] * 4] * 8, [[1] * 200] * 8)  # next to nothing to save
