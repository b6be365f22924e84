"""Which tokens of an answer its author was sure of, and how likely another model finds these.

A log-likelihood of a whole answer mixes two things: which way of writing a model is used to (the tokens at which the
author itself could have gone on otherwise) and how well it can follow (the tokens that could hardly be others). Over
the author's sure tokens alone the second is left.

With one vocabulary a piece of an answer is a token. With two it is a span, up to each place in the text where a token
ends in both tokenizers; the author is as sure of a span as the probabilities of its tokens multiply to.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from distillknob.models.same_text import as_read, one_vocabulary, spelled
from distillknob.models.scoring import Prompt, Scorer, answer_ids, encoded_texts, token_logprobs
from distillknob.models.spans import shared_ends, spans_of, summed_in_spans, token_ends
from distillknob.runs.journal import Journal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Weighting = Literal["hard", "soft"]

SURE = 0.9  # probability from which a piece counts, where weights are hard
POWER = 4  # of the probability, where they are soft: 0.66 at 0.9, 0.06 at 0.5


def sure_weights(author_logprob: torch.Tensor, weighting: Weighting = "hard") -> torch.Tensor:
    """The weight of each piece by the log-probability (nats) that its author gave it, in the same shape: 1 above a
    probability of 0.9 and 0 elsewhere (`hard`), or the probability's fourth power (`soft`)."""
    probability = author_logprob.exp()
    return (probability > SURE).to(author_logprob.dtype) if weighting == "hard" else probability**POWER


@dataclass(frozen=True)
class Pieces:
    """One answer cut into P pieces for a reader: `piece_T` says which piece each of the T tokens that were drawn
    belongs to, `logprob_P` how likely the reader finds each piece, in nats, and `tokens` how many it reads."""

    piece_T: torch.Tensor
    logprob_P: torch.Tensor
    tokens: int

    def summed(self, values_T: torch.Tensor) -> torch.Tensor:
        """The values of the tokens that were drawn, summed within each piece, [P]."""
        return summed_in_spans(values_T, self.piece_T, len(self.logprob_P))

    def log_ratio(self, author_T: torch.Tensor, judge_T: torch.Tensor, weighting: Weighting) -> float:
        """Σ over the pieces of w · (log π_author − log π_reader) in nats, with weights by how sure `judge_T` was of the
        tokens [T]. The judge is the author, or the model that it started as."""
        weight_P = sure_weights(self.summed(judge_T), weighting)
        ratio_P = self.summed(author_T) - self.logprob_P.double()
        # What has no weight may be impossible for the reader: 0 · ∞ is no number. A reader without numbers stays one.
        return float((weight_P * ratio_P.masked_fill((weight_P == 0) & ratio_P.isinf(), 0.0)).sum())


def read_in_pieces(
    reader: Scorer,
    prompts: Sequence[Prompt],
    answers_ids: Sequence[Sequence[int]],
    finished: Sequence[bool],
    author: PreTrainedTokenizerBase,
    *,
    journal: Journal | None = None,
    shared: bool = False,
    description: str = "score",
) -> list[Pieces]:
    """Cut answers that were drawn with `author`'s tokenizer into the pieces of a reader, and score them.

    `shared`: as for `token_logprobs`. Raises BadInputError for two vocabularies of which one belongs to a tokenizer
    that can't say where its tokens lie in the text (a slow one).
    """
    named: dict[str, Any] = {"journal": journal, "shared": shared, "description": description}
    if one_vocabulary(author, reader.tokenizer):
        rows = token_logprobs(reader, prompts, as_read(answers_ids, finished, author, reader), **named)
        return [Pieces(torch.arange(len(row)), row, len(row)) for row in rows]
    texts = spelled(author, answers_ids, finished)
    rows = token_logprobs(reader, prompts, answer_ids(reader, texts, finished), **named)
    reader_ends = token_ends(reader.tokenizer, texts, finished)
    author_ends = drawn_ends(author, answers_ids, texts, finished)
    return [_pieces(*row) for row in zip(author_ends, reader_ends, rows, strict=True)]


def drawn_ends(
    author: PreTrainedTokenizerBase,
    answers_ids: Sequence[Sequence[int]],
    texts: Sequence[str],
    finished: Sequence[bool],
) -> list[list[int | None]]:
    """Where each token that was drawn ends in its answer's text, in characters; None inside of a character. An end of
    the answer lies one place behind its text."""
    canonical = encoded_texts(author, texts)["input_ids"] if texts else []
    offsets = token_ends(author, texts, finished) if author.is_fast else [None] * len(texts)
    rows = []
    for ids, text, done, encoded, ends in zip(answers_ids, texts, finished, canonical, offsets, strict=True):
        body = list(ids[:-1]) if done else list(ids)
        if ends is None or body != list(encoded):
            # Another spelling than the tokenizer's own, which it has no offsets of.
            ends = [_end_of_prefix(author, body[: n + 1], text) for n in range(len(body))]
            ends = [*ends[:-1], *([len(text)] if body else []), *([len(text) + 1] if done else [])]
        rows.append(ends)
    return rows


def _end_of_prefix(author: PreTrainedTokenizerBase, ids: list[int], text: str) -> int | None:
    prefix = str(author.decode(ids, skip_special_tokens=False))
    return len(prefix) if text.startswith(prefix) else None


def _pieces(author_ends: list[int | None], reader_ends: list[int | None], reader_T: torch.Tensor) -> Pieces:
    """One answer's pieces: they end where a token ends for the author and for the reader."""
    common = shared_ends(author_ends, reader_ends)
    spans = [torch.tensor(spans_of(ends, common), dtype=torch.long) for ends in (author_ends, reader_ends)]
    return Pieces(spans[0], summed_in_spans(reader_T, spans[1], len(common)), len(reader_T))
