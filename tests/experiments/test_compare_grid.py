"""Which configs are looked at before a comparison begins."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from distillknob.errors import BadInputError
from distillknob.experiments.compare.grid import Teacher, decide

TEACHERS = [Teacher(name, name) for name in ("one", "two", "three")]


def looked_at(refused: tuple[str, ...] = ()) -> dict[str, list[str]]:
    """The trainings that `decide` looks at, by method; a method is refused on its own teacher."""
    seen: dict[str, list[str]] = {}

    def configs_of(method: str, teacher: Teacher, tasks: tuple[str, ...], *, chooses: bool, **fields: Any) -> list[Any]:
        names = [f"{teacher.label} {task}" for task in tasks]
        names += [f"{name} rate" for name in names] if chooses else []
        common = {"method": method, "teaches_itself": False, "several_teachers": [], "needs_teacher": True}
        return [SimpleNamespace(**common, name=name) for name in names]

    def check(config: Any) -> None:
        if f"{config.method} {config.name}" in refused:
            raise BadInputError("refused")
        seen.setdefault(config.method, []).append(config.name)

    decide(["gkd", "uld"], TEACHERS, [("a",), ("b",)], "gkd", configs_of, check, leave_out=True)
    return seen


def test_the_rate_of_a_method_is_looked_at_on_the_teacher_on_which_it_is_chosen() -> None:
    students = ["two a", "two b", "three a", "three b"]
    assert looked_at()["gkd"] == ["one a", "one a rate", "one b", "one b rate", *students]


def test_a_rate_that_the_first_teacher_cannot_give_is_looked_at_on_the_next() -> None:
    seen = looked_at(("uld one a", "uld one b"))["uld"]
    assert seen == ["two a", "two a rate", "two b", "two b rate", "three a", "three b"]
