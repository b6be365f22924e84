r"""The final answer out of a whole worked one, for data whose reference is the whole.

    hashes    GSM8K's last line, `#### 12`
    boxed     MATH's `\boxed{12}`, wherever it stands
    label     a last line `Answer: 12` (or `<answer>12</answer>`)
    sentence  a last line that ends in "… the answer is 12."

Only what ends a text is read, but for boxes, which stand in their sentence. Left out on purpose: the last number of a
text, which is often that of its last step.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import combinations

from distillknob.tasks.graders.committed import bare, same_answer
from distillknob.tasks.graders.math_boxes import boxes

HASHES = re.compile(r"^[ \t]*####[ \t]*(\S[^\n]*)$", re.MULTILINE)
LABEL = re.compile(
    r"<answer>\s*(?P<tag>[^\n]*?)\s*</answer>\W*"
    r"|\W{0,9}(?:the )?(?:final |correct )?answer[*_]{0,3} ?[:=][*_]{0,3} *(?P<label>\S.*)",
    re.IGNORECASE,
)
SENTENCE = re.compile(r".*\banswer[*_]{0,3} is\b:? +(?P<answer>\S.*)", re.IGNORECASE)
MOST_WORDS = 12  # of a final answer; more are a sentence that says something else


def _hashes(text: str) -> list[str]:
    matches = list(HASHES.finditer(text))
    return [match[1] for match in matches] if matches and not text[matches[-1].end() :].strip() else []


def _boxed(text: str) -> list[str]:
    return [box.says for box in boxes(text) if not box.denied]


def _label(text: str) -> list[str]:
    match = LABEL.fullmatch(_last_line(text))
    return [] if match is None else [match["tag"] or match["label"] or ""]


def _sentence(text: str) -> list[str]:
    match = SENTENCE.fullmatch(_last_line(text))
    return [] if match is None else [match["answer"]]


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else ""


FORMS: dict[str, Callable[[str], list[str]]] = {
    "hashes": _hashes,
    "boxed": _boxed,
    "label": _label,
    "sentence": _sentence,
}
SHOWN = {
    "hashes": "a last line `#### …`",
    "boxed": r"`\boxed{…}`",
    "label": "a last line `Answer: …`",
    "sentence": 'a last line "… the answer is …"',
}


def answers(form: str, text: str) -> list[str]:
    """What the text gives as its final answer in this form, each one that differs, in their order."""
    different: list[str] = []
    for answer in map(bare, FORMS[form](text)):
        if answer and len(answer.split()) <= MOST_WORDS and not any(same_answer(answer, other) for other in different):
            different.append(answer)
    return different


def final_answer(form: str, text: str) -> str | None:
    """The final answer that the text gives in this form, of several that differ the last; None where it gives none."""
    return next(reversed(answers(form, text)), None)


def forms_of(texts: Sequence[str]) -> list[str]:
    """The forms in which every text gives one final answer."""
    return [form for form in FORMS if all(len(answers(form, text)) == 1 for text in texts)]


def gives_any(text: str) -> bool:
    """Does a text give a final answer in any form?"""
    return any(answers(form, text) for form in FORMS)


def contradiction(forms: Sequence[str], texts: Sequence[str]) -> str | None:
    """The first text that gives one answer in one of these forms and another in another; None where there is none."""
    for text in texts:
        given = [answers(form, text)[-1] for form in forms]
        if not all(same_answer(one, other) for one, other in combinations(given, 2)):
            return text
    return None
