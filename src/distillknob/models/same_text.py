"""One answer under two models: which tokens, and which end, are the same event for another reader than its author.

one vocabulary    the tokens that were drawn, never a text that is encoded anew: a text has other, rarer spellings, and
                  hides the special tokens in it
two vocabularies  the text, in which the spelling of a special token is a few letters and no command
the end           where an answer is scored, the author's own end of a turn becomes the reader's, where their chat
                  templates have two; where it is learnt from, it stays the author's, and ends the reader's answers too
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

import torch

from distillknob.models.base import LanguageModel
from distillknob.models.chat import turn_end
from distillknob.models.scoring import Prompt, Scorer, answer_ids, token_logprobs
from distillknob.runs.journal import Journal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def one_vocabulary(a: PreTrainedTokenizerBase, b: PreTrainedTokenizerBase) -> bool:
    """Have the two the same tokens under the same ids?"""
    return a is b or a.get_vocab() == b.get_vocab()


def exchanged_ends(author: PreTrainedTokenizerBase, reader: PreTrainedTokenizerBase) -> tuple[int, int] | None:
    """The two ends of a turn (author's, reader's) that stand for one another in their shared vocabulary; None where
    the templates have one and the same."""
    ends = turn_end(author), turn_end(reader)
    return None if ends[0] == ends[1] else ends


def as_read(
    answers_ids: Sequence[Sequence[int]],
    finished: Sequence[bool],
    author: PreTrainedTokenizerBase,
    reader: Scorer,
) -> list[list[int]]:
    """Answers drawn with `author`'s tokenizer as token ids of a reader with the same vocabulary, [rows][tokens].

    Tokens stay as they were drawn. The end of those that finished becomes the reader's own: the end of its turns for
    the author's, and for any other (a generation config may name several) where the reader knows it as none.
    """
    ours, theirs = turn_end(author), turn_end(reader.tokenizer)
    ends = {theirs, *reader.ends}
    rows = [list(ids) for ids in answers_ids]
    if ours == theirs and not reader.knows_every_end:
        return rows
    for ids, done in zip(rows, finished, strict=True):
        if done and ids and (ids[-1] == ours or ids[-1] not in ends):
            ids[-1] = theirs
    return rows


def know_ends(language_model: LanguageModel, ends: Iterable[int]) -> None:
    """Let these tokens end this model's answers too, here and where it is saved.

    A student takes over its teacher's end of a turn, from its texts as from its distributions, and would go on behind
    it otherwise. Its own end stays one: it may have learnt that before."""
    model, own = language_model.model, language_model.ends
    more = sorted({int(end) for end in ends} - set(own))
    if model.generation_config is not None and more:
        model.generation_config.eos_token_id = [*own, *more]


def spelled(
    author: PreTrainedTokenizerBase, answers_ids: Sequence[Sequence[int]], finished: Sequence[bool]
) -> list[str]:
    """The whole texts of answers without their ends, special tokens in the middle spelled out, so that a reader with
    another vocabulary scores what was drawn and not a text without them."""
    bodies = [list(ids[:-1]) if done else list(ids) for ids, done in zip(answers_ids, finished, strict=True)]
    return [str(text) for text in author.batch_decode(bodies, skip_special_tokens=False)] if bodies else []


def ids_for(
    reader: Scorer,
    answers_ids: Sequence[Sequence[int]],
    finished: Sequence[bool],
    author: PreTrainedTokenizerBase,
) -> list[list[int]]:
    """Answers that were drawn with `author`'s tokenizer as token ids of the reader, closed by its own end where they
    finished: the very tokens with one vocabulary, the text's with two."""
    if one_vocabulary(author, reader.tokenizer):
        return as_read(answers_ids, finished, author, reader)
    return answer_ids(reader, spelled(author, answers_ids, finished), finished)


def answers_logprob(
    reader: Scorer,
    prompts: Sequence[Prompt],
    answers_ids: Sequence[Sequence[int]],
    finished: Sequence[bool],
    author: PreTrainedTokenizerBase,
    *,
    reduction: Literal["sum", "mean"] = "sum",
    journal: Journal | None = None,
    shared: bool = False,
    description: str = "score",
) -> torch.Tensor:
    """Log-likelihood in nats of answers that were drawn with `author`'s tokenizer, [N]: the sum over the reader's own
    tokens or their mean, the end included where an answer finished. `shared`: as for `token_logprobs`."""
    ids = ids_for(reader, answers_ids, finished, author)
    rows = token_logprobs(reader, prompts, ids, journal=journal, shared=shared, description=description)
    return torch.tensor([float(row.sum()) / (1 if reduction == "sum" else max(1, len(row))) for row in rows])
