"""A task from a JSONL file: one object a line, with the two fields `prompt` and `reference`.

    {"prompt": "What is 2 + 2?", "reference": "4"}

`solution` may hold a worked solution (for sft_gold). An answer is right if what it commits to (the text after the last
"Answer:", or else its last line) equals the reference, compared as numbers where both are numbers.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from distillknob.errors import BadInputError
from distillknob.tasks.base import SPLITS, Example, split_of
from distillknob.tasks.rows import normalised
from distillknob.tasks.verify import answer_or_last_line, same_answer

FIELDS = {"prompt", "reference", "solution"}


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """The file's objects. Raises BadInputError with the line's number for a line that can't be used."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BadInputError(f"can't read the task file {path}: {error.strerror}") from error
    rows = []
    for number, line in enumerate(data.split(b"\n"), start=1):
        where = f"{path}, line {number}"
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as error:
            raise BadInputError(
                f"{where}: not UTF-8 ({error.reason} at byte {error.start}): save the file as UTF-8"
            ) from error
        if not text.strip():
            if number <= data.count(b"\n"):
                raise BadInputError(f"{where}: empty line: remove it")
            continue  # what follows the closing newline
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            raise BadInputError(f"{where}: malformed JSON ({error.msg} at column {error.colno})") from error
        except (ValueError, RecursionError) as error:  # a number of thousands of digits, thousands of brackets
            raise BadInputError(f"{where}: malformed JSON ({error})") from error
        if not isinstance(row, dict):
            raise BadInputError(f"{where}: holds {type(row).__name__}, want an object with prompt and reference")
        if not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
            raise BadInputError(
                f"{where}: no prompt: give a text in the field 'prompt' (it has: {', '.join(row) or 'nothing'})"
            )
        if any("\ud800" <= character <= "\udfff" for character in row["prompt"]):
            raise BadInputError(f"{where}: the prompt holds half of a surrogate pair (\\ud800 …), which is no text")
        if row.get("reference") is None or not str(row["reference"]).strip():
            raise BadInputError(f"{where}: no reference: give the right answer in the field 'reference'")
        rows.append(row)
    if not rows:
        raise BadInputError(f"{path} is empty: give at least one line with prompt and reference")
    return rows


class JsonlTask:
    """The problems of one JSONL file, split by the hash of the normalised prompt into pretrain, train and test; of two
    that differ by case or white space alone, the later."""

    verifiable = True
    chance = 0.0
    max_new_tokens = 512

    def __init__(self, path: str | Path):
        self.path = Path(path).expanduser()
        self.name = f"jsonl:{self.path}"  # what get_task knows it by: dataset rows name their grader so
        self._rows = read_jsonl(self.path)

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(SPLITS)

    def examples(self, split: str, n: int | None = None, *, seed: int = 0) -> list[Example]:
        if split not in SPLITS:
            raise BadInputError(f"task {self.name!r} has no split {split!r}: it has {', '.join(SPLITS)}")
        found = {}
        for row in self._rows:
            # Nothing is pretrained on a user's own file, so its pretraining share is training data too.
            key = normalised(row["prompt"])
            place = split_of(key)
            if ("train" if place == "pretrain" else place) == split:
                solutions = {"given": row["solution"]} if isinstance(row.get("solution"), str) else {}
                found[key] = Example(
                    task=self.name,
                    key=row["prompt"],
                    prompt=row["prompt"],
                    reference=str(row["reference"]),
                    solutions=solutions,
                    gold="given" if solutions else None,
                )
        examples = list(found.values())
        if not examples:
            raise BadInputError(
                f"{self.path} has no problem in split {split!r}: it needs more lines ({len(self._rows)} now)"
            )
        random.Random(f"jsonl/{split}/{seed}").shuffle(examples)
        return examples if n is None else examples[:n]

    def messages(self, example: Example) -> list[dict[str, str]]:
        return [{"role": "user", "content": example.prompt}]

    def grade(self, completion: str, reference: Any) -> float:
        answer = self.committed(completion)
        return float(answer is not None and same_answer(answer, str(reference)))

    def is_right(self, score: float) -> bool:
        return score >= 1.0

    def committed(self, completion: str) -> str | None:
        return answer_or_last_line(completion)

    def style(self, completion: str) -> str:
        return "other"
