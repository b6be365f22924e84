"""The texts on which layers are measured, and those on which what came of it is."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from distillknob.errors import BadInputError
from distillknob.evaluation.memorization.continuation import beginning
from distillknob.evaluation.memorization.texts import read_text_file
from distillknob.models.chat import prompt_ids, turn_end
from distillknob.models.scoring import encoded_texts
from distillknob.pruning.config import PruneConfig
from distillknob.tasks import Task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LEAST = 2  # texts on either side: from one there is no interval


@dataclass(frozen=True)
class Texts:
    """Texts as token ids, a row each: what stands before, at least one token, and the tokens whose loss counts."""

    before: list[list[int]]
    scored: list[list[int]]

    def __len__(self) -> int:
        return len(self.scored)

    @property
    def tokens(self) -> int:
        return sum(len(row) for side in (self.before, self.scored) for row in side)


@dataclass(frozen=True)
class Split:
    """Texts to choose by and texts to compare by, no text among both; how many were `cut` at the limit, and left out as
    they were `repeated` or too `short` to have a token whose loss counts."""

    calibration: Texts
    held_back: Texts
    cut: int
    repeated: int
    short: int


def texts_of_tasks(tasks: Sequence[Task], config: PruneConfig, tokenizer: PreTrainedTokenizerBase, limit: int) -> Split:
    """Split the train problems of the tasks: each prompt by the chat template, with its gold solution, whose loss
    counts, and the end of the turn. Raises BadInputError for a task without solutions, and as `_split`."""
    prompts, answers = [], []
    for task in tasks:
        for example in task.examples("train", config.problems, seed=config.seed):
            if example.gold is None:
                raise BadInputError(
                    f"task {task.name!r} has no worked solution for {example.prompt!r}, to measure layers on: name "
                    "another task, or give a texts_file"
                )
            prompts.append(task.messages(example))
            answers.append(example.gold_solution)
    end = turn_end(tokenizer)
    scored = [[*ids, end] for ids in encoded_texts(tokenizer, answers)["input_ids"]]
    return _split(prompt_ids(tokenizer, prompts), scored, config, limit)


def texts_of_file(file: str, config: PruneConfig, tokenizer: PreTrainedTokenizerBase, limit: int) -> Split:
    """Split the first texts of a file, behind the token with which the tokenizer begins a text, or each behind its own
    first token. Raises BadInputError as `read_text_file` and `_split`."""
    start = beginning(tokenizer)
    texts = read_text_file(file)[: config.problems]
    encoded: list[list[int]] = encoded_texts(tokenizer, texts)["input_ids"] if texts else []
    first = 0 if start else 1
    return _split([start or ids[:1] for ids in encoded], [ids[first:] for ids in encoded], config, limit)


def _split(before: Sequence[list[int]], scored: Sequence[list[int]], config: PruneConfig, limit: int) -> Split:
    """Cut texts to `limit` tokens, each once, and hold a share of them back. Raises BadInputError where fewer than two
    are left on either side."""
    cut = [(tuple(b), tuple(s[: max(0, limit - len(b))])) for b, s in zip(before, scored, strict=True)]
    long = [row for row in cut if row[0] and row[1]]
    rows = list(dict.fromkeys(long))
    random.Random(config.seed).shuffle(rows)
    held = min(max(LEAST, round(config.held_back * len(rows))), len(rows) - LEAST)
    if held < LEAST:
        raise BadInputError(
            f"{len(rows)} different texts of at least two tokens (of at most text_tokens={limit}), and {2 * LEAST} are "
            "needed, half to measure layers on and half to compare the models on: give more, or longer ones"
        )
    return Split(
        _as_texts(rows[held:]),
        _as_texts(rows[:held]),
        cut=sum(len(b) + len(s) > limit for b, s in zip(before, scored, strict=True)),
        repeated=len(long) - len(rows),
        short=len(cut) - len(long),
    )


def _as_texts(rows: Sequence[tuple[tuple[int, ...], tuple[int, ...]]]) -> Texts:
    return Texts([list(before) for before, _ in rows], [list(scored) for _, scored in rows])
