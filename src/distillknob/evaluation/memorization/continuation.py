"""What a model writes behind the first tokens of a text, by the likeliest token each time, without a chat template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from transformers import LogitsProcessor

from distillknob.models.base import LanguageModel
from distillknob.models.loaded.decoding import Decoder
from distillknob.models.loaded.sampling import rows_that_fit
from distillknob.runs.journal import Journal
from distillknob.runtime.processes import merged, my_share
from distillknob.runtime.progress import progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Likeliest(LogitsProcessor):
    """Leaves the likeliest token as the only possible one, of several the first."""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        best_B1 = scores.argmax(-1, keepdim=True)
        return scores.new_full(scores.shape, float("-inf")).scatter_(1, best_B1, 0.0)


def beginning(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The token with which this tokenizer begins a text by itself; [] for one that doesn't."""
    bos: Any = tokenizer.bos_token_id
    return [bos] if bos is not None and list(tokenizer("a")["input_ids"][:1]) == [bos] else []


def continuations(
    language_model: LanguageModel,
    rows: Sequence[Sequence[int]],
    prefix: int,
    *,
    batch_size: int,
    journal: Journal,
    description: str,
) -> list[list[int]]:
    """What the model writes behind the first `prefix` tokens of each row, as many tokens as the row has more, or fewer
    where it ends. Every process makes this same call, does a part, and gets the whole."""
    start = beginning(language_model.tokenizer)
    suffix = len(rows[0]) - prefix
    decoder = Decoder(language_model, suffix, [Likeliest()])
    size = rows_that_fit(language_model.model, batch_size, len(start) + prefix + suffix)
    mine, journal = my_share(range(len(rows))), journal.of_process()
    written: dict[int, list[int]] = {}
    with progress(description, len(mine), unit="text") as bar:
        for first in range(0, len(mine), size):
            batch = mine[first : first + size]
            prefixes = [[*start, *rows[i][:prefix]] for i in batch]
            tokens = journal.take(batch, prefixes)
            if tokens is None:
                tokens = [row.token_ids for row in decoder.decoded(prefixes, [0] * len(batch))]
                journal.keep(batch, tokens, prefixes)
            written |= zip(batch, tokens, strict=True)
            bar.update(len(batch))
    everywhere = merged(written)
    return [everywhere[i] for i in range(len(rows))]
