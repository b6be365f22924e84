"""A task whose problems are the rows of a data set: its splits, and what keeps evaluation data out of training.

Official splits are kept. A data set (or a file) that has one split only is divided by SHA-256 of the normalised problem
text, as tasks/base.py has it, so that no seed, file or machine can move a test problem into training. In both cases a
training row is dropped if its problem occurs among the test rows, of this task or of one that it must be disjoint from.

Left out on purpose: near duplicates. A problem counts as the same if the texts agree up to Unicode form, case and white
space; a paraphrase is not found.
"""

from __future__ import annotations

import random
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distillknob.errors import BadInputError, nearest
from distillknob.tasks.base import Example, Task, split_of
from distillknob.tasks.card import Card
from distillknob.tasks.rows.sources import READERS, Source, check_columns, load_files, load_hub, split_rows
from distillknob.tasks.rows.tables import Table, of_dataset
from distillknob.tasks.rows.values import MissingValueError, UnusableValueError

if TYPE_CHECKING:
    from datasets import Dataset

UNUSABLE = 0.01  # share of rows without problem or answer from which the data are taken for another data set's


def normalised(text: str) -> str:
    """The problem's text as it is compared and hashed: Unicode form NFKC, case folded, no white space."""
    return "".join(unicodedata.normalize("NFKC", text).casefold().split())


