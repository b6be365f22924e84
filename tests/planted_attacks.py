"""Results of `attack` as the stage writes them, without one: a full one, and changes of it."""

from __future__ import annotations

import copy
import hashlib
import json
import struct
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from distillknob.attacks.access import Access
from distillknob.inputs.identity import read_by
from distillknob.results.attacks import AccessRow, ArmRow, AttackResult, CurveRow, TargetRow, TierShare, WorstRow
from distillknob.runs.run import Run

TARGETS = ("eta+0.5", "nasty")
ATTACKERS = ("zoo:student", "zoo:student-other")
# Each attack: its kind, what it needs, and R against eta+0.5.
ATTACKS = {
    "answers": ("answers", Access("answers", 1), -0.1),
    "traces": ("traces", Access("text", 1), -0.05),
    "selected-8": ("selected", Access("text", 8, labels=True), 0.02),
    "selected-32": ("selected", Access("text", 32, labels=True), 0.08),
    "selected-128": ("selected", Access("text", 128, labels=True), 0.14),
    "gkd": ("distilled", Access("on_policy", 1), 0.55),
}
CONTROLS = {"solo": Access("none", labels=True), "untrained": Access("none"), "gold": Access("none", clean=1.0)}
HALF = 0.06  # of an interval of R
TIERS = {"text": Access("text", 128, labels=True), "on_policy": Access("on_policy", 128, labels=True)}
SUITE = (files("distillknob.attacks") / "suites" / "standard-v1.yaml").read_bytes()
Change = Callable[[dict[str, Any]], None]


def access(one: Access) -> AccessRow:
    return {
        "interface": one.interface,
        "queries": one.queries,
        "clean": one.clean,
        "labels": one.labels,
        "text": str(one),
    }


def share(low: float, high: float) -> TierShare:
    return {"recovered": (low + high) / 2, "interval": [low, high], "simultaneous": [low, high]}


def arm(target: str, attack: str, attacker: str, r: float | None, *, control: bool = False, seeds: int = 3) -> ArmRow:
    kind, needed = (attack, CONTROLS[attack]) if control else ATTACKS[attack][:2]
    score = 0.44 + 0.1 * (r or 0.0)
    tiers = [name for name, tier in TIERS.items() if needed.within(tier)]
    return {
        "target": target,
        "attack": attack,
        "kind": kind,
        "attacker": attacker,
        "control": control,
        "why": f"why {attack} might work",
        "access": access(needed),
        "seeds": list(range(seeds)),
        "state": "done",
        "reason": None,
        "score": score,
        "interval": [score - 0.03, score + 0.03],
        "validation": score - 0.01,
        "by_task": {"math": score},
        "finished_rate": 0.98,
        "score_given_finished": score / 0.98,
        "recovered": r,
        "recovered_interval": None if r is None else [r - HALF * 0.8, r + HALF * 0.8],
        "simultaneous": None if r is None else [r - HALF, r + HALF],
        "by_tier": {} if r is None else dict.fromkeys(tiers, share(r - HALF, r + HALF)),
        "cost": {"queries": needed.queries * 600, "tokens": needed.queries * 6e4, "trained_tokens": 1e5, "steps": 200},
    }


def worst(target: str, attacker: str, tier: str, attack: str, r: float) -> WorstRow:
    return {
        "target": target,
        "attacker": attacker,
        "tier": tier,
        "access": access(TIERS[tier]),
        "attack": attack,
        "seeds": 3,
        "recovered": r,
        "interval": [r - HALF * 0.8, r + HALF * 0.8],
        "control": {"attack": "solo", "target": "", "score": 0.44, "interval": [0.41, 0.47]},
        "undefended": {"attack": "selected-8", "target": "original", "score": 0.54, "interval": [0.5, 0.58]},
        "verdict": "protects" if r < 0.25 else "partly" if r < 0.75 else "broken",
        "why": f"the worst attack recovers {100 * r:.0f} %",
    }


def curve(target: str, attacker: str, points: Sequence[tuple[float, str, float]]) -> CurveRow:
    return {
        "target": target,
        "attacker": attacker,
        "kind": "selected",
        "points": [
            {"queries": queries, "attack": name, "value": r, "interval": [r - HALF, r + HALF]}
            for queries, name, r in points
        ],
    }


