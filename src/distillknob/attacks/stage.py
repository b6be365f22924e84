"""The stage `attack`: every arm of a suite on every teacher, and what an extractor gets.

The work falls into waves: the targets' answers and their own scores; a training for each arm; further trainings of the
worst attacks and of the arms that R is made of. The cells of a wave don't depend on each other, and run side by side
where there are processes for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from distillknob.attacks.cell import cell_config, cell_reads, run_cell
from distillknob.attacks.config import AttackConfig
from distillknob.attacks.measured import Row, rows_of
from distillknob.attacks.planted import OTHER_SEED
from distillknob.attacks.pool import make_pool
from distillknob.attacks.result import reads_of, result_of
from distillknob.attacks.served import asked_lines, asked_of_servers, left_out
from distillknob.attacks.target import Target
from distillknob.attacks.utility import measure_utility, teacher_record, utility_config, utility_reads
from distillknob.attacks.verdict import of, tier_of
from distillknob.attacks.work import Cell, Work
from distillknob.config.experiment import check as check_steps
from distillknob.errors import BadInputError
from distillknob.inputs.identity import changed_meanwhile, read_by
from distillknob.inputs.opening import checked
from distillknob.inputs.preflight import Preflight
from distillknob.report.page import build_report
from distillknob.results.schema import with_schema
from distillknob.runs.failures import failure_in, record_failure
from distillknob.runs.files import atomic_write, json_bytes
from distillknob.runs.ledger import Ledger
from distillknob.runs.run import RESULT, Run
from distillknob.runtime.cluster import reached
from distillknob.runtime.processes import notice, process_count
from distillknob.runtime.spread import spread
from distillknob.tasks import graded_tasks


def attack(config: AttackConfig, output: str | Path, *, resume: bool = False) -> Run:
    """Mount the suite on the original and the defended teachers and return the run; `report.html` lies in its
    directory.

    A cell that fails is recorded and the others go on. The run isn't complete then: the same command with `resume` does
    what is missing, and what fails once more is recorded in the result. Raises BadInputError before any work for input
    that can't be used.
    """
    if process_count() > 1:
        raise BadInputError(
            f"attack in {process_count()} processes: start it once, and give it processes (--processes) or --ray"
        )
    checked(check, config)
    reads = reads_of(config)
    run = Run.open(output, "attack", config.recorded, read=read_by(*reads), resume=resume)
    if run.complete:
        return run
    work = Work(
        run.path,
        config.chosen_suite,
        tuple(config.tasks),
        config.of_attacks,
        config.model_options(run.template_date),
        config.learning_rates,
    )
    ledger = Ledger(config.kept)
    cells: list[Cell] = []
    missing = config.first_cells()
    while missing:
        _check_kept(config, work, ledger, missing)
        cells += missing
        _draw_and_score(config, work, ledger, cells)
        _run_cells(config, work, ledger, cells)
        further = further_cells(config, rows_of(cells, *_results(work, ledger, cells)))
        missing = [cell for cell in further if cell not in cells]
    results, failed = _results(work, ledger, cells)
    teachers = {t.label: ledger.result(teacher_record(t), work.teacher(t)) or {} for t in config.targets}
    result = result_of(config, cells, results, failed, teachers, changed_meanwhile(run, *reads))
    again = [cell for cell in cells if (one := failure_in(work.place(cell))) is not None and not one.final]
    if again:
        notice(f"{len(again)} of {len(cells)} cells failed; the same command with --resume tries them once more")
        run.unfinished.mkdir(exist_ok=True)
        atomic_write(run.unfinished / RESULT, json_bytes(with_schema(result), indent=2) + b"\n")
    else:
        run.finish(result)
    build_report(run.path)
    return run


def _check_kept(config: AttackConfig, work: Work, ledger: Ledger, cells: Sequence[Cell]) -> None:
    """Raise BadInputError for a kept cell of other settings, or of other models than are there now."""
    for cell in cells:
        ledger.check(cell.name, cell_config(cell, work), cell_reads(cell, work))
    for target in config.targets:
        ledger.check(teacher_record(target), utility_config(target, work), utility_reads(target, work))


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
                f"on {suite.validation.problems} more: it has too few. Give a suite of your own with fewer (YAML)"
            )
    trained = [*config.all_attackers, *([] if config.base is None else [config.base])]
    preflight.sides(config.models_read, config.chat_template_kwargs, needed=False, weights=trained)
    _tell_of_servers(config, preflight)


def _tell_of_servers(config: AttackConfig, preflight: Preflight) -> None:
    """Remark what is left out on targets behind a server, and what their servers are asked for."""
    suite, cells = config.chosen_suite, config.first_cells()
    asked = asked_of_servers(suite, cells, config.targets, len(config.tasks))
    if not asked:
        return
    for line in left_out(cells):
        preflight.remark(line)
    # A chat interface's tokenizer isn't here: the attacker's stands for it.
    (side,) = preflight.sides([config.student])
    tasks = [task for task in map(preflight.task, config.tasks) if task is not None]
    readings = [
        preflight.reading(side, task, task.examples("train", suite.problems, seed=suite.seed)) for task in tasks
    ]
    lengths = [length for reading in readings if reading is not None for length in reading.prompts]
    prompt = round(sum(lengths) / len(lengths)) if lengths else None
    for line in asked_lines(asked, prompt, preflight.longest_answer(config.tasks, config.max_completion_length)):
        preflight.remark(line)
    if suite.worst_seeds and config.further_seeds and config.defended:
        preflight.remark("further seeds ask again, for the worst attacks alone: --no-further-seeds leaves them out")


def _draw_and_score(config: AttackConfig, work: Work, ledger: Ledger, cells: Sequence[Cell]) -> None:
    """Draw the answers that the missing ones of these cells read, and measure each target itself."""
    # As many as any of the cells reads, also of those that are done: a pool is drawn once.
    sizes: dict[tuple[str, int], tuple[Target, int]] = {}
    wanted = set()
    for cell in cells:
        if not cell.arm.teacher_free and cell.arm.attack.pool and cell.out_of_reach is None:
            key = (cell.target.label, cell.seed)
            _, before = sizes.get(key, (cell.target, 0))
            sizes[key] = (cell.target, max(before, cell.arm.attack.pool))
            if not ledger.done(cell.name, work.place(cell)):
                wanted.add(key)
    pieces: dict[str, tuple[Any, tuple[Any, ...]]] = {}
    for (label, seed), (target, n) in sizes.items():
        if (label, seed) not in wanted:
            continue
        drawn_with = seed + (OTHER_SEED if label.startswith("planted-") else 0)
        pieces[f"answers of {label}, seed {seed}"] = (make_pool, (target, work, n, drawn_with, work.pool(target, seed)))
    for target in config.targets:
        name = teacher_record(target)
        if not ledger.done(name, work.teacher(target)):
            pieces[name] = (measure_utility, (target, work))
    for name, error in _spread(config, pieces, work.folder / "pools"):
        if error is not None:
            raise error
        notice(f"{name}: done")
    for target in config.targets:
        ledger.keep(teacher_record(target), work.teacher(target))


def _run_cells(config: AttackConfig, work: Work, ledger: Ledger, cells: Sequence[Cell]) -> None:
    """Run the cells that aren't finished; what fails is recorded in its folder."""
    missing = {cell.name: cell for cell in cells if not ledger.done(cell.name, work.place(cell))}
    pieces = {name: (run_cell, (cell, work)) for name, cell in missing.items()}
    done = len(cells) - len(missing)
    for name, error in _spread(config, pieces, work.folder / "cells"):
        done += 1
        if error is not None:
            record_failure(work.place(missing[name]), name, str(error))
        else:
            ledger.keep(name, work.place(missing[name]))
        notice(f"cell {done} of {len(cells)}: {name}{'' if error is None else f' failed: {error}'}")


