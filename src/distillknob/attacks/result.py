"""The result of `attack`, made of what its cells measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from distillknob.attacks.config import AttackConfig
from distillknob.attacks.examples import examples_of
from distillknob.attacks.flags import flags
from distillknob.attacks.measured import Row, rows_of
from distillknob.attacks.verdict import Tier, bounds_of, curves, planted_row, tier_of, utility, worst_row
from distillknob.attacks.work import Cell, Reads
from distillknob.inputs.identity import read_by
from distillknob.results.attacks import ArmRow, AttackResult, FailedRow, TargetRow, TierShare, Utility
from distillknob.runs.model_record import read_record


def result_of(
    config: AttackConfig,
    cells: Sequence[Cell],
    results: Mapping[str, Mapping[str, Any]],
    failed: Mapping[str, str],
    teachers: Mapping[str, Mapping[str, Any]],
    notes: list[str],
) -> AttackResult:
    """Return the result: `results` are those of finished cells by name, `failed` the reasons of the others, `teachers`
    the targets' own scores by label."""
    suite, rows = config.chosen_suite, rows_of(cells, results, failed)
    pairs = [(target, attacker) for target in config.targets for attacker in config.all_attackers]
    tiers = {
        (target.label, attacker): {
            name: tier_of(name, access, rows, target.label, attacker) for name, access in suite.tiers.items()
        }
        for target, attacker in pairs
    }
    planted = [planted_row(one, rows, config.student) for one in suite.planted] if config.planted else []
    refused = _refused(config, [row["planted"] for row in planted if not row["passed"]])
    targets = _targets(config, teachers)
    utilities: dict[str, Utility] = {row["target"]: row["utility"] for row in targets}
    labels = {target.label for target in config.targets}
    return {
        "stage": "attack",
        "notes": notes,
        "suite": {"name": suite.name, "sha256": suite.sha256, "about": suite.about},
        "tasks": list(config.tasks),
        "attackers": config.all_attackers,
        "original": config.teacher,
        "refused": refused,
        "targets": targets,
        "arms": [_arm_row(row, tiers) for row in rows if row.cell.target.label in labels],
        "worst": [
            worst_row(tier, label, attacker, suite.words)
            for (label, attacker), of_pair in tiers.items()
            for tier in of_pair.values()
            if tier.attacks and refused is None
        ],
        "curves": [
            curve
            for target, attacker in pairs
            for curve in curves(rows, tiers[target.label, attacker], target.label, attacker)
        ],
        "planted": planted,
        "flags": flags(
            rows, config.targets, utilities, tolerance=config.tolerance, suite=suite, tasks=len(config.tasks)
        ),
        "examples": examples_of(config.targets, rows, results, teachers),
        "failed": [FailedRow(cell=name, reason=reason) for name, reason in failed.items()],
        "read": read_by(*reads_of(config)),
    }


def _refused(config: AttackConfig, failed: Sequence[str]) -> str | None:
    """Why no verdicts are given; None where they are."""
    if not config.planted:
        return "the planted defences were left out (planted: false), so that nothing shows what the suite can find"
    if failed:
        return (
            f"the suite didn't find what was planted ({', '.join(failed)}): on this pair its attacks show nothing. "
            "More problems or steps, or a better learning rate, may mend it"
        )
    return None


def _targets(config: AttackConfig, teachers: Mapping[str, Mapping[str, Any]]) -> list[TargetRow]:
    scores = {target.label: np.array(teachers[target.label]["scores"]) for target in config.targets}
    original, listed = scores[config.targets[0].label], list[TargetRow]()
    for target in config.targets:
        measured = teachers[target.label]
        difference, bounds = utility(original, scores[target.label])
        record, defence = read_record(target.model), target.defence
        read = read_by(Reads([target.model], []))
        listed.append(
            {
                "target": target.label,
                "spec": target.spec,
                "model": target.model,
                "defence": None if defence is None else type(defence).about,
                "eta": None if record is None else record["eta"],
                "original": target.original,
                "weights": {f"{name}/{file}": value for name, files in read.items() for file, value in files.items()},
                "utility": {
                    "score": measured["score"],
                    "interval": measured["interval"],
                    "difference": difference,
                    "difference_interval": bounds,
                },
            }
        )
    return listed


def _arm_row(row: Row, tiers: Mapping[tuple[str, str], Mapping[str, Tier]]) -> ArmRow:
    """An arm as the result holds it: R at the first tier that it lies in."""
    of_pair = tiers[row.cell.target.label, row.cell.attacker]
    tier = next((tier for tier in of_pair.values() if row.arm.access.within(tier.access)), None)
    share = None if tier is None else tier.shares.get(row.arm.name)
    measured = row.measured

    return {
        "target": row.cell.target.label,
        "attack": row.arm.name,
        "kind": row.arm.kind,
        "attacker": row.cell.attacker,
        "control": row.arm.control,
        "why": type(row.arm.attack).why,
        "access": row.arm.access.as_row(),
        "seeds": [] if measured is None else measured.seeds,
        "state": row.state,
        "reason": row.reason,
        "score": None if measured is None else measured.score,
        "interval": None if measured is None else measured.interval.as_list(),
        "validation": None if measured is None else measured.validation,
        "by_task": {} if measured is None else measured.by_task,
        "finished_rate": None if measured is None else measured.finished_rate,
        "score_given_finished": None if measured is None else measured.score_given_finished,
        "recovered": None if share is None else share.value,
        "recovered_interval": None if share is None else bounds_of(share.interval),
        "simultaneous": None if share is None else bounds_of(share.simultaneous),
        "by_tier": {
            name: TierShare(
                recovered=share.value,
                interval=bounds_of(share.interval),
                simultaneous=bounds_of(share.simultaneous),
            )
            for name, tier in of_pair.items()
            if (share := tier.shares.get(row.arm.name)) is not None and row.arm.access.within(tier.access)
        },
        "cost": None if measured is None else measured.cost,
    }


def reads_of(config: AttackConfig) -> list[Reads]:
    """Return what the whole run reads."""
    keys = [target.key_file for target in config.targets if target.key_file is not None]
    suite = (config.suite, config.chosen_suite.sha256)
    return [Reads(config.models_read, config.tasks, suite=suite), *(Reads([], [], key) for key in keys)]
