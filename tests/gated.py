"""A policy of one's own, what the gate says by it of a run of attacks, and changes to what such a run has found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from distillknob.gates.gate import gate
from planted_attacks import Change, arms_of

POLICY: dict[str, Any] = {
    "suite": "standard-v1",
    "tier": {"interface": "text", "queries": 128, "labels": True},
    "largest_recovered": 0.25,
    "smallest_utility": -0.015,
    "attacks": ["traces", "selected-128"],
    "attackers": 2,
}
NEVER = "undistillable"


def policy(folder: Path, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    file = folder / "policy.yaml"
    file.write_text(yaml.safe_dump({**POLICY, **changes}))
    return file


def judged(run: Path, *, target: str | None = "eta+0.5", **changes: Any) -> Any:
    return gate(policy(run.parent, **changes), run, target)


def told(result: Any) -> str:
    return "; ".join(f"{row['check']}: {row['reason']}" for row in result["checks"] if row["outcome"] != "pass")


def alter(path: str, value: Any) -> Change:
    """Set what lies at `path` in the result, such as `suite.name`."""
    *inside, last = path.split(".")

    def change(result: dict[str, Any]) -> None:
        place: Any = result
        for key in inside:
            place = place[int(key) if key.isdigit() else key]
        place[last] = value

    return change


def of_arms(attack: str, **values: Any) -> Change:
    def change(result: dict[str, Any]) -> None:
        for row in arms_of(result, attack=attack):
            row |= values

    return change


def without(attack: str) -> Change:
    def change(result: dict[str, Any]) -> None:
        result["arms"] = [row for row in result["arms"] if row["attack"] != attack]

    return change


def utility(low: float, high: float) -> Change:
    def change(result: dict[str, Any]) -> None:
        for row in result["targets"]:
            if not row["original"]:
                row["utility"]["difference_interval"] = [low, high]

    return change


def verdict(word: str) -> Change:
    def change(result: dict[str, Any]) -> None:
        for row in result["worst"]:
            row["verdict"] = word

    return change


def change_weights(run: Path) -> None:
    (run.parent / "run-models" / "eta+0.5" / "config.json").write_text('{"model_type": "other"}')