def _spread(config: AttackConfig, pieces: Mapping[str, Any], folder: Path) -> Iterable[tuple[str, Exception | None]]:
    with reached(config.cluster if pieces else None) as cluster:
        yield from spread(pieces, folder, cluster=cluster, processes=config.processes)


def further_cells(config: AttackConfig, rows: Sequence[Row]) -> list[Cell]:
    """The cells of the suite's further seeds: of each defended teacher the worst attacks of all and the worst at each
    tier, by validation problems, and the arms that R is made of there."""
    suite = config.chosen_suite
    if not suite.worst_seeds or not config.further_seeds:
        return []
    chosen: dict[tuple[str, str, str], Cell] = {}
    for target, attacker in product((t for t in config.targets if not t.original), config.all_attackers):
        tiers = [tier_of(name, access, rows, target.label, attacker) for name, access in suite.tiers.items()]
        attacks = {row.arm.name: row for tier in tiers for row in tier.attacks.values()}
        worst = sorted(attacks.values(), key=lambda row: of(row).validation, reverse=True)[: suite.worst]
        again = [*worst, *(row for tier in tiers for row in (tier.worst, tier.control, tier.undefended) if row)]
        # Reinforcement draws its problems by its own seed, so that another one would train on other problems.
        again = [row for row in again if row.arm.kind != "untrained" and row.arm.attack.budget == "traces"]
        chosen |= {(row.cell.target.label, row.arm.name, attacker): row.cell for row in again}
    return [
        config.cell(cell.target, cell.arm, cell.attacker, seed)
        for seed in suite.worst_seeds
        for cell in chosen.values()
    ]


def _results(work: Work, ledger: Ledger, cells: Sequence[Cell]) -> tuple[dict[str, Mapping[str, Any]], dict[str, str]]:
    """The results of finished cells by name, and the reasons of those that failed."""
    results, failed = {}, {}
    for cell in cells:
        place = work.place(cell)
        if (result := ledger.result(cell.name, place)) is not None:
            results[cell.name] = result
        elif (failure := failure_in(place)) is not None:
            failed[cell.name] = failure.reason
    return results, failed
