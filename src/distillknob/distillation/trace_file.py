"""Traces from a file: what a teacher wrote elsewhere, bought from an API or put together by an attack.

A JSON-lines file, a trace a line: `prompt` (messages, or a text for one user turn), `completion` (text), and perhaps
`finished` (false for an answer that was cut off, so that its end isn't taught; default true) and `task`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distillknob.errors import BadInputError
from distillknob.models.scoring import Scorer, answer_ids
from distillknob.runs.files import read_jsonl
from distillknob.tasks.rows.chat import conversation
from distillknob.tasks.rows.values import MissingValueError, UnusableValueError

Row = dict[str, Any]


def read_trace_file(path: str | Path) -> list[Row]:
    """Return the traces of the file: `prompt` (messages), `completion`, `finished` and `task` of each.

    Raises BadInputError with the line where the file or a row of it can't be used.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise BadInputError(f"traces_file={str(path)!r}: there is no such file")
    rows = read_jsonl(path)
    if not rows:
        raise BadInputError(f"traces_file={str(path)!r} holds no traces: one JSON object a line, each line ended")
    return [_row(row, f"{path}, line {number}") for number, row in enumerate(rows, start=1)]


def with_ids(rows: list[Row], student: Scorer) -> list[Row]:
    """Return the traces as a student reads them: `completion_ids` by its tokenizer, the end included where the trace
    ended."""
    ids = answer_ids(student, [row["completion"] for row in rows], [row["finished"] for row in rows])
    return [{**row, "completion_ids": one} for row, one in zip(rows, ids, strict=True)]


def _row(row: Any, where: str) -> Row:
    if not isinstance(row, dict):
        raise BadInputError(f"{where}: {row!r} is no trace: give an object with prompt and completion")
    prompt, completion, finished = row.get("prompt"), row.get("completion"), row.get("finished", True)
    if not isinstance(completion, str) or not completion:
        raise BadInputError(f"{where}: completion is {completion!r}, but must be a text that isn't empty")
    if not isinstance(finished, bool):
        raise BadInputError(f"{where}: finished is {finished!r}, but must be true or false")
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    try:
        turns, solution = conversation(prompt, "prompt")
    except (MissingValueError, UnusableValueError) as error:
        raise BadInputError(f"{where}: {error}") from error
    if solution is not None:
        raise BadInputError(f"{where}: prompt ends in a turn of the assistant: put that into completion")
    return {
        "prompt": [dict(turn) for turn in turns],
        "task": str(row.get("task", "")),
        "completion": completion,
        "finished": finished,
    }
