"""One's own problems, from a file (`jsonl:PATH`, `csv:PATH`, `parquet:PATH`), from the hub
(`hub:ORG/NAME?prompt=FIELD&reference=FIELD`) or by a task file (`own:PATH`, task_file.py).

All are read and graded alike. A row has a prompt (a text, or the messages of a chat), the right answer as `reference`,
and perhaps a worked `solution`. Rows without references can be trained on (sft_gold) but not graded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distillknob.errors import BadInputError, nearest
from distillknob.tasks.base import Example, as_prompt
from distillknob.tasks.card import Card
from distillknob.tasks.graders import mathematics
from distillknob.tasks.graders.committed import answer_or_last_line, same_answer
from distillknob.tasks.rows.chat import Turns, conversation, is_conversation, turns_of
from distillknob.tasks.rows.final_answers import SHOWN, final_answer
from distillknob.tasks.rows.sources import Source
from distillknob.tasks.rows.tables import Table, read_csv, read_jsonl
from distillknob.tasks.rows.task import RowsTask
from distillknob.tasks.rows.values import MissingValueError, UnusableValueError, any_of, as_text, serialised

PARAMETERS = ("config", "split", "prompt", "reference", "solution")
HUB_FORM = "hub:ORG/NAME?config=…&split=…&prompt=FIELD&reference=FIELD&solution=FIELD (all but the prompt can go)"
CHATS = ("messages", "conversations")  # columns that hold a whole conversation
PROMPTS = ("prompt", *CHATS)  # the first of these that is there, where none is named
SOLUTIONS = ("solution", "completion")
GRADERS = ("text", "math")
SEVERAL = (
    "give one text; where any of several answers is right, say `any_of: true` in a task file, and where the list "
    "itself is the answer, `any_of: false` (docs/reference/tasks.md)"
)
READ: dict[str, Callable[[Path], Table]] = {"jsonl": read_jsonl, "csv": read_csv}


@dataclass(frozen=True)
class Form:
    """How rows are read and graded. Columns that are None are looked for: `PROMPTS`, "reference", `SOLUTIONS`.

    `any_of`: True where a reference lists answers of which each is right, False where a text that looks like a list is
    one text, None where such texts are refused. `final_answer`: one of `final_answers.FORMS` where the reference is a
    whole worked answer, which is the solution too where no column holds one. `styles`: ways of writing, by patterns
    that are searched for in order.
    """

    prompt: str | None = None
    reference: str | None = None
    solution: str | None = None
    grader: str = "text"
    any_of: bool | None = None
    final_answer: str | None = None
    styles: Mapping[str, re.Pattern[str]] = field(default_factory=dict)
    max_new_tokens: int = 512


class OwnTask(RowsTask):
    """Rows of one's own. A `split` that is named is divided by hash; without one the data set's train and test splits
    are taken, or its only split is divided."""

    name = "own"  # until it has its full one; part of what orders the examples
    card = Card(
        data_set="one's own",
        asks="what its prompts ask",
        licence="its own",
        graded="an answer is right if it equals the reference",
        chance="0",
        splits="the data set's train and test, or one split by hash",
    )

    def __init__(
        self, source: Source, *, name: str, path: str | None, remedy: str, kind: str = "", form: Form | None = None
    ):
        """`name` is what get_task knows the task by; `kind` one of `READ`, or "" for what `datasets` reads. Raises
        BadInputError for what can't be read."""
        self.source, self.remedy, self.kind, self.form = source, remedy, kind, form or Form()
        self._others = None
        self.max_new_tokens = self.form.max_new_tokens
        self._typed = True
        self.open(name, path)

    @property
    def order(self) -> str:
        return "jsonl" if self.kind == "jsonl" else "own"

    def _load(self) -> Mapping[str, Any]:
        if self.kind not in READ:
            return super()._load()
        assert self.path is not None
        table = READ[self.kind](self.path)
        self._typed = table.typed
        return {"train": table}

    def layout(self, splits: Mapping[str, Any]) -> tuple[Mapping[str, str], str | None]:
        if self.source.by_hash is not None:
            return {}, self.source.by_hash
        if {"train", "test"} <= splits.keys():
            return {"train": "train", "test": "test"}, None
        if len(splits) == 1:
            return {}, next(iter(splits))
        raise BadInputError(
            f"task {self.name!r}: say which split to take, split={'|'.join(sorted(splits))}: {self.remedy}"
        )

    def wanted(self, available: Sequence[str]) -> tuple[str, ...]:
        form = self.form
        self._prompt = form.prompt or next((name for name in PROMPTS if name in available), "prompt")
        chat = self._prompt in CHATS
        self._solution = form.solution or next((name for name in SOLUTIONS if name in available), None)
        self._reference = form.reference or ("reference" if "reference" in available else None)
        # Without a reference there has to be something to train on.
        self.verifiable = self._reference is not None
        named = [self._prompt, self._reference, form.solution]
        if self._reference is None and self._solution is None and not chat:
            named.append("reference")
        # A worked solution may be the reference too, whose final answer is read out of it.
        return tuple(dict.fromkeys(name for name in named if name is not None))

    @property
    def ungraded(self) -> str | None:
        """Why no answer can be graded, with the remedy; None where they can."""
        if self._reference is not None:
            return None
        return (
            f"task {self.name!r} has no references, so no answer to it can be graded: add a column 'reference' with "
            "the right answer, or train on its solutions (method sft_gold)"
        )

    def example_of(self, row: Mapping[str, Any]) -> Example | None:
        turns, last = self._asked(row)
        solution = self._worked(row)
        if last is not None and solution is not None:
            raise UnusableValueError(
                f"{self._prompt!r} ends in a turn of the assistant, and {self._solution!r} holds a solution too: leave "
                "one out"
            )
        solution = last if solution is None else solution
        if self.form.final_answer is not None and self._reference is not None and solution is None:
            solution = as_text(row.get(self._reference))
        if self._reference is None and solution is None:
            raise MissingValueError("no reference and no solution: give the right answer in the field 'reference'")
        prompt = as_prompt(turns)
        return Example(
            task=self.name,
            key=prompt,
            prompt=prompt,
            reference=None if self._reference is None else self._right(row, self._reference),
            solutions={} if solution is None else {"given": solution},
            gold=None if solution is None else "given",
            turns=() if len(turns) == 1 else turns,
        )

    def _asked(self, row: Mapping[str, Any]) -> tuple[Turns, str | None]:
        value = row.get(self._prompt)
        if self._prompt in CHATS or is_conversation(value):
            return conversation(value, self._prompt)
        if not isinstance(value, str) or not value.strip():
            blank = value is None or isinstance(value, str)
            holds = "" if blank else f", which holds a {type(value).__name__}"
            why = f"no prompt: give a text in the field {self._prompt!r}{holds} (it has: {', '.join(row) or 'nothing'})"
            raise (MissingValueError if blank else UnusableValueError)(why)
        return conversation([{"role": "user", "content": value}], self._prompt)

    def _worked(self, row: Mapping[str, Any]) -> str | None:
        value = None if self._solution is None else row.get(self._solution)
        if value is not None and is_conversation(value):
            turns = conversation(
                [{"role": "user", "content": "-"}, *turns_of(value, str(self._solution))], str(self._solution)
            )
            if len(turns[0]) > 1 or turns[1] is None:
                raise UnusableValueError(f"{self._solution!r} holds several turns, want one of the assistant")
            return turns[1]
        try:
            return value if isinstance(value, str) and value.strip() else as_text(value)
        except UnusableValueError as error:
            raise UnusableValueError(f"{self._solution!r} {error}") from error

    def _right(self, row: Mapping[str, Any], column: str) -> str | list[str]:
        """The reference, by values.py's table."""
        value = row.get(column)
        try:
            right: str | list[str] | None
            if self.form.any_of:
                right = any_of(value)
            else:
                right = as_text(value)
                ambiguous = self.form.any_of is None and self.form.grader == "text"
                if ambiguous and isinstance(value, str) and serialised(value, typed=self._typed) is not None:
                    raise UnusableValueError(f"holds the text of a list or mapping ({value[:60]})")
        except UnusableValueError as error:
            raise UnusableValueError(f"the reference in {column!r} {error}: {SEVERAL}") from error
        if right is None:
            raise MissingValueError(f"no reference: give the right answer in the field {column!r}")
        if self.form.final_answer is None or isinstance(right, list):
            return right
        final = final_answer(self.form.final_answer, right)
        if final is None:
            asked = SHOWN[self.form.final_answer]
            raise MissingValueError(f"the reference in {column!r} gives no final answer: final_answer asks for {asked}")
        return final

    def grade(self, completion: str, reference: Any) -> float:
        if reference is None:
            raise BadInputError(str(self.ungraded))
        right = reference if isinstance(reference, list) else [reference]
        if self.form.grader == "math":
            return float(any(mathematics.is_correct(completion, str(one)) for one in right))
        answer = self.committed(completion)
        return float(answer is not None and any(same_answer(answer, str(one)) for one in right))

    def committed(self, completion: str) -> str | None:
        if self.form.grader == "math":
            return mathematics.final_answer(completion)
        return answer_or_last_line(completion)

    def style(self, completion: str) -> str:
        return next((name for name, way in self.form.styles.items() if way.search(completion)), "other")


