"""Log-probabilities of texts under two models whose tokenizers differ, cut where a token ends in both."""

from __future__ import annotations

import itertools
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from distillknob.errors import BadInputError
from distillknob.models.scoring import Prompt, Scorer, answer_ids, encoded_texts, token_logprobs
from distillknob.runs.journal import Journal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class ScoredSpans:
    """A teacher and a student on the same texts, cut where a token ends in both tokenizers: one row a span. The spans'
    log-probabilities (nats) are sums over each tokenizer's own tokens; a finished answer's last span is its end."""

    answer_N: torch.Tensor
    teacher_logprob_N: torch.Tensor
    student_logprob_N: torch.Tensor


def score_spans(
    teacher: Scorer,
    student: Scorer,
    prompts: Sequence[Prompt],
    texts: Sequence[str],
    finished: Sequence[bool],
    *,
    journal: Journal | None = None,
    shared: bool = False,
    description: str = "score spans",
) -> ScoredSpans:
    """Log-probabilities of the spans of each answer under two models whose tokenizers may differ. `shared`: as for
    `token_logprobs`.

    Raises BadInputError for a tokenizer that can't say where its tokens lie in the text (a slow one).
    """
    journal = journal or Journal()
    sides = []
    for side, name in ((teacher, "teacher"), (student, "student")):
        ids = answer_ids(side, texts, finished)
        part = journal.part(name)
        logprobs = token_logprobs(side, prompts, ids, journal=part, shared=shared, description=f"{description} {name}")
        ends = token_ends(side.tokenizer, texts, finished)
        sides.append(list(zip(ends, logprobs, strict=True)))
    answer, taught, studied = [], [torch.zeros(0)], [torch.zeros(0)]
    for i, ((taught_ends, taught_T), (studied_ends, studied_T)) in enumerate(zip(*sides, strict=True)):
        both = shared_ends(taught_ends, studied_ends)
        answer += [i] * len(both)
        for sums, ends, row in ((taught, taught_ends, taught_T), (studied, studied_ends, studied_T)):
            sums.append(summed_in_spans(row, torch.tensor(spans_of(ends, both), dtype=torch.long), len(both)))
    return ScoredSpans(torch.tensor(answer, dtype=torch.long), torch.cat(taught).double(), torch.cat(studied).double())


def token_ends(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], finished: Sequence[bool]
) -> list[list[int | None]]:
    """Where each token of an answer ends in its text, in characters; None inside of a character that takes several
    tokens. The last token always ends with the text, the eos one place after it."""
    if not tokenizer.is_fast:
        raise BadInputError(
            f"{tokenizer.name_or_path!r} has a slow tokenizer, which can't say where its tokens lie in a "
            "text: save it as a fast one (tokenizer.json), or use two models with one tokenizer"
        )
    if not texts:
        return []
    offsets = encoded_texts(tokenizer, texts, return_offsets_mapping=True)["offset_mapping"]
    ends_of_texts = []
    for text, spans, done in zip(texts, offsets, finished, strict=True):
        ends: list[int | None] = [
            end if following >= end else None for (_, end), (following, _) in itertools.pairwise(spans)
        ]
        ends_of_texts.append([*ends, *([len(text)] if spans else []), *([len(text) + 1] if done else [])])
    return ends_of_texts


def spans_of(ends: Sequence[int | None], shared: Set[int]) -> list[int]:
    """The number of the span that each token lies in: a new one begins behind every end that both tokenizers have."""
    spans, span = [], 0
    for end in ends:
        spans.append(span)
        span += end in shared
    return spans


def shared_ends(ours: Sequence[int | None], theirs: Sequence[int | None]) -> set[int]:
    """The places in a text where a token ends in both tokenizers."""
    return {end for end in ours if end is not None} & {end for end in theirs if end is not None}


def summed_in_spans(values_T: torch.Tensor, span_T: torch.Tensor, spans: int) -> torch.Tensor:
    """The values of tokens summed within each span, [spans] in float64; tokens behind the last shared end, which have
    no text, are left out."""
    sums = torch.zeros(spans + 1, dtype=torch.float64)
    return sums.index_add(0, span_T, values_T.double().cpu())[:spans]
