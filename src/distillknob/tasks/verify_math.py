r"""Reading the final answer out of a mathematical completion, and comparing it with the reference.

What commits to an answer is `\boxed{…}` and "Answer: …" (also "the answer is …" and GSM8K's "####"); the last of each
counts. Where a completion has both, both must be right; several boxes in its last paragraph must agree, or be together
what the reference lists. A number must be worked out: to a plain number, `2^{10}` is no answer, since the problem would
often be its own solution.

Left out on purpose: taking the last number of a completion that commits to nothing, and digits of other scripts.
Whether two expressions are equal is math-verify's to say (math_equality.py).
"""

from __future__ import annotations

import re
from collections import deque
from decimal import Decimal

from distillknob.tasks.math_equality import equal
from distillknob.tasks.verify import after_thinking, braced

TAIL = 20_000  # characters from the end in which the commitment must stand
LONGEST = 600  # characters of an answer

BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
LABEL = re.compile(r"####|\banswers?\b[*_\s]*(?::|\bis\b(?:\s*:)?|\bare\b(?:\s*:)?|=)", re.IGNORECASE)
STATES = re.compile(r"[\d$\\]")  # a number or a formula
DENIED = re.compile(r"(?:\b(?:not|never|cannot|isn't|aren't|n't)\b)(?:\W+\w+){0,2}\W*$", re.IGNORECASE)
OPENINGS = {"$$": "$$", "\\[": "\\]", "\\(": "\\)", "$": "$"}
# Words that may stand before a formula without changing what is said.
HARMLESS = frozenset(
    "the a an is are it its equal equals to value of number answer final exactly simply just so x y".split()
)
# Words that make another number of the one before them.
SCALES = frozenset(
    """half halves third thirds quarter quarters fourth fourths fifth fifths sixth sixths seventh sevenths eighth
    eighths ninth ninths tenth tenths hundredth hundredths hundred thousand million billion trillion dozen squared
    cubed factorial""".split()
)
# Words after a number that make another number or another statement of it; any other word is a unit.
CHANGES = SCALES | frozenset(
    """or and to not but nor neither either than versus between from minus plus times over divided multiplied by per
    power point mod modulo root is are was were if when unless except maybe perhaps possibly wrong incorrect false
    through e""".split()
)
NUMBER = r"[-+−]?(?:\d{1,3}(?:,\d{3})+|\d+)?(?:\.\d+)?"
PLAIN = re.compile(rf"[$€£¥]?\s*({NUMBER})((?:\s*%)?)((?:[\s-]+[A-Za-z]+\.?){{0,4}})", re.ASCII)
SEPARATED = re.compile(r"[-+]?\d{1,3}(,\d{3})+(\.\d+)?", re.ASCII)
DECIMAL = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)", re.ASCII)
SCIENTIFIC = re.compile(r"[-+]?\d+(\.\d+)?\s*(\\times|\\cdot|×)\s*10\s*\^\s*(\{\s*[-+]?\d+\s*\}|[-+]?\d)", re.ASCII)
UNWORKED = re.compile(
    r"[\d)}!]\s*(?:\+|-|−|\*|×|\\times|\\cdot|\\div)\s*[\d({\\]|[\d)]\s*\^\s*\{?\s*[-\d(]|\d\s*!|[\d)]\s*\("
    r"|\\(?:sqrt|binom|dbinom|tbinom|sum|prod|int|lim|log|ln|sin|cos|tan|gcd|lcm|max|min|lfloor|lceil|pmod|bmod|mod)(?![A-Za-z])|\d\s*_"
)
QUOTIENT = re.compile(r"\\[dt]?frac|\d\s*/\s*\d")
INTEGER = re.compile(r"[-+]?\d+", re.ASCII)
FRACTION = re.compile(r"[-+]?(\\[dt]?frac\s*(\{\s*-?\d+\s*\}|\d)\s*(\{\s*\d+\s*\}|\d)|\d+\s*/\s*\d+)", re.ASCII)
# What says more than a value, or less; also an unfinished sum, and an equation between numbers.
HEDGES = re.compile(
    r"\b(?:if|when|whenever|otherwise|unless|except|not|or|maybe|perhaps|possibly|alternatively|approximately|about"
    r"|wrong|incorrect)\b|\\(?:ne|neq|pm|mp|approx|lor|vee|ldots|dots|cdots)(?![A-Za-z])|[-+*/^=]\s*$|^[^A-Za-z]*=",
    re.IGNORECASE,
)
# A second thought behind an answer, with a number in it.
SECOND = re.compile(r"\b(?:or|alternatively|maybe|perhaps|possibly)\b[^\n]*\d", re.IGNORECASE)
MEMBERSHIP = re.compile(r"^\s*[A-Za-z](?:_\{?\w+\}?)?\s*(?:=|\\in)\s*")
WORDS = re.compile(r"[A-Za-z]+")
TEXT = re.compile(r"\\(?:text|textrm|mathrm|mbox)\s*\{([^{}]*)\}")
IN_TWO_UNITS = re.compile(r"\d\s*\\(?:text|textrm|mathrm|mbox)\s*\{[^{}]*\}\s*\d")
# As a keyboard may write them; the comparison is of ASCII.
TO_LATEX = str.maketrans({"−": "-", "–": "-", "π": r"\pi ", "×": r"\times ", "·": r"\cdot ", "~": " "})


