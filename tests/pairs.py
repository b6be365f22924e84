"""The pair of tiny checkpoints that most tests run on."""

from __future__ import annotations

from typing import NamedTuple


class Pair(NamedTuple):
    """Folders of a tiny teacher and a tiny student with one tokenizer (as texts: what a recipe or a flag holds)."""

    teacher: str
    student: str
