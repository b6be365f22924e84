"""Reading what a server answers: every part is checked before it is used, since a foreign answer may hold anything.

Each function returns plain values or raises RunFailedError, which names what is wrong with the answer.
Log-probabilities that stand one token off, behind a token that the server put before the prompt, look like any others:
they are known by their number, and by the first token's, which has none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from distillknob.errors import RunFailedError

ENDED = ("stop", "eos", "eos_token", "end_turn")  # finish reasons of an answer that ended by itself
BROKEN = ("error", "abort", "cancelled")
SHOWN = 200  # characters of an answer in a message
LEADING_TOKEN = (
    "it puts a token of its own (a BOS?) before the prompt. Let it take the token ids as they are "
    "(add_special_tokens off), or serve the model with vLLM"
)


def choices_of(answer: Any, count: int, url: str) -> list[dict[str, Any]]:
    """The `count` choices of an answer, in the order of their index; in the answer's own where none has one."""
    choices = answer.get("choices") if isinstance(answer, Mapping) else None
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise RunFailedError(f"{url} gives no choices, but {str(answer)[:SHOWN]}: look at its log")
    if len(choices) != count:
        raise RunFailedError(f"{url} gave {len(choices)} answers for {count}: look at its log")
    places = [choice.get("index") for choice in choices]
    if all(place is None for place in places):
        return choices
    if not all(isinstance(place, int) for place in places) or sorted(places) != list(range(count)):
        raise RunFailedError(f"{url} numbers its {count} answers {places}, and not from 0 on: look at its log")
    return sorted(choices, key=lambda choice: int(choice["index"]))


def prompt_logprobs(choice: Mapping[str, Any], ids: Sequence[int], url: str, name: str) -> list[float]:
    """Log-probability (nats) of each token of `ids` but the first, from `prompt_logprobs` (vLLM) or an echo."""
    by_token, echo = choice.get("prompt_logprobs"), choice.get("logprobs")
    if by_token is not None:
        return _by_token(by_token, ids, url)
    values = echo.get("token_logprobs") if isinstance(echo, Mapping) else None
    # Without echo there are those of what was generated alone: one, or none.
    if values is None or not isinstance(values, list) or len(values) < len(ids):
        raise RunFailedError(
            f"{url} returns no log-probabilities of the prompt: serve {name!r} with vLLM, or another server that knows "
            "prompt_logprobs or echo"
        )
    if len(values) > len(ids) + 1:  # the prompt's and that of the one token that was generated
        raise RunFailedError(
            f"{url} gives {len(values)} log-probabilities for a prompt of {len(ids)} tokens and one new one: "
            f"{LEADING_TOKEN}"
        )
    if values[0] is not None:
        raise RunFailedError(
            f"{url} gives the prompt's first token the log-probability {values[0]!r}, though nothing stands before it: "
            f"{LEADING_TOKEN}"
        )
    numbers = [_logprob(value, place, url) for place, value in enumerate(values[1 : len(ids)], start=1)]
    if len(numbers) > 1 and not any(numbers):
        raise RunFailedError(f"{url} gives every token of the prompt the log-probability 0: it doesn't score prompts")
    return numbers


def _by_token(rows: Any, ids: Sequence[int], url: str) -> list[float]:
    if not isinstance(rows, list) or len(rows) != len(ids):
        shown = f"{len(rows)} prompt_logprobs" if isinstance(rows, list) else f"prompt_logprobs of {str(rows)[:SHOWN]}"
        cause = LEADING_TOKEN if isinstance(rows, list) and len(rows) > len(ids) else "look at its log"
        raise RunFailedError(f"{url} gives {shown} for a prompt of {len(ids)} tokens: {cause}")
    if rows[0] is not None:
        raise RunFailedError(f"{url} gives prompt_logprobs of the first token too: {LEADING_TOKEN}")
    values = []
    for place, (row, token) in enumerate(zip(rows[1:], ids[1:], strict=True), start=1):
        entry = row.get(str(token)) if isinstance(row, Mapping) else None
        if not isinstance(entry, Mapping):
            raise RunFailedError(
                f"{url} gives no log-probability of token {token} at place {place} of the prompt ({str(row)[:SHOWN]}): "
                "it has other tokens than the tokenizer here, or none of them. Name the tokenizer that the server has: "
                "URL#NAME#TOKENIZER"
            )
        values.append(_logprob(entry.get("logprob"), place, url))
    return values


def _logprob(value: Any, place: int, url: str) -> float:
    if value in ("-inf", "-Infinity"):  # JSON has no word for it
        return -math.inf
    # NaN isn't at most 0 either. Rounding may take the logarithm of a sure token a hair above it.
    if isinstance(value, bool) or not isinstance(value, int | float) or not value <= 1e-3:
        raise RunFailedError(
            f"{url} gives the log-probability {value!r} at place {place} of the prompt, but it must be a number of at "
            "most 0: look at its log"
        )
    return float(value)


def ended(choice: Mapping[str, Any], url: str) -> bool:
    """Did this answer end by itself? One cut at its length, or by a filter, did not. Raises for one that broke off."""
    reason = choice.get("finish_reason")
    if reason in BROKEN:
        raise RunFailedError(f"{url} broke an answer off (finish_reason {reason!r}): look at its log")
    return reason in ENDED


def text_of(choice: Mapping[str, Any], url: str) -> str:
    """The text of a completion."""
    text = choice.get("text")
    if not isinstance(text, str):
        raise RunFailedError(f"{url} gives an answer without a text ({str(dict(choice))[:SHOWN]}): look at its log")
    return text


def token_ids_of(choice: Mapping[str, Any], vocabulary: int, url: str) -> list[int] | None:
    """The token ids of a completion where the server returns them (vLLM), each below `vocabulary`; None elsewhere."""
    ids = choice.get("token_ids")
    if ids is None:
        return None
    if not isinstance(ids, list) or not all(type(token) is int and 0 <= token < vocabulary for token in ids):
        raise RunFailedError(
            f"{url} gives token_ids that the tokenizer here doesn't have ({str(ids)[:SHOWN]}): name the tokenizer that "
            "the server has, URL#NAME#TOKENIZER"
        )
    return ids


def message_of(choice: Mapping[str, Any], url: str) -> str:
    """The text of a chat completion: its content, joined where it comes in parts."""
    message = choice.get("message")
    content = message.get("content") if isinstance(message, Mapping) else None
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, Mapping)]
        content = "".join(part for part in parts if isinstance(part, str))
    if isinstance(message, Mapping) and content is None and choice.get("finish_reason") in ("length", "content_filter"):
        return ""  # cut before the answer began, or withheld: an unfinished answer
    if not isinstance(content, str):
        raise RunFailedError(f"{url} gives an answer without a text ({str(dict(choice))[:SHOWN]}): look at its log")
    return content
