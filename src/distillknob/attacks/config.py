"""The config of `attack`, and the cells that it plans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from distillknob.attacks.models import ModelOptions
from distillknob.attacks.planted import planted_target
from distillknob.attacks.suite import Arm, Suite, read_suite
from distillknob.attacks.target import Target, targets_of
from distillknob.attacks.work import Cell
from distillknob.config.checks import check_at_least_one
from distillknob.config.experiment import PlannedConfig, Step
from distillknob.config.fields import NO_SETTING
from distillknob.config.recipe import stage_config
from distillknob.config.shared import EngineOptions
from distillknob.errors import BadInputError, nearest
from distillknob.methods import METHODS
from distillknob.models.engines.choice import choose
from distillknob.models.labels import model_label
from distillknob.models.names import SERVED
from distillknob.runtime.cluster import ClusterOptions

TRAINED = ("distill", "calibrate")  # the stages by which attacks train


@dataclass
class AttackConfig(EngineOptions, PlannedConfig):
    """Config of `attack`; how a student is trained stands in the recipe's section `distill`."""

    how_it_is_done: ClassVar[tuple[str, ...]] = ("processes", "kept")

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
        default_factory=list,
        metadata={"help": "More attackers' models. They run those of the suite's attacks that it lists under across."},
    )
    base: str | None = field(
        default=None, metadata={"help": "Public model from which the teacher descends, to merge open weights with."}
    )
    tasks: list[str] = field(default_factory=lambda: ["math"], metadata={"help": "Tasks whose problems are used."})
    max_completion_length: int | None = field(
        default=None, metadata={"help": "Tokens that an answer may have. Default: the tasks' own longest."}
    )
    chat_template_kwargs: dict[str, Any] | None = field(
        default=None, metadata={"help": 'Variables of the chat templates, e.g. {"enable_thinking": false}.'}
    )
    attacks: list[str] = field(
        default_factory=list,
        metadata={"help": "Which of the suite's attacks to run; its controls always run. Default: all of them."},
    )
    planted: bool = field(
        default=True, metadata={"help": "Attack the planted defences too. Without them there are no verdicts."}
    )
    further_seeds: bool = field(
        default=True, metadata={"help": "Repeat the worst attacks on each target with the suite's further seeds."}
    )
    tolerance: float = field(
        default=0.015,
        metadata={"help": "Drop of the teacher's score that a defence may cost, as a fraction: 0.015 is 1.5 points."},
    )
    settings: dict[str, dict[str, Any]] = field(
        default_factory=dict,
        metadata={"help": "By stage (distill, calibrate): settings that replace the recipe's in the attacks."},
    )
    learning_rates: dict[str, float] = field(
        default_factory=dict, metadata={"help": "Learning rate of students, by method. Default: distill's."}
    )
    kept: str | None = field(
        default=None,
        metadata={"help": "File of finished cells (.jsonl.gz), which are read from there and not run again."},
    )
    processes: int = field(default=1, metadata={"help": "Cells that run at once on this machine."})
    # The Ray cluster on which the cells run, each in a process of its own.
    cluster: ClusterOptions | None = field(default=None, metadata=NO_SETTING)

    def __post_init__(self) -> None:
        self.check_engine()
        check_at_least_one(self, "max_completion_length", "processes")
        if not self.tasks:
            raise BadInputError("tasks is empty: name at least one, e.g. math")
        if not 0 <= self.tolerance < 1:
            raise BadInputError(
                f"tolerance={self.tolerance}: a share of the score, from 0 to below 1 (0.015 is 1.5 points)"
            )
        for stage, section in self.settings.items():
            if stage not in TRAINED or not isinstance(section, Mapping):
                raise BadInputError(
                    f"settings has {stage!r}: {section!r}: give a section of {' or '.join(TRAINED)}, as a mapping"
                )
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
        labels = [model_label(name) for name in self.all_attackers]
        if double := next((label for label in labels if labels.count(label) > 1), None):
            raise BadInputError(
                f"two attackers would be called {double!r} ({', '.join(self.all_attackers)}): give them folders of "
                "different names"
            )
        for target in self.targets:
            if target.defence is not None and target.model.startswith(SERVED):
                raise BadInputError(
                    f"defended has {target.spec}: a defence stands before weights, and {target.model} is behind a "
                    "server: name what the server gives out as a target by itself"
                )

    @cached_property
    def chosen_suite(self) -> Suite:
        return read_suite(self.suite)

    @cached_property
    def targets(self) -> list[Target]:
        """The original and the defended teachers."""
        return targets_of(self.teacher, self.defended)

    @property
    def of_attacks(self) -> dict[str, Any]:
        """The recipe as attacks read it: with the settings of their own."""
        own = {name: value for name, value in self.recipe.items() if name != "attack"}
        return own | {stage: {**(own.get(stage) or {}), **section} for stage, section in self.settings.items()}

    @property
    def models_read(self) -> list[str]:
        """The models that the attack reads: targets and what their defences need, attackers, the public base."""
        of_targets = [name for target in self.targets for name in target.models_read]
        base = [] if self.base is None else [self.base]
        return list(dict.fromkeys([*of_targets, *self.all_attackers, *base]))

    @property
    def models_sampled(self) -> list[str]:
        """The models that an engine may sample from: the attackers', and targets without a defence before them."""
        return [*(one.model for one in self.targets if one.defence is None), *self.all_attackers]

    def model_options(self, template_date: str) -> ModelOptions:
        """How the models are opened. Raises BadInputError for an engine that can't be had."""
        choice = choose(self.engine, self.models_sampled, trains_on_own_samples=False)
        return ModelOptions(
            choice.engine,
            self.engine_options,
            self.chat_template_kwargs or {},
            template_date,
            self.max_completion_length,
        )

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
        return Cell(target, arm, attacker, seed, self.teacher, self.base)

    def cells_within_reach(self) -> list[Cell]:
        """Those of the first cells that can be run: a server shows no weights."""
        return [cell for cell in self.first_cells() if cell.out_of_reach is None]

    @property
    def cell_names(self) -> list[str]:
        return [cell.name for cell in self.cells_within_reach()]

    def planned(self) -> dict[str, Step]:
        """The targets' answers, and the trainings and evaluations of the cells: an attack's traces are hard labels, as
        far as a dry run can know. What is drawn of a target stands as an evaluation of it; what a server writes is no
        work here (`served` counts it)."""
        suite, cells = self.chosen_suite, self.cells_within_reach()
        shared = {"tasks": self.tasks, "seed": suite.seed}
        steps = {}
        for target in dict.fromkeys(cell.target for cell in cells):
            n = max(cell.arm.attack.pool for cell in cells if cell.target == target)
            fields = {**shared, "models": [target.model], "split": "train", "problems": suite.problems, "samples": n}
            if n and not target.model.startswith(SERVED):
                steps[f"answers of {target.label}"] = Step("evaluate", stage_config("evaluate", self.recipe, **fields))
        for cell in cells:
            of_student = {"teacher": cell.target.model, "student": cell.attacker, "problems": suite.problems}
            fields = {**shared, **of_student, "method": "sft", "curve_steps": 0}
            steps[f"{cell.name} distill"] = Step("distill", stage_config("distill", self.of_attacks, **fields))
            for split, sizes in (("train", suite.validation), ("test", suite.test)):
                fields = {**shared, "models": [cell.attacker], "split": split}
                fields |= {"problems": sizes.problems, "samples": sizes.samples}
                steps[f"{cell.name} evaluate {split}"] = Step(
                    "evaluate", stage_config("evaluate", self.recipe, **fields)
                )
        return steps
