"""The config of `attack`, and the cells that it plans."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from distillknob.attacks.planted import planted_target
from distillknob.attacks.suite import Arm, Suite, read_suite
from distillknob.attacks.target import Target, targets_of
from distillknob.attacks.work import Cell
from distillknob.config.experiment import PlannedConfig, Step
from distillknob.config.fields import NO_SETTING
from distillknob.config.recipe import stage_config
from distillknob.errors import BadInputError, nearest
from distillknob.methods import METHODS
from distillknob.runtime.cluster import ClusterOptions


@dataclass
class AttackConfig(PlannedConfig):
    """Config of `attack`; how a student is trained stands in the recipe's section `distill`."""

    suite: str = field(
        default="quick-v1", metadata={"help": "Suite of attacks: quick-v1, standard-v1, or a YAML file of your own."}
    )
    teacher: str = field(
        default="zoo:teacher", metadata={"help": "The original, undefended teacher: folder, hub id or zoo:NAME."}
    )
    defended: list[str] = field(
        default_factory=list,
        metadata={
            "help": "Teachers under attack beside the original, each [LABEL=]SPEC: a model, or a defence as "
            "NAME?option=value (model=FOLDER for other weights than the original's)."
        },
    )
    student: str = field(default="zoo:student", metadata={"help": "The attacker's model."})
    attackers: list[str] = field(
        default_factory=list, metadata={"help": "Further attackers' models; they mount the suite's `across`."}
    )
    base: str | None = field(
        default=None, metadata={"help": "Public model from which the teacher descends, to merge open weights with."}
    )
    tasks: list[str] = field(default_factory=lambda: ["math"], metadata={"help": "Tasks whose problems are used."})
    attacks: list[str] = field(
        default_factory=list,
        metadata={"help": "Only these of the suite's attacks, beside its controls. Default: all of them."},
    )
    planted: bool = field(
        default=True, metadata={"help": "Attack the planted defences too; without them there are no verdicts."}
    )
    further_seeds: bool = field(
        default=True, metadata={"help": "Train the worst attacks of each target with the suite's further seeds too."}
    )
    tolerance: float = field(
        default=0.015, metadata={"help": "Points of score, as a fraction, that a defence may cost its teacher."}
    )
    learning_rates: dict[str, float] = field(
        default_factory=dict, metadata={"help": "Learning rate of a method's students. Default: distill's."}
    )
    kept: str | None = field(
        default=None,
        metadata={"help": "File (.jsonl.gz) of finished cells: they are read there and not run again."},
    )
    processes: int = field(default=1, metadata={"help": "Cells that run at once on this machine."})
    # The Ray cluster on which the cells run, each in a process of its own.
    cluster: ClusterOptions | None = field(default=None, metadata=NO_SETTING)

    def __post_init__(self) -> None:
        if not self.tasks:
            raise BadInputError("tasks is empty: name at least one, e.g. math")
        if not 0 <= self.tolerance < 1:
            raise BadInputError(
                f"tolerance={self.tolerance}: a share of the score, from 0 to below 1 (0.015 is 1.5 points)"
            )
        if self.processes < 1:
            raise BadInputError(f"processes={self.processes}: must be at least 1")
        for method in self.learning_rates:
            if method not in METHODS:
                raise BadInputError(f"learning_rates names the method {method!r}: known are {', '.join(METHODS)}")
        known = [arm.name for arm in self.chosen_suite.arms.values() if not arm.control and not arm.guard]
        for name in self.attacks:
            if name not in known:
                guess = nearest(name, known, otherwise=":")
                raise BadInputError(f"attacks names {name!r}{guess} {self.suite} has {', '.join(known)}")
        if len(set(self.all_attackers)) < len(self.all_attackers):
            raise BadInputError(f"attackers={self.attackers}: each once, and other ones than student={self.student!r}")
        _ = self.targets

    @property
    def recorded(self) -> dict[str, Any]:
        recorded = super().recorded
        for name in ("processes", "kept"):  # how the work is done, not what it is
            recorded.pop(name)
        return {**recorded, "suite_sha256": self.chosen_suite.sha256}

    @cached_property
    def chosen_suite(self) -> Suite:
        return read_suite(self.suite)

    @cached_property
    def targets(self) -> list[Target]:
        """The original and the defended teachers."""
        return targets_of(self.teacher, self.defended)

    @property
    def all_attackers(self) -> list[str]:
        return [self.student, *self.attackers]

    @property
    def arms(self) -> list[Arm]:
        """The suite's controls, and those of its attacks that are mounted."""
        arms = self.chosen_suite.arms.values()
        wanted = self.attacks
        return [arm for arm in arms if not arm.guard and (arm.control or not wanted or arm.name in wanted)]

    def first_cells(self) -> list[Cell]:
        """The cells of the suite's first seed, in the order of work: the original's, the planted, the others."""
        suite, seed = self.chosen_suite, self.chosen_suite.seed
        cells = []
        for target in self.targets:
            for attacker in self.all_attackers:
                for arm in self.arms:
                    if arm.teacher_free and not target.original:
                        continue  # it is the same for all targets
                    if attacker == self.student or arm.name in suite.across:
                        cells.append(self.cell(target, arm, attacker, seed))
            if target.original and self.planted:
                cells += [
                    self.cell(planted_target(one.defence, self.teacher), suite.arms[one.attack], self.student, seed)
                    for one in suite.planted
                ]
                references = [suite.arms[one.reference] for one in suite.planted]
                cells += [self.cell(target, arm, self.student, seed) for arm in references]
        return list(dict.fromkeys(cells))

    def cell(self, target: Target, arm: Arm, attacker: str, seed: int) -> Cell:
        return Cell(target, arm, attacker, seed, self.base)

    @property
    def cell_names(self) -> list[str]:
        return [cell.name for cell in self.first_cells()]

    def planned(self) -> dict[str, Step]:
        """The trainings and evaluations, each standing for those of its cells: an attack's traces are hard labels, as
        far as a dry run can know."""
        suite = self.chosen_suite
        shared = {"tasks": self.tasks, "seed": suite.seed}
        steps = {}
        for cell in self.first_cells():
            of_student = {"teacher": cell.target.model, "student": cell.attacker, "problems": suite.problems}
            fields = {**shared, **of_student, "method": "sft", "curve_steps": 0}
            steps[f"{cell.name} distill"] = Step("distill", stage_config("distill", self.recipe, **fields))
            for split, sizes in (("train", suite.validation), ("test", suite.test)):
                fields = {**shared, "models": [cell.attacker], "split": split}
                fields |= {"problems": sizes.problems, "samples": sizes.samples}
                steps[f"{cell.name} evaluate {split}"] = Step(
                    "evaluate", stage_config("evaluate", self.recipe, **fields)
                )
        return steps
