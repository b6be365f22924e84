"""A student's scores on its way, on problems that it isn't trained on: the learning curve of `distill`.

A point is one sample a problem: the curve is for seeing whether a student rises or falls back, and `evaluate` for
figures with intervals.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from transformers import PreTrainedTokenizerBase, TrainerCallback, TrainerControl, TrainerState
from trl.models.utils import unwrap_model_for_generation

from distillknob.distillation.cache.files import TeacherCache
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.oracle import Distances
from distillknob.evaluation.measure import sample_and_grade
from distillknob.models.adapters import bare
from distillknob.models.base import LanguageModel
from distillknob.models.sampling import Sampler
from distillknob.runs.run import Run
from distillknob.tasks import Example, get_task, get_tasks, graded_tasks
from distillknob.tasks.held_back import hold_back
from distillknob.training.engine import engine_of, holds_engine

CURVE_PROBLEMS = 150  # a task


@dataclass
class CurveProblems:
    """What a student is trained on and measured on, by task: `trained` counts problems, `held_out` are others of the
    train split. `reason` says why a task has no curve."""

    trained: dict[str, int] = field(default_factory=dict)
    held_out: dict[str, list[Example]] = field(default_factory=dict)
    reason: str | None = None


def curve_problems(config: DistillConfig, cache: TeacherCache | None = None) -> CurveProblems:
    """Divide each task's train problems for a distillation with this config. With `curve_steps`, `CURVE_PROBLEMS` are
    left for the learning curve: those behind the `problems` trained on, or of a small file a fifth, which isn't trained
    on then. A cache was made before, so that only problems behind its own are left.

    Raises BadInputError for a task that has too few problems for both, and with `curve_steps` for one that can't be
    graded.
    """
    wanted = CURVE_PROBLEMS if config.curve_steps else 0
    if cache is not None:
        return _behind(cache, wanted)
    divided = CurveProblems()
    for task in (graded_tasks if wanted else get_tasks)(config.tasks):
        trained, held_out = hold_back(
            task,
            config.problems,
            wanted,
            config.seed_of_problems,
            why="to hold some back for the learning curve: leave curve_steps out",
        )
        divided.trained[task.name] = len(trained)
        if wanted:
            divided.held_out[task.name] = held_out
    return divided


def _behind(cache: TeacherCache, wanted: int) -> CurveProblems:
    """The problems behind those of a cache, as many as are wanted of each of its tasks."""
    divided, exhausted = CurveProblems(), []
    for task in graded_tasks(cache.tasks) if wanted else []:
        examples = task.examples("train", cache.problems + wanted, seed=cache.seed)[cache.problems :]
        if examples:
            divided.held_out[task.name] = examples
        else:
            exhausted.append(task.name)
    if exhausted:
        divided.reason = (
            f"curve_steps is set, but the cache holds every train problem of {', '.join(exhausted)}: make it with "
            "fewer problems to leave some for a learning curve"
        )
    return divided


Point = Callable[[Sampler, LanguageModel], dict[str, Any]]


def curve_point(
    problems: CurveProblems, *, max_new_tokens: int | None, seed: int, distances: Distances | None = None
) -> Point:
    """What gives a point of the learning curve, as it is logged, from what samples for the student and the student:
    `eval/TASK`, its score, and with `distances` how far it lies from teacher and oracle."""
    tasks = {name: get_task(name) for name in problems.held_out}

    def point(sampler: Sampler, student: LanguageModel) -> dict[str, Any]:
        columns: dict[str, Any] = {}
        for name, task in tasks.items():
            measured = sample_and_grade(
                sampler,
                task,
                problems.held_out[name],
                1,
                max_new_tokens=max_new_tokens,
                seed=seed,
                description=f"curve: {task.name}",
            )
            columns[f"eval/{name}"] = measured.mean
            if distances is not None:
                columns |= distances.columns(student, measured)
        return columns

    return point


class LearningCurve(TrainerCallback):
    """Calls `evaluate(sampler, student)` every so many steps, at the start and at the end, and logs what it returns."""

    def __init__(
        self,
        run: Run,
        trainer: Any,
        tokenizer: PreTrainedTokenizerBase,
        steps: int,
        evaluate: Point,
    ):
        self.run, self.trainer, self.tokenizer, self.steps, self.evaluate = run, trainer, tokenizer, steps, evaluate

    def _point(self, step: int) -> None:
        model = self.trainer.model_wrapped
        model.eval()
        # TRL's own ways to sample from a model in training: where its weights are spread, they are gathered for it.
        if holds_engine(self.trainer):
            student = LanguageModel(bare(self.trainer.accelerator.unwrap_model(model)), self.tokenizer)
            with engine_of(self.trainer, student) as engine:
                columns = self.evaluate(engine, student)
        else:
            with unwrap_model_for_generation(model, self.trainer.accelerator) as unwrapped:
                student = LanguageModel(bare(unwrapped), self.tokenizer)
                columns = self.evaluate(student, student)
        model.train()
        self.run.log(step=step, **columns)

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step == 0:
            self._point(0)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if state.global_step % self.steps == 0 or state.global_step == state.max_steps:
            self._point(state.global_step)
