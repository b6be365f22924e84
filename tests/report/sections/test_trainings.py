"""A sweep's page tells differences over trainings before those over problems, pair by pair."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from distillknob.experiments.bounds import bounds
from distillknob.experiments.counterparts import pairs
from distillknob.experiments.over_seeds import over_seeds
from distillknob.report.drawing.markup import points, points_range
from distillknob.report.page import build_report
from distillknob.runs.kept import CellRecord
from planted_cells import planted_cell, problems
from planted_runs import Page, sweep_run

OTHER = {"teacher": "runs/pairs/teacher-1"}
READ = {"model runs/pairs/teacher-1": {"model.safetensors": "ab" * 32}}


def page(folder: Path, cells: list[CellRecord]) -> str:
    path = sweep_run(folder / "sweep")
    result = json.loads((path / "result.json").read_text())
    result |= {"over_seeds": over_seeds(cells), "bounds": bounds(cells), "pairs": pairs(cells)}
    (path / "result.json").write_text(json.dumps(result))
    return Page(build_report(path, folder / "page.html")).text.replace("\N{NO-BREAK SPACE}", " ")


def cells_of(seeds: int, variant: str = "", gain: float = 0.2, **values: Any) -> list[CellRecord]:
    def own(eta: float, seed: int) -> CellRecord:
        score = 0.5 if eta == 0 else 0.5 + gain + 0.01 * seed
        return planted_cell(eta, seed, variant=variant, gkd={"math": problems(score)}, **values)

    return [own(eta, seed) for seed in range(seeds) for eta in (0.0, -0.5)]


def test_trainings_come_before_problems(tmp_path: Path) -> None:
    text = page(tmp_path, cells_of(3))
    assert "Of 2 differences to the original over several trainings, 1 are off zero." in text
    row = next(row for row in over_seeds(cells_of(3)) if (row["who"], row["a"]) == ("gkd", "original"))
    told = "".join([points(row["difference"]), points_range(row["trainings"]), points_range(row["problems"])])
    assert f"{told}+20.0 +21.0 +22.0".replace("\N{NO-BREAK SPACE}", " ") in text


def test_one_training_is_said_to_be_one(tmp_path: Path) -> None:
    text = page(tmp_path, cells_of(1))
    assert "whether another would give the same isn't known" in text and "one training" in text


def test_pairs_stand_apart_with_their_models_and_bounds(tmp_path: Path) -> None:
    cells = [*cells_of(1), *cells_of(1, "retrained", 0.05, recipe=OTHER, read=READ)]
    for way, score in (("every_step", 0.8), ("two_at_a_time", 0.3)):
        recipe = {"distill": {"ways": {"math": way}}}
        cells.append(planted_cell(0.0, variant=way, recipe=recipe, gkd={"math": problems(score)}))
    text = page(tmp_path, cells)
    assert text.index("zoo:teacher → zoo:student") < text.index("runs/pairs/teacher-1 → zoo:student")
    assert "ab" * 32 in text
    assert "What a student could gain or lose in principle" in text
    assert "best: every step+30.0" in text and "worst: two at a time−20.0" in text
