"""A value of a data set's cell as the text that a grader compares with: one rule for JSONL, CSV, parquet and the hub.

| value | text |
|---|---|
| a text | itself, without surrounding space |
| null, a blank text, NaN | missing |
| a number | the shortest decimal of its type, without exponent: float32 0.1 is "0.1", 1e16 is "10000000000000000" |
| true, false | "true", "false" (compared up to case) |
| a list, a mapping | refused, also as a JSON or Python text of one; with `any_of` each text in it is right |
| ±infinity, a date, bytes, anything else | refused |

Left out on purpose: dates as ISO texts. Whether a model is to write 2026-01-05 or January 5 is for the data to say.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

LONGEST_NUMBER = 400  # digits of a number written out


class UnusableValueError(ValueError):
    """The cell holds what can't be a text; the message says what, and the remedy."""


class MissingValueError(ValueError):
    """The row lacks what the task needs; the message says what, and the remedy."""


def as_text(value: Any) -> str | None:
    """The value as a text, by the table above; None where it is missing. Raises UnusableValueError."""
    if isinstance(value, str):
        return value.strip() or None
    if value is None:
        return None
    import numpy as np

    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, int | np.integer):
        return str(int(value))
    if isinstance(value, float | np.floating | Decimal):
        return _decimal(value)
    kind = type(value).__name__
    if isinstance(value, Mapping | Sequence | np.ndarray | set) and not isinstance(value, bytes):
        raise UnusableValueError(f"holds a {kind} ({_shown(value)}), want one text or number")
    raise UnusableValueError(f"holds a {kind} ({_shown(value)}): write it as the text that an answer should be")


def any_of(value: Any) -> list[str] | None:
    """The texts in a list (or in SQuAD's mapping with a list under "text", or in the JSON or Python text of either),
    each once; those of a plain value: that one. None where there is none. Raises UnusableValueError."""
    if isinstance(value, str):
        value = serialised(value, typed=False) or value
    if isinstance(value, Mapping) and "text" in value:
        value = value["text"]
    if hasattr(value, "tolist"):  # an array
        value = value.tolist()
    if not isinstance(value, list | tuple):
        value = [value]
    texts = [text for item in value if (text := as_text(item)) is not None]
    return list(dict.fromkeys(texts)) or None


def serialised(text: str, *, typed: bool = True) -> Any:
    """The list or mapping that the text writes out, as JSON or as Python; None where it is another text.

    Where the column has a type (`typed`), a list of numbers is taken for a text: `[1, 2]` may be the answer. In CSV,
    where every cell is text, it may as well have been a list.
    """
    text = text.strip()
    if not ((text[:1] == "[" and text[-1:] == "]") or (text[:1] == "{" and text[-1:] == "}")):
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(value, Mapping):
            return value
        if isinstance(value, list) and (not typed or any(isinstance(item, str | list | Mapping) for item in value)):
            return value
    return None


def _decimal(value: float | np.floating[Any] | Decimal) -> str | None:
    if isinstance(value, Decimal):
        if value.is_nan():
            return None
        if value.is_infinite() or abs(value.adjusted()) > LONGEST_NUMBER:
            raise UnusableValueError(f"holds {value}, which is no number that an answer could write out")
        text = format(value, "f")
        return text.rstrip("0").rstrip(".") if "." in text else text
    import numpy as np

    if math.isnan(value):
        return None
    if math.isinf(value):
        raise UnusableValueError(f"holds {value}, an infinite number: write it as the text that an answer should be")
    return np.format_float_positional(value, trim="-")


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
