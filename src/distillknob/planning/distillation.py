"""What a distillation would do, from its config alone."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from distillknob.models.architecture import architecture
from distillknob.models.names import SERVED
from distillknob.planning.counting import (
    PAIRED_AT_ONCE,
    SAMPLED_AT_ONCE,
    SCORED_AT_ONCE,
    adapter_of,
    longest_answer,
    longest_prompt,
    reward_models,
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


def _distill_phase(config: DistillConfig, engine: Engine) -> Workload:
    from distillknob.distillation.learning_curve import CURVE_PROBLEMS
    from distillknob.distillation.trace_file import read_trace_file

    student, method = architecture(config.student), config.objective
    prompt, answer = longest_prompt(config.student, config.tasks), longest_answer(config)
    here = config.per_device_train_batch_size * config.gradient_accumulation_steps
    # Private steps read a problem at a time.
    batch, micro = here * engine.devices, 1 if config.private_steps else config.per_device_train_batch_size
    problems = config.problems * len(config.tasks)
    if config.traces_file is not None:
        problems = len(read_trace_file(config.traces_file))
    start, end = config.problems_part
    problems = round((end - start) * problems)
    held_back = config.held_back(problems)
    rows = steps_of(config, problems - held_back, batch) * batch
    share = config.share_on_policy
    resident, phases = [], []
    if config.needs_teacher and not config.teacher.startswith(SERVED):
        teacher = architecture(config.teacher)
        if method.teacher != "itself":  # which is read where it is trained
            resident.append(("teacher", teacher))
        if config.writes_traces:
            each = 1 if method.traces == "teacher" else config.candidates
            phases.append(Phase("traces", "decode", teacher, problems * each, prompt, answer, SAMPLED_AT_ONCE))
            at_once = max(1, SCORED_AT_ONCE // (prompt + answer))
            if config.chooses_by_scores:
                phases.append(Phase("sure tokens", "score", teacher, problems * each, prompt, answer, at_once))
            if method.selects and not config.target.startswith(SERVED):
                target = architecture(config.target)
                resident.append(("target", target))
                phases.append(Phase("best of n", "score", target, problems * each, prompt, answer, at_once))
        teachers = config.several_teachers or [config.teacher]
        resident += [("teacher", architecture(name)) for name in teachers[1:]]
        for name in teachers if config.loss.asks_teacher else []:
            judged = rows / len(teachers) if method.teacher == "routed" else rows
            phases.append(Phase("teacher", "score", architecture(name), judged, prompt, answer, micro))
    if (weights := config.made_query_weights) is not None:
        at_once = max(1, SCORED_AT_ONCE // (prompt + answer))
        asked = [
            *([config.teacher] if weights.asks_teacher else []),
            *([config.target] if weights.asks_target else []),
        ]
        scored = {config.student: student, **{n: architecture(n) for n in asked if not n.startswith(SERVED)}}
        if weights.asks_target and config.target in scored and not method.selects:
            resident.append(("target", scored[config.target]))
        for name, model in scored.items():
            phases.append(Phase(f"query weights, {name}", "score", model, problems, prompt, answer, at_once))
    if share > 0:
        phases.append(Phase("samples", "decode", student, share * rows, prompt, answer, here, own=False))
    phases.append(Phase("training", "train", student, rows, prompt, answer, micro))
    if (mix := config.made_sources) is not None:
        validated = math.ceil(rows / batch / mix.validation_every) * held_back
        phases.append(Phase("validation loss", "score", student, validated, prompt, answer, micro, spread=False))
    if config.curve_steps:
        measured = (1 + rows / batch // config.curve_steps) * CURVE_PROBLEMS * len(config.tasks)
        phases.append(Phase("curve", "decode", student, measured, prompt, answer, SAMPLED_AT_ONCE, spread=False))
        if config.oracle is not None:
            oracle, at_once = architecture(config.oracle), max(1, PAIRED_AT_ONCE // (prompt + answer))
            resident.append(("oracle", oracle))
            read = (("proxy distance", architecture(config.teacher), measured), ("golden distance", oracle, measured))
            for what, model, texts in (*read, ("distances, student", student, 2 * measured)):
                phases.append(Phase(what, "score", model, texts, prompt, answer, at_once, spread=False))
    resident += reward_models(config.tasks)
    logits: Literal["blocks", "whole"] = "blocks" if config.loss.in_blocks else "whole"
    trained = Trained(
        student,
        adapter_of(config, config.student),
        config.gradient_checkpointing,
        logits,
        reference=False,
        steps=rows / batch,
        accumulation=config.gradient_accumulation_steps,
    )
    return Workload("distill", phases, resident, trained, single=False, **vllm_of(config))
