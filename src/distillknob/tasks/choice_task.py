"""What the tasks with choices have in common: how they ask, and how an answer is graded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from string import ascii_uppercase
from typing import Any

from distillknob.tasks.base import Example, Task
from distillknob.tasks.graders.choice import chosen_letter, committed_choice
from distillknob.tasks.rows.task import RowsTask
from distillknob.tasks.rows.values import MissingValueError

ASK = "{question}\n\n{choices}\n\nThink it over, and close with a line that says: Answer: (the letter of your choice)"


class ChoiceTask(RowsTask):
    """Base class. A subclass's `example_of` returns `self.question(…)`. Reference: a dict with the right `letter` and
    the texts of all `choices`, of which the first is (A).

    `chance` is that of a random letter on the task's own test questions, whose numbers of choices may differ.
    """

    max_new_tokens = 1024

    def __init__(self, path: str | None = None, *, others: Callable[[str], Task] | None = None, **options: str):
        super().__init__(path, others=others, **options)
        sizes = [len(example.reference["choices"]) for example in self._examples["test"]]
        self.chance = sum(1 / size for size in sizes) / len(sizes) if sizes else 0.0

    def question(self, question: str, choices: Sequence[str], right: int, worked: str | None = None) -> Example:
        """An example. The gold solution is `worked` with the answer behind it, or else the answer alone. Raises
        MissingValueError where there aren't 2 to 26 choices, or the right one isn't among them."""
        choices = [str(choice) for choice in choices]
        if not 2 <= len(choices) <= len(ascii_uppercase) or not 0 <= right < len(choices):
            raise MissingValueError(
                f"no usable answer: choice number {right} of {len(choices)}, want one of 2 to {len(ascii_uppercase)}"
            )
        listed = "\n".join(f"({letter}) {text}" for letter, text in zip(ascii_uppercase, choices, strict=False))
        answer = f"Answer: ({ascii_uppercase[right]})"
        return Example(
            task=self.name,
            key=question,
            prompt=ASK.format(question=question, choices=listed),
            reference={"letter": ascii_uppercase[right], "choices": choices},
            solutions={"given": answer if worked is None else f"{worked}\n{answer}"},
            gold="given",
        )

    def grade(self, completion: str, reference: Any) -> float:
        return float(chosen_letter(completion, reference["choices"]) == reference["letter"])

    def committed(self, completion: str) -> str | None:
        return committed_choice(completion)
