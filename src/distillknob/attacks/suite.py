"""A suite of attacks: which are mounted, on how many problems, against which controls, and what the words mean.

A suite that ships is frozen: its file's digest stands in the tests, and a change of any setting is a new version under
a new name. What belongs to a model rather than to an attack, the attacker's learning rate, batch and steps, stands in
the recipe's `distill` section.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from distillknob.attacks.access import Access
from distillknob.attacks.base import Attack
from distillknob.attacks.choice import ATTACKS
from distillknob.config.fields import checked, fields_of
from distillknob.config.recipe import read_recipe
from distillknob.errors import BadInputError, nearest


@dataclass(frozen=True)
class Sizes:
    """So many problems of each task, and answers to each."""

    problems: int
    samples: int

    def __post_init__(self) -> None:
        if self.problems < 2 or self.samples < 1:
            raise BadInputError(f"problems={self.problems}, samples={self.samples}: at least 2 problems and 1 sample")


@dataclass(frozen=True)
class Words:
    """Where the bounds of R have to lie for a verdict: `protects` is the largest upper bound, `broken` the smallest
    lower one; a lower bound above `protects` is `partly`."""

    protects: float
    broken: float


@dataclass(frozen=True)
class Arm:
    """An attack of a suite under its name there. `kind` names the attack's class; a `guard` is mounted on planted
    defences alone."""

    name: str
    kind: str
    attack: Attack
    control: bool = False
    guard: bool = False

    @property
    def access(self) -> Access:
        return self.attack.access

    @property
    def teacher_free(self) -> bool:
        """Does it leave the teacher alone, so that it is the same whatever the target?"""
        return self.access.interface == "none"


@dataclass(frozen=True)
class Planted:
    """A planted defence, of which is known what an attack on it `recovers` of what the `reference` attack gets from the
    original: `all`, R's interval reaches 1 and excludes 0; or `nothing`, it reaches 0 and excludes 1."""

    name: str
    defence: Literal["identity", "random_text", "cipher", "spam"]
    attack: str
    reference: str
    recovers: Literal["all", "nothing"]


@dataclass(frozen=True)
class Suite:
    """A Suite is what `attack` does to every target. `across` names the arms that further attackers mount, `worst` how
    many of a target's worst attacks get trainings of further seeds."""

    name: str
    about: str
    problems: int
    validation: Sizes
    test: Sizes
    utility: Sizes
    seed: int
    worst: int
    worst_seeds: tuple[int, ...]
    words: Words
    tiers: Mapping[str, Access]
    arms: Mapping[str, Arm]
    across: tuple[str, ...]
    planted: tuple[Planted, ...]
    sha256: str = field(compare=False, default="")


