"""Reinforcement learning of the attacker's own student on the task, with the target's log-probabilities as a help."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from distillknob.attacks.access import Access
from distillknob.attacks.base import Attack, Scene
from distillknob.attacks.weights import check_weights_are_the_target
from distillknob.calibration.config import CalibrationConfig
from distillknob.calibration.stage import calibrate
from distillknob.errors import BadInputError
from distillknob.runs.run import Run
from distillknob.runtime.processes import process_count

HELD_OUT = 2  # problems a task on which the student is looked at before and after; nothing is decided by them


@dataclass(frozen=True)
class Reinforced(Attack):
    """Reinforced trains the student by GRPO on its own answers: the task's reward, and with a weight `strength` the
    log-ratio of whole answers under the target and the student, right or wrong. That is `calibrate` with the roles
    exchanged: the student is drawn towards the target (η = −`strength`), and no anchor or guard holds it where it was.

    Batches, group size and learning rate are those of the recipe's `calibrate` section; `steps` replaces its own.
    Without `help` no teacher is asked: a control. `queries` are the student's answers that the target scores, in
    multiples of the problems; how many they were is counted.
    """

    why: ClassVar[str] = "a right answer is rewarded whoever wrote it, and the target's scores say which way to look"
    trained_by: ClassVar[tuple[str, ...]] = ("calibrate",)
    budget: ClassVar[Literal["traces", "reinforcement"]] = "reinforcement"
    help: bool = True
    strength: float = 0.5
    steps: int | None = None
    queries: float = 8.0

    def __post_init__(self) -> None:
        if not self.strength > 0:
            raise BadInputError(f"strength={self.strength}: above 0 (without the target it is help: false)")
        if self.steps is not None and self.steps < 1:
            raise BadInputError(f"steps={self.steps}: at least 1, or none for the recipe's own")

    @property
    def access(self) -> Access:
        if self.help:
            return Access("on_policy", queries=self.queries, labels=True)
        return Access("none", labels=True)

    def student(self, scene: Scene) -> Path:
        if self.help:
            check_weights_are_the_target(scene)
        config: CalibrationConfig = scene.settings("calibrate", **self._fields(scene))
        run = calibrate(config, scene.folder / "reinforced", resume=True)
        if self.help:
            _count(scene, config, run)
        return run.path / "model"

    def _fields(self, scene: Scene) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "teacher": scene.student_name,
            "target": scene.teacher_name if self.help else scene.student_name,
            "eta": -self.strength if self.help else 0.0,
            "target_url": None,
            "more_targets": [],
            "reward": "sequence",
            "gate": False,  # a student that is always wrong is helped too
            "beta": 0.0,
            "anchor": "loss",
            "task_term": "reward",
            "guard": False,
            "guard_problems": HELD_OUT,
            "guard_samples": HELD_OUT,
        }
        return fields if self.steps is None else {**fields, "max_steps": self.steps}


def _count(scene: Scene, config: CalibrationConfig, run: Run) -> None:
    """Count the answers that the target scored: all that the student wrote to be trained on."""
    steps = [row for row in run.metrics() if row.get("task_score") is not None]
    a_step = config.per_device_train_batch_size * config.gradient_accumulation_steps * process_count()
    tokens = sum(a_step * float(row["completions/mean_length"]) for row in steps)
    scene.count(a_step * len(steps), round(tokens))
