"""Why a wrong answer is wrong: cut off, unreadable, right in another form, or simply wrong.

The rules, of which the first that fits counts. They look at one answer and its reference, and grade nothing anew:

1. **no end**: it hasn't ended, and repeats itself; **cut off**: it hasn't ended;
2. **nothing said**: it ended, and says nothing outside of its thoughts;
3. **no final answer**: the task reads none out of it;
4. **another form**: what it commits to is the reference's own final answer, where the reference holds more than that
   (a whole worked solution); or the reference stands as a word of its own in what it commits to; or it commits to no
   number, and the reference is one that stands in its text;
5. **wrong**.

Left out on purpose: a reference that stands somewhere in the working of an answer which commits to another number.
That is often a step on the way.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import zip_longest

from distillknob.evaluation.failure_modes import repeats_itself
from distillknob.evaluation.measure import Measured
from distillknob.models.sampling import Sample
from distillknob.results.stages import ShownAnswer, Why
from distillknob.tasks import Task
from distillknob.tasks.graders.committed import same_answer

SHOWN = 5  # wrong answers, of different problems where there are as many
MOST_CHARACTERS = 1500  # of a text that is shown
TELLING = 3  # characters from which a reference without a number isn't found in a text by chance


def why_wrong(task: Task, sample: Sample, answer: str, reference: object) -> Why:
    """Say why this answer, which isn't right, is wrong. `answer` is what the grader read of the sample."""
    if not sample.finished:
        return "no end" if repeats_itself(sample.text) else "cut off"
    if not answer.strip():
        return "nothing said"
    said = task.committed(answer)
    if said is None:
        return "no final answer"
    texts = [str(one) for one in (reference if isinstance(reference, list) else [reference])]
    if isinstance(reference, dict):  # of a task whose references are more than answers
        texts = []
    return "another form" if any(_in_another_form(task, said, answer, text) for text in texts) else "wrong"


def _in_another_form(task: Task, said: str, answer: str, reference: str) -> bool:
    if holds_more(task, reference) and same_answer(said, task.committed(reference) or ""):
        return True
    number = any(character.isdigit() for character in reference)
    if not number and len(reference.strip()) < TELLING:
        return False
    if _stands_in(reference, said):
        return True
    return number and not any(character.isdigit() for character in said) and _stands_in(reference, answer)


def holds_more(task: Task, reference: object) -> bool:
    """Is the reference more than a final answer, such as a whole worked solution? No answer then equals it."""
    if not isinstance(reference, str):
        return False
    own = task.committed(reference)
    return own is not None and not same_answer(own, reference)


def _stands_in(reference: str, text: str) -> bool:
    """Does it stand there as a word of its own: 12 in "12 apples", and not in 3.12 or 120?"""
    word = re.escape(reference.strip())
    return bool(word) and re.search(rf"(?<![\w.,-]){word}(?![\w]|[.,]\d)", text, re.IGNORECASE) is not None


def reasons(measured: Measured) -> list[Why | None]:
    """Return for each answer, problem by problem, why it is wrong; None for a right one."""
    return [
        None if right else why_wrong(measured.task, sample, answer, example.reference)
        for example, samples, answers, rights in zip(
            measured.examples, measured.samples, measured.answers, measured.right, strict=True
        )
        for sample, answer, right in zip(samples, answers, rights, strict=True)
    ]


def shown_answers(measured: Measured, why_A: Sequence[Why | None]) -> list[ShownAnswer]:
    """Return a few wrong answers to look at, each of another problem: of every reason in turn, the most frequent
    first."""
    rows = [(problem, sample.text) for problem, samples in enumerate(measured.samples) for sample in samples]
    by_why: dict[Why, list[tuple[int, str]]] = {}
    seen = set()
    for (problem, text), why in zip(rows, why_A, strict=True):
        if why is not None and problem not in seen:
            seen.add(problem)
            by_why.setdefault(why, []).append((problem, text))
    groups = [[(*one, why) for one in group] for why, group in by_why.items()]
    groups.sort(key=len, reverse=True)
    chosen = [one for turn in zip_longest(*groups) for one in turn if one is not None][:SHOWN]
    return [
        {
            "prompt": _short(measured.examples[problem].prompt),
            "reference": _short(_as_text(measured.examples[problem].reference)),
            "answer": _short(text),
            "why": why,
        }
        for problem, text, why in chosen
    ]


def _as_text(reference: object) -> str:
    return " or ".join(map(str, reference)) if isinstance(reference, list) else str(reference)


def _short(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}…"