def suite_names() -> list[str]:
    """Return the names of the suites that ship."""
    folder = files("distillknob.attacks") / "suites"
    return sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def read_suite(name: str) -> Suite:
    """Return the suite of that name, or that a YAML file describes.

    Raises BadInputError for an unknown name, and for a file whose keys or values no suite can have.
    """
    path = Path(name)
    if name in suite_names():
        path = Path(str(files("distillknob.attacks") / "suites" / f"{name}.yaml"))
    elif path.suffix not in (".yaml", ".yml"):
        guess = nearest(name, suite_names(), otherwise=":")
        raise BadInputError(f"no suite named {name!r}{guess} known are {', '.join(suite_names())}, or give a YAML file")
    values = read_recipe(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    try:
        return _suite(values, digest)
    except BadInputError as error:
        raise BadInputError(f"the suite {path}: {error}") from error


KEYS = (
    "name",
    "about",
    "problems",
    "validation",
    "test",
    "utility",
    "seed",
    "worst",
    "words",
    "tiers",
    "controls",
    "attacks",
    "across",
    "planted_attacks",
    "planted",
)


def _suite(values: Mapping[str, Any], digest: str) -> Suite:
    for key in values:
        if key not in KEYS:
            raise BadInputError(f"no key {key!r}{nearest(str(key), KEYS, otherwise='.')} Known: {', '.join(KEYS)}")
    if missing := [key for key in KEYS if key not in values]:
        raise BadInputError(f"it lacks {', '.join(missing)}")
    arms = {name: _arm(name, row, control=True) for name, row in _mapping(values, "controls").items()}
    arms |= {name: _arm(name, row) for name, row in _mapping(values, "attacks").items()}
    arms |= {name: _arm(name, row, guard=True) for name, row in _mapping(values, "planted_attacks").items()}
    if not any(arm.teacher_free for arm in arms.values()):
        raise BadInputError("no control leaves the teacher alone: R needs one, such as {kind: untrained}")
    planted = tuple(
        _made(Planted, {"name": name, **row}, f"planted {name}") for name, row in _mapping(values, "planted").items()
    )
    for what, names in (
        ("across", list(values["across"] or [])),
        ("planted", [name for one in planted for name in (one.attack, one.reference)]),
    ):
        if unknown := [name for name in names if name not in arms]:
            raise BadInputError(f"{what} names {', '.join(unknown)}, which is no attack of it")
    worst = _mapping(values, "worst")
    return Suite(
        name=str(values["name"]),
        about=str(values["about"]),
        problems=_whole(values["problems"], "problems", least=1),
        validation=_made(Sizes, values["validation"], "validation"),
        test=_made(Sizes, values["test"], "test"),
        utility=_made(Sizes, values["utility"], "utility"),
        seed=_whole(values["seed"], "seed"),
        worst=_whole(worst.get("attacks", 0), "worst attacks"),
        worst_seeds=tuple(_whole(seed, "a seed of worst") for seed in worst.get("seeds", ())),
        words=_made(Words, values["words"], "words"),
        tiers={name: _made(Access, row, f"the tier {name}") for name, row in _mapping(values, "tiers").items()},
        arms=arms,
        across=tuple(values["across"] or ()),
        planted=planted,
        sha256=digest,
    )


def _whole(value: Any, what: str, least: int = 0) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise BadInputError(f"{what} is {value!r}: it must be a whole number from {least} on")
    return value


def _mapping(values: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = values[key] or {}
    if not isinstance(value, Mapping):
        raise BadInputError(f"{key} is {value!r}: it must hold `name: …` lines")
    return value


def _arm(name: str, row: Mapping[str, Any], *, control: bool = False, guard: bool = False) -> Arm:
    kind = row.get("kind") if isinstance(row, Mapping) else None
    if kind not in ATTACKS:
        guess = nearest(str(kind), ATTACKS, otherwise=":")
        raise BadInputError(f"{name} has the kind {kind!r}{guess} known are {', '.join(ATTACKS)}")
    settings = {key: value for key, value in row.items() if key != "kind"}
    return Arm(name, str(kind), _made(ATTACKS[str(kind)], settings, name), control, guard)


def _made(cls: type[Any], row: Mapping[str, Any], what: str) -> Any:
    """The dataclass of these values, each checked against its field. Raises BadInputError."""
    if not isinstance(row, Mapping):
        raise BadInputError(f"{what} is {row!r}: it must hold `name: value` lines")
    fields: Mapping[str, Any] = fields_of(cls)  # type: ignore[arg-type]  # a class is hashable
    for key in row:
        if key not in fields:
            raise BadInputError(
                f"{what} sets {key!r}{nearest(str(key), fields, otherwise='.')} Known: {', '.join(fields) or 'nothing'}"
            )
    needed = [
        field.name
        for field in dataclasses.fields(cls)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if missing := [name for name in needed if name not in row]:
        raise BadInputError(f"{what} lacks {', '.join(missing)}")
    try:
        return cls(**{key: checked(fields[key], value) for key, value in row.items()})
    except BadInputError as error:
        raise BadInputError(f"{what}: {error}") from error
