r"""Reading the final answer out of a mathematical completion, and comparing it with the reference.

What commits to an answer is `\boxed{…}` and "Answer: …" (also "the answer is …" and GSM8K's "####"); the last of each
counts. Where a completion has both, both must be right; several boxes in its last paragraph must agree, or be together
what the reference lists. What stands around a box belongs to it (math_boxes.py), and a label may be followed by a
sentence: "Answer: The largest n is 34." What is equal to what is said by math_answer.py.

Left out on purpose: taking the last number of a completion that commits to nothing, and number words.
"""

from __future__ import annotations

import re
from collections import deque

from distillknob.tasks.graders.characters import plain_characters
from distillknob.tasks.graders.committed import braced
from distillknob.tasks.graders.math_answer import same
from distillknob.tasks.graders.math_boxes import BOX, DENIED_BEHIND, LONGEST, Boxed, boxes, with_braces
from distillknob.tasks.graders.math_units import CHANGES
from distillknob.tasks.graders.thoughts import after_thinking

TAIL = 20_000  # characters from the end in which the commitment must stand

LABEL = re.compile(r"####|<answer>|\banswers?\b[*_\s]*(?::|\bis\b(?:\s*:)?|\bare\b(?:\s*:)?|=)", re.IGNORECASE)
STATES = re.compile(r"[\d$\\]")  # a number or a formula
OPENINGS = {"$$": "$$", "\\[": "\\]", "\\(": "\\)", "$": "$"}
# Words that may stand before a formula without changing what is said.
HARMLESS = frozenset(
    """the a an is are it its equal equals to value of number answer final exactly simply just so x y therefore thus
    hence then indeed clearly obviously""".split()
)
# A second thought behind an answer, with a number in it.
SECOND = re.compile(r"\b(?:or|alternatively|maybe|perhaps|possibly)\b[^\n]*\d", re.IGNORECASE)
# Makes another number of "the answer is …" behind it.
OF_THE_ANSWER = re.compile(
    r"\b(?:half|twice|double|triple|thrice|square|cube|root|negative|opposite|reciprocal|inverse|times|minus|plus)"
    r"\s+(?:of\s+)?(?:the|this|that|my)?\s*(?:final\s+|correct\s+)?$",
    re.IGNORECASE,
)
# The verb of a sentence that says what a number is.
SAYS = re.compile(
    r"\b(?:is|are|equals|be|was|were|has|have|had|gets?|got|needs?|takes?|took|costs?|makes?|made|earns?|earned|spends?|spent|pays?"
    r"|paid|sold|bought|ate|left|scored|gives|contains)\b(?:\s+(?:equal\s+to|exactly))?|=",
)
CLAUSE = re.compile(
    r"\b(?:not|never|n't|isn't|aren't|if|when|whenever|unless|except|otherwise|maybe|perhaps|possibly|half|twice|double"
    r"|than|or|might|could|may|wrong|incorrect|instead|approximately|about|least|most)\b",
    re.IGNORECASE,
)
ADVERB = re.compile(
    r"^(?:(?:therefore|thus|hence|then|simply|just|exactly|clearly|indeed|so|yes|it's|that's)\b,?\s+)+", re.IGNORECASE
)
STARTS = re.compile(r"[\d$€£¥\\(\[{+-]|[A-Za-z]\s*[-+*/^(=]")
BECAUSE = re.compile(r"[,;]?\s+(?:because|since)\b|,\s+as\b")
ASIDE = re.compile(r"\s\(([A-Za-z][A-Za-z' -]*)\)[\s.*]*$")
WORDS = re.compile(r"[A-Za-z]+")
STARRED = re.compile(r"(?<=[A-Za-z0-9)])\*\*(?:(\d+)|\((-?\d+)\))(?!\*)(?![\d.]*\*\*)")  # Python's x**2
# "34 students are in the class": what is counted, and nothing said of another number.
COUNTED = re.compile(
    r"(\$?\d[\d,.]*\$?(?:\s+[A-Za-z]+){1,3})\s+(?:are|were|remain|remained|have|had|will|can)\s+[^\d]*"
)


def final_answer(completion: str) -> str | None:
    """The last thing that the completion commits to, in a keyboard's characters; None where it commits to none."""
    tail = _tail(completion)
    boxed, labelled = boxes(tail), _labelled(tail)
    if labelled is not None and (not boxed or labelled[0] > boxed[-1].end):
        return labelled[1]
    return boxed[-1].says if boxed else None


