"""What a task is: examples, split by hash, and a grader. A task knows no model.

Left out on purpose: few-shot prompting, and anything that depends on a tokenizer. A task hands out chat messages (those
of the data, system prompt included); the tokenizer's own chat template turns them into text.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from distillknob.errors import BadInputError, nearest

# Cumulative shares of the hash space. A split is a property of the problem itself, so no seed, stage or machine can
# move a test problem into training.
SPLITS: dict[str, float] = {"pretrain": 0.70, "train": 0.85, "test": 1.0}


def split_of(key: str) -> str:
    """The split ("pretrain", "train" or "test") that the problem with this key belongs to, by SHA-256 of the key."""
    position = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64
    return next(name for name, end in SPLITS.items() if position < end)


def as_prompt(turns: Sequence[Mapping[str, str]]) -> str:
    """The messages as one text: a single user turn's own, or else each turn with its role before it."""
    if len(turns) == 1 and turns[0]["role"] == "user":
        return turns[0]["content"]
    return "\n\n".join(f"{turn['role']}: {turn['content']}" for turn in turns)


@dataclass(frozen=True)
class Example:
    """One problem.

    `key` decides the split; `reference` is whatever the task's grader needs, JSON-serialisable; `solutions` maps the
    name of each right way to write the answer to its text, where the task knows them; `gold` names the one that the
    data set gives. `turns` are the chat messages, where the prompt is more than one user turn.
    """

    task: str
    key: str
    prompt: str
    reference: Any
    solutions: Mapping[str, str] = field(default_factory=dict)
    gold: str | None = None
    turns: tuple[Mapping[str, str], ...] = ()

    @property
    def openings(self) -> list[str]:
        """The prompts that the conversation went on from, as texts: whoever knows this problem has read them, and their
        answers too."""
        return [as_prompt(self.turns[: i + 1]) for i, turn in enumerate(self.turns[:-1]) if turn["role"] == "user"]

    @property
    def gold_solution(self) -> str:
        """The data set's own solution. Raises BadInputError where it has none."""
        if self.gold is None:
            raise BadInputError(
                f"task {self.task!r} has no worked solution for {self.prompt!r}: use a method that needs none "
                "(sft, sft_verified, gkd, opd_rkl)"
            )
        return self.solutions[self.gold]


@runtime_checkable
class Task(Protocol):
    """Data and a verifier. Subclass `GeneratedTask` or `RowsTask`, or write a class with these members.

    A task may also have `grade_all(completions, references) -> list[float]`, which stages then call instead of `grade`;
    `files`, the paths that it reads; and `reward_models`, (name, URL or None) of those that grade. What these hold
    belongs to what a run is (`identity`).
    """

    name: str
    verifiable: bool  # is there one right answer? pass@k is told only where this is true
    chance: float  # expected score of a guess that has the right form, in [0, 1]
    max_new_tokens: int  # longest right completion, in tokens of the embedded tokenizer, with room to spare

    @property
    def splits(self) -> tuple[str, ...]: ...

    def examples(self, split: str, n: int | None = None, *, seed: int = 0) -> list[Example]:
        """`n` different examples of a split (all of them if None, where the task is finite)."""
        ...

    def messages(self, example: Example) -> list[dict[str, str]]:
        """The chat messages that ask for the answer, in the `role`/`content` form of chat templates."""
        ...

    def grade(self, completion: str, reference: Any) -> float:
        """Score of a completion in [0, 1]. Never raises on a completion, whatever it holds."""
        ...

    def is_right(self, score: float) -> bool:
        """Does this score count as a right answer (for gating, verified samples and pass@k)?"""
        ...

    def committed(self, completion: str) -> str | None:
        """The answer that the completion commits to, or None where it commits to none."""
        ...

    def style(self, completion: str) -> str:
        """Which of the known right ways the completion is written in, "other" where none or the task knows none."""
        ...


class GeneratedTask:
    """A task whose problems are drawn from a generator. Subclasses give `draw`, `grade` and the class attributes."""

    name: str
    verifiable: bool
    chance: float
    max_new_tokens: int

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(SPLITS)

    def draw(self, rng: random.Random) -> Example:
        """One problem from the task's distribution, of any split."""
        raise AssertionError("a generated task gives its own draw()")

    def draw_of(self, split: str, rng: random.Random) -> Example | None:
        """One problem, or None where it belongs to another split."""
        example = self.draw(rng)
        return example if split_of(example.key) == split else None

    def stream(self, split: str, *, seed: int = 0) -> Iterator[Example]:
        """Endless examples of one split; they may repeat. Raises BadInputError on an unknown split."""
        if split not in SPLITS:
            raise BadInputError(
                f"task {self.name!r} has no split {split!r}{nearest(split, SPLITS, otherwise='.')} "
                f"It has: {', '.join(SPLITS)}"
            )
        rng = random.Random(f"{self.name}/{split}/{seed}")
        while True:
            example = self.draw_of(split, rng)
            if example is not None:
                yield example

    def examples(self, split: str, n: int | None = None, *, seed: int = 0) -> list[Example]:
        if n is None:
            raise BadInputError(f"task {self.name!r} is generated and endless: say how many examples, e.g. n=500")
        problems: dict[str, Example] = {}
        for tries, example in enumerate(self.stream(split, seed=seed)):
            if len(problems) >= n:
                break
            problems.setdefault(example.prompt, example)
            if tries > 100 * n + 1000:
                raise BadInputError(
                    f"task {self.name!r} has only {len(problems)} different problems in split {split!r}, not {n}: "
                    "ask for fewer"
                )
        return list(problems.values())

    def messages(self, example: Example) -> list[dict[str, str]]:
        return [{"role": "user", "content": example.prompt}]

    def is_right(self, score: float) -> bool:
        return score >= 1.0

    def committed(self, completion: str) -> str | None:
        from distillknob.tasks.graders.committed import committed_answer

        return committed_answer(completion)

    def style(self, completion: str) -> str:
        return "other"
