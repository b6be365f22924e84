"""Embedded mathematics: chains of additions and subtractions modulo 1,000, with a worked solution.

A solution is an adding-machine tape. Two ways to write it are right: every step on a line of its own, or two operations
at a time, which skips every second running total. Like people, the data set writes short problems out and skips steps
in long ones. A small model soon learns to add one operand to a running total; adding two at once takes capacity and
practice that it lacks. That is the teacher-student gap, and it is there by nature of the task.

An operand is a digit, or a digit followed by zeros (8, 30, 500): each step is easy, and still the answers spread so
widely that guessing near the start seldom hits.

The words between two operands make as many tokens as a line of the solution that writes every step, so that a small
model finds its place in the problem by counting back one distance. Without that, models of this size spend nearly all
of their training on learning to find the operand (docs/research/lab-notebook.md).
"""

from __future__ import annotations

import random
from typing import Any

from distillknob.tasks.base import Example, GeneratedTask
from distillknob.tasks.graders.committed import committed_answer

MODULUS = 1000
PLACES = (1, 10, 100)
LENGTHS = {2: 0.40, 4: 0.60}  # number of operations -> share of problems
WRITES_EVERY_STEP = {2: 0.90, 4: 0.04}  # number of operations -> share of gold solutions
PHRASES = ("Work modulo 1000. Start with {}.", "Modulo 1000, start with {}.", "Calculate modulo 1000: start with {}.")
WORDS = {"+": "add", "-": "subtract"}


def tape(start: int, operations: list[tuple[str, int]], at_a_time: int) -> str:
    """The worked solution, `at_a_time` operations to a line, closed by "Answer: NNN"."""
    total, lines = start, []
    for i in range(0, len(operations), at_a_time):
        part = operations[i : i + at_a_time]
        for sign, operand in part:
            total = (total + operand if sign == "+" else total - operand) % MODULUS
        written = "".join(f"{sign}{operand}" for sign, operand in part)
        lines.append(f"{start:03d}{written}={total:03d}" if i == 0 else f"{written}={total:03d}")
    return "\n".join([*lines, f"Answer: {total:03d}"])


class Math(GeneratedTask):
    """A three-digit number and two or four operations, modulo 1,000. Reference: the three-digit answer."""

    name = "math"
    verifiable = True
    chance = 1 / MODULUS
    max_new_tokens = 56

    def draw(self, rng: random.Random) -> Example:
        length = rng.choices(list(LENGTHS), list(LENGTHS.values()))[0]
        start = rng.randrange(MODULUS)
        operations = [(rng.choice("+-"), rng.randrange(1, 10) * rng.choice(PLACES)) for _ in range(length)]
        chain = f"{start:03d}" + "".join(f", and after that {WORDS[sign]} {operand}" for sign, operand in operations)
        solutions = {"every_step": tape(start, operations, 1), "two_at_a_time": tape(start, operations, 2)}
        return Example(
            task=self.name,
            key=f"math|{chain}",
            prompt=rng.choice(PHRASES).format(chain),
            reference=committed_answer(solutions["every_step"]),
            solutions=solutions,
            gold="every_step" if rng.random() < WRITES_EVERY_STEP[length] else "two_at_a_time",
        )

    def grade(self, completion: str, reference: Any) -> float:
        answer = committed_answer(completion)
        # "7" and "007" are the same number.
        short = answer is not None and len(answer) <= 3 and answer.isascii() and answer.isdigit()
        return float(short and int(answer or -1) == int(reference))

    def style(self, completion: str) -> str:
        lines = [line.split("=")[0] for line in completion.split("\n") if "=" in line]
        operations = [line.count("+") + line.count("-") for line in lines]
        if not lines:
            return "other"
        if all(count == 1 for count in operations):
            return "every_step"
        return "two_at_a_time" if all(count == 2 for count in operations) else "other"
