"""A recipe × η values × seeds, into one knob curve. Cells are kept one by one; the work can be spread and resumed.

Beside the grid there may be variants: cells with other settings of the stages, as controls. Their figures stand apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distillknob.config.experiment import check as check_stages
from distillknob.config.fields import NO_SETTING
from distillknob.errors import BadInputError, nearest
from distillknob.experiments.bounds import bounds
from distillknob.experiments.cell import cell_config, of_its_stages, read_by_cell, run_cell
from distillknob.experiments.counter import StageCounter
from distillknob.experiments.counterparts import pairs
from distillknob.experiments.over_seeds import over_seeds
from distillknob.experiments.plan import MODELS, Cell, ExperimentConfig
from distillknob.experiments.spread import check_started_once, spread_cells
from distillknob.experiments.tables import causal, knob, tables
from distillknob.inputs.opening import checked
from distillknob.inputs.preflight import Preflight
from distillknob.report.page import build_report
from distillknob.results.experiments import SweepResult, Tables
from distillknob.results.schema import with_schema
from distillknob.runs.files import atomic_write, json_bytes, plain
from distillknob.runs.kept import CellRecord, check_can_keep, keep_cell, read_cells, record_of
from distillknob.runs.records import check_config, check_reads
from distillknob.runs.run import MANIFEST, RESULT, Run, load_run
from distillknob.runtime.cluster import Cluster, ClusterOptions, reached
from distillknob.runtime.processes import notice, process_index, wait
from distillknob.stages import CHAINED
from distillknob.verdicts.teachers import TASK_ALONE

# Without `evaluate`: a variant is set beside the grid problem by problem.
OF_A_VARIANT = ("etas", "seeds", "methods", *MODELS, *(stage for stage in CHAINED if stage != "evaluate"))
_KINDS = {"stage": (Mapping, "a mapping"), "model": (str, "a model's name"), "list": (list, "a list")}


@dataclass
class SweepConfig(ExperimentConfig):
    """Config of `sweep`; the stages' own settings stand in the recipe's sections."""

    etas: list[float] = field(
        default_factory=lambda: [-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0], metadata={"help": "Values of the knob η."}
    )
    seeds: list[int] = field(
        default_factory=lambda: [0, 1, 2], metadata={"help": "Seeds; each η is run with each of them."}
    )
    methods: list[str] = field(
        default_factory=lambda: ["gkd"], metadata={"help": "Methods by which students of each teacher are trained."}
    )
    controls: list[str] = field(
        default_factory=list, metadata={"help": "More methods, for the original teacher alone, such as sft_gold."}
    )
    settings: dict[str, dict[str, Any]] = field(
        default_factory=dict,
        metadata={"help": "By stage: settings that replace the recipe's in all cells of the sweep."},
    )
    variants: dict[str, dict[str, Any]] = field(
        default_factory=dict,
        metadata={
            "help": "By name: further cells with other settings. Each may name etas, seeds, methods, sections of "
            "stages, and another pair (teacher, student, target)."
        },
    )
    task_alone: bool = field(
        default=False,
        metadata={
            "help": "For each seed, also calibrate a teacher at η = 0, by the task's reward and the anchor alone: what "
            "students of a turned teacher gain beyond its students is the knob's."
        },
    )
    built_by: dict[str, str] = field(
        default_factory=dict,
        metadata={
            "help": "By model folder: the command that builds it. It is kept with the cells, beside the hash of the "
            "weights."
        },
    )
    lens: bool = field(
        default=False, metadata={"help": "Diagnose every teacher of the sweep too, for the causal table."}
    )
    kept: str | None = field(
        default=None,
        metadata={"help": "File of finished cells (.jsonl.gz), which are read from there and not run again."},
    )
    # The number of the only cell to run now, from 0. The sweep's directory may be shared by those who run the others.
    only: int | None = field(default=None, metadata=NO_SETTING)
    # The Ray cluster on which the cells run, each in a process of its own; without one they run on this machine.
    cluster: ClusterOptions | None = field(default=None, metadata=NO_SETTING)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.etas or not self.seeds or not self.methods:
            raise BadInputError("etas, seeds and methods must each hold at least one value")
        if any(not math.isfinite(eta) for eta in self.etas) or len(set(self.etas)) < len(self.etas):
            raise BadInputError(f"etas={self.etas}: want different, finite values")
        _check_keys("settings", self.settings, CHAINED)
        for name, values in self.variants.items():
            _check_keys(f"the variant {name!r}", values, OF_A_VARIANT)
        if self.task_alone and TASK_ALONE in self.variants:
            raise BadInputError(
                f"a variant is called {TASK_ALONE!r}, as the control of task_alone is: give it another name"
            )
        if self.only is not None and not 0 <= self.only < len(self.cells()):
            raise BadInputError(f"cell {self.only}: this sweep has cells 0 to {len(self.cells()) - 1}")
        if self.cluster is not None and self.only is not None:
            raise BadInputError(f"cell {self.only} on a Ray cluster: leave --cell out, the cluster takes all cells")

    def cells(self) -> list[Cell]:
        """Cells in the order of work: every η of the first seed, then of the next, then the variants."""
        return [*self.grid(), *self.controls_apart()]

    def grid(self) -> list[Cell]:
        """The cells of the knob curve."""
        return [
            Cell(
                eta,
                seed,
                tuple(dict.fromkeys([*self.methods, *(self.controls if eta == 0 else [])])),
                sizes=self.sizes,
                learning_rates=self.learning_rates,
                lens=self.lens,
                settings=self.settings,
            )
            for seed in self.seeds
            for eta in self.etas
        ]

    def controls_apart(self) -> list[Cell]:
        """The cells of the variants, and before them those of the task alone."""
        return [*self._of_task_alone(), *self._of_variants()]

    def _of_task_alone(self) -> list[Cell]:
        return [
            Cell(
                0.0,
                seed,
                tuple(self.methods),
                sizes=self.sizes,
                learning_rates=self.learning_rates,
                variant=TASK_ALONE,
                settings=self.settings,
                task_alone=True,
            )
            for seed in (self.seeds if self.task_alone else [])
        ]

    def _of_variants(self) -> list[Cell]:
        return [
            Cell(
                float(eta),
                int(seed),
                tuple(values.get("methods", self.methods)),
                sizes=self.sizes,
                learning_rates=self.learning_rates,
                variant=name,
                settings=self._settings_of(values),
                models={role: values[role] for role in MODELS if role in values},
            )
            for name, values in self.variants.items()
            for seed in values.get("seeds", self.seeds)
            for eta in values.get("etas", self.etas)
        ]

    def _settings_of(self, values: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """The sections of stages of a variant: the sweep's, but for the models that the variant replaces, and its
        own."""
        common = {
            stage: {name: value for name, value in section.items() if name not in MODELS or name not in values}
            for stage, section in self.settings.items()
        }
        return {
            stage: {**common.get(stage, {}), **values.get(stage, {})}
            for stage in CHAINED
            if stage in values or stage in common
        }


def _check_keys(what: str, values: Mapping[str, Any], allowed: Sequence[str]) -> None:
    """Raise BadInputError for a key that isn't allowed there, and a value of another kind than the key has."""
    for key in values:
        if key not in allowed:
            guess = nearest(key, allowed) or f" known are {', '.join(allowed)}"
            raise BadInputError(f"{what} sets {key!r}:{guess}")
        kind, words = _KINDS["stage" if key in CHAINED else "model" if key in MODELS else "list"]
        if not isinstance(values[key], kind):
            raise BadInputError(f"{what} sets {key} to {values[key]!r}: give {words}")