def is_correct(completion: str, reference: str) -> bool:
    """Is the completion's final answer the reference? Never raises on a completion, whatever it holds.

    At most `LONGEST` characters of it are compared, for a limited time, in a process of their own. What a model thinks
    before </think> commits it to nothing. Raises RunFailedError where that process doesn't work: that is no verdict.
    """
    tail = _tail(completion)
    boxed, labelled = boxes(tail), _labelled(tail)
    if not boxed and labelled is None:
        return False
    if boxed:
        last = _last_paragraph(tail, boxed)
        if any(box.denied for box in last) or SECOND.search(_paragraph(tail, boxed[-1].end)):
            return False
        answers = [box.says for box in last]
        together = len(answers) > 1 and same(", ".join(answers), reference)
        if not together and not all(same(answer, reference) for answer in dict.fromkeys(answers)):
            return False
    if labelled is not None:
        end, answer = labelled
        behind = _paragraph(tail, end - len(answer) + len(_sentence(answer)))
        if SECOND.search(_paragraph(tail, end)) or DENIED_BEHIND.search(behind):
            return False
        if (box := BOX.search(answer)) is not None:  # it has been compared, with what stands around it
            return all(word.casefold() in HARMLESS for word in WORDS.findall(answer[: box.start()]))
        return any(same(reading, reference) for reading in _readings(answer))
    return True


def _tail(completion: str) -> str:
    """What is read, with no more than two spaces in a row: patterns need time for each."""
    tail = re.sub(r"[ \t]{3,}", "  ", plain_characters(after_thinking(completion)[-TAIL:], braces=True))
    return with_braces(STARRED.sub(r"^{\1\2}", tail))


def last_match(pattern: re.Pattern[str], text: str) -> re.Match[str] | None:
    """The last match, None where there is none."""
    return next(iter(deque(pattern.finditer(text), maxlen=1)), None)


def last_label(text: str, states: re.Pattern[str]) -> re.Match[str] | None:
    """The last "Answer:" or "####"; a mere "the answer is" counts only if an answer (`states`) stands on its line, or
    if there is neither box nor other label: "the answer is found by adding" commits to nothing."""
    last = prose = None
    for match in LABEL.finditer(text):
        if OF_THE_ANSWER.search(text[max(0, match.start() - 40) : match.start()]):
            continue
        line = text[match.end() : match.end() + LONGEST].lstrip(" \t*_").split("\n", 1)[0]
        if match[0].endswith((":", "#", ">")) or states.search(line):
            last = match
        else:
            prose = match
    return last if last is not None or BOX.search(text) else prose


def _last_paragraph(text: str, boxed: list[Boxed]) -> list[Boxed]:
    """The boxes that stand in one paragraph with the last one."""
    start = text.rfind("\n\n", 0, boxed[-1].end)
    return [box for box in boxed if box.end > start]


def _paragraph(text: str, start: int) -> str:
    """The rest of the paragraph from `start`."""
    return text[start:].partition("\n\n")[0]


def _labelled(text: str) -> tuple[int, str] | None:
    """What follows the last "Answer:", on its line or as the formula that begins on the next, and where that ends."""
    last = last_label(text, STATES)
    if last is None:
        return None
    rest = text[last.end() :].lstrip(" \t\r\n*_:}")
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


def _readings(text: str) -> list[str]:
    """What a line behind a label may say: all of it, or what its sentence says of its subject."""
    text = BECAUSE.split(re.sub(r"<[^<>]{1,20}>", " ", text), maxsplit=1)[0]
    aside = ASIDE.search(text)
    if aside is not None and not any(word.casefold() in CHANGES for word in WORDS.findall(aside[1])):
        text = text[: aside.start()]  # 34 (thirty-four)
    if re.match(r"[*_\s]*~\s*[\d$]", text):
        return []  # about
    readings = [formula] if (formula := _formula(text)) is not None else []
    sentence = _sentence(text.replace("**", "").strip())
    counted = COUNTED.fullmatch(sentence)
    if counted is not None and not CLAUSE.search(sentence) and not DENIED_BEHIND.search(sentence[counted.end(1) :]):
        readings.append(counted[1])
    for verb in SAYS.finditer(sentence):
        before, after = sentence[: verb.start()], ADVERB.sub("", sentence[verb.end() :].strip())
        if verb[0] == "=" and not re.search(r"[A-Za-z]{3,}", re.sub(r"\\[A-Za-z]+", "", before)):
            continue  # an equation, and no sentence
        if CLAUSE.search(before) or not after or SECOND.search(text[len(sentence) :]):
            break
        if STARTS.match(after):
            if (formula := _formula(after)) is not None:
                readings.append(formula)
            break  # what a second verb says is a second statement
    return readings[:3]


