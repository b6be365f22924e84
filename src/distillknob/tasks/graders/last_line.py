"""Reading the answer of a text that has to close with it: one line "Answer: …", the last one, and no other.

A text that commits twice has no answer, even where the last one is right: which of two results is meant isn't for the
grader to choose. Left out on purpose: markup, other labels and other languages, as prompts name the line to be written.
"""

from __future__ import annotations

from distillknob.tasks.graders.committed import ANSWER


def answer_on_last_line(completion: str) -> str | None:
    """Return what stands behind "Answer:" on the last line, without a closing full stop; None where the text holds no
    such line, holds several, or goes on after it."""
    before, label, answer = completion.strip().partition(ANSWER)
    opens_a_line = not before or before.endswith("\n")
    if not label or not opens_a_line or ANSWER in answer or "\n" in answer or "\r" in answer:
        return None
    return answer.strip().removesuffix(".").strip() or None