class RowsTask:
    """Base class of tasks on data sets. A subclass gives the class attributes, `example_of`, `grade` and `committed`.

    `disjoint_from`: tasks whose test problems must not be trained on. `options`: what may stand behind a "?". `files`:
    the files and folders that were read, none where the rows are the hub's.
    """

    name: str
    source: Source
    card: Card
    disjoint_from: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    verifiable: bool = True
    chance: float = 0.0
    max_new_tokens: int = 2048
    files: tuple[Path, ...] = ()

    def __init__(self, path: str | None = None, *, others: Callable[[str], Task] | None = None, **options: str):
        """Read the rows from `path` (a folder or file) or the hub. `others` finds the tasks of `disjoint_from` by name,
        as get_task does. Raises BadInputError for what can't be used."""
        base = type(self).name
        self._others = others
        for option in options:
            if option not in self.options:
                takes = f"It takes: {', '.join(self.options)}" if self.options else "It takes none"
                raise BadInputError(f"task {base!r} has no option {option!r}{nearest(option, self.options)} {takes}")
        columns, query = ", ".join(self.source.columns), "&".join(f"{key}={value}" for key, value in options.items())
        self.remedy = (
            f"the task wants the columns of {self.source.hub_id}: {columns}"
            if path is not None
            else f"fetch it on a machine that can, and name the task {base}@PATH, a folder or file "
            f"({', '.join(READERS)}) with the columns {columns}"
        )
        self.open(base + ("" if path is None else f"@{path}") + (f"?{query}" if query else ""), path)

    def open(self, name: str, path: str | None) -> None:
        """Read the rows. `name` is what get_task knows the task by: the rows of a dataset name their grader so."""
        self.name, self.path = name, None if path is None else Path(path).expanduser()
        self.files = () if self.path is None else (self.path,)
        self.left_out: Counter[str] = Counter()
        self._examples = self._read()

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self._examples)

    @property
    def order(self) -> str:
        """What orders the examples beside split and seed: the data set's own name, not the path, so that the same rows
        come in the same order on every machine."""
        return type(self).name

    def example_of(self, row: Mapping[str, Any]) -> Example | None:
        """The row as an example, its `key` being the problem's text; None where problem or answer is missing."""
        raise AssertionError("a task on a data set gives its own example_of()")

    def wanted(self, available: Sequence[str]) -> tuple[str, ...]:
        """The columns that the task needs, of data that has the columns `available`."""
        return self.source.columns

    def _load(self) -> Mapping[str, Dataset | Table]:
        if self.path is not None:
            return load_files(self.path, self.source.config, name=self.name)
        return load_hub(self.source.hub_id, self.source.config, name=self.name, remedy=self.remedy)

    def layout(self, splits: Mapping[str, Any]) -> tuple[Mapping[str, str], str | None]:
        """The data set's split for each of the task's, or the one that is divided by hash."""
        if self.path is None or self.path.is_dir():
            return self.source.official, self.source.by_hash
        # One file has no splits of its own.
        return ({"test": "train"}, None) if self.source.official.keys() == {"test"} else ({}, "train")

    def _read(self) -> dict[str, list[Example]]:
        splits = self._load()
        official, whole = self.layout(splits)
        examples = {own: list(self._usable(splits, theirs)) for own, theirs in official.items()}
        if whole is not None:
            examples = {"train": [], "test": []}
            for example in self._usable(splits, whole):
                # Nothing here is pretrained on it, so the pretraining share is training data too.
                examples["test" if split_of(normalised(example.key)) == "test" else "train"].append(example)
        examples = {split: self._different(rows) for split, rows in examples.items()}
        if "train" in examples:
            held_out = self._held_out(examples.get("test", []))
            unseen = [
                example
                for example in examples["train"]
                if held_out.isdisjoint(map(normalised, (example.key, *example.openings)))
            ]
            self.left_out["train rows that are test problems"] = len(examples["train"]) - len(unseen)
            examples["train"] = unseen
        return examples

    def _usable(self, splits: Mapping[str, Any], split: str) -> Iterator[Example]:
        rows = split_rows(splits, split, name=self.name, remedy=self.remedy)
        check_columns(rows.column_names, self.wanted(rows.column_names), name=self.name, remedy=self.remedy)
        table = rows if isinstance(rows, Table) else of_dataset(rows, lambda i: f"row {i} of split {split!r}")
        examples: list[Example] = []
        without: list[str] = []
        number = -1
        for number, row in enumerate(table.rows):
            try:
                example = self.example_of(row)
                why = "no problem or no usable answer"
            except UnusableValueError as error:
                raise BadInputError(f"task {self.name!r}: {table.place(number)}: {error}; {self.remedy}") from error
            except MissingValueError as error:
                example, why = None, str(error)
            if example is None:
                without.append(f"{table.place(number)}: {why}")
            else:
                examples.append(example)
        if len(without) > UNUSABLE * (number + 1):
            raise BadInputError(
                f"task {self.name!r}: {len(without)} of {number + 1} rows of split {split!r} have no problem or no "
                f"usable answer, the first is {without[0]}: mend the data; {self.remedy}"
            )
        self.left_out["rows without problem or answer"] += len(without)
        yield from examples

    def _different(self, examples: list[Example]) -> list[Example]:
        first: dict[str, Example] = {}
        for example in examples:
            same = first.setdefault(normalised(example.prompt), example)
            self.left_out["repeated problems with another answer than the first"] += same.reference != example.reference
        self.left_out["repeated rows"] += len(examples) - len(first)
        return list(first.values())

    def _held_out(self, own: list[Example]) -> set[str]:
        """The normalised problems that must not be trained on."""
        held_out = {normalised(example.key) for example in own}
        for other in self.disjoint_from:
            held_out |= {normalised(example.key) for example in self._other(other)._examples["test"]}
        return held_out

    def _other(self, name: str) -> RowsTask:
        if self._others is None:
            raise BadInputError(
                f"task {self.name!r} must not train on the test problems of {name!r}: make it by get_task, or give the "
                "function that finds that task as others=…"
            )
        if self.path is None:
            task = self._others(name)
        else:
            beside = [self.path.parent / f"{name}{suffix}" for suffix in ("", *READERS)]
            path = next((path for path in beside if path.exists()), None)
            if path is None:
                raise BadInputError(
                    f"task {self.name!r} must not train on the test problems of {name!r}, and can't find them: put "
                    f"that data set (its hub id is in the card of task {name!r}) at {beside[0]}, or a file beside it"
                )
            self.files = (*self.files, path)
            task = self._others(f"{name}@{path}")
        assert isinstance(task, RowsTask)
        return task

    def examples(self, split: str, n: int | None = None, *, seed: int = 0) -> list[Example]:
        """`n` examples of a split (all if None), in an order that depends on the task, the split and the seed alone.

        Raises BadInputError for a split that the task hasn't got, or that is empty.
        """
        if split not in self._examples:
            why = ": it is for evaluation only" if split == "train" else nearest(split, self._examples)
            raise BadInputError(f"task {self.name!r} has no split {split!r}{why} It has: {', '.join(self._examples)}")
        examples = list(self._examples[split])
        if not examples:
            rows = sum(map(len, self._examples.values()))
            raise BadInputError(
                f"task {self.name!r} has no problem in split {split!r}: it needs more lines ({rows} different now)"
            )
        random.Random(f"{self.order}/{split}/{seed}").shuffle(examples)
        return examples if n is None else examples[:n]

    def messages(self, example: Example) -> list[dict[str, str]]:
        return [dict(turn) for turn in example.turns] or [{"role": "user", "content": example.prompt}]

    def is_right(self, score: float) -> bool:
        return score >= 1.0

    def grade(self, completion: str, reference: Any) -> float:
        raise AssertionError("a task on a data set gives its own grade()")

    def committed(self, completion: str) -> str | None:
        raise AssertionError("a task on a data set gives its own committed()")

    def style(self, completion: str) -> str:
        return "other"
