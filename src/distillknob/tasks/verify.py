"""Reading the answer out of a completion.

Left out on purpose: symbolic mathematics. The embedded tasks have exact answers; tasks with LaTeX answers use
math-verify.
"""

from __future__ import annotations

import re
from decimal import Decimal

ANSWER = "Answer:"


def committed_answer(completion: str) -> str | None:
    """The text after the last "Answer:", without a closing full stop; None where the completion never commits."""
    _, found, rest = completion.rpartition(ANSWER)
    if not found:
        return None
    answer = rest.split("\n", 1)[0].strip().rstrip(".").strip()
    return answer or None


def answer_or_last_line(completion: str) -> str | None:
    """The text after the last "Answer:", or else the last line; None where there is neither."""
    answer = committed_answer(completion)
    if answer is None and completion.strip():
        answer = completion.strip().splitlines()[-1].strip().rstrip(".").strip() or None
    return answer


def same_answer(answer: str, reference: str) -> bool:
    """Equal up to case and surrounding space, or equal as plain decimal numbers."""
    first, second = answer.strip().casefold(), reference.strip().casefold()
    if first == second:
        return True
    number = re.compile(r"[-+]?\d{1,50}(\.\d{1,50})?", re.ASCII)
    return bool(number.fullmatch(first) and number.fullmatch(second)) and Decimal(first) == Decimal(second)