def from_hub(name: str) -> OwnTask:
    """The task of `hub:ORG/NAME?…`. Raises BadInputError for a name that isn't of this form."""
    hub_id, _, query = name.removeprefix("hub:").partition("?")
    parameters = dict(part.partition("=")[::2] for part in query.split("&") if part)
    for key in parameters:
        if key not in PARAMETERS or not parameters[key]:
            guess = nearest(key, PARAMETERS, otherwise=".")
            raise BadInputError(f"task {name!r}: {key!r} can't be used{guess} Want {HUB_FORM}")
    if not hub_id or "prompt" not in parameters:
        raise BadInputError(f"task {name!r}: want {HUB_FORM}")
    form = Form(prompt=parameters["prompt"], reference=parameters.get("reference"), solution=parameters.get("solution"))
    return on_the_hub(hub_id, parameters.get("config"), parameters.get("split"), name=name, form=form)


def on_the_hub(hub_id: str, config: str | None, split: str | None, *, name: str, form: Form) -> OwnTask:
    """The task of a data set on the hub."""
    remedy = f"name fields and split as the data set has them ({HUB_FORM}), or save its rows and use parquet:PATH"
    return OwnTask(Source(hub_id, (), config=config, by_hash=split), name=name, path=None, remedy=remedy, form=form)


def from_file(name: str, *, as_named: str | None = None, form: Form | None = None) -> OwnTask:
    """The task of `jsonl:PATH`, `csv:PATH` or `parquet:PATH`: a file, for parquet also a folder. `as_named` is what
    get_task knows it by, where that is another name. Raises BadInputError for what can't be read."""
    kind, _, path = name.partition(":")
    place = Path(path).expanduser()
    endings = [suffix for suffix in place.suffixes if suffix.removeprefix(".") in (*READ, "parquet", "json")]
    other = endings[-1].removeprefix(".") if endings else kind
    if other != kind and not place.is_dir():
        use = f"use {other}:{path}" if other != "json" else "write one object a line, and name the file .jsonl"
        raise BadInputError(f"task {name!r}: {place.name!r} isn't a file of kind {kind}: {use}")
    return OwnTask(
        Source("", ()),
        name=as_named or f"{kind}:{place}",
        path=path,
        remedy="give a prompt, its right answer as reference, and a solution if there is one (docs/reference/tasks.md)",
        kind=kind,
        form=form,
    )
