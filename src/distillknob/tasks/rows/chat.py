"""Conversations as data sets hold them: TRL's and OpenAI's `messages` (role, content), ShareGPT's (from, value).

The prompt is everything up to the last assistant turn, system prompt included; that turn is the solution. Left out on
purpose: tools and their turns, images, and training on earlier assistant turns, which are part of the prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from distillknob.tasks.rows.values import MissingValueError, UnusableValueError, serialised

ROLES = {
    "system": "system",
    "developer": "system",  # what OpenAI calls it now
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
}
Turns = tuple[Mapping[str, str], ...]


def conversation(value: Any, column: str) -> tuple[Turns, str | None]:
    """The prompt's turns (`role`, `content`), and the assistant turn that they end in, None where they end in the
    user's. Raises UnusableValueError for what is no conversation of texts, MissingValueError for one without a prompt
    or with its turns out of order."""
    turns = [_turn(turn, column) for turn in turns_of(value, column)]
    solution = turns.pop()["content"] if turns and turns[-1]["role"] == "assistant" else None
    spoken = turns[1:] if turns and turns[0]["role"] == "system" else turns
    if not spoken:
        raise MissingValueError(f"no prompt: {column!r} has no turn of the user")
    for number, turn in enumerate(spoken):
        expected = "assistant" if number % 2 else "user"
        if turn["role"] != expected:
            raise MissingValueError(
                f"no prompt: in {column!r} a turn of the {turn['role']} stands where the {expected}'s is due: let user "
                "and assistant take turns, the user first, behind at most one system prompt"
            )
    if len(spoken) % 2 == 0:
        raise MissingValueError(f"no prompt: {column!r} has two turns of the assistant at its end")
    if not spoken[-1]["content"].strip():
        raise MissingValueError(f"no prompt: the last turn of the user in {column!r} is blank")
    return tuple(turns), solution if solution is None or solution.strip() else None


def is_conversation(value: Any) -> bool:
    """Is it a list of turns (or the JSON or Python text of one), rather than a text?"""
    if isinstance(value, str):
        listed = serialised(value)
        return isinstance(listed, list) and all(isinstance(turn, Mapping) and _role(turn) in ROLES for turn in listed)
    return isinstance(value, list | tuple | Mapping)


def _role(turn: Mapping[str, Any]) -> Any:
    return turn.get("role", turn.get("from"))


def turns_of(value: Any, column: str) -> Sequence[Any]:
    """The conversation as a list, whether it is one, the text of one (in CSV), or a list for each field."""
    if isinstance(value, str):  # a cell of CSV
        value = serialised(value) or value
    if isinstance(value, Mapping) and value and all(isinstance(part, list) for part in value.values()):
        # How `datasets` keeps a sequence of structures: a list for each field.
        value = [dict(zip(value, parts, strict=True)) for parts in zip(*value.values(), strict=True)]
    if value is None:
        raise MissingValueError(f"no prompt: {column!r} is empty")
    if not isinstance(value, list | tuple):
        raise UnusableValueError(
            f"{column!r} holds a {type(value).__name__}, want a list of turns with role and content (or from and value)"
        )
    return value


def _turn(turn: Any, column: str) -> dict[str, str]:
    if not isinstance(turn, Mapping):
        raise UnusableValueError(
            f"a turn in {column!r} is a {type(turn).__name__}, want an object with role and content"
        )
    role, content = _role(turn), turn.get("content", turn.get("value"))
    if role not in ROLES:
        raise UnusableValueError(
            f"a turn in {column!r} has the role {role!r}, want one of {', '.join(ROLES)}: tools aren't read"
        )
    for field in ("tool_calls", "function_call", "audio", "images"):
        if turn.get(field):
            raise UnusableValueError(f"a turn in {column!r} has {field}, and texts alone are read")
    if turn.get("weight") == 0 and ROLES[role] == "assistant":
        raise UnusableValueError(
            f"a turn in {column!r} has weight 0, which nothing here heeds: leave the field out, or the turn"
        )
    if isinstance(content, list):
        content = "".join(_part(part, column) for part in content)
    if not isinstance(content, str):
        kind = "nothing" if content is None else f"a {type(content).__name__}"
        raise UnusableValueError(f"a turn of the {role} in {column!r} holds {kind}, want a text")
    if any("\ud800" <= character <= "\udfff" for character in content):
        raise UnusableValueError(f"a turn in {column!r} holds half of a surrogate pair (\\ud800 …), which is no text")
    return {"role": ROLES[role], "content": content}


def _part(part: Any, column: str) -> str:
    if not isinstance(part, Mapping) or part.get("type") != "text" or not isinstance(part.get("text"), str):
        kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
        raise UnusableValueError(f"a turn in {column!r} has a part of type {kind!r}, and texts alone are read")
    return str(part["text"])
