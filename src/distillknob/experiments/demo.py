"""The main job end to end: show the traps, turn the knob both ways, distil a student from each teacher, report."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distillknob.config.experiment import Step, check
from distillknob.config.recipe import stage_config
from distillknob.diagnosis.stage import diagnose
from distillknob.errors import BadInputError
from distillknob.experiments.cell import run_cell
from distillknob.experiments.counter import StageCounter
from distillknob.experiments.plan import Cell, ExperimentConfig, knob_of
from distillknob.experiments.spread import check_started_once, spread_cells
from distillknob.experiments.tables import tables
from distillknob.inputs.identity import changed_meanwhile, read_by
from distillknob.inputs.opening import checked
from distillknob.report.page import build_report
from distillknob.results.children import child_run, children, in_experiment
from distillknob.results.examples import ExampleRow
from distillknob.results.experiments import ChildRun, DemoResult
from distillknob.runs.kept import record_of
from distillknob.runs.run import MANIFEST, Run, load_run
from distillknob.tasks import get_task


@dataclass
class DemoConfig(ExperimentConfig):
    """Config of `demo`; the stages' own settings stand in the recipe's sections."""

    eta_distillable: float = field(
        default=-0.5, metadata={"help": "η of one calibrated teacher, below 0: meant to be easier to learn from."}
    )
    eta_undistillable: float = field(default=0.5, metadata={"help": "η of the other, above 0: meant to be harder."})
    methods: list[str] = field(
        default_factory=lambda: ["gkd"], metadata={"help": "Methods by which students of each teacher are trained."}
    )
    examples: int = field(
        default=3, metadata={"help": "Problems per task whose answers the report shows side by side."}
    )
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
    def pair_diagnosis(self) -> Any:
        """The config of the diagnosis that comes before the cells."""
        knob = knob_of(self.recipe, (self.eta_distillable, self.eta_undistillable))
        return stage_config("diagnose", self.recipe, seed=self.seed, **knob)

    def planned(self) -> dict[str, Step]:
        """The stages of the cells, and before them the diagnosis."""
        return {"diagnose": Step("diagnose", self.pair_diagnosis), **super().planned()}

    def cells(self) -> list[Cell]:
        """The original teacher and those calibrated below and above 0, in the order of work."""
        etas = (0.0, self.eta_distillable, self.eta_undistillable)
        return [Cell(eta, self.seed, tuple(self.methods), self.sizes, self.learning_rates) for eta in etas]


def demo(config: DemoConfig, output: str | Path, *, resume: bool = False) -> Run:
    """Run the demo of `config.recipe` and return the run; `report.html` lies in its directory.

    With `config.processes` the cells run side by side, after the diagnosis. Raises BadInputError before any work for
    input that can't be used.
    """
    if config.processes > 1:
        check_started_once("--processes")
    checked(check, config)
    cells, settings = config.cells(), config.pair_diagnosis
    planned = [step.config for step in config.planned().values()]
    run = Run.open(output, "demo", config.recorded, read=read_by(*planned), resume=resume)
    if run.complete:
        return run
    started = time.monotonic()
    counter = StageCounter(config, cells, before=["diagnose"])
    with counter.stage("diagnose", run.path / "diagnose", "diagnose the pair"):
        diagnosis = diagnose(settings, run.path / "diagnose", resume=True)
    run.log(stage="diagnose", seconds=time.monotonic() - started)
    places = {cell.name: run.path / cell.teacher for cell in cells}
    finished: dict[Path, Run] = {}
    for one in _cells(cells, config, places, counter):
        finished[one.path] = one
        run.log(stage=one.path.name, seconds=time.monotonic() - started)
    done = [finished[place] for place in places.values()]
    tasks = [get_task(name) for name in settings.tasks]
    inside = [
        child_run("diagnose", diagnosis.path.name),
        *(
            in_experiment(child, cell.result["teacher"], cell.path.name)
            for cell in done
            for child in children(cell.result)
        ),
    ]
    together = tables([record_of(cell) for cell in done])
    result: DemoResult = {
        "stage": "demo",
        "notes": changed_meanwhile(run, *planned),
        "pair": {
            "teacher": settings.teacher,
            "student": settings.student,
            "target": stage_config("calibrate", config.recipe).target,
        },
        "seed": config.seed,
        "eta": {cell.teacher: cell.eta for cell in cells if cell.eta},
        "tasks": [task.name for task in tasks],
        "chance": {task.name: task.chance for task in tasks},
        "verifiable": {task.name: task.verifiable for task in tasks},
        # Of all work on this run, also that of earlier, interrupted sessions.
        "seconds": _seconds(run),
        "teachers": together["teachers"],
        "students": together["students"],
        "differences": together["differences"],
        "gains": together["gains"],
        "claims": together["claims"],
        "runs": {
            "diagnose": diagnosis.path.name,
            "calibrate": _paths(inside, "calibrate"),
            "distill": _paths(inside, "distill"),
            "evaluate": _paths(inside, "evaluate"),
        },
        "children": inside,
        "examples": _examples(done, config.examples),
    }
    run.finish(result)
    build_report(run.path)
    return run


def _cells(
    cells: Sequence[Cell], config: DemoConfig, places: Mapping[str, Path], counter: StageCounter
) -> Iterator[Run]:
    """Each cell as it is done: one after the other, or in several processes."""
    side_by_side = config.processes > 1
    missing = [cell for cell in cells if side_by_side and not (places[cell.name] / MANIFEST).exists()]
    for cell in cells:
        if cell not in missing:
            yield run_cell(cell, config.recipe, places[cell.name], counter=counter)
    if missing:
        yield from spread_cells(missing, config, places)


def _paths(inside: Sequence[ChildRun], stage: str) -> dict[str, str]:
    return {child["name"]: child["path"] for child in inside if child["stage"] == stage}


def _seconds(run: Run) -> float:
    """Seconds over all sessions that worked on this run: each session's clock starts at zero."""
    total, last = 0.0, 0.0
    for row in run.metrics():
        if row["seconds"] < last:
            total += last
        last = row["seconds"]
    return total + last


def _examples(cells: Sequence[Run], count: int) -> list[ExampleRow]:
    """The first problems of each task with the first answer of every teacher and student to them."""
    shown: dict[tuple[str, str], ExampleRow] = {}
    for cell in cells:
        # What measures pass@k apart holds more answers of the same students.
        for child in (one for one in children(cell.result) if one["stage"] == "evaluate" and not one["at_k"]):
            title = _whose_answers(child, cell.result["label"])
            teacher = "none" if child["method"] == "none" else cell.result["teacher"]
            seen: dict[str, set[str]] = {}
            for row in load_run(cell.path / child["path"]).samples():
                prompts = seen.setdefault(row["task"], set())
                if row["prompt"] in prompts or len(prompts) >= count:
                    continue
                prompts.add(row["prompt"])
                entry = shown.setdefault(
                    (row["task"], row["prompt"]),
                    {"task": row["task"], "prompt": row["prompt"], "reference": row["reference"], "answers": []},
                )
                entry["answers"].append(
                    {
                        "who": title,
                        "teacher": teacher,
                        "text": row["text"],
                        "score": row["score"],
                        "finished": row["finished"],
                        "style": row["style"],
                    }
                )
    return list(shown.values())


def _whose_answers(evaluation: ChildRun, label: str) -> str:
    """Whose answers an evaluation in the cell of the teacher called `label` holds, as the page says it."""
    method = evaluation["method"]
    if method is None:
        return f"teacher, {label}"
    return "student before distillation" if method == "none" else f"student of {label} ({method})"
