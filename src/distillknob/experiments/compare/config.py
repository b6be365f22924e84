"""The config of `compare`, and the cells that it plans."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from distillknob.config.checks import check_at_least_one
from distillknob.config.experiment import PlannedConfig, Step
from distillknob.config.fields import NO_SETTING, fields_of
from distillknob.config.recipe import stage_config
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.phases import InPhases
from distillknob.errors import BadInputError, nearest
from distillknob.experiments.compare.grid import BUDGET, Entry, Grid, Teacher, teachers_of
from distillknob.experiments.compare.work import BEFORE, Cell, steps
from distillknob.methods import METHODS
from distillknob.models.labels import plain_name
from distillknob.runtime.cluster import ClusterOptions
from distillknob.stages import EXPERIMENTS

ALL = "all"
SECTIONS = ("distill", "evaluate")  # of the recipe
# What the comparison itself sets, and what all methods have to have in common.
_OF_THE_COMPARISON = (
    "method",
    "teacher",
    "student",
    "tasks",
    "seed",
    "problem_seed",
    "curve_steps",
    "max_steps",
    "num_train_epochs",
    "learning_rate",
    BUDGET,
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
)


@dataclass
class CompareConfig(PlannedConfig):
    """Config of `compare`; how a student is trained and measured stands in the recipe's sections `distill` and
    `evaluate`."""

    how_it_is_done: ClassVar[tuple[str, ...]] = ("processes", "kept")

    methods: list[str] = field(
        default_factory=lambda: [ALL],
        metadata={
            "help": "Methods to compare. all: every one that applies to the pair; of the others the reason is told."
        },
    )
    baseline: str = field(default="gkd", metadata={"help": "Method that the others are compared with."})
    teachers: list[str] = field(
        default_factory=list,
        metadata={"help": "Teachers, each [LABEL=]SPEC: a folder, hub id or zoo:NAME. Default: the recipe's teacher."},
    )
    seeds: list[int] = field(default_factory=lambda: [0], metadata={"help": "Seeds of traces and trainings."})
    further_seeds: list[int] = field(
        default_factory=list, metadata={"help": "More seeds, with which further_methods alone are trained."}
    )
    further_methods: list[str] = field(
        default_factory=list, metadata={"help": "Methods that are trained with further_seeds too."}
    )
    tasks: list[str] = field(default_factory=lambda: ["math"], metadata={"help": "Tasks whose problems are used."})
    separate_tasks: bool = field(
        default=False, metadata={"help": "Train a student for each task, not one on all tasks together."}
    )
    rate_multiples: list[float] = field(
        default_factory=lambda: [0.5, 1.0, 2.0],
        metadata={"help": "Learning rates to try for each method, as multiples of the recipe's."},
    )
    rate_steps: int = field(default=50, metadata={"help": "Steps of each training that tries a rate."})
    rate_problems: int = field(
        default=100, metadata={"help": "Problems per task on which a rate is chosen, held back from the train split."}
    )
    rate_samples: int = field(default=1, metadata={"help": "Samples for each of them."})
    learning_rates: dict[str, float] = field(
        default_factory=dict, metadata={"help": "Learning rates by method. None is searched for these."}
    )
    settings: dict[str, dict[str, Any]] = field(
        default_factory=dict,
        metadata={"help": "By stage (distill, evaluate): settings that replace the recipe's in the comparison."},
    )
    of_methods: dict[str, dict[str, Any]] = field(
        default_factory=dict,
        metadata={
            "help": "By method: settings of distill for that method alone, such as files or teachers that it needs."
        },
    )
    keep_models: bool = field(
        default=False, metadata={"help": "Keep the students' weights and samples, beside what was measured."}
    )
    kept: str | None = field(
        default=None,
        metadata={"help": "File of finished cells (.jsonl.gz), which are read from there and not run again."},
    )
    processes: int = field(default=1, metadata={"help": "Cells that run at once on this machine."})
    # The Ray cluster on which the cells run, each in a process of its own.
    cluster: ClusterOptions | None = field(default=None, metadata=NO_SETTING)
    # Which methods are trained on which teachers: decided by the check (`stage.check`), before any work.
    grid: Grid = field(default_factory=Grid, init=False, metadata=NO_SETTING)

    def __post_init__(self) -> None:
        check_at_least_one(self, "rate_steps", "rate_problems", "rate_samples", "processes")
        for name in ("methods", "seeds", "tasks", "rate_multiples"):
            values = getattr(self, name)
            if not values or len(set(values)) < len(values):
                raise BadInputError(f"{name}={values}: name at least one, and each once")
        if ALL in self.methods and len(self.methods) > 1:
            raise BadInputError(f"methods={self.methods}: all has the others in it: give it alone, or name methods")
        named = [*(one for one in self.methods if one != ALL), self.baseline, *self.further_methods]
        for method in [*named, *self.learning_rates, *self.of_methods]:
            if method not in METHODS:
                guess = nearest(method, METHODS, otherwise=":")
                raise BadInputError(f"there is no method {method!r}{guess} known are {', '.join(METHODS)}")
        for method in [self.baseline, *self.further_methods]:
            if ALL not in self.methods and method not in self.methods:
                raise BadInputError(f"{method} is no method of methods={self.methods}: add it, or name one of them")
        if bool(self.further_seeds) != bool(self.further_methods):
            raise BadInputError(
                f"further_seeds={self.further_seeds}, further_methods={self.further_methods}: give both, or neither"
            )
        if self.further_methods and self.baseline not in self.further_methods:
            raise BadInputError(
                f"further_methods={self.further_methods} without the baseline {self.baseline}: further seeds would "
                "have nothing to be set beside: add it"
            )
        for rate in [*self.rate_multiples, *self.learning_rates.values()]:
            if not (math.isfinite(rate) and rate > 0):
                raise BadInputError(f"{rate} is no learning rate, nor a multiple of one: it must be above 0")
        for stage, section in self.settings.items():
            if stage not in SECTIONS or not isinstance(section, Mapping):
                raise BadInputError(
                    f"settings has {stage!r}: {section!r}: give a section of {' or '.join(SECTIONS)}, as a mapping"
                )
        self._check_of_methods()
        names = [plain_name(task) for task in self.tasks]
        if self.separate_tasks and len(set(names)) < len(names):
            raise BadInputError(f"tasks={self.tasks}: two would have one folder, {', '.join(names)}: rename a file")
        self._check_parts()
        self.all_teachers  # noqa: B018 - refused here, where two have one label

    def _check_parts(self) -> None:
        """Raise BadInputError for a recipe that would replace a part of every method."""
        section = self.of_cells.get("distill") or {}
        for name in fields_of(InPhases):
            if name != "method" and section.get(name) is not None:
                raise BadInputError(
                    f"the recipe's section distill sets {name} to {section[name]!r}: it would take the place of that "
                    "part of every method: leave it out, or give it to the methods that need it (of_methods)"
                )

    def _check_of_methods(self) -> None:
        """Raise BadInputError for settings of one method that distill doesn't have, or that all have in common."""
        known = [name for name in fields_of(DistillConfig) if name not in _OF_THE_COMPARISON]
        for method, own in self.of_methods.items():
            if not isinstance(own, Mapping):
                raise BadInputError(f"of_methods has {method}: {own!r}: give fields of distill, as a mapping")
            for name in own:
                if name in _OF_THE_COMPARISON:
                    raise BadInputError(
                        f"of_methods sets {name} for {method}: methods are compared with the same {name}: leave it out"
                    )
                if name not in known:
                    guess = nearest(name, known, otherwise=": `distillknob distill --help` lists them")
                    raise BadInputError(f"of_methods sets {name!r} for {method}, which distill doesn't have{guess}")

    @cached_property
    def of_cells(self) -> dict[str, Any]:
        """The recipe as cells read it: its shared keys and two sections, with the comparison's settings. Teacher and
        tasks are the cell's own."""
        others = {*EXPERIMENTS, "diagnose", "calibrate", "cache", "defend", "fingerprint", "teacher", "tasks"}
        own = {name: value for name, value in self.recipe.items() if name not in others}
        for stage in SECTIONS:
            section = {**(own.pop(stage, None) or {}), **self.settings.get(stage, {})}
            if section := {
                name: value for name, value in section.items() if name not in ("teacher", "tasks", "models")
            }:
                own[stage] = section
        return own

    @cached_property
    def all_teachers(self) -> list[Teacher]:
        """The teachers in the order of the config."""
        section = {**(self.recipe.get("distill") or {}), **self.settings.get("distill", {})}
        return teachers_of(self.teachers or [section.get("teacher") or self.recipe.get("teacher") or "zoo:teacher"])

    @cached_property
    def base(self) -> Any:
        """The config of `distill` by the baseline, whose learning rate, steps and student are those of the recipe."""
        teacher = self.all_teachers[0].spec
        values = {"method": self.baseline, "teacher": teacher, "tasks": self.tasks, "curve_steps": 0}
        return stage_config("distill", self.of_cells, **values)

    @property
    def chosen_methods(self) -> list[str]:
        """The methods that are asked for, the baseline first."""
        names = list(METHODS) if ALL in self.methods else self.methods
        return [self.baseline, *(name for name in names if name != self.baseline)]

    @property
    def task_groups(self) -> list[tuple[str, ...]]:
        """The tasks that a student is trained on together."""
        return [(task,) for task in self.tasks] if self.separate_tasks else [tuple(self.tasks)]

    def first_cells(self) -> list[Cell]:
        """The cells that don't wait for others: the student before distillation, and the candidates for rates."""
        before = Cell(BEFORE, self.base.student, tasks=tuple(self.tasks))
        return [before, *(cell for method in self.searched for cell in self.candidates(method))]

    @property
    def searched(self) -> list[str]:
        """The methods whose learning rate is chosen by a search."""
        return [method for method in self.grid.methods if method not in self.learning_rates]

    def candidates(self, method: str) -> list[Cell]:
        """The trainings among which the method's learning rate is chosen: on the first teacher to which it applies,
        with the first seed, a candidate after the other from the lowest rate on."""
        entries = [entry for entry in self.grid.entries if entry.method == method]
        of_first = [entry for entry in entries if entry.teacher == entries[0].teacher]
        return [
            self._cell(entry, self.seeds[0], multiple * self.base.learning_rate, multiple=multiple)
            for multiple in sorted(self.rate_multiples)
            for entry in of_first
        ]

    def students(self, rates: Mapping[str, float]) -> list[Cell]:
        """The students of the grid whose methods have a rate, in the order of work: the first seed's on the first
        teacher, then on the next, then the next seed's."""
        planned = []
        for seed in dict.fromkeys([*self.seeds, *self.further_seeds]):
            for entry in self.grid.entries:
                wanted = seed in self.seeds or entry.method in self.further_methods
                if wanted and entry.method in rates:
                    planned.append(self._cell(entry, seed, rates[entry.method]))
        return planned

    def _cell(self, entry: Entry, seed: int, rate: float, *, multiple: float | None = None) -> Cell:
        return Cell(
            "student" if multiple is None else "rate",
            self.base.student,
            method=entry.method,
            teacher=entry.teacher,
            alone=entry.alone,
            seed=seed,
            tasks=entry.tasks,
            apart=self.separate_tasks,
            steps=self.base.max_steps if multiple is None else self.rate_steps,
            learning_rate=rate,
            multiple=multiple,
            free_tokens=entry.budget is not None,
            settings=self.of_methods.get(entry.method, {}),
            problems=self.rate_problems,
            samples=self.rate_samples,
        )

    @property
    def _planned_cells(self) -> list[Cell]:
        rates = {method: self.learning_rates.get(method, self.base.learning_rate) for method in self.grid.methods}
        return [*self.first_cells(), *self.students(rates)]

    @property
    def cell_names(self) -> list[str]:
        return [cell.name for cell in self._planned_cells]

    def planned(self) -> dict[str, Step]:
        """Every training and evaluation; those of students before their rates are chosen, at the recipe's rate."""
        return {
            f"{cell.name} {step.name}": step
            for cell in self._planned_cells
            for step in steps(cell, self.of_cells, fetch=False)
        }