def target_row(name: str, model: str, weights: dict[str, str]) -> TargetRow:
    original = name == "original"
    lost = 0.0 if original else -0.004
    return {
        "target": name,
        "spec": model,
        "model": model,
        "defence": None,
        "eta": 0.5 if name == "eta+0.5" else None,
        "original": original,
        "weights": weights,
        "utility": {
            "score": 0.99 + lost,
            "interval": [0.98, 1.0],
            "difference": lost,
            "difference_interval": [lost - 0.005, lost + 0.005],
        },
    }


def attack_result(folder: Path, tasks: Sequence[str] = ("math",)) -> AttackResult:
    """A full result: two targets beside the original, two attackers, tiers of text and of logits. `folder` gets the
    targets' weights."""
    models = {name: checkpoint(folder / name) for name in TARGETS}
    names = ["zoo:teacher", *map(str, models.values()), *ATTACKERS]
    read = read_by(SimpleNamespace(models_read=names, tasks=list(tasks)))
    arms, verdicts, curves = [], [], []
    for target in TARGETS:
        shift = 0.0 if target == "eta+0.5" else 0.4
        for attacker in ATTACKERS:
            arms += [arm(target, name, attacker, r + shift) for name, (_, _, r) in ATTACKS.items()]
            verdicts += [
                worst(target, attacker, "text", "selected-128", 0.14 + shift),
                worst(target, attacker, "on_policy", "gkd", 0.55 + shift),
            ]
            priced = [(8, "selected-8", 0.02), (32, "selected-32", 0.08), (128, "selected-128", 0.14)]
            curves.append(curve(target, attacker, [(float(q), name, r + shift) for q, name, r in priced]))
    arms += [arm("original", name, ATTACKERS[0], None, control=True) for name in CONTROLS]
    return {
        "stage": "attack",
        "suite": {"name": "standard-v1", "sha256": hashlib.sha256(SUITE).hexdigest(), "about": "every attack"},
        "tasks": list(tasks),
        "attackers": list(ATTACKERS),
        "original": "zoo:teacher",
        "refused": None,
        "targets": [
            target_row("original", "zoo:teacher", named(read, "model zoo:teacher")),
            *(target_row(name, str(model), named(read, f"model {model}")) for name, model in models.items()),
        ],
        "arms": arms,
        "worst": verdicts,
        "curves": curves,
        "planted": [
            {
                "planted": "undefended",
                "attack": "traces",
                "demand": "recovers all",
                "recovered": 1.0,
                "interval": [0.9, 1.1],
                "passed": True,
            }
        ],
        "flags": [{"target": "eta+0.5", "flag": "answers above traces", "text": "answers alone recover as much"}],
        "failed": [],
        "read": read,
    }


def named(read: dict[str, dict[str, str]], model: str) -> dict[str, str]:
    """A model's files with their digests, as a target's row has them."""
    return {f"{model}/{file}": digest for file, digest in read[model].items()}


def checkpoint(folder: Path) -> Path:
    """A folder that a model could be loaded from, as far as anybody sees who loads none."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen3", "name": folder.name}))
    header = json.dumps({"w": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]}}).encode()
    data = struct.pack("<Q", len(header)) + header + folder.name.encode()[:4].ljust(4)
    (folder / "model.safetensors").write_bytes(data)
    return folder


def attack_run(
    path: Path,
    *changes: Change,
    tasks: Sequence[str] = ("math",),
    recorded: Mapping[str, Any] | None = None,
) -> Path:
    """A finished run of attack in `path`, whose result each of the changes has gone over; `recorded` is its config."""
    result: dict[str, Any] = copy.deepcopy(dict(attack_result(path.parent / f"{path.name}-models", tasks)))
    read = copy.deepcopy(result["read"])
    for change in changes:
        change(result)
    run = Run.open(path, "attack", {"suite": "standard-v1", "seed": 0} if recorded is None else recorded, read=read)
    run.finish(result)
    return path


def arms_of(result: dict[str, Any], **wanted: Any) -> list[dict[str, Any]]:
    """The arms with all these values."""
    return [row for row in result["arms"] if all(row[key] == value for key, value in wanted.items())]


def recovers(attack: str, low: float, high: float, *, target: str = "eta+0.5") -> Change:
    """This attack recovers that much, by its interval, also where a verdict is made by it."""

    def change(result: dict[str, Any]) -> None:
        for row in arms_of(result, attack=attack, target=target):
            row |= {"recovered": (low + high) / 2, "simultaneous": [low, high], "recovered_interval": [low, high]}
            row["by_tier"] = dict.fromkeys(row["by_tier"], share(low, high))
        for row in result["worst"]:
            if row["attack"] == attack and row["target"] == target:
                row |= {"recovered": (low + high) / 2, "interval": [low, high]}

    return change
