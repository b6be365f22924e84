"""What forward passes read: a model in this process and its tokenizer. `models.base.LanguageModel` is one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Loaded(Protocol):
    """A model in evaluation mode and its tokenizer, which pads on the left."""

    @property
    def model(self) -> PreTrainedModel:
        """A causal language model of transformers."""

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of its vocabulary, with its chat template."""
