"""Reading the answer out of a completion.

Left out on purpose: symbolic mathematics. The embedded tasks have exact answers; tasks with LaTeX answers use
math-verify.
"""

from __future__ import annotations

import re
from decimal import Decimal

ANSWER = "Answer:"
LABEL = re.compile(r"\banswer[*_]{0,3}\s{0,3}(?::[*_]{0,3}|\bis\b:?)", re.IGNORECASE)
WRAPPED = re.compile(r"\\(?:boxed|fbox|text|mathbf|mathrm)\s{0,3}\{")
BOX = re.compile(r"\\(?:boxed|fbox)\s{0,3}\{")
LONGEST = 2000  # characters of what is wrapped
NUMBER = re.compile(r"[-+]?(?:\d{1,3}(?:,\d{3}){1,16}|\d{1,50})?(?:\.\d{1,50})?(?<=\d)", re.ASCII)


def committed_answer(completion: str) -> str | None:
    """The text after the last "Answer:", without a closing full stop; None where the completion never commits."""
    _, found, rest = completion.rpartition(ANSWER)
    if not found:
        return None
    answer = rest.split("\n", 1)[0].strip().rstrip(".").strip()
    return answer or None


def after_thinking(completion: str) -> str:
    """What follows the thoughts of a model that writes them between <think> and </think>: its answer. Thoughts that
    were cut off before their end are no answer."""
    return completion.rpartition("</think>")[2].partition("<think>")[0]


def answer_or_last_line(completion: str) -> str | None:
    """The text after the last "Answer:" (or "the answer is", in any case and markup), or else the last line; of
    either, what it puts into a box. Thoughts and Markdown's and LaTeX's wrapping apart. None where there is nothing."""
    text = after_thinking(completion).strip()
    labels = list(LABEL.finditer(text))
    rest = text[labels[-1].end() :].strip().split("\n", 1)[0] if labels else ""
    return _bare(_boxed(rest)) or (_bare(_boxed(text.splitlines()[-1])) if text else "") or None


def _boxed(line: str) -> str:
    """What the line's box holds; the line where it has none, several that differ, or a number behind it."""
    boxes = [(m, inside) for m in BOX.finditer(line) if (inside := braced(line, m.end(), LONGEST)) is not None]
    if not boxes or len({inside for _, inside in boxes}) > 1:
        return line
    last, inside = boxes[-1]
    return line if re.search(r"\d", line[last.end() + len(inside) :]) else inside


def braced(text: str, start: int, longest: int) -> str | None:
    """What stands between the brace that ends before `start` and its partner; None where there is none within
    `longest` characters."""
    depth = 1
    for i in range(start, min(len(text), start + longest + 1)):
        if text[i] in "{}" and text[i - 1] != "\\":
            depth += 1 if text[i] == "{" else -1
            if depth == 0:
                return text[start:i]
    return None


def _bare(answer: str) -> str:
    """Without what is around an answer: stars, backticks, dollars, a box, a closing full stop."""
    answer = answer.strip()
    for _ in range(4):  # they may be nested
        answer = answer.strip("*_`$ \t").removesuffix(".").strip()
        opening = WRAPPED.match(answer)
        inside = braced(answer, opening.end(), LONGEST) if opening else None
        if opening and inside is not None and opening.end() + len(inside) + 1 == len(answer):
            answer = inside
    return answer


def same_answer(answer: str, reference: str) -> bool:
    """Equal up to case and surrounding space, or equal as plain decimal numbers (1,000 and 1000; .5 and 0.5)."""
    first, second = answer.strip().casefold(), reference.strip().casefold()
    if first == second:
        return True
    if not (NUMBER.fullmatch(first) and NUMBER.fullmatch(second)):
        return False
    return Decimal(first.replace(",", "")) == Decimal(second.replace(",", ""))
