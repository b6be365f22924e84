"""Choosing among several answers to a problem: the right ones, those that aren't degenerate, the easiest."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from distillknob.attacks.base import Answer, NotApplicableError, Problem, Scene, Trace
from distillknob.distillation.selection import best_of_n
from distillknob.models.scoring import sequence_logprob

SHORTEST_LOOP = 4  # times that a piece of text has to follow itself to count as a loop
MOST_REPEATED = 0.5  # share of an answer's words that one word may be


def right_ones(answers: Sequence[Answer]) -> list[Answer]:
    """Return the right ones, which an answer that was cut off never is."""
    return [answer for answer in answers if answer.right and answer.finished]


def first_right(problems: Sequence[Problem], answers_PN: Sequence[Sequence[Answer]]) -> list[Trace]:
    """Return the first right answer to each problem as its trace; a problem without one has none."""
    return [
        Trace(problem, right[0].text)
        for problem, answers in zip(problems, answers_PN, strict=True)
        if (right := right_ones(answers))
    ]


def is_degenerate(text: str) -> bool:
    """Does the text repeat itself: a piece of it four times in a row at the end, or one word more than half of it?

    Short answers don't count: a text of fewer than eight words has no room to loop.
    """
    words = text.split()
    if len(words) < 2 * SHORTEST_LOOP:
        return False
    if Counter(words).most_common(1)[0][1] > MOST_REPEATED * len(words):
        return True
    for length in range(1, len(words) // SHORTEST_LOOP + 1):
        piece = words[-length:]
        if all(words[len(words) - (k + 1) * length : len(words) - k * length] == piece for k in range(SHORTEST_LOOP)):
            return True
    return False


def without_repeats(answers_PN: Sequence[Sequence[Answer]]) -> list[list[Answer]]:
    """Return the answers of each problem that are finished, aren't degenerate, and whose text no earlier answer has,
    also of another problem: what is said to everything teaches nothing."""
    seen: Counter[str] = Counter(text for answers in answers_PN for text in {answer.text for answer in answers})
    rows = []
    for answers in answers_PN:
        unique = {answer.text: answer for answer in reversed(answers)}  # the first of equal ones
        ordered = [answer for answer in answers if unique[answer.text] is answer]
        rows.append([a for a in ordered if a.finished and a.text and seen[a.text] == 1 and not is_degenerate(a.text)])
    return rows


def majority(answers: Sequence[Answer]) -> str | None:
    """Return the final answer that most of the answers commit to; None where none commits."""
    committed = Counter(answer.committed for answer in answers if answer.committed is not None)
    return committed.most_common(1)[0][0] if committed else None


def best_traces(selection: str, scene: Scene, candidates_PN: Sequence[Sequence[Answer]]) -> list[Trace]:
    """Return each problem's best candidate (`best`) as its trace; a problem without candidates has none."""
    chosen = best(selection, scene, candidates_PN)
    return [Trace(p, answer.text) for p, answer in zip(scene.problems, chosen, strict=True) if answer is not None]


def best(selection: str, scene: Scene, candidates_PN: Sequence[Sequence[Answer]]) -> list[Answer | None]:
    """Return each problem's best candidate by `selection`, None for a problem without any.

    `likelihood` and `sure_tokens` are those of `distillation.selection`; `without_habits` is log π(answer) − log π(its
    way); `texts` is the likelihood of the texts themselves, where they aren't as the target wrote them. Raises
    NotApplicableError where the target shows no log-probabilities, or the task names no ways.
    """
    if selection in ("without_habits", "texts"):
        habit = _habits(scene, candidates_PN) if selection == "without_habits" else None
        return _likeliest(scene, candidates_PN, habit)
    teacher, prompts = scene.teacher(), [problem.messages for problem in scene.problems]
    if selection == "sure_tokens" and teacher.scorer is None:
        raise NotApplicableError(f"{teacher.name} shows no log-probabilities, by which to know where it was sure")
    rows = [[answer.sample for answer in answers] for answers in candidates_PN]
    chosen = best_of_n(selection, teacher, scene.student(), prompts, rows, scene.journal.part("selection"))
    return [
        next((answer for answer, one in zip(answers, row, strict=True) if one is sample), None)
        for answers, row, sample in zip(candidates_PN, rows, chosen, strict=True)
    ]


def _habits(scene: Scene, candidates_PN: Sequence[Sequence[Answer]]) -> dict[str, float]:
    """log π of each way of writing: its share among the attacker's own answers. Half an answer is added to each way,
    so that one which the attacker never writes keeps a share."""
    ways = [problem.task.style for problem in scene.problems]
    own = Counter(way(a.text) for way, answers in zip(ways, scene.own(4), strict=True) for a in answers)
    named = {way(a.text) for way, answers in zip(ways, candidates_PN, strict=True) for a in answers}
    if named <= {"other"}:
        raise NotApplicableError("the tasks name no ways of writing an answer, whose habits could be taken out")
    total = own.total() + 0.5 * len(named | set(own))
    return {way: math.log((own[way] + 0.5) / total) for way in named | set(own)}


def _likeliest(
    scene: Scene, candidates_PN: Sequence[Sequence[Answer]], habit: Mapping[str, float] | None
) -> list[Answer | None]:
    """The candidate whose text the attacker's model finds likeliest, less the habit of its way of writing."""
    rows = [(i, answer) for i, answers in enumerate(candidates_PN) for answer in answers]
    top: dict[int, tuple[float, Answer]] = {}
    scores = sequence_logprob(
        scene.student(),
        [scene.problems[i].messages for i, _ in rows],
        [answer.text for _, answer in rows],
        [answer.finished for _, answer in rows],
        journal=scene.journal.part("likelihood"),
    )
    for (i, answer), score in zip(rows, scores, strict=True):
        value = float(score) - (0.0 if habit is None else habit[scene.problems[i].task.style(answer.text)])
        if i not in top or value > top[i][0]:
            top[i] = (value, answer)
    return [top[i][1] if i in top else None for i in range(len(candidates_PN))]
