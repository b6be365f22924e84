"""What the result of an attack says of one target, read strictly: a gate that guesses is none."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from distillknob.attacks.access import Access
from distillknob.errors import BadInputError, nearest
from distillknob.results.attacks import AttackResult, TargetRow
from distillknob.runs.run import RESULT, Run

SUITE = "the suite"  # where a figure is from that no file of others brought
Pair = tuple[float, float]


@dataclass(frozen=True)
class Arm:
    """One attack on the target by one attacker: R with the interval that holds for all attacks at once, both None where
    the gap can't be identified."""

    attack: str
    attacker: str
    access: Access
    seeds: int
    state: str
    reason: str | None
    recovered: float | None
    interval: Pair | None
    source: str = SUITE


@dataclass(frozen=True)
class Judged:
    """The result's own verdict on the target at a tier, by the attack that validation problems chose."""

    attacker: str
    access: Access
    attack: str | None
    seeds: int
    recovered: float | None
    interval: Pair | None
    word: str
    why: str


@dataclass(frozen=True)
class Evidence:
    """An Evidence is all that a result says of a target and of itself."""

    target: TargetRow
    arms: Sequence[Arm]
    judged: Sequence[Judged]
    utility: Pair | None
    flags: Sequence[str]

    def at(self, tier: Access) -> list[Arm]:
        """The attacks that an attacker of this tier can mount."""
        return [arm for arm in self.arms if arm.access.within(tier)]

    def judged_at(self, tier: Access) -> list[Judged]:
        """Of each attacker the result's verdicts at the largest tiers that lie within this one."""
        inside = [row for row in self.judged if row.access.within(tier)]
        return [
            row
            for row in inside
            if not any(
                other.attacker == row.attacker and row.access.within(other.access) and other.access != row.access
                for other in inside
            )
        ]


def read_result(run: Run) -> AttackResult:
    """Return the result of the attack `run`. Raises BadInputError where what a gate reads of it isn't of its type."""
    with _of_its_type(run.path / RESULT):
        result = cast(AttackResult, run.result)
        texts = [result["suite"]["name"], result["suite"]["sha256"], result["original"], *result["attackers"]]
        texts += [row["planted"] for row in result["planted"]] + [row["model"] for row in result["targets"]]
        texts += [row["target"] for row in result["targets"]]
        parts = [*result["read"].values(), *(row["weights"] for row in result["targets"])]
        texts += [text for part in parts for pair in part.items() for text in pair]
        texts += [] if result["refused"] is None else [result["refused"]]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError(f"{next(text for text in texts if not isinstance(text, str))!r} is no text")
        _ = [row["passed"] for row in result["planted"]]
    return result


def read_evidence(result: AttackResult, target: str | None, file: Path) -> Evidence:
    """Return what the result in `file` says of `target`; where that is None, of the one target that isn't the original.

    Raises BadInputError for a target that the result doesn't know, or none named where there are several, and for rows
    that aren't of their types.
    """
    with _of_its_type(file):
        row = _target(result["targets"], target, file)
        name = row["target"]
        utility = _pair(row["utility"]["difference_interval"])
        arms = [
            Arm(
                attack=str(arm["attack"]),
                attacker=str(arm["attacker"]),
                access=_access(arm["access"]),
                seeds=len(set(arm["seeds"])),
                state=str(arm["state"]),
                reason=arm["reason"],
                recovered=_number(arm["recovered"]),
                interval=_pair(arm["simultaneous"]),
            )
            for arm in result["arms"]
            if arm["target"] == name and not arm["control"]
        ]
        judged = [
            Judged(
                attacker=str(one["attacker"]),
                access=_access(one["access"]),
                attack=one["attack"],
                seeds=int(one["seeds"]),
                recovered=_number(one["recovered"]),
                interval=_pair(one["interval"]),
                word=str(one["verdict"]),
                why=str(one["why"]),
            )
            for one in result["worst"]
            if one["target"] == name
        ]
        flags = [f"{one['flag']}: {one['text']}" for one in result["flags"] if one["target"] == name]
    return Evidence(row, arms, judged, utility, flags)


def read_external(path: Path, weights: Mapping[str, str]) -> tuple[list[Arm], int]:
    """Return the attacks by others in the file `path` that are on these weights, and how many are on others.

    The file holds a JSON list of rows: `weights` (SHA-256 of one of the target's files of weights), `attack`,
    `attacker`, `access` (`interface`, `queries`, perhaps `clean` and `labels`), `recovered`, `interval` and `source`.
    Raises BadInputError for a file that isn't there or holds anything else.
    """
    try:
        rows = json.loads(path.read_bytes())
    except OSError as error:
        raise BadInputError(f"can't read the external results {path}: {error.strerror}") from error
    except ValueError as error:
        raise BadInputError(f"the external results {path} are no JSON ({error}): mend the file") from error
    with _of_its_type(path):
        own = [row for row in rows if row["weights"] in weights.values()]
        arms = [
            Arm(
                attack=str(row["attack"]),
                attacker=str(row["attacker"]),
                access=Access(
                    row["access"]["interface"],
                    float(row["access"]["queries"]),
                    float(row["access"].get("clean", 0)),
                    labels=bool(row["access"].get("labels", False)),
                ),
                seeds=int(row.get("seeds", 1)),
                state="done",
                reason=None,
                recovered=_number(row["recovered"]),
                interval=_pair(row["interval"]),
                source=str(row["source"]),
            )
            for row in own
        ]
        return arms, len(rows) - len(own)


@contextmanager
def _of_its_type(file: Path) -> Iterator[None]:
    try:
        yield
    except KeyError as error:
        raise BadInputError(f"{file}: a row lacks {error}: it wasn't written by this version, make it anew") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise BadInputError(f"{file} isn't of its type ({error}): make it anew") from error


def _target(rows: Sequence[TargetRow], name: str | None, file: Path) -> TargetRow:
    names = [row["target"] for row in rows]
    if name is not None:
        for row in rows:
            if row["target"] == name:
                return row
        guess = nearest(name, names, otherwise=".")
        raise BadInputError(f"{file} has no target {name!r}{guess} It has {', '.join(names) or 'none'}")
    defended = [row for row in rows if not row["original"]]
    if len(defended) == 1:
        return defended[0]
    raise BadInputError(
        f"{file} has {len(defended)} targets beside the original: name one, --target {' or '.join(names)}"
    )


def _access(row: Mapping[str, Any]) -> Access:
    return Access(row["interface"], float(row["queries"]), float(row["clean"]), labels=bool(row["labels"]))


def _number(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    return float(value) if math.isfinite(value) else None


def _pair(value: Any) -> Pair | None:
    """An interval, or None where it or one of its ends is undefined."""
    if value is None:
        return None
    low, high = (_number(end) for end in value)
    if low is not None and high is not None and low > high:
        raise ValueError(f"the interval {value!r} ends before it begins")
    return None if low is None or high is None else (low, high)
