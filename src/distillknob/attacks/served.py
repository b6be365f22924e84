"""What an attack on a model behind a server can be, and what it asks of the server: told before anything is asked.

On a hosted model each answer costs money. Prices are the provider's, so tokens are counted and nothing is priced.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from distillknob.attacks.base import Attack
from distillknob.attacks.suite import Suite
from distillknob.attacks.target import Target
from distillknob.attacks.work import Cell
from distillknob.models.names import SERVED


@dataclass(frozen=True)
class Asked:
    """What a server is asked for: so many answers, in at least so many requests (one takes the prompt once), and so
    many texts that it is to score."""

    answers: int = 0
    requests: int = 0
    scored: int = 0

    def __add__(self, other: Asked) -> Asked:
        return Asked(self.answers + other.answers, self.requests + other.requests, self.scored + other.scored)


def left_out(cells: Iterable[Cell]) -> list[str]:
    """Say for each target behind a server, in one line, which attacks on it are left out and why."""
    by_target: dict[Target, dict[str, dict[str, None]]] = {}
    for cell in cells:
        if (why := cell.out_of_reach) is not None:
            by_target.setdefault(cell.target, {}).setdefault(why, {})[cell.arm.name] = None
    return [
        f"{target.label} is behind a server; left out on it are "
        + "; ".join(f"{', '.join(names)} ({why})" for why, names in reasons.items())
        for target, reasons in by_target.items()
    ]


def asked_of_servers(suite: Suite, cells: Sequence[Cell], targets: Sequence[Target], tasks: int) -> dict[str, Asked]:
    """Count what the cells ask of each model behind a server, by its name, and the targets' own scores beside. Further
    seeds come on top, which nobody knows before the first is done."""
    reached = [cell for cell in cells if cell.target.model.startswith(SERVED) and cell.out_of_reach is None]
    asked: dict[str, Asked] = {}
    for target in dict.fromkeys([*(one for one in targets if one.model.startswith(SERVED)), *_targets(reached)]):
        own = [cell.arm.attack for cell in reached if cell.target == target and not cell.arm.teacher_free]
        pool, problems = max((attack.pool for attack in own), default=0), suite.problems * tasks
        parts = [Asked(pool * problems, problems if pool else 0)]  # drawn once for all attacks
        parts += [_alone(attack, problems) for attack in own]
        if target in targets:
            scored = suite.utility.problems * tasks
            parts.append(Asked(scored * suite.utility.samples, scored))
        asked[target.model] = sum(parts, asked.get(target.model, Asked()))
    return asked


def _targets(cells: Iterable[Cell]) -> list[Target]:
    return [cell.target for cell in cells]


def _alone(attack: Attack, problems: int) -> Asked:
    """What an attack asks for beside the answers that are drawn for all."""
    scored = attack.pool * problems if attack.of_target == "scores" else 0
    if attack.pool:
        return Asked(scored=scored)
    return Asked(round(attack.access.queries * problems), problems)


def asked_lines(asked: Mapping[str, Asked], prompt: int | None, answer: int) -> list[str]:
    """Say what each server is asked for, with prompts of `prompt` tokens in the mean, where they are known here, and
    answers of up to `answer`."""
    lines = []
    for name, one in asked.items():
        scored = f", and to score up to {_count(one.scored)} of them" if one.scored else ""
        read = "" if prompt is None else f", and about {_count(one.requests * prompt)} tokens to read"
        again = "" if prompt is None else f" and reads {_count(one.answers * prompt)}"
        lines.append(
            f"{name} is asked for {_count(one.answers)} answers in {_count(one.requests)} requests{scored}: up to "
            f"{_count(one.answers * answer)} tokens to write{read}. One that gives an answer a request takes "
            f"{_count(one.answers)} requests{again}"
        )
    return lines


def _count(number: int) -> str:
    return f"{number:,}".replace(",", " ")
