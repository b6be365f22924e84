"""What the command of a single stage does beside running its config: flags of its own, and its exit status."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distillknob.errors import BadInputError

if TYPE_CHECKING:
    from distillknob.runs.run import Run


@dataclass(frozen=True)
class Ending:
    """How a command ends: its exit status, and what it says of that on stderr."""

    status: int = 0
    note: str = ""


@dataclass(frozen=True)
class Extras:
    """The parts of a stage's command that no other has; every stage without a row has the defaults.

    `add_flags` adds flags that are no fields of the config. `answer` answers the command line without a run (an exit
    status), where it asks for that. `settings` are fields of the config that follow from what the recipe says to other
    stages; flags go before them. `passed` are fields that are no settings. `check` raises BadInputError for flags that
    the config makes useless. `end` says how the command ends."""

    add_flags: Callable[[argparse.ArgumentParser], object] = lambda parser: None
    answer: Callable[[argparse.Namespace], int | None] = lambda arguments: None
    settings: Callable[[Mapping[str, Any]], dict[str, Any]] = lambda recipe: {}
    passed: Callable[[argparse.Namespace], dict[str, Any]] = lambda arguments: {}
    check: Callable[[argparse.Namespace, Any], None] = lambda arguments, config: None
    end: Callable[[argparse.Namespace, Run], Ending] = lambda arguments, run: Ending()


# diagnose


def _add_compare(parser: argparse.ArgumentParser) -> None:
    about = "start no run: compare finished diagnoses of one student, problem by problem, with the first of them"
    parser.add_argument("--compare", nargs="+", metavar="RUN", help=about)


def _compare(arguments: argparse.Namespace) -> int | None:
    if not arguments.compare:
        return None
    from distillknob.cli.text import compare_text
    from distillknob.diagnosis.compare import compare_diagnoses
    from distillknob.runs.files import plain

    compared = compare_diagnoses(arguments.compare)
    print(json.dumps(plain(compared), indent=2) if arguments.json else compare_text(compared))
    return 0


def _knob(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The anchor and the reward of the recipe's calibrations, for which a diagnosis tells how far the knob turns."""
    from distillknob.experiments.plan import knob_of

    return {name: value for name, value in knob_of(recipe).items() if name not in recipe}


# calibrate


def _add_require_turned(parser: argparse.ArgumentParser) -> None:
    about = "exit with status 1 unless the knob turned (the run is kept)"
    parser.add_argument("--require-turned", action="store_true", help=about)


def _check_turns(arguments: argparse.Namespace, config: Any) -> None:
    if arguments.require_turned and config.eta == 0:
        raise BadInputError(
            "--require-turned with eta=0, which turns nothing: set eta to other than 0, or leave it out"
        )


def _turned(arguments: argparse.Namespace, run: Run) -> Ending:
    from distillknob.verdicts.turning import TURNED

    if not arguments.require_turned or (run.result.get("turned") or {}).get("verdict") == TURNED:
        return Ending()
    return Ending(1, f"--require-turned: the knob did not turn, or nobody can tell; {run.path} is kept")


# evaluate


def _pair(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The `models` to evaluate where a recipe names a pair and no `models`: that pair, not the embedded one."""
    pair = [recipe[side] for side in ("teacher", "student") if side in recipe]
    named = "models" in recipe or "models" in (recipe.get("evaluate") or {})
    return {"models": pair} if pair and not named else {}


# prune


def _the_teacher(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The model to prune where a recipe names a teacher and no `model`: that one, not the embedded one."""
    named = "model" in recipe or "model" in (recipe.get("prune") or {})
    return {"model": recipe["teacher"]} if "teacher" in recipe and not named else {}


# sweep


def _add_cells(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cell", type=int, metavar="N", help="run only cell number N (from 0)")
    _add_cluster(parser)


def _add_cluster(parser: argparse.ArgumentParser) -> None:
    about = "run the cells on a Ray cluster: local (this machine), auto (the one it has joined) or HOST:PORT"
    parser.add_argument("--ray", metavar="ADDRESS", help=about)
    parser.add_argument("--cell-cpus", type=float, metavar="N", help="with --ray: CPUs that a cell takes (default: 1)")
    about = "with --ray: GPUs that a cell takes, or a share of one (default: 1 where the cluster has GPUs)"
    parser.add_argument("--cell-gpus", type=float, metavar="N", help=about)


def _which_and_where(arguments: argparse.Namespace) -> dict[str, Any]:
    return {"only": arguments.cell, **_where(arguments)}


def _where(arguments: argparse.Namespace) -> dict[str, Any]:
    from distillknob.runtime.cluster import ClusterOptions

    sizes = {"cpus": arguments.cell_cpus, "gpus": arguments.cell_gpus}
    sizes = {name: value for name, value in sizes.items() if value is not None}
    if arguments.ray is None and sizes:
        raise BadInputError("--cell-cpus and --cell-gpus say what a cell takes on a Ray cluster: add --ray ADDRESS")
    cluster = None if arguments.ray is None else ClusterOptions(arguments.ray, **sizes)
    return {"cluster": cluster}


def _so_far(arguments: argparse.Namespace, run: Run) -> Ending:
    if run.complete:
        return Ending()
    return Ending(0, f"cell {arguments.cell} is done; the report so far: {run.path / 'report.html'}")


# attack and compare


def _failed_cells(arguments: argparse.Namespace, run: Run) -> Ending:
    if run.complete:
        return Ending()
    report = run.path / "report.html"
    return Ending(1, f"some cells failed; --resume tries them once more. The report so far: {report}")


EXTRAS = {
    "diagnose": Extras(add_flags=_add_compare, answer=_compare, settings=_knob),
    "calibrate": Extras(add_flags=_add_require_turned, check=_check_turns, end=_turned),
    "evaluate": Extras(settings=_pair),
    "prune": Extras(settings=_the_teacher),
    "compare": Extras(add_flags=_add_cluster, passed=_where, end=_failed_cells),
    "attack": Extras(add_flags=_add_cluster, passed=_where, end=_failed_cells),
    "sweep": Extras(add_flags=_add_cells, passed=_which_and_where, end=_so_far),
}


def extras_of(stage: str) -> Extras:
    """The stage's own parts, or the defaults of a stage that has none."""
    return EXTRAS.get(stage, Extras())