def sweep(config: SweepConfig, output: str | Path, *, resume: bool = False) -> Run:
    """Run every cell of the sweep, or the one that `config.only` names, and once all are there write the tables and the
    report. Returns the run, which isn't complete before that.

    Several machines can share one output directory: each takes cells by number; whoever runs without `only` last makes
    the tables. Until then the report is of the cells that are there, made anew after each. Cells in the file
    `config.kept` are read there, and what is run is kept there too, without models and samples (`kept`). With
    `config.cluster` the cells run on a Ray cluster, side by side, and with `config.processes` so
    on this machine. What they give is the same up to rounding: sums depend on the number of threads. Raises
    BadInputError before any work for input that can't be used.
    """
    if config.cluster is not None or (config.processes > 1 and config.only is None):
        check_started_once("--processes" if config.cluster is None else "--ray")
    checked(check, config)
    cells, single = config.cells(), config.only is not None
    read = {cell.name: read_by_cell(cell, config.recipe) for cell in cells}
    _check_kept(config, read)
    with reached(config.cluster) as cluster:
        run = Run.open(
            output,
            "sweep",
            config.recorded,
            read={name: parts for of_cell in read.values() for name, parts in of_cell.items()},
            resume=resume or single,
            shared=single,
        )
        if run.complete:
            return run
        for _ in _cells(cells if config.only is None else [cells[config.only]], run, config, cluster):
            if process_index() == 0:
                _tell_so_far(run, config)
    if not single:
        run.finish(_result(run, config))
        build_report(run.path)
    return run


def check(config: SweepConfig, preflight: Preflight) -> None:
    """Raise BadInputError for a model that has still to be built, with the command, and for what any stage of the
    sweep couldn't use, before any weight is loaded."""
    for name, command in config.built_by.items():
        if not Path(name).expanduser().exists():
            raise BadInputError(f"there is no model {name} yet: build it with `{command}`")
    check_stages(config, preflight)


