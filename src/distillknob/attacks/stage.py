"""The stage `attack`: every arm of a suite on every teacher, and what an extractor gets.

The work falls into waves: the targets' answers and their own scores; a training for each arm; further trainings of the
worst attacks and of the arms that R is made of. The cells of a wave don't depend on each other, and run side by side
where there are processes for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from distillknob.attacks.work import Cell, Reads, Work
from distillknob.attacks.cell import FAILED, fail_cell, run_cell
from distillknob.attacks.config import AttackConfig
from distillknob.attacks.flags import flags
from distillknob.attacks.measured import Row, rows_of
from distillknob.attacks.planted import OTHER_SEED
from distillknob.attacks.pool import make_pool
from distillknob.attacks.target import Target
from distillknob.attacks.utility import measure_utility
from distillknob.attacks.verdict import Tier, curves, of, planted_row, tier_of, utility, worst_row
from distillknob.config.experiment import check as check_steps
from distillknob.errors import BadInputError
from distillknob.inputs.identity import changed_meanwhile, read_by
from distillknob.inputs.opening import checked
from distillknob.inputs.preflight import Preflight
from distillknob.report.page import build_report
from distillknob.results.attacks import ArmRow, AttackResult, FailedRow, TargetRow, Utility
from distillknob.runs.files import read_json
from distillknob.runs.model_record import read_record
from distillknob.runs.run import MANIFEST, Run, load_run
from distillknob.runtime.cluster import reached
from distillknob.runtime.processes import notice, process_count
from distillknob.runtime.spread import spread
from distillknob.tasks import graded_tasks


def attack(config: AttackConfig, output: str | Path, *, resume: bool = False) -> Run:
    """Mount the suite on the original and the defended teachers and return the run; `report.html` lies in its
    directory.

    A cell that fails is recorded and the others go on; the same command with `resume` does what is missing. Raises
    BadInputError before any work for input that can't be used.
    """
    if process_count() > 1:
        raise BadInputError(
            f"attack in {process_count()} processes: start it once, and give it processes (--processes) or --ray"
        )
    checked(check, config)
    reads = _reads(config)
    run = Run.open(output, "attack", config.recorded, read=read_by(reads), resume=resume)
    if run.complete:
        return run
    work = Work(
        run.path,
        config.chosen_suite,
        tuple(config.tasks),
        {name: value for name, value in config.recipe.items() if name != "attack"},
        config.learning_rates,
    )
    cells = config.first_cells()
    _answers(config, work, cells)
    _run_cells(config, work, cells)
    further = further_cells(config, rows_of(cells, *_results(work, cells)))
    _answers(config, work, further)
    _run_cells(config, work, further)
    cells += further
    results, failed = _results(work, cells)
    if failed:
        notice(f"{len(failed)} of {len(cells)} cells failed; the same command with --resume tries them again")
    run.finish(_result(config, work, cells, results, failed, changed_meanwhile(run, reads)))
    build_report(run.path)
    return run


def check(config: AttackConfig, preflight: Preflight) -> None:
    """Raise BadInputError for what any part of the attack couldn't use, before any weight is loaded."""
    check_steps(config, preflight)
    graded_tasks(config.tasks)
    suite = config.chosen_suite
    needed = suite.problems + suite.validation.problems
    for name in config.tasks:
        task = preflight.task(name)
        if task is not None and len(task.examples("train", needed, seed=suite.seed)) < needed:
            raise BadInputError(
                f"the suite {suite.name} takes {suite.problems} problems of the train split of {name!r} and measures "
                f"on {suite.validation.problems} more: it has too few. Give a suite of your own with fewer (a YAML file)"
            )
    preflight.sides([name for target in config.targets for name in target.models_read], None, needed=False)


def _reads(config: AttackConfig) -> Reads:
    models = [name for target in config.targets for name in target.models_read]
    base = [] if config.base is None else [config.base]
    return Reads(list(dict.fromkeys([*models, *config.all_attackers, *base])), config.tasks)


