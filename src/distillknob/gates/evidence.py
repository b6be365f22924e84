"""What the result of an attack says of one target at one tier, read strictly: a gate that guesses is none.

R is read at the tier that is asked about. An attack that lies in several tiers has another R in each, since each tier
has its own best control and its own best attack on the original.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast
from urllib.parse import unquote

from distillknob.attacks.access import Access
from distillknob.errors import BadInputError, nearest
from distillknob.results.attacks import AttackResult, TargetRow
from distillknob.runs.run import RESULT, Run

SUITE = "the suite"  # where a figure is from that no file of others brought
Pair = tuple[float, float]


@dataclass(frozen=True)
class Arm:
    """One attack on the target by one attacker: R at the tier that is asked about, with the interval that holds for all
    attacks at once; both None where the tier's gap can't be identified."""

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
    """The result's own verdict on the target at the tier, by the attack that validation problems chose."""

    attacker: str
    attack: str | None
    seeds: int
    recovered: float | None
    interval: Pair | None
    word: str
    why: str


@dataclass(frozen=True)
class Evidence:
    """An Evidence is all that a result says of a target at a tier. `tier` is the tier's name in the run's suite, None
    where the run has none such among its `tiers`; `behind` names what stands behind the target: its own weights, the
    original's, and what its defence reads, as in the result's `read`."""

    target: TargetRow
    tier: str | None
    tiers: Mapping[str, Access]
    behind: Sequence[str]
    arms: Sequence[Arm]
    judged: Sequence[Judged]
    utility: Pair | None
    flags: Sequence[str]

    def at(self, tier: Access) -> list[Arm]:
        """The attacks that an attacker of this tier can mount."""
        return [arm for arm in self.arms if arm.access.within(tier)]


def read_result(run: Run) -> AttackResult:
    """Return the result of the attack `run`. Raises BadInputError where what a gate reads of it isn't of its type."""
    with _of_its_type(run.path / RESULT):
        result = cast(AttackResult, run.result)
        texts = [result["suite"]["name"], result["suite"]["sha256"], result["original"], *result["attackers"]]
        texts += [row["planted"] for row in result["planted"]] + [row["model"] for row in result["targets"]]
        texts += [row[key] for row in result["targets"] for key in ("target", "spec")]
        parts = [*result["read"].values(), *(row["weights"] for row in result["targets"])]
        texts += [text for part in parts for pair in part.items() for text in pair]
        texts += [] if result["refused"] is None else [result["refused"]]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError(f"{next(text for text in texts if not isinstance(text, str))!r} is no text")
        _ = [row["passed"] for row in result["planted"]]
    return result


def read_evidence(result: AttackResult, target: str | None, tier: Access, file: Path) -> Evidence:
    """Return what the result in `file` says of `target` at `tier`; where `target` is None, of the one target that isn't
    the original.

    Raises BadInputError for a target that the result doesn't know, or none named where there are several, and for rows
    that aren't of their types.
    """
    with _of_its_type(file):
        row = _target(result["targets"], target, file)
        name = row["target"]
        utility = _pair(row["utility"]["difference_interval"])
        tiers = {str(one["tier"]): _access(one["access"]) for one in result["worst"]}
        own = next((called for called, access in tiers.items() if access == tier), None)
        arms = [_arm(arm, own) for arm in result["arms"] if arm["target"] == name and not arm["control"]]
        judged = [
            Judged(
                attacker=str(one["attacker"]),
                attack=one["attack"],
                seeds=int(one["seeds"]),
                recovered=_number(one["recovered"]),
                interval=_pair(one["interval"]),
                word=str(one["verdict"]),
                why=str(one["why"]),
            )
            for one in result["worst"]
            if one["target"] == name and _access(one["access"]) == tier
        ]
        flags = [f"{one['flag']}: {one['text']}" for one in result["flags"] if one["target"] == name]
        stands = behind(result, row)
    return Evidence(row, own, tiers, stands, arms, judged, utility, flags)


def behind(result: AttackResult, target: TargetRow) -> list[str]:
    """Return the names in the result's `read` of what stands behind a target: its weights, the original's, and the
    models and the key file that its spec names. Weights that weren't read are named all the same; a base model of an
    adapter isn't, nor is what a defence reads by default."""
    options = target["spec"].partition("?")[2].split("&") if target["defence"] is not None else []
    values = [unquote(option.partition("=")[2]) for option in options]
    names = []
    for model in (target["model"], result["original"]):
        names += _names_in(result["read"], model) or [f"model {model}"]
    return list(dict.fromkeys([*names, *(name for value in values for name in _names_in(result["read"], value))]))


def _names_in(read: Mapping[str, Any], value: str) -> list[str]:
    """What was read under this name. A served model may have its tokenizer behind it, URL#NAME#TOKENIZER, which is
    recorded by itself."""
    wanted = (f"model {value}", f"key {value}")
    return [name for name in read if name in wanted or f"model {value}".startswith(f"{name}#")]


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


def _arm(row: Mapping[str, Any], tier: str | None) -> Arm:
    shares: Mapping[str, Any] = row["by_tier"]
    share = shares.get(tier) if tier is not None else None
    return Arm(
        attack=str(row["attack"]),
        attacker=str(row["attacker"]),
        access=_access(row["access"]),
        seeds=len(set(row["seeds"])),
        state=str(row["state"]),
        reason=row["reason"],
        recovered=None if share is None else _number(share["recovered"]),
        interval=None if share is None else _pair(share["simultaneous"]),
    )


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
