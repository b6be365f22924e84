"""What a distillation would do, from its config alone."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch

from distillknob.distillation.losses.base import START, STUDENT, TEACHER
from distillknob.distillation.token_choice import CHOICES
from distillknob.models.architecture import Architecture, architecture
from distillknob.models.names import SERVED
from distillknob.planning.counting import (
    PAIRED_AT_ONCE,
    SAMPLED_AT_ONCE,
    adapter_of,
    dtype_of,
    longest_answer,
    longest_prompt,
    reward_models,
    scored_rows,
    steps_of,
    vllm_of,
)
from distillknob.planning.hardware import Engine
from distillknob.planning.phases import Phase, Trained, Workload

if TYPE_CHECKING:
    from distillknob.distillation.config import DistillConfig


def distill_work(config: DistillConfig, engine: Engine) -> Workload:
    """Return what a distillation would do: its phases one after the other; what stays in memory is of the one that
    holds most."""
    works = [_distill_phase(phase, engine) for phase in config.phases()]
    most = max(works, key=lambda work: sum(model.parameters for _, model in work.resident))
    trained = works[-1].trained
    if trained is not None:
        trained = replace(trained, steps=sum(work.trained.steps for work in works if work.trained is not None))
    return replace(most, phases=[phase for work in works for phase in work.phases], trained=trained)


@dataclass(frozen=True)
class _Counted:
    """What the parts of a distillation's work are counted by: the texts that its steps read, over all devices, the
    traces that are made before, and the lengths and rows of a pass."""

    config: DistillConfig
    rows: float
    steps: float
    problems: int
    held_back: int
    prompt: int
    answer: int
    here: int  # rows of a device's step
    micro: int  # rows of a pass

    @classmethod
    def of(cls, config: DistillConfig, engine: Engine) -> _Counted:
        from distillknob.distillation.trace_file import read_trace_file

        here = config.per_device_train_batch_size * config.gradient_accumulation_steps
        batch = here * engine.devices
        problems = config.problems * len(config.tasks)
        if config.traces_file is not None:
            problems = len(read_trace_file(config.traces_file))
        start, end = config.problems_part
        problems = round((end - start) * problems)
        held_back = config.held_back(problems)
        steps = steps_of(config, (problems - held_back) * config.objective.num_generations, batch)
        return cls(
            config,
            steps * batch,
            steps,
            problems,
            held_back,
            longest_prompt(config.student, config.tasks),
            longest_answer(config),
            here,
            # Private steps read a problem at a time.
            1 if config.private_steps else config.per_device_train_batch_size,
        )

    def phase(self, what: str, kind: Any, model: Architecture, rows: float, at_once: int, **options: Any) -> Phase:
        """A phase on texts of the longest prompt and answer."""
        return Phase(what, kind, model, rows, self.prompt, self.answer, at_once, **options)

    def scored(self, what: str, model: Architecture, rows: float) -> Phase:
        """A phase that scores so many texts beside the training."""
        return self.phase(what, "score", model, rows, scored_rows(self.prompt + self.answer))


def _distill_phase(config: DistillConfig, engine: Engine) -> Workload:
    student, counted = architecture(config.student), _Counted.of(config, engine)
    rows, loss = counted.rows, config.loss
    phases = [*_traces(counted), *_readings(counted), *_query_weights(counted)]
    if (share := config.share_on_policy) > 0:
        phases.append(counted.phase("samples", "decode", student, share * rows, counted.here, own=False))
    phases.append(counted.phase("training", "train", student, loss.roles * rows, loss.roles * counted.micro))
    if (mix := config.made_sources) is not None:
        validated = math.ceil(counted.steps / mix.validation_every) * counted.held_back
        phases.append(counted.phase("validation loss", "score", student, validated, counted.micro, spread=False))
    phases += _curve(counted)
    return Workload("distill", phases, _resident(config), _trained(counted), single=False, **vllm_of(config))


def _resident(config: DistillConfig) -> list[tuple[str, Architecture]]:
    """The models that stay beside the one that is trained."""
    resident: list[tuple[str, Architecture]] = []
    if config.needs_teacher and not config.teacher.startswith(SERVED):
        # Itself, the student is read where it is trained.
        teachers = [] if config.objective.teacher == "itself" else config.several_teachers or [config.teacher]
        resident += [("teacher", architecture(name)) for name in teachers]
    if START in config.loss.models and config.objective.teacher != "start":  # which is the teacher then
        resident.append(("student at the start", architecture(config.student)))
    if config.needs_target and config.cache is None and not config.target.startswith(SERVED):
        resident.append(("target", architecture(config.target)))
    if config.oracle is not None:
        resident.append(("oracle", architecture(config.oracle)))
    return [*resident, *reward_models(config.tasks)]


def _traces(counted: _Counted) -> list[Phase]:
    """What makes the traces, before the training."""
    config = counted.config
    if not config.writes_traces or config.cache is not None or config.teacher.startswith(SERVED):
        return []
    teacher, method = architecture(config.teacher), config.objective
    each = 1 if method.traces == "teacher" else config.candidates
    written = counted.problems * each
    phases = [counted.phase("traces", "decode", teacher, written, SAMPLED_AT_ONCE, each=each)]
    if config.chooses_by_scores:
        phases.append(counted.scored("sure tokens", teacher, written))
    if method.selects and not config.target.startswith(SERVED):
        phases.append(counted.scored("best of n", architecture(config.target), written))
    return phases


def _readings(counted: _Counted) -> list[Phase]:
    """Who reads the texts of the steps without gradients, as often as the method's parts do."""
    config, method, rows = counted.config, counted.config.objective, counted.rows
    parts = (config.loss, config.made_soft_target, config.made_token_weights)
    often = Counter(name for part in parts if part is not None for name in part.readings)
    if (choice := CHOICES[method.tokens]) is not None:
        often[STUDENT] += 1
        often.update(config.loss.readings if choice.compares else ())
    if config.cache is not None:
        often[TEACHER] = 0  # whose distributions lie there
    phases = []
    teachers = config.several_teachers or [config.teacher]
    for name in teachers if often[TEACHER] else []:
        judged = often[TEACHER] * (rows / len(teachers) if method.teacher == "routed" else rows)
        phases.append(counted.phase("teacher", "score", architecture(name), judged, counted.micro))
    own = {STUDENT: "student before a step", START: "student at the start"}
    for name in (STUDENT, START):
        if often[name]:
            student = architecture(config.student)
            phases.append(counted.phase(own[name], "score", student, often[name] * rows, counted.micro))
    return phases