def _answers(config: AttackConfig, work: Work, cells: Sequence[Cell]) -> None:
    """Draw the answers that these cells read, and measure each target itself."""
    pieces: dict[str, tuple[Any, tuple[Any, ...]]] = {}
    sizes: dict[tuple[str, int], tuple[Target, int]] = {}
    for cell in cells:
        if not cell.arm.teacher_free and cell.arm.attack.pool:
            key = (cell.target.label, cell.seed)
            _, before = sizes.get(key, (cell.target, 0))
            sizes[key] = (cell.target, max(before, cell.arm.attack.pool))
    for (label, seed), (target, n) in sizes.items():
        drawn_with = seed + (OTHER_SEED if label.startswith("planted-") else 0)
        pieces[f"answers of {label}, seed {seed}"] = (make_pool, (target, work, n, drawn_with, work.pool(target, seed)))
    pieces |= {f"score of {target.label}": (measure_utility, (target, work)) for target in config.targets}
    for name, error in _spread(config, pieces, work.folder / "pools"):
        if error is not None:
            raise error
        notice(f"{name}: done")


def _run_cells(config: AttackConfig, work: Work, cells: Sequence[Cell]) -> None:
    """Run the cells that aren't finished; what fails is recorded in its folder."""
    missing = {cell.name: cell for cell in cells if not (work.place(cell) / MANIFEST).exists()}
    pieces = {name: (run_cell, (cell, work)) for name, cell in missing.items()}
    done = len(cells) - len(missing)
    for name, error in _spread(config, pieces, work.folder / "cells"):
        done += 1
        if error is not None:
            fail_cell(missing[name], work, str(error))
        notice(f"cell {done} of {len(cells)}: {name}{'' if error is None else f' failed: {error}'}")


def _spread(config: AttackConfig, pieces: Mapping[str, Any], folder: Path) -> Iterable[tuple[str, Exception | None]]:
    with reached(config.cluster if pieces else None) as cluster:
        yield from spread(pieces, folder, cluster=cluster, processes=config.processes)


def further_cells(config: AttackConfig, rows: Sequence[Row]) -> list[Cell]:
    """The cells of further seeds: of each defended teacher the worst attacks by validation, and of the arms that R is
    made of at any tier."""
    suite = config.chosen_suite
    if not suite.worst_seeds:
        return []
    chosen: dict[tuple[str, str], Cell] = {}
    for target in config.targets:
        if target.original:
            continue
        tiers = [tier_of(name, access, rows, target.label, config.student) for name, access in suite.tiers.items()]
        attacks = {row.arm.name: row for tier in tiers for row in tier.attacks.values()}
        worst = sorted(attacks.values(), key=lambda row: of(row).validation, reverse=True)[: suite.worst]
        worst += [tier.worst for tier in tiers if tier.worst is not None]
        worst += [row for tier in tiers for row in (tier.control, tier.undefended) if row is not None]
        chosen |= {(row.cell.target.label, row.arm.name): row.cell for row in worst if row.arm.kind != "untrained"}
    return [
        config.cell(cell.target, cell.arm, cell.attacker, seed)
        for seed in suite.worst_seeds
        for cell in chosen.values()
    ]


def _results(work: Work, cells: Sequence[Cell]) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """The results of finished cells by name, and the reasons of those that failed."""
    results, failed = {}, {}
    for cell in cells:
        place = work.place(cell)
        if (place / MANIFEST).exists():
            results[cell.name] = load_run(place).result
        elif (place / FAILED).exists():
            failed[cell.name] = str(read_json(place / FAILED)["reason"])
    return results, failed


def _result(
    config: AttackConfig,
    work: Work,
    cells: Sequence[Cell],
    results: Mapping[str, dict[str, Any]],
    failed: Mapping[str, str],
    notes: list[str],
) -> AttackResult:
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
    targets = _targets(config, work)
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
        "flags": flags(rows, config.targets, utilities, config.tolerance),
        "failed": [FailedRow(cell=name, reason=reason) for name, reason in failed.items()],
        "read": read_by(_reads(config)),
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


def _targets(config: AttackConfig, work: Work) -> list[TargetRow]:
    scores = {target.label: np.array(measure_utility(target, work).result["scores"]) for target in config.targets}
    original, listed = scores[config.targets[0].label], list[TargetRow]()
    for target in config.targets:
        measured = measure_utility(target, work).result
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

    def bounds(pair: tuple[float, float]) -> list[float | None]:
        return [None if np.isnan(bound) else bound for bound in pair]

    return {
        "target": row.cell.target.label,
        "attack": row.arm.name,
        "kind": row.arm.kind,
        "attacker": row.cell.attacker,
        "control": row.arm.control,
        "why": type(row.arm.attack).why,
        "access": {**vars(row.arm.access), "text": str(row.arm.access)},
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
        "recovered_interval": None if share is None else bounds(share.interval),
        "simultaneous": None if share is None else bounds(share.simultaneous),
        "cost": None if measured is None else measured.cost,
    }
