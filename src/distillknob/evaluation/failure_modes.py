"""The paper's failure modes of misled students, by rules that anyone can apply again.

A sample has at most one mode; the first rule that fits counts:

1. local decoding degradation: the text repeats a run of 1 to 8 words at least three times over, or is empty; in a
   right answer a run of signs and numbers alone, as sums and tables repeat them, doesn't count;
2. self-correction collapse (intrinsic hallucination): it writes something, but never commits to an answer;
3. extrinsic hallucination: it commits to a wrong answer with confidence: the geometric mean of its tokens'
   probabilities is at least `CONFIDENT`.

A wrong answer without confidence is an ordinary error and has no mode. Rules 2 and 3 need one right answer, and are
not applied to tasks without. The paper names the modes and gives no rules: these are ours.
"""

from __future__ import annotations

import math

from distillknob.tasks import Task

MODES = ("local_decoding_degradation", "self_correction_collapse", "extrinsic_hallucination")
CONFIDENT = 0.8
REPEATS = 3
LONGEST_RUN = 8


def repeats_itself(text: str, *, spoken_alone: bool = False) -> bool:
    """Does a run of 1 to 8 words stand at least three times in a row? With `spoken_alone` signs, numbers and LaTeX's
    commands are no words."""
    words = text.split()
    spoken = [
        not spoken_alone or (any(character.isalpha() for character in word) and not word.startswith("\\"))
        for word in words
    ]
    for length in range(1, LONGEST_RUN + 1):
        same = 0
        for i in range(length, len(words)):
            same = same + 1 if words[i] == words[i - length] else 0
            if same >= length * (REPEATS - 1) and any(spoken[i - length + 1 : i + 1]):
                return True
    return False


def failure_mode(
    task: Task, text: str, score: float, mean_logprob: float | None, *, answer: str | None = None
) -> str | None:
    """The failure mode of one completion, or None. `score` by the task's grader; `mean_logprob` in nats a token, under
    the model that wrote it, or None where its confidence isn't known: then the third rule fits nothing; `answer` is
    what `text` says outside of its thoughts, where that isn't all of it."""
    right = task.verifiable and task.is_right(score)
    if not text.strip() or repeats_itself(text, spoken_alone=right):
        return "local_decoding_degradation"
    if right or not task.verifiable:
        return None
    if task.committed(text if answer is None else answer) is None:
        return "self_correction_collapse"
    confident = mean_logprob is not None and mean_logprob >= math.log(CONFIDENT)
    return "extrinsic_hallucination" if confident else None