def _formula(text: str) -> str | None:
    """The formula, or the list of formulas, that a line of text gives as the answer, with what touches them; None where
    its words say more than that (a negation, an alternative in prose), or where it is too long to be an answer."""
    text = text.replace("**", "").strip()
    if len(text) > LONGEST:
        return None
    formulas: list[str] = []
    outside = [""]
    at = 0
    while at < len(text):
        box = BOX.match(text, at)
        # A dollar sign before a digit, and no other one behind it, is money.
        opening = next((o for o in OPENINGS if text.startswith(o, at) and not text.startswith("\\$", at - 1)), None)
        if box is not None:
            inside = braced(text, box.end(), LONGEST)
            if inside is None:
                return None
            formulas.append(inside.strip())
            outside.append("")
            at = box.end() + len(inside) + 1
        elif opening is not None and (end := _closing(text, OPENINGS[opening], at + len(opening))) >= 0:
            inside = text[at + len(opening) : end].strip()
            formulas.append(", ".join(box.says for box in boxes(inside)) or inside)
            outside.append("")
            at = end + len(OPENINGS[opening])
        else:
            outside[-1] += text[at]
            at += 1
    if not formulas:
        sentence = ADVERB.sub("", _sentence(text))
        return None if SECOND.search(text[len(_sentence(text)) :]) else sentence
    return _around(formulas, outside)


def _closing(text: str, delimiter: str, start: int) -> int:
    """Where the delimiter closes a formula, -1 where it doesn't; `\\$` is money."""
    at = text.find(delimiter, start)
    while delimiter[0] == "$" and at > 0 and text[at - 1] == "\\":
        at = text.find(delimiter, at + 1)
    return at


def _around(formulas: list[str], outside: list[str]) -> str | None:
    """The formulas, with a sign before and a unit behind; None where what stands outside says something else."""
    before, *between, after = outside
    after = _sentence(after)
    words = [word.casefold() for word in WORDS.findall(before)]
    sign = before.rstrip().removesuffix("$")[-1:]
    if any(word not in HARMLESS for word in words) or re.search(r"[\d^/<>≤≥≠√*×·±|]", before):
        return None
    if any(not re.fullmatch(r"\s*(?:[,;]|,?\s*(?:and|or)|(?:[,;]\s*)?[A-Za-z]\s*=)?\s*", part) for part in between):
        return None
    names = [word.casefold() for word in WORDS.findall(after)]
    if any(name in CHANGES and not (name in ("and", "or") and len(names) > 3) for name in names) or re.search(
        r"\d", after
    ):
        return None
    if re.match(r"\s*[-+*/^_!×·±<>≤≥≠]|:\S", after):
        return None
    if sign in ("-", "+"):
        if len(formulas) > 1 or not re.search(r"(?:^|[\s:=])[-+]\$?\s*$", before):
            return None
        formulas = [f"{sign}({formulas[0]})" if re.search(r"\d\s*[-+]", formulas[0]) else f"{sign}{formulas[0]}"]
    unit = re.match(r"\s*(%|°\s*[CF]?|[A-Za-z]+(?:\s+[A-Za-z]+)?(?:\^\d)?)\s*$", after)
    if unit is not None and len(formulas) == 1 and "\\text" not in formulas[0]:
        return f"{formulas[0]} \\text{{ {unit[1]} }}" if unit[1] != "%" else f"{formulas[0]}\\%"
    return ", ".join(formulas)


def _sentence(text: str) -> str:
    """The first sentence: up to a full stop that isn't within a number."""
    return (
        re.split(r"(?<!\ba)(?<!\ba\.m)(?<!\bp)(?<!\bp\.m)[.!?](?=\s|$)", text, maxsplit=1)[0]
        if not re.match(r"[^.]*\d!", text)
        else text
    )
