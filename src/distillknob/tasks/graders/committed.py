r"""Reading the answer out of a completion, as a plain text or a number.

Answer and reference are brought to one spelling (characters.py) and stripped of what Markdown and LaTeX put around
them; then they are equal as texts, up to case and white space, or as numbers. A number may have a sign, a currency,
separated thousands, an exponent (1e16, `1.6 \times 10^{-19}`) and a percent sign, which must then stand on both sides.

Left out on purpose: symbolic mathematics, fractions and units (1/2 isn't 0.5 here), which math-verify reads for the
tasks with LaTeX answers, and labels in other languages than English.
"""

from __future__ import annotations

import re
from decimal import Decimal

from distillknob.tasks.graders.characters import plain_characters
from distillknob.tasks.graders.thoughts import after_thinking

ANSWER = "Answer:"
LABEL = re.compile(
    r"<answer>|\banswer[*_]{0,3}\s{0,3}(?:[:=][*_]{0,3}|\bis\b:?)"
    r"|^\W{0,9}(?:final )?answer[*_]{0,3} {1,3}[-—][*_]{0,3} ",
    re.IGNORECASE | re.MULTILINE,
)
WRAPPED = re.compile(r"\\(?:boxed|fbox|text(?:bf|it|rm|tt)?|math(?:bf|rm|it|sf|tt)|mbox|emph)\s{0,3}\{")
FORMULAS = (("\\(", "\\)"), ("\\[", "\\]"))
DISPLAYED = re.compile(r"(\\\[|\$\$)[ \t]{0,9}\n[ \t]{0,9}([^\n]{1,2000})\n[ \t]{0,9}(\\\]|\$\$)")
FENCE = re.compile(r"^[ \t]{0,9}```\w{0,20}[ \t]{0,9}$", re.MULTILINE)
CLOSING = re.compile(r"[,;]$|(?<=[^\W\d])!$")  # 5! is another number than 5
QUOTED = re.compile(r"([\"'])([^\"']+)\1")
BOX = re.compile(r"\\(?:boxed|fbox)\s{0,3}\{")
LONGEST = 2000  # characters of what is wrapped
NUMBER = re.compile(
    r"(?P<sign>[-+]?)(?P<currency>[$€£¥]?)(?P<inner>[-+]?)"
    r"(?P<digits>(?:\d{1,3}(?:,\d{3}){1,16}|\d{1,3}(?: \d{3}){1,16}|\d{1,400})?(?:\.\d{1,400})?)(?<=\d)"
    r"(?:e(?P<e>[-+]?\d{1,3})|\s?(?:\\times|\\cdot|[x×*·])\s?10\s?\^\s?(?:\{\s?(?P<power>[-+]?\d{1,3})\s?\}|(?P<bare>[-+]?\d{1,3})))?"
    r"\s?(?P<after>[€£¥]?)(?P<percent>%?)",
    re.ASCII,
)


def committed_answer(completion: str) -> str | None:
    """The text after the last "Answer:", without a closing full stop; None where the completion never commits."""
    _, label, rest = completion.rpartition(ANSWER)
    if not label:
        return None
    answer = rest.split("\n", 1)[0].strip().rstrip(".").strip()
    return answer or None


def answer_or_last_line(completion: str) -> str | None:
    """The text after the last "Answer:" (or "Answer =", "Answer - ", "the answer is", in any case and markup), or else
    the last line; of either, what it puts into a box. Thoughts and Markdown's and LaTeX's wrapping apart, in the
    characters of a keyboard. None where there is nothing."""
    text = FENCE.sub("", DISPLAYED.sub(r"\1\2\3", plain_characters(after_thinking(completion)))).strip()
    labels = list(LABEL.finditer(text))
    rest = text[labels[-1].end() :].strip().split("\n", 1)[0].partition("</answer>")[0] if labels else ""
    return bare(_boxed(rest)) or (bare(_boxed(text.splitlines()[-1])) if text else "") or None


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


def bare(answer: str) -> str:
    """An answer without what is around it: stars, backticks, dollars, quotes, a formula's marks, a box, closing
    punctuation. A single character is an answer by itself, such as the operator *."""
    answer = answer.strip()
    if len(answer) == 1:
        return answer
    for _ in range(6):  # they may be nested
        before = answer
        answer = CLOSING.sub("", answer.removesuffix(".").strip("*_` \t").removesuffix(".").strip())
        if answer.endswith("$") and not answer.endswith("\\$"):
            answer = answer.strip("$").strip()
        for opening, closing in FORMULAS:
            if answer.startswith(opening) and answer.endswith(closing):
                answer = answer[len(opening) : -len(closing)].strip()
        quoted = QUOTED.fullmatch(answer)
        if quoted is not None:
            answer = quoted[2].strip()
        wrapped = WRAPPED.match(answer)
        inside = braced(answer, wrapped.end(), LONGEST) if wrapped else None
        if wrapped and inside is not None and wrapped.end() + len(inside) + 1 == len(answer):
            answer = inside.strip()
        if answer == before:
            break
    return answer


def same_answer(answer: str, reference: str) -> bool:
    """Are they equal up to case, white space and markup, or as numbers (1,000 and 1000; .5 and 0.5; 1e3 and $1,000)?"""
    first, second = _folded(answer), _folded(reference)
    if first == second:
        return True
    ours, theirs = _number(first), _number(second)
    if ours is None or theirs is None:
        return False
    (value, currency, percent), (right, its_currency, its_percent) = ours, theirs
    return value == right and percent == its_percent and (not currency or not its_currency or currency == its_currency)


def _folded(text: str) -> str:
    text = plain_characters(text)
    return " ".join((bare(text) or text).casefold().split())


def _number(text: str) -> tuple[Decimal, str, bool] | None:
    """A number's value, its currency and whether it is in percent; None for what is no number."""
    text = text.replace("{,}", ",").replace("\\,", "").replace("\\$", "$").replace("\\%", "%").replace("~", " ")
    match = NUMBER.fullmatch(text)
    if match is None or (match["sign"] and match["inner"]) or (match["currency"] and match["after"]):
        return None
    exponent = match["e"] or match["power"] or match["bare"] or "0"
    digits = match["digits"].replace(",", "").replace(" ", "")
    value = Decimal(f"{match['sign'] or match['inner']}{digits}e{exponent}")
    return value, match["currency"] or match["after"], bool(match["percent"])
