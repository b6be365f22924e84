"""What a language model is to the stages: a model in evaluation mode with its tokenizer."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class LanguageModel(NamedTuple):
    """A model in evaluation mode and its tokenizer (padding on the left). Unpacks as `model, tokenizer`."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
