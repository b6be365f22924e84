"""A user's own data set: on the hub (`hub:ORG/NAME?prompt=FIELD&reference=FIELD`) or in a file (`parquet:PATH`).

The fields are those of a JSONL task (jsonl.py), on the hub under the data set's own names, and so is the grader: an
answer is right if what it commits to equals the reference. For another grader, write a task (docs/tasks.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distillknob.errors import BadInputError, nearest
from distillknob.tasks.base import Example
from distillknob.tasks.card import Card
from distillknob.tasks.rows import RowsTask
from distillknob.tasks.sources import Source, text_of
from distillknob.tasks.verify import answer_or_last_line, same_answer

PARAMETERS = ("config", "split", "prompt", "reference", "solution")
HUB_FORM = "hub:ORG/NAME?config=…&split=…&prompt=FIELD&reference=FIELD&solution=FIELD (all but the two fields can go)"


class OwnTask(RowsTask):
    """Rows with a prompt, a reference answer and perhaps a worked solution.

    A `split` that is named is divided by hash; without one the data set's train and test splits are taken, or its only
    split is divided.
    """

    name = "own"  # until it has its full one; part of what orders the examples
    max_new_tokens = 512
    card = Card(
        data_set="one's own",
        asks="what its prompts ask",
        licence="its own",
        graded="an answer is right if it equals the reference",
        chance="0",
        splits="the data set's train and test, or one split by hash",
    )

    def __init__(self, source: Source, *, name: str, solution: str | None, path: str | None, remedy: str):
        """`source.columns` are the prompt's and the reference's, then the solution's where it must be there. `name` is
        what get_task knows the task by. Raises BadInputError for what can't be read."""
        self.source, self.solution, self.remedy = source, solution, remedy
        self.open(name, path)

    def layout(self, found: Mapping[str, Any]) -> tuple[Mapping[str, str], str | None]:
        if self.source.by_hash is not None:
            return {}, self.source.by_hash
        if {"train", "test"} <= found.keys():
            return {"train": "train", "test": "test"}, None
        if len(found) == 1:
            return {}, next(iter(found))
        raise BadInputError(
            f"task {self.name!r}: say which split to take, split={'|'.join(sorted(found))}: {self.remedy}"
        )

    def example_of(self, row: Mapping[str, Any]) -> Example | None:
        prompt, reference = (text_of(row, column) for column in self.source.columns[:2])
        if prompt is None or reference is None:
            return None
        solution = None if self.solution is None else text_of(row, self.solution)
        return Example(
            task=self.name,
            key=prompt,
            prompt=prompt,
            reference=reference,
            solutions={} if solution is None else {"given": solution},
            gold=None if solution is None else "given",
        )

    def grade(self, completion: str, reference: Any) -> float:
        answer = self.committed(completion)
        return float(answer is not None and same_answer(answer, str(reference)))

    def committed(self, completion: str) -> str | None:
        return answer_or_last_line(completion)


def from_hub(name: str) -> OwnTask:
    """The task of `hub:ORG/NAME?…`. Raises BadInputError for a name that isn't of this form."""
    hub_id, _, query = name.removeprefix("hub:").partition("?")
    told = dict(part.partition("=")[::2] for part in query.split("&") if part)
    for key in told:
        if key not in PARAMETERS or not told[key]:
            guess = nearest(key, PARAMETERS, otherwise=".")
            raise BadInputError(f"task {name!r}: {key!r} can't be used{guess} Want {HUB_FORM}")
    if not hub_id or "prompt" not in told or "reference" not in told:
        raise BadInputError(f"task {name!r}: want {HUB_FORM}")
    columns = tuple(told[key] for key in ("prompt", "reference", "solution") if key in told)
    source = Source(hub_id, columns, config=told.get("config"), by_hash=told.get("split"))
    remedy = f"name fields and split as the data set has them ({HUB_FORM}), or save its rows and use parquet:PATH"
    return OwnTask(source, name=name, solution=told.get("solution"), path=None, remedy=remedy)


def from_parquet(name: str) -> OwnTask:
    """The task of `parquet:PATH`, a file or folder with the columns prompt, reference and perhaps solution."""
    source = Source("", ("prompt", "reference"))
    return OwnTask(
        source,
        name=name,
        solution="solution",
        path=name.removeprefix("parquet:"),
        remedy="give the columns prompt and reference, and solution if there is one",
    )
