"""What a file of one's own holds, for a recipe that is to be written for it: which columns, which grader, how long its
answers are.

Left out on purpose: data on the hub, whose rows would have to be fetched, and chats without references, which nothing
can be graded by.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from distillknob.errors import BadInputError
from distillknob.inputs.preflight import Side
from distillknob.tasks import Example
from distillknob.tasks.rows.final_answers import (
    FORMS,
    MOST_WORDS,
    SHOWN,
    answers,
    contradiction,
    final_answer,
    forms_of,
    gives_any,
)
from distillknob.tasks.rows.own_task import PROMPTS, READ, SOLUTIONS, Form, OwnTask, from_file
from distillknob.tasks.rows.sources import load_files
from distillknob.tasks.rows.task_file import KINDS

# Other names that data sets have for a column; one is taken where it is the only such column.
OTHER_NAMES = {
    "prompt": ("question", "problem", "instruction", "query", "input"),
    "reference": ("answer", "final_answer", "target", "label", "gold"),
    "solution": ("rationale", "worked", "explanation", "reasoning", "response", "output"),
}
OWN_NAMES = {"prompt": PROMPTS, "reference": ("reference",), "solution": SOLUTIONS}
# What the grader of plain text can't compare: LaTeX, powers, roots, and fractions that stand alone (a date is none).
FORMULA = re.compile(r"\\[a-zA-Z]+|\w\s*\^|[√π]|^\s*-?\d+\s*/\s*\d+\s*$")
FORMULAS = 0.05  # share of references that are formulas from which the data are mathematics
GRADED = 100  # solutions that are graded, to see which grader reads them
READABLE = 0.9  # share of them that should be right by their own reference
MEASURED = 2000  # solutions whose tokens are counted
WHOLE = "whole"  # the references are the answers, long or not
SEEN = 60  # characters of a reference in a message
ROOM = 2  # a model's own answers are longer than most of the data's


@dataclass(frozen=True)
class OwnData:
    """A data file as it was understood: its task, what a task file has to say of it beside its place (nothing where
    `kind:PATH` is read as it stands), and the `choices` that were made, a line each."""

    kind: str
    path: Path
    task: OwnTask
    columns: Mapping[str, str]
    grader: str
    final_answer: str | None
    choices: Sequence[str]

    @property
    def needs_file(self) -> bool:
        """Does a recipe name these data by a task file, `own:PATH`?"""
        return bool(self.columns) or self.grader != Form.grader or self.final_answer is not None

    @property
    def examples(self) -> list[Example]:
        """All problems, those to train on first. Raises BadInputError where there are too few to have both splits."""
        return [*self.task.examples("train"), *self.task.examples("test")]

    def task_file(self, folder: Path) -> str:
        """The task file's text, for a file in `folder`."""
        place = os.path.relpath(str(self.path), str(folder))
        columns = {"columns": dict(self.columns)} if self.columns else {}
        final = {} if self.final_answer is None else {"final_answer": self.final_answer}
        said = {"data": f"{self.kind}:{place}", **columns, **final, "grader": self.grader}
        head = "# What the data hold, written by `distillknob init`. Ways of writing can be named here (styles).\n"
        return head + yaml.safe_dump(said, sort_keys=False, allow_unicode=True)