def _check_kept(config: SweepConfig, read: Mapping[str, Mapping[str, Mapping[str, str]]]) -> None:
    """Raise BadInputError where cells can't be kept, and for a kept cell of other settings, or of other inputs than
    `read` has under its name."""
    if config.kept is None:
        return
    check_can_keep(config.kept)
    kept, unrecorded = read_cells(config.kept), 0
    for cell in config.cells():
        if cell.name in kept:
            record, held = kept[cell.name], f"{config.kept} holds the cell {cell.name}"
            now = plain(cell_config(cell, config.recipe), finite=False)
            check_config(held, of_its_stages(record.config), now, flag="--kept")
            check_reads(f"the cell {cell.name} in {config.kept}", record.read or {}, read[cell.name], flag="--kept")
            unrecorded += record.read is None
    if unrecorded:
        notice(f"what {unrecorded} cells in {config.kept} read isn't recorded (by an older version): taken as they are")


def _tell_so_far(run: Run, config: SweepConfig) -> None:
    """The tables and the page of the cells that are there, whoever ran them; `finish` deletes the tables again."""
    run.unfinished.mkdir(exist_ok=True)
    atomic_write(run.unfinished / RESULT, json_bytes(with_schema(_result(run, config)), indent=2) + b"\n")
    build_report(run.path)


def _result(run: Run, config: SweepConfig) -> SweepResult:
    """What the finished cells say together."""
    kept = {} if config.kept is None else read_cells(config.kept)
    done = _finished(run, config) | kept
    cells = [done[cell.name] for cell in config.cells() if cell.name in done]
    together = tables(cells)
    of_grid = _part(together, variants=False)
    return {
        "stage": "sweep",
        "etas": config.etas,
        "seeds": config.seeds,
        "teachers": of_grid["teachers"],
        "students": of_grid["students"],
        "differences": of_grid["differences"],
        "gains": of_grid["gains"],
        "knob_alone": of_grid["knob_alone"],
        "claims": of_grid["claims"],
        "knob": knob(of_grid["students"]),
        "causal": causal([cell for cell in cells if not cell.result["variant"]]),
        "variants": _part(together, variants=True),
        "over_seeds": over_seeds(cells),
        "bounds": bounds(cells),
        "pairs": pairs(cells),
        "cells": [
            {
                "eta": cell.eta,
                "seed": cell.seed,
                "variant": cell.variant,
                "path": str(_place(cell, run) if cell.name not in kept else config.kept),
                "state": "done" if cell.name in done else "not run",
            }
            for cell in config.cells()
        ],
    }


def _part(together: Tables, *, variants: bool) -> Tables:
    """The rows of the variants, or of the grid."""
    return {
        "teachers": [row for row in together["teachers"] if bool(row.get("variant")) == variants],
        "students": [row for row in together["students"] if bool(row.get("variant")) == variants],
        "differences": [row for row in together["differences"] if bool(row.get("variant")) == variants],
        "gains": [row for row in together.get("gains", []) if bool(row.get("variant")) == variants],
        "knob_alone": [row for row in together.get("knob_alone", []) if bool(row.get("variant")) == variants],
        "claims": [row for row in together.get("claims", []) if bool(row.get("variant")) == variants],
    }


def _finished(run: Run, config: SweepConfig) -> dict[str, CellRecord]:
    """The cells that are complete in the sweep's directory, by name."""
    places = {cell.name: _place(cell, run) for cell in config.cells()}
    return {name: record_of(load_run(place)) for name, place in places.items() if (place / MANIFEST).exists()}


def _place(cell: Cell, run: Run) -> Path:
    """Where the cell's run directory is, or will be."""
    return run.path / "cells" / cell.name


def _cells(cells: Sequence[Cell], run: Run, config: SweepConfig, cluster: Cluster | None) -> Iterator[str]:
    """The name of each finished cell: those that were kept or are complete, and then those that are run now, one after
    the other, or as they finish in processes of this machine or on the cluster."""
    folder, missing = run.path / "cells", []
    kept = {} if config.kept is None else read_cells(config.kept)
    counter = StageCounter(config, [cell for cell in cells if cell.name not in kept])
    side_by_side = cluster is not None or (config.processes > 1 and len(cells) > 1)
    for cell in cells:
        if cell.name in kept:
            yield cell.name
        elif side_by_side and not (folder / cell.name / MANIFEST).exists():
            missing.append(cell)
        else:
            yield _keep(run_cell(cell, config.recipe, folder / cell.name, counter=counter), config)
    if missing:
        for done in spread_cells(missing, config, {cell.name: folder / cell.name for cell in missing}, cluster):
            yield _keep(done, config)


def _keep(cell: Run, config: SweepConfig) -> str:
    """The name of the finished cell, which the file of kept cells, where there is one, gets."""
    if config.kept is not None and process_index() == 0:
        keep_cell(config.kept, record_of(cell, config.built_by))
    wait()
    return cell.path.name