def final_answer(completion: str) -> str | None:
    """The last thing that the completion commits to, as it stands there; None where it commits to none."""
    tail = after_thinking(completion)[-TAIL:]
    boxed, labelled = _boxes(tail), _labelled(tail)
    if labelled is not None and (not boxed or labelled[0] > boxed[-1][0]):
        return labelled[1]
    return boxed[-1][1] if boxed else None


def is_correct(completion: str, reference: str) -> bool:
    """Is the completion's final answer the reference? Never raises on a completion, whatever it holds.

    At most `LONGEST` characters of it are compared, for a limited time, in a process of their own. What a model thinks
    before </think> commits it to nothing.
    """
    tail = after_thinking(completion)[-TAIL:]
    boxed, labelled = _boxes(tail), _labelled(tail)
    if not boxed and labelled is None:
        return False
    if boxed:
        last = _last_paragraph(tail, boxed)
        if any(denied for _, _, denied in last) or SECOND.search(_paragraph(tail, boxed[-1][0])):
            return False
        answers = [text for _, text, _ in last]
        together = len(answers) > 1 and _same(", ".join(answers), reference)
        if not together and not all(_same(answer, reference) for answer in dict.fromkeys(answers)):
            return False
    if labelled is not None:
        answer = _formula(labelled[1])
        if answer is None or SECOND.search(_paragraph(tail, labelled[0])) or not _same(answer, reference):
            return False
    return True


def _boxes(text: str) -> list[tuple[int, str, bool]]:
    """Where each box ends, what it holds, and whether the words before it deny it."""
    found = []
    for match in BOX.finditer(text):
        inside = braced(text, match.end(), LONGEST)
        if inside is not None and inside.strip():
            before = text[max(0, match.start() - 60) : match.start()].rpartition("\n")[2]
            found.append((match.end() + len(inside), inside.strip(), bool(DENIED.search(before.rstrip("$ \\([")))))
    return found


