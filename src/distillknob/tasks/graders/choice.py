r"""Reading a choice out of a completion: the letter, or the text of the option.

What commits to a choice is `\boxed{…}` and "Answer: …" (also "the answer is …"); the last of each counts, and where a
completion has both they must agree. A completion that is nothing but a choice counts too. A letter counts only where it
stands as one, in brackets, with punctuation, or alone: "the answer is A man" chooses nothing. A second letter beside it
makes it no choice at all, and so does the text of another option. Characters are read in one spelling (characters.py).

Left out on purpose: looking for the likeliest letter anywhere in the text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from string import ascii_uppercase

from distillknob.tasks.graders.characters import plain_characters
from distillknob.tasks.graders.committed import braced, same_answer
from distillknob.tasks.graders.math_boxes import BOX, DENIED_BEHIND, boxes, with_braces
from distillknob.tasks.graders.mathematics import LABEL, TAIL, last_label, last_match
from distillknob.tasks.graders.thoughts import after_thinking

LONGEST = 2_000  # characters of a choice: a letter and the option's text
WRAPPED = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mathbb|mbox|boxed|fbox)\s*\{([^{}]*)\}")
LETTER = re.compile(
    r"(?:the\s+)?(?:correct\s+)?(?:(?:option|choice|letter|answer)(?:\s+is:?(?=\s))?)?\s*"
    r"(?:\(\s*(?P<bracketed>[A-Za-z])\s*\)|\[\s*(?P<square>[A-Za-z])\s*\]|(?P<bare>[A-Za-z])(?=[\s.,:;)\]/&]|-\s|$))",
    re.IGNORECASE,
)
# London (B); London, option B
BEHIND = re.compile(
    r"(?P<text>.+?)[\s,;:-]*(?:\(\s*(?:(?:option|choice)\s+)?(?P<bracketed>[A-Za-z])\s*\)|\b(?:option|choice)\s+\(?(?P<named>[A-Za-z])\)?)",
    re.IGNORECASE,
)
OTHER = re.compile(r"(?<![A-Za-z'’])(?:\(\s*([A-Za-z])\s*\)|([A-Z])(?![A-Za-z'’]))")
STATES = re.compile(r"(?<![A-Za-z'’])[A-Z](?![A-Za-z'’])|\(\s*[a-zA-Z]\s*\)")  # a letter that may be a choice
LEAD = re.compile(r"^[\s.,:;)\]=(→]*(?:[-–—]+\s+)?[\s(]*")  # between a letter and its text, in which -1 keeps its sign
WHOLE = 200  # characters of a completion that may be nothing but a choice


def chosen_letter(completion: str, choices: Sequence[str]) -> str | None:
    """The letter of the choice that the completion commits to; None where it commits to none, or to several.

    Never raises on a completion, and looks at its last `TAIL` characters alone.
    """
    tail = _tail(completion)
    boxed = boxes(tail)
    if boxed and boxed[-1].denied:
        return None
    letters = {_letter(text, choices) for text in _commitments(tail)}
    return letters.pop() if len(letters) == 1 else None


def committed_choice(completion: str) -> str | None:
    """What the completion commits to, as it stands there; None where it commits to none."""
    commitments = _commitments(_tail(completion))
    return commitments[-1] if commitments else None


def _tail(completion: str) -> str:
    return with_braces(plain_characters(after_thinking(completion)[-TAIL:]))


def _commitments(tail: str) -> list[str]:
    """The text in the last box, and that behind the last "Answer:"; of a completion without either, all of it if it is
    short."""
    commitments = []
    for kind in (BOX, LABEL):
        last = last_match(BOX, tail) if kind is BOX else last_label(tail, STATES)
        if last is None:
            continue
        rest = tail[last.end() :].lstrip(" \t\r\n*_:")
        text = braced(tail, last.end(), LONGEST) if kind is BOX else rest.split("\n", 1)[0].partition("</answer>")[0]
        if text is not None and text.strip():
            commitments.append(text.strip())
    whole = tail.strip()
    if not commitments and whole and len(whole) <= WHOLE and "\n" not in whole:
        commitments.append(whole)
    return commitments


def _letter(text: str, choices: Sequence[str]) -> str | None:
    """The letter that a commitment names, by itself or by its option's text.

    A lone letter is the letter that the prompt asks for, though an option may read like one. A letter with a text names
    its own option only if no other option's text stands there: `B) 100` is none where B is 10 and C is 100.
    """
    asks, text = text.rstrip().endswith("?"), _bare(text)
    if len(text) > LONGEST:
        return None
    letters = ascii_uppercase[: len(choices)]
    match = LETTER.match(text)
    letter = "" if match is None else str(match["bracketed"] or match["square"] or match["bare"])
    rest = "" if match is None else text[match.end() :]
    if letter and letter.upper() in letters and not rest.strip(" .,:;)]"):
        return None if asks else letter.upper()
    same = [i for i, choice in enumerate(choices) if same_answer(text, _bare(choice)) and _folded(choice)]
    if same:
        return letters[same[0]] if len(same) == 1 else None
    behind = BEHIND.fullmatch(text.rstrip(" ."))
    named = "" if behind is None else str(behind["bracketed"] or behind["named"]).upper()
    if behind is not None and named in letters and same_answer(behind["text"], _bare(choices[letters.index(named)])):
        return named
    article = match is not None and match["bare"] and letter.islower() and rest[:1] not in (")", ".", ":")
    if match is None or letter.upper() not in letters or article:
        return None
    said = _folded(LEAD.sub("", rest))
    options = [_folded(_bare(choice)) for choice in choices]
    begun = max((option for option in options if option and _begins(said, option)), key=len, default=None)
    if begun is not None:
        # The letter of one option with the text of another is no choice.
        if DENIED_BEHIND.search(said[len(begun) :]):
            return None
        return letter.upper() if begun == options[letters.index(letter.upper())] else None
    equal = {i for i, choice in enumerate(choices) if said and same_answer(said, _bare(choice))}
    if equal:
        return letter.upper() if letters.index(letter.upper()) in equal else None
    if match["bare"] and rest[:1].isspace() and said and not re.match(r"\s*[-–—(]|\s+(?:because|since)\b", rest):
        return None  # a word follows the letter as in prose
    if DENIED_BEHIND.search(rest):
        return None
    if any(
        (a or b).upper() in letters and not (b and _is_word(rest, m))
        for m in OTHER.finditer(rest)
        for a, b in [m.groups()]
    ):
        return None
    return letter.upper()


def _begins(said: str, option: str) -> bool:
    """Does what was said begin with the option's text, and not with a longer word or number?"""
    return said.startswith(option) and re.match(r"\w|[.,:/^-]\w", said[len(option) :]) is None


def _is_word(text: str, match: re.Match[str]) -> bool:
    """Is this capital letter the word "A" or "I" of a sentence?"""
    return match[2] in ("A", "I") and bool(re.match(r"\s+[a-z]", text[match.end() :]))


def _bare(text: str) -> str:
    """Without markup: Markdown's stars, LaTeX's delimiters and font commands."""
    for _ in range(3):
        text = WRAPPED.sub(r"\1", text)
    text = re.sub(r"[*`$]|\\[()\[\]]|__", "", text).strip().strip("\"'").rstrip("!?\\")
    return re.sub(r"^[{<]([A-Za-z])[}>]$", r"\1", text)


def _folded(text: str) -> str:
    """The text as options are compared: Unicode form, case, white space and closing punctuation apart."""
    return " ".join(plain_characters(text).casefold().split()).strip(" .\"'")