def _query_weights(counted: _Counted) -> list[Phase]:
    """Who scores the traces for their weights."""
    config, weights = counted.config, counted.config.made_query_weights
    if weights is None:
        return []
    asked = {config.teacher: weights.asks_teacher, config.target: weights.asks_target}
    names = [config.student, *(name for name, does in asked.items() if does and not name.startswith(SERVED))]
    return [counted.scored(f"query weights, {name}", architecture(name), counted.problems) for name in names]


def _curve(counted: _Counted) -> list[Phase]:
    """What the points of the learning curve take, and the distances at them."""
    from distillknob.distillation.learning_curve import CURVE_PROBLEMS

    config = counted.config
    if not config.curve_steps:
        return []
    student = architecture(config.student)
    measured = (1 + counted.steps // config.curve_steps) * CURVE_PROBLEMS * len(config.tasks)
    phases = [counted.phase("curve", "decode", student, measured, SAMPLED_AT_ONCE, spread=False)]
    if config.oracle is not None:
        at_once = scored_rows(counted.prompt + counted.answer, PAIRED_AT_ONCE)
        teacher, oracle = architecture(config.teacher), architecture(config.oracle)
        read = (("proxy distance", teacher, measured), ("golden distance", oracle, measured))
        for what, model, texts in (*read, ("distances, student", student, 2 * measured)):
            phases.append(counted.phase(what, "score", model, texts, at_once, spread=False))
    return phases


def _trained(counted: _Counted) -> Trained:
    """The student and what is held to train it."""
    config, loss, student = counted.config, counted.config.loss, architecture(counted.config.student)
    logits: Literal["blocks", "whole"] = "blocks" if loss.in_blocks else "whole"
    along, along_width = 0, 0
    with torch.device("meta"):
        taught = config.needs_teacher_weights
        module = loss.module(student.hidden, architecture(config.teacher).hidden) if taught else None
        if module is not None:
            along = sum(weight.numel() for weight in module.parameters())
            along_width = module(torch.zeros(1, student.hidden)).size(-1)
    return Trained(
        student,
        adapter_of(config, config.student),
        config.gradient_checkpointing,
        logits,
        reference=False,
        steps=counted.steps,
        accumulation=config.gradient_accumulation_steps,
        along=along,
        along_width=along_width,
        private=config.private_steps,
        dtype=dtype_of(config),
    )
