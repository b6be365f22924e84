"""Fixtures of the tests of GGUF files."""

from __future__ import annotations

from typing import Any

import pytest

from distillknob.models.base import LanguageModel


@pytest.fixture(scope="session")
def tokenizer(teacher: LanguageModel) -> Any:
    """A byte-level vocabulary in which each digit is a word, with merges, special tokens and a chat template."""
    return teacher.tokenizer


@pytest.fixture(scope="session")
def llama(tokenizer: Any) -> Any:
    from written_gguf import tiny_llama

    return tiny_llama(tokenizer)