def look_at(data: str, named: Mapping[str, str], final_answer: str | None = None) -> OwnData:
    """Read a data file and choose how a task reads it. `named`: columns that somebody named, by what they hold (prompt,
    reference, solution), `final_answer`: how the final answer stands in the references (`final_answers.FORMS`, or
    `WHOLE` where each is the answer as it stands; None: as they are written). Raises BadInputError for what no recipe
    could use, with the remedy."""
    kind, path = _kind_and_place(data)
    available = _available(kind, path)
    columns: dict[str, Any] = _columns(data, available, named)

    def read(**form: Any) -> OwnTask:
        return from_file(f"{kind}:{path}", form=Form(**columns, **form))

    task = read()
    if task.ungraded is not None:
        column = columns.get("solution") or next((name for name in SOLUTIONS if name in available), None)
        solutions = [example.gold_solution for example in task.examples("train") if example.gold is not None]
        if column is None or not solutions or not forms_of(solutions):
            raise BadInputError(_ungraded(task, kind, data))
        columns |= {"reference": column, "solution": column}
        task = read()
    final, split = _final_answer(task, data, final_answer)
    if final is not None:
        task = read(final_answer=final)
    grader, why = _grader(task, lambda grader: read(final_answer=final, grader=grader))
    if grader != Form.grader:
        task = read(final_answer=final, grader=grader)
    train, test = len(task.examples("train")), len(task.examples("test"))
    choices = [
        f"columns: {_listed(columns) or 'as distillknob names them'}",
        *([split] if split else []),
        f"problems: {train} to train on and to hold back for the guard, {test} for the test, by the hash of the prompt",
        f"grader: {grader}, {why}",
    ]
    return OwnData(kind, path, task, columns, grader, final, choices)


def _ungraded(task: OwnTask, kind: str, data: str) -> str:
    return (
        f"{task.ungraded}. A final answer is read out of the solutions themselves where each ends in one: "
        f"{', '.join(SHOWN.values())}. The method is `distillknob distill --teacher TEACHER --student STUDENT --method "
        f"sft_gold --tasks {kind}:{data}`"
    )


def _final_answer(task: OwnTask, data: str, said: str | None) -> tuple[str | None, str]:
    """How the final answer stands in the references, None where each is one, and what to say of it. Raises
    BadInputError for whole answers whose final ones can't be told."""
    references = [str(example.reference) for split in ("train", "test") for example in task.examples(split)]
    if said == WHOLE:
        return None, "references: each is the answer as it stands, as --final-answer says"
    if said is None:
        whole = [reference for reference in references if gives_any(reference) or _is_long(reference)]
        if len(whole) <= len(references) / 2:
            return None, ""
        forms = forms_of(references)
        if not forms or contradiction(forms, references) is not None:
            raise BadInputError(_untold(data, references, forms))
        said = forms[0]
    example = next((answer for text in references if (answer := final_answer(said, text)) is not None), None)
    if example is None:
        raise BadInputError(f"--final-answer {said}: no reference of {data} has {SHOWN[said]}: name another form")
    return said, (
        f"references: each is a whole answer, and its final one is read from {SHOWN[said]} ({example!r} is the first); "
        "the whole is taken as the worked solution where there is no other"
    )


def _is_long(reference: str) -> bool:
    return "\n" in reference.strip() or len(reference.split()) > MOST_WORDS


def _untold(data: str, references: Sequence[str], forms: Sequence[str]) -> str:
    """Why the final answers of whole ones can't be told, with what to do."""
    odd = contradiction(forms, references) if forms else None
    counted = [
        f"{count} have {SHOWN[form]}"
        for form in FORMS
        if (count := sum(len(answers(form, text)) == 1 for text in references))
    ]
    if odd is not None:
        why = f"they give two final answers that differ, such as {odd[-SEEN:]!r}"
    elif counted:
        best = max(FORMS, key=lambda form: sum(len(answers(form, text)) == 1 for text in references))
        odd = next(text for text in references if len(answers(best, text)) != 1)
        why = f"of {len(references)} references {', '.join(counted)}, but not, for one, {odd[-SEEN:]!r}"
    else:
        why = f"none of {len(references)} says which its final answer is, as {references[0][-SEEN:]!r}"
    return (
        f"the references of {data} are whole answers, and an answer would have to equal all of one to be right; {why}. "
        "Give the final answer alone in a column of its own (--reference-column, and --solution-column for the whole), "
        "or end each with a line `Answer: …`. --final-answer FORM reads one form and leaves out the rows without it; "
        f"--final-answer {WHOLE} takes references as they stand"
    )


