"""The policy of a gate: what its owner asks of an attack's result before a teacher is released.

A policy is a YAML file in the owner's repository. Left out on purpose: an attack or a target that is named by a pattern
(whoever reads a policy should see what it asks for), and defaults for the limits (they are the decision).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distillknob.attacks.access import Access
from distillknob.config.fields import checked, default_of, fields_of, shown
from distillknob.config.recipe import Recipe, read_recipe
from distillknob.errors import BadInputError, nearest


@dataclass(frozen=True)
class Policy:
    """A Policy holds what is asked of a teacher: by which suite and at which tier it was attacked, how much the attacks
    may recover at most, and what the defence may cost.

    `tier` is one of the suite's: by its gap R is measured. `largest_recovered` is the largest upper bound of the
    recovered share R, `smallest_utility` the smallest lower bound of the teacher's score less the original's; both are
    fractions. `attacks` have to have been mounted, at least `attackers` models attacked, the worst attack rests on at
    least `seeds` seeds, and the run is at most `age_days` old. `suite_sha256` holds the digest of a suite that doesn't
    ship to one value; one that ships is held to its file. `external` names files of attacks by others.
    """

    suite: str
    tier: Access
    largest_recovered: float
    smallest_utility: float
    attacks: list[str]
    seeds: int = 3
    attackers: int = 1
    age_days: float = 180.0
    suite_sha256: str | None = None
    external: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not 0 <= self.largest_recovered < 1:
            raise BadInputError(
                f"largest_recovered={self.largest_recovered:g}: a share of the gap, from 0 on and below 1; 25 % is 0.25"
            )
        if not -1 <= self.smallest_utility <= 0:
            raise BadInputError(
                f"smallest_utility={self.smallest_utility:g}: the smallest lower bound of a difference, between -1 and "
                "0; a loss of 1.5 points is -0.015"
            )
        if not self.attacks:
            raise BadInputError("attacks=[]: name at least one attack that has to have been mounted")
        if len(set(self.attacks)) < len(self.attacks):
            raise BadInputError(f"attacks={self.attacks}: each attack once")
        for name in ("seeds", "attackers"):
            if getattr(self, name) < 1:
                raise BadInputError(f"{name}={getattr(self, name)}: must be at least 1")
        if self.age_days <= 0:
            raise BadInputError(f"age_days={self.age_days:g}: must be above 0")
        if self.suite_sha256 is not None and not re.fullmatch("[0-9a-f]{64}", self.suite_sha256):
            raise BadInputError(
                f"suite_sha256={self.suite_sha256!r}: give 64 hexadecimal digits, as the result has them"
            )
        if self.tier.interface == "none":
            raise BadInputError("tier.interface='none': an attacker that never sees the teacher; give text or more")


def read_policy(path: Path) -> Policy:
    """Return the policy in the YAML file `path`; the files that it names as `external` are found from its folder.

    Raises BadInputError, with the line, for a key that is unknown (with the nearest known one), missing or of another
    type, and for a limit that can't be meant.
    """
    recipe = read_recipe(path, what="policy")
    tier = recipe.get("tier")
    if "tier" in recipe and not isinstance(tier, Mapping):
        raise BadInputError(
            f"{recipe.place('tier')}tier is {shown(tier)}: it must hold `interface:` and `queries:`, and may hold "
            "`clean:` and `labels:`"
        )
    values = _values(Policy, {key: value for key, value in recipe.items() if key != "tier"}, recipe, given=("tier",))
    if tier is None:
        raise BadInputError(f"{path} needs tier: set it, with `interface:` and `queries:`")
    of_tier = _values(Access, tier, recipe, "tier", required=("queries",))
    try:
        policy = Policy(**values, tier=Access(**of_tier))
    except BadInputError as error:
        key = re.split(r"[.=]", str(error), maxsplit=1)[0]
        place = recipe.place(key) if key in recipe else recipe.place("tier")
        raise BadInputError(f"{place}{error}") from None
    external = [str(path.parent / name) for name in policy.external]
    return dataclasses.replace(policy, external=external)


def _values(
    cls: type,
    source: Mapping[Any, Any],
    recipe: Recipe,
    section: str = "",
    *,
    given: tuple[str, ...] = (),
    required: tuple[str, ...] = (),
) -> dict[str, Any]:
    """The arguments for `cls` that stand in this section of the policy, checked and of their types. `given` are those
    that come from elsewhere, `required` those that must stand there though the class has a default."""
    fields = fields_of(cls)
    inside = (section,) if section else ()
    prefix = f"{section}." if section else ""
    values = {}
    for name, value in source.items():
        place = recipe.place(*inside, str(name))
        if name not in fields:
            guess = nearest(str(name), fields, otherwise=":")
            raise BadInputError(f"{place}a policy has no key {prefix}{name}{guess} known are {', '.join(fields)}")
        try:
            values[name] = checked(fields[name], value)
        except BadInputError as error:
            raise BadInputError(f"{place}{prefix}{error}") from None
    for name, (one, _) in fields.items():
        needed = name in required or default_of(one) is dataclasses.MISSING
        if needed and name not in (*values, *given):
            raise BadInputError(f"{recipe.path} needs {prefix}{name}: set it")
    return values
