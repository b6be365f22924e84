"""Which methods are trained on which teachers and tasks: decided before any work, by `distill`'s own refusals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Any

from distillknob.errors import BadInputError
from distillknob.models.labels import labelled, model_label

BUDGET = "tokens_per_step"


@dataclass(frozen=True)
class Teacher:
    """A teacher as the config names it: `spec` is the model, `label` what rows and folders call it."""

    label: str
    spec: str


@dataclass(frozen=True)
class Entry:
    """One method on one teacher and the tasks that a student learns together. `alone` says that the method needs no
    teacher, or has its own, so that its students are those of all teachers; `budget` why it can't keep to the tokens of
    a step (None: it does)."""

    method: str
    teacher: Teacher
    tasks: tuple[str, ...]
    alone: bool
    budget: str | None


@dataclass(frozen=True)
class LeftOut:
    """A method that doesn't apply to a teacher, the student and some tasks, and why."""

    method: str
    teacher: Teacher
    tasks: tuple[str, ...]
    reason: str


@dataclass(frozen=True)
class Grid:
    """The methods on the teachers to which they apply, by teacher, and those that don't."""

    entries: Sequence[Entry] = field(default_factory=tuple)
    left_out: Sequence[LeftOut] = field(default_factory=tuple)

    @property
    def methods(self) -> list[str]:
        return list(dict.fromkeys(entry.method for entry in self.entries))


def teachers_of(named: Sequence[str]) -> list[Teacher]:
    """Return the teachers that are named as `[LABEL=]SPEC`. Raises BadInputError for two of one label."""
    teachers: list[Teacher] = []
    for one in named:
        label, spec = labelled(one)
        teacher = Teacher(label or model_label(spec), spec)
        if teacher.label in (other.label for other in teachers):
            raise BadInputError(
                f"two teachers are called {teacher.label!r}: write LABEL={spec} with another label for one of them"
            )
        teachers.append(teacher)
    return teachers


def decide(
    methods: Sequence[str],
    teachers: Sequence[Teacher],
    groups: Sequence[tuple[str, ...]],
    baseline: str,
    configs_of: Callable[..., Sequence[Any]],
    check: Callable[[Any], None],
    *,
    leave_out: bool,
) -> Grid:
    """Return the grid. `groups` are the tasks that a student learns together. `configs_of(method, teacher, tasks,
    chooses=…, **fields)` builds the config of `distill` for a student and, where `chooses`, for the choice of a rate.
    `check` looks at one; both raise BadInputError for what doesn't apply.

    With `leave_out` such a method is left out, with its reason; else, and for the baseline, the refusal is raised.
    """
    entries: list[Entry] = []
    left_out: list[LeftOut] = []
    alone: set[tuple[str, tuple[str, ...]]] = set()
    rate_from: dict[str, Teacher] = {}  # the first teacher to which a method applies, on which its rate is chosen
    for teacher in teachers:
        for method, tasks in product(methods, groups):
            if (method, tasks) in alone:
                continue
            try:
                chooses = rate_from.get(method, teacher) == teacher
                configs, budget = _fitted(partial(configs_of, chooses=chooses), method, teacher, tasks)
                for config in configs:
                    check(config)
            except BadInputError as error:
                if method == baseline or not leave_out:
                    raise BadInputError(f"{method} on {teacher.label}: {error}") from error
                left_out.append(LeftOut(method, teacher, tasks, str(error)))
                continue
            rate_from.setdefault(method, teacher)
            student = configs[0]
            by_itself = student.teaches_itself or bool(student.several_teachers) or not student.needs_teacher
            if by_itself:
                alone.add((method, tasks))
            entries.append(Entry(method, teacher, tasks, by_itself, budget))
    return Grid(tuple(entries), tuple(left_out))


def _fitted(
    configs_of: Callable[..., Sequence[Any]], method: str, teacher: Teacher, tasks: tuple[str, ...]
) -> tuple[Sequence[Any], str | None]:
    """The configs of the method, and why it can't keep to the recipe's tokens a step: one whose loss counts no tokens,
    or that chooses among them, is trained on the same steps without."""
    try:
        return configs_of(method, teacher, tasks), None
    except BadInputError as error:
        refused = str(error)
    return configs_of(method, teacher, tasks, **{BUDGET: None}), refused