def answer_length(data: OwnData, student: Side) -> tuple[int | None, str]:
    """Tokens that an answer may have by the data's own solutions, under the student's tokenizer (None: nothing says
    so), and why."""
    texts = [example.gold_solution for example in data.examples[:MEASURED] if example.gold is not None]
    if not texts:
        return None, "the tasks' own longest, as the data have no worked solutions to measure"
    if student.tokenizer is None:
        return None, f"the tasks' own longest, as the tokenizer of {student.name} isn't here to measure solutions by"
    lengths = sorted(len(ids) + 1 for ids in student.tokenizer(texts, add_special_tokens=False)["input_ids"])
    usual, longest = lengths[int(0.99 * (len(lengths) - 1))], lengths[-1]
    room = max(ROOM * usual, longest)
    return -(-room // 8) * 8, (
        f"{ROOM} times the data's solutions, as models write more (of these 99 % have at most {usual} tokens under the "
        f"student's tokenizer, the longest {longest})"
    )


def _kind_and_place(data: str) -> tuple[str, Path]:
    path = Path(data).expanduser()
    endings = [suffix.removeprefix(".") for suffix in path.suffixes]
    kind = next((ending for ending in reversed(endings) if ending in KINDS), None)
    if not path.exists():
        raise BadInputError(f"there is no data file {data!r}: give a file of problems ({', '.join(KINDS)})")
    if kind is None:
        raise BadInputError(
            f"the data file {data!r} is of no kind that is read: save it as JSONL (one object a line, named .jsonl), "
            "CSV or parquet"
        )
    return kind, path


def _available(kind: str, path: Path) -> list[str]:
    if kind in READ:
        return READ[kind](path).column_names
    (rows, *_) = load_files(path, None, name=f"{kind}:{path}").values()
    return list(rows.column_names)


def _columns(data: str, available: Sequence[str], named: Mapping[str, str]) -> dict[str, str]:
    """The columns that have another name than distillknob's own, by what they hold."""
    columns = dict(named)
    for what, column in named.items():
        if column not in available:
            raise BadInputError(
                f"--{what}-column {column}: {data} has no such column, but {', '.join(available)}: name one of them"
            )
    for what, names in OTHER_NAMES.items():
        if what in columns or any(name in available for name in OWN_NAMES[what]):
            continue
        like = [name for name in names if name in available and name not in columns.values()]
        if len(like) > 1 or (what == "prompt" and not like):
            many = f"{' and '.join(like)} could" if like else "none of which is known to"
            raise BadInputError(
                f"{data} has the columns {', '.join(available)}, {many} hold the {what}: say which with "
                f"--{what}-column NAME"
            )
        if like:
            columns[what] = like[0]
    return columns


def _grader(task: OwnTask, graded_by: Callable[[str], OwnTask]) -> tuple[str, str]:
    """The grader that reads the data's answers, and why it is taken. `graded_by` gives the task with another."""
    examples = task.examples("train")
    references = [str(example.reference) for example in examples]
    formulas = [reference for reference in references if FORMULA.search(reference)]
    solved = [example for example in examples if example.gold is not None][:GRADED]
    if len(formulas) >= FORMULAS * len(references):
        share = f"{len(formulas)} of {len(references)} references are formulas"
        return "math", f"as {share} ({formulas[0][:40]!r}), which it compares by what they are worth"
    plain = "as the references are plain answers: equal texts and equal numbers are right"
    if not solved:
        return "text", plain
    right = _right(task, solved)
    seen = f"{right} of {len(solved)} worked solutions are right by it"
    if right >= READABLE * len(solved):
        return "text", f"{plain} ({seen})"
    by_math = _right(graded_by("math"), solved)
    if by_math >= READABLE * len(solved):
        return "math", f"as it reads {by_math} of {len(solved)} worked solutions, and the grader of texts {right}"
    return "text", f"but only {seen}: end them with a line `Answer: …`, as the models are to do"


def _right(task: OwnTask, solved: Sequence[Example]) -> int:
    """How many worked solutions are right by their own references."""
    return sum(task.is_right(task.grade(example.gold_solution, example.reference)) for example in solved)


def _listed(columns: Mapping[str, str]) -> str:
    return ", ".join(f"{column!r} is the {what}" for what, column in columns.items())
