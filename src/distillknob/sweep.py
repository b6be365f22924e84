"""A recipe × η values × seeds, into one knob curve. Cells are kept one by one; the work can be spread and resumed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distillknob.errors import BadInputError
from distillknob.experiment import Cell, ExperimentConfig, check_recipe, run_cell, tables
from distillknob.report import build_report
from distillknob.runs import Run
from distillknob.stats import spearman


@dataclass
class SweepConfig(ExperimentConfig):
    """Config of `sweep`; the stages' own settings stand in the recipe's sections."""

    etas: list[float] = field(
        default_factory=lambda: [-1.0, -0.5, -0.25, 0.0, 0.25, 0.5, 1.0], metadata={"help": "Values of the knob."}
    )
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "Seeds."})
    methods: list[str] = field(default_factory=lambda: ["gkd"], metadata={"help": "Students of each teacher."})
    controls: list[str] = field(
        default_factory=list, metadata={"help": "More methods for the original teacher alone, e.g. sft_gold."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.etas or not self.seeds or not self.methods:
            raise BadInputError("etas, seeds and methods must each hold at least one value")
        if any(not math.isfinite(eta) for eta in self.etas) or len(set(self.etas)) < len(self.etas):
            raise BadInputError(f"etas={self.etas}: want different, finite values")

    def cells(self) -> list[Cell]:
        """Cells in the order of work: every η of the first seed, then of the next."""
        return [
            Cell(
                eta,
                seed,
                tuple(dict.fromkeys([*self.methods, *(self.controls if eta == 0 else [])])),
                self.teacher_evaluation,
            )
            for seed in self.seeds
            for eta in self.etas
        ]


def sweep(
    config: SweepConfig,
    recipe: Mapping[str, Any],
    output: str | Path,
    *,
    resume: bool = False,
    only: int | None = None,
) -> Run:
    """Run every cell (or the cell number `only`, from 0) and, once all are there, the table and the report.

    Several machines can share one output directory: each takes cells by number; whoever runs without `only` last makes
    the table. Raises BadInputError before any work for input that can't be used.
    """
    cells = config.cells()
    check_recipe(recipe, cells)
    if only is not None and not 0 <= only < len(cells):
        raise BadInputError(f"cell {only}: this sweep has cells 0 to {len(cells) - 1}")
    run = Run.open(output, "sweep", {**vars(config), "recipe": dict(recipe)}, resume=resume or only is not None)
    if run.complete:
        return run
    chosen = cells if only is None else [cells[only]]
    done = [run_cell(cell, recipe, run.path / "cells" / cell.name) for cell in chosen]
    if only is not None:
        return run
    found = tables(done)
    run.finish(
        {
            "stage": "sweep",
            "etas": config.etas,
            "seeds": config.seeds,
            **found,
            "knob": _knob(found["students"]),
            "cells": [
                {"eta": cell.eta, "seed": cell.seed, "path": f"cells/{cell.name}", "state": "done"} for cell in cells
            ],
        }
    )
    build_report(run.path)
    return run


def _knob(students: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rank correlation of η with the students' pass@1, by method, task and seed."""
    groups: dict[tuple[str, str, int], list[tuple[float, float]]] = {}
    for row in students:
        if row["method"] != "none":
            groups.setdefault((row["method"], row["task"], row["seed"]), []).append((row["eta"], row["pass@1"]))
    return [
        {
            "method": method,
            "task": task,
            "seed": seed,
            "spearman": spearman(*zip(*points, strict=True)) if len(points) > 2 else math.nan,
            "points": len(points),
        }
        for (method, task, seed), points in groups.items()
    ]
