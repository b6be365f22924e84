r"""Reading a choice out of a completion: the letter, or the text of the option.

What commits to a choice is `\boxed{…}` and "Answer: …" (also "the answer is …"); the last of each counts, and where a
completion has both they must agree. A completion that is nothing but a choice counts too. A letter counts only where it
stands as one, in brackets, with punctuation, or alone: "the answer is A man" chooses nothing. A second letter beside it
makes it no choice at all.

Left out on purpose: looking for the likeliest letter anywhere in the text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from string import ascii_uppercase

from distillknob.tasks.math_boxes import BOX
from distillknob.tasks.verify import after_thinking, braced
from distillknob.tasks.verify_math import LABEL, TAIL, last_label, last_match

LONGEST = 2_000  # characters of a choice: a letter and the option's text
WRAPPED = re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mathbb|mbox|boxed|fbox)\s*\{([^{}]*)\}")
LETTER = re.compile(
    r"(?:the\s+)?(?:correct\s+)?(?:option|choice|letter)?\s*"
    r"(?:\(\s*(?P<bracketed>[A-Za-z])\s*\)|\[\s*(?P<square>[A-Za-z])\s*\]|(?P<bare>[A-Za-z])(?=[\s.,:;)\]/&]|-\s|$))",
    re.IGNORECASE,
)
OTHER = re.compile(r"(?<![A-Za-z'’])(?:\(\s*([A-Za-z])\s*\)|([A-Z])(?![A-Za-z'’]))")
STATES = re.compile(r"(?<![A-Za-z'’])[A-Z](?![A-Za-z'’])|\(\s*[a-zA-Z]\s*\)")  # a letter that may be a choice
WHOLE = 200  # characters of a completion that may be nothing but a choice


def chosen_letter(completion: str, choices: Sequence[str]) -> str | None:
    """The letter of the choice that the completion commits to; None where it commits to none, or to several.

    Never raises on a completion, and looks at its last `TAIL` characters alone.
    """
    found = {_letter(text, choices) for text in _commitments(completion)}
    return found.pop() if len(found) == 1 else None


def committed_choice(completion: str) -> str | None:
    """What the completion commits to, as it stands there; None where it commits to none."""
    found = _commitments(completion)
    return found[-1] if found else None


def _commitments(completion: str) -> list[str]:
    """The text in the last box, and that behind the last "Answer:"; of a completion without either, all of it if it is
    short."""
    completion = after_thinking(completion)[-TAIL:]
    tail = completion
    found = []
    for kind in (BOX, LABEL):
        last = last_match(BOX, tail) if kind is BOX else last_label(tail, STATES)
        if last is None:
            continue
        rest = tail[last.end() :].lstrip(" \t\r\n*_:")
        text = braced(tail, last.end(), LONGEST) if kind is BOX else rest.split("\n", 1)[0]
        if text is not None and text.strip():
            found.append(text.strip())
    whole = completion.strip()
    if not found and whole and len(whole) <= WHOLE and "\n" not in whole:
        found.append(whole)
    return found


def _letter(text: str, choices: Sequence[str]) -> str | None:
    """The letter that a commitment names, by itself or by its option's text."""
    text = _bare(text)
    if len(text) > LONGEST:
        return None
    options = [_folded(choice) for choice in choices]
    same = [i for i, option in enumerate(options) if option == _folded(text) and option]
    if same:
        return ascii_uppercase[same[0]] if len(same) == 1 else None
    match = LETTER.match(text)
    if match is None:
        return None
    letter = str(match["bracketed"] or match["square"] or match["bare"])
    rest = text[match.end() :]
    known = ascii_uppercase[: len(choices)]
    if letter.upper() not in known or (letter.islower() and match["bare"] and rest.strip(" .)")):
        return None  # "a" and a word is an article
    index = known.index(letter.upper())
    said = _folded(rest.lstrip(" .,:;)]-–—"))
    if said and options[index] and said.startswith(options[index]):
        return letter.upper()
    if any(said == option for option in options):
        return None  # the letter of one option, the text of another
    if match["bare"] and rest[:1].isspace() and said and not re.match(r"\s*[-–—(]", rest):
        return None  # a word follows the letter as in prose
    if any(
        (a or b).upper() in known and not (b and _is_word(rest, m))
        for m in OTHER.finditer(rest)
        for a, b in [m.groups()]
    ):
        return None
    return letter.upper()


def _is_word(text: str, match: re.Match[str]) -> bool:
    """Is this capital letter the word "A" or "I" of a sentence?"""
    return match[2] in ("A", "I") and bool(re.match(r"\s+[a-z]", text[match.end() :]))


def _bare(text: str) -> str:
    """Without markup: Markdown's stars, LaTeX's delimiters and font commands."""
    for _ in range(3):
        text = WRAPPED.sub(r"\1", text)
    return re.sub(r"[*`$]|\\[()\[\]]|__", "", text).strip()


def _folded(text: str) -> str:
    """The text as options are compared: Unicode form, case, white space and closing punctuation apart."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).strip(" .\"'“”")
