"""A skill behind the prompt: what somebody has learnt from runs of a task, or of one of its problems (2604.10674).

Skills are read from JSON lines with `skill` (a text, or an object of texts) and `task`, the name of a task, or
`prompt`, the text of a problem; a problem's own skill goes before its task's.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from distillknob.distillation.teacher_context.base import TEACHER_PROMPT, Context, Messages
from distillknob.errors import BadInputError
from distillknob.tasks import Example

if TYPE_CHECKING:
    from distillknob.distillation.options import Settings

SKILL = "{prompt}\n\nWhat is known about problems like this one:\n{skill}"


class Skills(NamedTuple):
    """Skills by the name of a task, and by the text of a prompt."""

    of_task: Mapping[str, str]
    of_prompt: Mapping[str, str]


def read_skills(path: str) -> Skills:
    """Read a file of skills.

    Raises BadInputError for a file that can't be read or has no line, and for a line that is no skill, by its number.
    """
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"skills={path!r} can't be read ({error}): name a file of JSON lines") from error
    by: dict[str, dict[str, str]] = {"task": {}, "prompt": {}}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, key, skill = _entry(line, f"skills={path!r}, line {number}")
        if key in by[name]:
            raise BadInputError(f"skills={path!r}, line {number}: a second skill for the {name} {key!r}: keep one")
        by[name][key] = skill
    if not any(by.values()):
        raise BadInputError(f"skills={path!r} holds no skill: give JSON lines with task or prompt, and skill")
    return Skills(by["task"], by["prompt"])


def _entry(line: str, where: str) -> tuple[str, str, str]:
    """`task` or `prompt`, which one, and the skill."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise BadInputError(f"{where} is no JSON ({error}): give an object with task or prompt, and skill") from error
    names = [name for name in ("task", "prompt") if isinstance(row, dict) and isinstance(row.get(name), str)]
    if len(names) != 1:
        raise BadInputError(f"{where} must be an object with either task or prompt as a text: {line.strip()[:80]}")
    skill = _text(row.get("skill"))
    if skill is None:
        raise BadInputError(f"{where} has no skill: give a text that isn't empty, or an object of such texts")
    return names[0], row[names[0]], skill


def _text(skill: Any) -> str | None:
    """A skill as a text; None where it is none."""
    parts = skill if isinstance(skill, dict) else {"": skill}
    if not parts or not all(isinstance(text, str) and text.strip() for text in parts.values()):
        return None
    return "\n".join(f"{name.replace('_', ' ')}: {text}" if name else text for name, text in parts.items())


@dataclass(frozen=True)
class Skill(Context):
    """The prompt with the skill behind it that the file `path` has for the problem or for its task."""

    informs: ClassVar[bool] = True

    path: str | None

    @functools.cached_property
    def skills(self) -> Skills:
        """What the file holds."""
        if self.path is None:
            raise BadInputError("context skill shows skills, and skills names no file: set it")
        return read_skills(self.path)

    def columns(self, messages: Messages, example: Example) -> dict[str, Messages]:
        """Raises BadInputError for a problem for which the file has no skill."""
        asked = messages[-1]["content"]
        skill = self.skills.of_prompt.get(asked) or self.skills.of_task.get(example.task)
        if skill is None:
            raise BadInputError(
                f"skills={self.path!r} has none for the task {example.task!r}, nor for its problem {asked[:80]!r}: add "
                "a line for either"
            )
        shown = SKILL.format(prompt=asked, skill=skill)
        return {TEACHER_PROMPT: [*messages[:-1], {**messages[-1], "content": shown}]}

    def why_not(self, settings: Settings) -> str | None:
        return "context skill shows skills to the teacher: name their file in skills" if self.path is None else None
