"""The texts whose memorisation is asked about, and their first tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from distillknob.errors import BadInputError
from distillknob.evaluation.memorization.config import MemorizationConfig
from distillknob.models.scoring import encoded_texts
from distillknob.runs.files import read_jsonl
from distillknob.tasks import get_tasks

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def read_texts(config: MemorizationConfig) -> list[str]:
    """The texts of the config's file, or of its tasks: each problem's prompt and gold solution, a line each.

    Raises BadInputError for a file that is missing, for the line that can't be used, and for a task without solutions.
    """
    if config.texts_file is None:
        return [
            f"{example.prompt}\n{example.gold_solution}"
            for task in get_tasks(config.tasks)
            for example in task.examples("train", config.problems, seed=config.seed)
        ]
    return read_text_file(config.texts_file)


def read_text_file(file: str) -> list[str]:
    """The texts of a file of JSON lines, each an object with `text`. Raises BadInputError for a file that is missing,
    and for the line that can't be used."""
    path = Path(file).expanduser()
    if not path.is_file():
        raise BadInputError(f"texts_file={str(path)!r}: there is no such file")
    texts = []
    for number, row in enumerate(read_jsonl(path), start=1):
        text = row.get("text") if isinstance(row, dict) else None
        if not isinstance(text, str) or not text:
            raise BadInputError(f"{path}, line {number}: {row!r} has no text: give an object with text, not empty")
        texts.append(text)
    return texts


@dataclass(frozen=True)
class Asked:
    """The first tokens of the texts that are long enough, [N][prefix + suffix], each once; how many texts were too
    `short`, and how many were `repeated`, their first tokens being another's."""

    rows: list[list[int]]
    short: int
    repeated: int


def asked_of(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, length: int) -> Asked:
    """Cut the texts to so many tokens. A shorter one can be neither memorised nor not, and is left out.

    Raises BadInputError where none is long enough.
    """
    encoded: list[list[int]] = encoded_texts(tokenizer, texts)["input_ids"] if texts else []
    long = [tuple(ids[:length]) for ids in encoded if len(ids) >= length]
    if not long:
        raise BadInputError(
            f"none of {len(texts)} texts has {length} tokens (prefix_tokens and suffix_tokens together; the longest "
            f"has {max(map(len, encoded), default=0)}): give longer texts, or set both lower"
        )
    rows = list(dict.fromkeys(long))
    return Asked([list(row) for row in rows], len(texts) - len(long), len(long) - len(rows))
