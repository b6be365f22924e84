"""This module types the answers that a page shows as they were written: a few problems, with what each model said."""

# No `from __future__ import annotations`: with it TypedDict can't tell the keys that are NotRequired.

from typing import Any, NotRequired, TypedDict


class AnswerRow(TypedDict):
    """A row holds an answer of a model, who wrote it, and what it scores."""

    who: str
    teacher: NotRequired[str]
    text: str
    score: float
    finished: bool
    style: str


class ExampleRow(TypedDict):
    """An example is a problem with the answers of several models."""

    task: str
    prompt: str
    reference: Any  # whatever the task grades against
    answers: list[AnswerRow]
