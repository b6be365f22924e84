"""The main job end to end: show the traps, turn the knob both ways, distil a student from each teacher, report."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distillknob.config.recipe import stage_config
from distillknob.diagnosis import diagnose
from distillknob.errors import BadInputError
from distillknob.experiments.cell import run_cell
from distillknob.experiments.plan import Cell, ExperimentConfig, Step, check
from distillknob.experiments.tables import tables
from distillknob.inputs.identity import changed_meanwhile, read_by
from distillknob.inputs.preflight import Preflight
from distillknob.report import build_report
from distillknob.runs.run import Run, load_run
from distillknob.runtime.processes import process_count
from distillknob.tasks import get_task

__all__ = ["DemoConfig", "check", "demo"]


@dataclass
class DemoConfig(ExperimentConfig):
    """Config of `demo`; the stages' own settings stand in the recipe's sections."""

    eta_distillable: float = field(
        default=-0.5, metadata={"help": "η of one calibrated teacher, below 0: meant to be easier to learn from."}
    )
    eta_undistillable: float = field(default=0.5, metadata={"help": "η of the other, above 0: meant to be harder."})
    methods: list[str] = field(default_factory=lambda: ["gkd"], metadata={"help": "Students of each teacher."})
    examples: int = field(default=3, metadata={"help": "Problems a task whose answers the report shows side by side."})
    seed: int = field(default=0, metadata={"help": "Seed of calibration, traces and distillation."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.eta_distillable < 0 < self.eta_undistillable:
            raise BadInputError(
                f"eta_distillable={self.eta_distillable}, eta_undistillable={self.eta_undistillable}: the first must "
                "be below 0 and the second above"
            )
        if not self.methods:
            raise BadInputError("methods is empty: name at least one, e.g. gkd")

    @property
    def lens(self) -> Any:
        """The config of the diagnosis that comes before the cells."""
        return stage_config("diagnose", self.recipe, seed=self.seed)

    def planned(self) -> dict[str, Step]:
        """The stages of the cells, and before them the diagnosis."""
        return {"diagnose": Step("diagnose", self.lens), **super().planned()}

    def cells(self) -> list[Cell]:
        """The original teacher and those calibrated below and above 0, in the order of work."""
        etas = (0.0, self.eta_distillable, self.eta_undistillable)
        return [Cell(eta, self.seed, tuple(self.methods), self.sizes, self.learning_rates) for eta in etas]


def demo(config: DemoConfig, output: str | Path, *, resume: bool = False) -> Run:
    """Run the demo of `config.recipe` and return the run; `report.html` lies in its directory."""
    preflight = Preflight(process_count())
    check(config, preflight)
    preflight.tell()
    cells, lens = config.cells(), config.lens
    planned = [step.config for step in config.planned().values()]
    run = Run.open(output, "demo", config.recorded, read=read_by(*planned), resume=resume)
    if run.complete:
        return run
    started = time.monotonic()
    diagnosis = diagnose(lens, run.path / "diagnose", resume=True)
    run.log(stage="diagnose", seconds=time.monotonic() - started)
    done = []
    for cell in cells:
        done.append(run_cell(cell, config.recipe, run.path / cell.teacher))
        run.log(stage=cell.teacher, seconds=time.monotonic() - started)
    tasks = [get_task(name) for name in lens.tasks]
    paths: dict[str, Any] = {"diagnose": diagnosis.path.name, "calibrate": {}, "distill": {}, "evaluate": {}}
    for finished in done:
        for name, path in finished.result["runs"].items():
            kind, _, what = name.partition("/")
            key = finished.result["teacher"] + (f"/{what}" if what else "")
            paths[kind][key] = f"{finished.path.name}/{path}"
    run.finish(
        {
            "stage": "demo",
            "notes": changed_meanwhile(run, *planned),
            "pair": {
                "teacher": lens.teacher,
                "student": lens.student,
                "target": stage_config("calibrate", config.recipe).target,
            },
            "seed": config.seed,
            "eta": {cell.teacher: cell.eta for cell in cells if cell.eta},
            "tasks": [task.name for task in tasks],
            "chance": {task.name: task.chance for task in tasks},
            "verifiable": {task.name: task.verifiable for task in tasks},
            # Of all work on this run, also that of earlier, interrupted sessions.
            "seconds": _seconds(run),
            **tables(done),
            "runs": paths,
            "examples": _examples(done, config.examples),
        }
    )
    build_report(run.path)
    return run


def _seconds(run: Run) -> float:
    """Seconds over all sessions that worked on this run: each session's clock starts at zero."""
    total, last = 0.0, 0.0
    for row in run.metrics():
        if row["seconds"] < last:
            total += last
        last = row["seconds"]
    return total + last


def _examples(cells: list[Run], count: int) -> list[dict[str, Any]]:
    """The first problems of each task with the first answer of every teacher and student to them."""
    shown: dict[tuple[str, str], dict[str, Any]] = {}
    for cell in cells:
        for name, path in cell.result["runs"].items():
            if not name.startswith("evaluate/"):
                continue
            who = name.removeprefix("evaluate/")
            label = cell.result["label"]
            title = (
                f"teacher, {label}"
                if who == "teacher"
                else "student before distillation"
                if who == "student-none"
                else f"student of {label} ({who.removeprefix('student-')})"
            )
            seen: dict[str, set[str]] = {}
            for row in load_run(cell.path / path).samples():
                prompts = seen.setdefault(row["task"], set())
                if row["prompt"] in prompts or len(prompts) >= count:
                    continue
                prompts.add(row["prompt"])
                entry = shown.setdefault(
                    (row["task"], row["prompt"]),
                    {"task": row["task"], "prompt": row["prompt"], "reference": row["reference"], "answers": []},
                )
                answer = {name: row[name] for name in ("text", "score", "finished", "style")}
                teacher = "none" if who == "student-none" else cell.result["teacher"]
                entry["answers"].append({"who": title, "teacher": teacher, **answer})
    return list(shown.values())