def last_match(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    """The last match, None where there is none."""
    return next(iter(deque(pattern.finditer(text), maxlen=1)), None)


def last_label(text: str, states: re.Pattern[str]) -> re.Match[str] | None:
    """The last "Answer:" or "####"; a mere "the answer is" counts only if an answer (`states`) stands on its line, or
    if there is neither box nor other label: "the answer is found by adding" commits to nothing."""
    last = prose = None
    for match in LABEL.finditer(text):
        line = text[match.end() : match.end() + LONGEST].lstrip(" \t*_").split("\n", 1)[0]
        if match[0].endswith((":", "#")) or states.search(line):
            last = match
        else:
            prose = match
    return last if last is not None or BOX.search(text) else prose


def _last_paragraph(text: str, boxed: list[tuple[int, str, bool]]) -> list[tuple[int, str, bool]]:
    """The boxes that stand in one paragraph with the last one."""
    start = text.rfind("\n\n", 0, boxed[-1][0])
    return [box for box in boxed if box[0] > start]


def _paragraph(text: str, start: int) -> str:
    """The rest of the paragraph from `start`."""
    return text[start:].partition("\n\n")[0]


def _labelled(text: str) -> tuple[int, str] | None:
    """What follows the last "Answer:", on its line or as the formula that begins on the next, and where that ends."""
    last = last_label(text, STATES)
    if last is None:
        return None
    rest = text[last.end() :].lstrip(" \t\r\n*_:")
    offset = len(text) - len(rest)
    for opening, closing in OPENINGS.items():
        if rest.startswith(opening):
            end = rest.find(closing, len(opening))
            line = rest.find("\n", max(end, 0))
            rest = rest if line < 0 else rest[:line] if end >= 0 else rest.split("\n", 1)[0]
            break
    else:
        rest = rest.split("\n", 1)[0]
    answer = rest.strip()
    return (offset + len(rest), answer) if answer else None


def _formula(text: str) -> str | None:
    """The formula, or the list of formulas, that a line of text gives as the answer; None where its words say more than
    that (a negation, an alternative in prose), or where it is too long to be an answer."""
    text = text.replace("**", "").strip()
    if len(text) > LONGEST:
        return None
    formulas, outside, at = [], [], 0
    while at < len(text):
        box = BOX.match(text, at)
        # A dollar sign before a digit, and no other one behind it, is money.
        opening = next((o for o in OPENINGS if text.startswith(o, at) and not text.startswith("\\$", at - 1)), None)
        if box is not None:
            inside = braced(text, box.end(), LONGEST)
            if inside is None:
                return None
            formulas.append(inside.strip())
            at = box.end() + len(inside) + 1
        elif opening is not None and (end := text.find(OPENINGS[opening], at + len(opening))) >= 0:
            inside = text[at + len(opening) : end].strip()
            inner = BOX.search(inside)
            if inner is not None:
                boxed = braced(inside, inner.end(), LONGEST)
                if boxed is None:
                    return None
                inside = boxed.strip()
            formulas.append(inside)
            at = end + len(OPENINGS[opening])
        else:
            outside.append((len(formulas), text[at]))
            at += 1
    if not formulas:
        sentence = _sentence(text)
        return None if SECOND.search(text[len(sentence) :]) else sentence
    before = "".join(character for i, character in outside if i == 0)
    after = _sentence("".join(character if i else "" for i, character in outside))
    if any(word.casefold() not in HARMLESS for word in WORDS.findall(before)):
        return None
    if any(word.casefold() in CHANGES - {"and", "or"} for word in WORDS.findall(after)) or re.search(r"\d", after):
        return None
    return ", ".join(formulas)


def _sentence(text: str) -> str:
    """The first sentence: up to a full stop that isn't within a number."""
    return re.split(r"[.。!?](?=\s|$)", text, maxsplit=1)[0] if not re.match(r"[^.]*\d!", text) else text


def _scaled(text: str) -> bool:
    """Does a word in the formula's text make another number of it? math-verify leaves such text out."""
    words = {word for inside in TEXT.findall(text) for word in WORDS.findall(inside)}
    return "k" in words or any(word.casefold() in SCALES for word in words)  # K is kelvin


def _plain(text: str) -> str:
    """The answer without decoration: a number without its currency, separators and unit; else the text, trimmed."""
    text = text.strip().strip("*`").strip().rstrip(".。,;").strip().replace("°", "^\\circ")
    found = PLAIN.fullmatch(text.replace("\\$", "").replace("\\%", "%").replace("\\,", "").replace("{,}", ","))
    if found and any(c.isdigit() for c in found[1]):
        words = {word.casefold() for word in WORDS.findall(found[3])}
        if not words & CHANGES and not any(len(word) == 1 for word in words):
            return found[1].replace("−", "-").replace(",", "") + found[2].strip().replace("%", "\\%")
    return text


def _same(answer: str, reference: str) -> bool:
    answer, reference = _plain(answer.translate(TO_LATEX)), _plain(reference.translate(TO_LATEX))
    if not answer or len(answer) > LONGEST or not answer.isascii():
        return answer == reference != ""
    if answer == reference:
        return True
    if DECIMAL.fullmatch(answer) and DECIMAL.fullmatch(reference):
        return Decimal(answer) == Decimal(reference)
    value = MEMBERSHIP.sub("", answer)
    if HEDGES.search(value) and not HEDGES.search(reference):
        return False
    number = DECIMAL.fullmatch(reference) or FRACTION.fullmatch(reference)
    if number and UNWORKED.search(value) and not SCIENTIFIC.fullmatch(value):
        return False
    if number and (IN_TWO_UNITS.search(value) or _scaled(value)):
        return False
    if INTEGER.fullmatch(reference) and QUOTIENT.search(value):
        return False
    return equal(reference, answer)
