"""Generated tasks with settings: how hard problems are, and how often the data's own solutions take each way.

`NAME?key=value&…` sets them, as for tasks on data sets. `ways=chain:2,bare:1` gives the shares of the ways in the
`gold` solutions, so that "a published model fine-tuned on this task, a third of it without working" is `distill
--method sft_gold` with a task's name. A problem's key doesn't depend on settings: one that is easy under one of them
is in the same split under all.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

from distillknob.errors import BadInputError, nearest
from distillknob.tasks.base import Example, GeneratedTask, split_of
from distillknob.tasks.graders.committed import ANSWER
from distillknob.tasks.graders.last_line import answer_on_last_line

WAYS = "ways"
LONGEST_BODY = 2000  # characters before the last line: what is longer is in no way

Plan = TypeVar("Plan")


class Bounds(NamedTuple):
    """The default of a setting that is a whole number, and the least and the most it may be."""

    default: int
    low: int
    high: int


class AdjustableTask(GeneratedTask, Generic[Plan]):
    """Base class of generated tasks with settings. A subclass gives the class attributes, `plan`, `key` and `example`.

    `numbers`: the settings by name. `shares`: the ways of solving, and how often each is the gold one, up to a factor.
    `forms`: what stands before the last line in each way, as a whole; no text may have two. Raises BadInputError for a
    setting that there isn't and for a value that can't be used.
    """

    numbers: ClassVar[Mapping[str, Bounds]]
    shares: ClassVar[Mapping[str, float]]
    forms: ClassVar[Mapping[str, re.Pattern[str]]]
    verifiable = True

    def __init__(self, /, **options: str):
        base = type(self).name
        for option in options:
            if option not in (*self.numbers, WAYS):
                raise BadInputError(
                    f"task {base!r} has no option {option!r}{nearest(option, (*self.numbers, WAYS), otherwise='.')} "
                    f"It takes: {', '.join((*self.numbers, WAYS))}"
                )
        query = "&".join(f"{option}={value}" for option, value in options.items())
        self.name = f"{base}?{query}" if query else base
        self.settings = {
            option: self._number(option, options.get(option, str(bounds.default)))
            for option, bounds in self.numbers.items()
        }
        self.gold_shares = self._shares(options[WAYS]) if WAYS in options else dict(self.shares)

    def _number(self, option: str, value: str) -> int:
        _, low, high = self.numbers[option]
        if not (value.isascii() and value.isdigit() and low <= int(value) <= high):
            raise BadInputError(
                f"task {self.name!r}: {option} is {value!r}, but must be a whole number from {low} to {high}"
            )
        return int(value)

    def _shares(self, value: str) -> dict[str, float]:
        shares: dict[str, float] = {}
        for part in value.split(","):
            way, _, share = part.partition(":")
            if way not in self.shares or way in shares:
                why = "is named twice." if way in shares else f"is no way{nearest(way, self.shares, otherwise='.')}"
                raise BadInputError(
                    f"task {self.name!r}: in ways={value} {way!r} {why} Known: {', '.join(self.shares)}; "
                    "for example ways=" + ",".join(f"{known}:1" for known in list(self.shares)[:2])
                )
            digits = share.replace(".", "", 1)
            if not (digits.isascii() and digits.isdigit() and len(digits) < 10 and float(share) > 0):
                raise BadInputError(
                    f"task {self.name!r}: in ways={value} the share of {way!r} is {share!r}, but must be a number "
                    f"above 0, as in {way}:1"
                )
            shares[way] = float(share)
        return shares

    def plan(self, rng: random.Random) -> Plan:
        """What a problem is about, without its words."""
        raise AssertionError("an adjustable task gives its own plan()")

    def key(self, plan: Plan) -> str:
        """The key of the problem, which decides its split."""
        raise AssertionError("an adjustable task gives its own key()")

    def example(self, plan: Plan, rng: random.Random) -> Example:
        """The problem in words, with a solution in each way."""
        raise AssertionError("an adjustable task gives its own example()")

    def draw(self, rng: random.Random) -> Example:
        return self.example(self.plan(rng), rng)

    def draw_of(self, split: str, rng: random.Random) -> Example | None:
        plan = self.plan(rng)  # most problems are another split's, and needn't be put into words
        return self.example(plan, rng) if split_of(self.key(plan)) == split else None

    def gold_way(self, rng: random.Random) -> str:
        """The way of the gold solution of the next problem."""
        return rng.choices(list(self.gold_shares), list(self.gold_shares.values()))[0]

    def committed(self, completion: str) -> str | None:
        return answer_on_last_line(completion)

    def grade(self, completion: str, reference: Any) -> float:
        return float(self.committed(completion) == reference)

    def style(self, completion: str) -> str:
        body, label, _ = completion.strip().rpartition(ANSWER)
        if not label or (body and not body.endswith("\n")) or len(body) > LONGEST_BODY:
            return "other"
        return next((way for way, form in self.forms.items() if form.fullmatch(body.strip())), "other")
