"""The stage `distill`: traces, the trainer, the student.

A method is a divergence × where the traces come from × which tokens count × what the teacher sees (`methods`); SFT is
its hard-label corner. Left out on purpose: a loop of our own.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import TrainerCallback

from distillknob.config.checks import check_fills_a_step
from distillknob.diagnosis.finding import Finding
from distillknob.diagnosis.traps.teacher_hacking import teacher_hacking
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.learning_curve import LearningCurve, curve_problems, student_scores
from distillknob.distillation.losses.cross_tokenizer import CROSS
from distillknob.distillation.teacher_cache import TeacherCache
from distillknob.distillation.teacher_context import CONTEXTS
from distillknob.distillation.traces import RIGHT_ONES, TraceOptions, make_traces
from distillknob.distillation.trainer import DistillTrainer
from distillknob.errors import BadInputError
from distillknob.inputs.identity import changed_meanwhile, read_by
from distillknob.inputs.preflight import Preflight, Side, check_learning_rate, check_traces, same_weights
from distillknob.models.architecture import context_of
from distillknob.models.base import LanguageModel
from distillknob.models.chat import set_in_templates
from distillknob.models.load import load_model
from distillknob.models.names import check_meant
from distillknob.models.same_text import know_ends, one_vocabulary
from distillknob.models.sampling import Sampler
from distillknob.models.served.model import load_or_connect
from distillknob.runs.journal import Journal
from distillknob.runs.model_record import read_record, warn_of_teacher
from distillknob.runs.run import Run, runs_behind
from distillknob.runtime.processes import process_count, process_index, wait
from distillknob.runtime.template_date import by_name, fix_dates
from distillknob.tasks import Example, Task, get_tasks, graded_tasks
from distillknob.training.callbacks import FiniteLoss, RunLogger, StageProgress, add_callbacks
from distillknob.training.checkpoints import (
    check_saves_whole,
    check_trainable,
    checkpoint_errors,
    load_trained,
    save_model,
    start_from,
)
from distillknob.training.config import as_dict, plain_config, refused_by_the_trainer

__all__ = ["DistillConfig", "DistillTrainer", "distill"]


def check(config: DistillConfig, preflight: Preflight) -> None:
    """Raise BadInputError for what `distill` couldn't use, before any weight is loaded."""
    method = config.objective
    cache = None if config.cache is None else TeacherCache(config.cache)
    needs_weights = config.needs_teacher and method.needs_teacher_distribution
    sides = preflight.sides(
        config.models_read,
        as_dict(config.chat_template_kwargs),
        weights=[config.student, *([config.teacher] if needs_weights else [])],
        revisions={
            config.student: as_dict(config.model_init_kwargs).get("revision"),
            config.teacher: config.teacher_model_revision,
        },
    )
    named = {side.name: side for side in sides}
    student = named[config.student]
    teacher = named[config.teacher] if config.needs_teacher else None
    target = named[config.target] if config.needs_target else None
    if teacher is not None and needs_weights and method.loss not in CROSS and teacher.same_tokens(student) is False:
        raise BadInputError(
            f"{config.method} compares next-token distributions, but {config.teacher!r} and {config.student!r} have "
            "different tokenizers: use divergence spans or uld, an sft method, or a student with its tokenizer"
        )
    if student.tokenizer is not None:
        if teacher is not None and teacher.tokenizer is not None:
            check_meant("student", config.student, student.tokenizer, config.teacher, teacher.tokenizer)
        if target is not None and target.tokenizer is not None:
            check_meant("target", config.target, target.tokenizer, config.student, student.tokenizer)
        if cache is not None:
            cache.check_student(config.student, student.tokenizer)
    check_trainable(config.student, config)
    check_learning_rate(config.student, config)
    if teacher is not None and same_weights(config.teacher, config.student) and method.context == "plain":
        preflight.remark(
            f"teacher and student are the same model ({config.student}): there is nothing to learn, and a divergence "
            "will be about 0"
        )
    step = config.per_device_train_batch_size * config.gradient_accumulation_steps * preflight.processes
    if cache is not None:
        check_traces(student, cache.traces, f"the cache {config.cache}")
        check_fills_a_step(len(cache.traces), step, "problems to train on")
        return
    answer = preflight.longest_answer(config.tasks, config.max_completion_length)
    tasks = [preflight.task(name, graded=method.traces in RIGHT_ONES) for name in config.tasks]
    rows = 0
    for task in tasks:
        if task is None:
            continue
        examples = task.examples("train", config.problems, seed=config.seed)
        rows += len(examples)
        _check_lengths(config, preflight, task, examples, answer, student, teacher, target)
    if None not in tasks:
        check_fills_a_step(rows, step, "problems to train on")


def _check_lengths(
    config: DistillConfig,
    preflight: Preflight,
    task: Task,
    examples: Sequence[Example],
    answer: int,
    student: Side,
    teacher: Side | None,
    target: Side | None,
) -> None:
    """Does what each model reads fit its context? The student its own samples and stored traces, the teacher what it
    samples and judges, with more in its prompt where the method says so."""
    method, field = config.objective, "max_completion_length"
    judge = teacher if method.needs_teacher_distribution else None
    stored = config.share_on_policy < 1
    if not stored or method.traces != "gold" or config.share_on_policy > 0:
        for side in (student, teacher, target):
            if side is not None:
                preflight.check_fit(side, task, examples, answer, field)
        if judge is not None and CONTEXTS[method.context] is not None:
            preflight.check_fit(judge, task, examples, answer, field, CONTEXTS[method.context])
    if stored and method.traces == "gold":
        longest = preflight.check_gold(student, task, examples)
        if judge is not None:
            preflight.check_gold(judge, task, examples, CONTEXTS[method.context])
        if config.max_completion_length is not None and longest > config.max_completion_length:
            preflight.remark(
                f"solutions of {task.name!r} have up to {longest} tokens: max_completion_length="
                f"{config.max_completion_length} bounds samples, and solutions are trained on whole"
            )


def distill(
    config: DistillConfig,
    output: str | Path,
    *,
    resume: bool = False,
    evaluate: Callable[[LanguageModel], Mapping[str, float]] | None = None,
) -> Run:
    """Distil `config.student` from `config.teacher` and return the run; its `model/` is the trained student.

    With `config.curve_steps`, some problems are held back and the student is scored on them on its way; `evaluate`
    gives other scores by task for that learning curve. Raises BadInputError before any work for input that can't be
    used.
    """
    method = config.objective
    cache = None if config.cache is None else TeacherCache(config.cache)
    tasks = (graded_tasks if method.traces in RIGHT_ONES else get_tasks)(config.tasks)
    step = config.per_device_train_batch_size * config.gradient_accumulation_steps * process_count()
    divided = curve_problems(config, cache)
    problems = sum(divided.trained.values()) if cache is None else len(cache.traces)
    check_fills_a_step(problems, step, "problems to train on")
    inputs = [*runs_behind(config.models_read), *([Path(config.cache)] if config.cache else [])]
    held = plain_config(config)
    opened: dict[str, Any] = {"inputs": inputs, "read": read_by(config), "resume": resume}
    if (done := Run.finished(output, "distill", held, **opened)) is not None:
        return done
    preflight = Preflight(process_count())
    check(config, preflight)
    preflight.tell()
    config = copy.copy(config)  # the caller's stays as it is, to be used again
    student = load_trained(config.student, config)
    teacher: Sampler | None = None
    loaded: LanguageModel | None = None  # the teacher, where its weights are needed
    needs_weights = method.needs_teacher_distribution
    if config.needs_teacher and needs_weights:
        pinned = {} if config.teacher_model_revision is None else {"revision": config.teacher_model_revision}
        teacher = loaded = load_model(config.teacher, options={**pinned, **as_dict(config.teacher_model_init_kwargs)})
    elif config.needs_teacher:
        teacher = load_or_connect(config.teacher, scores=False)
    # What a chat interface serves has a tokenizer and a template that aren't known here.
    tokenizer = None if teacher is None else teacher.tokenizer
    sides = by_name((config.student, student.tokenizer))
    if tokenizer is not None:
        sides = by_name((config.student, student.tokenizer), (config.teacher, tokenizer))
    elif teacher is not None and config.chat_template_kwargs and process_index() == 0:
        print(f"chat_template_kwargs don't reach {config.teacher}: its template is the server's", file=sys.stderr)
    values = as_dict(config.chat_template_kwargs)
    set_in_templates(sides, values)
    if tokenizer is not None:  # a server's turns out when it is asked
        check_meant("student", config.student, student.tokenizer, config.teacher, tokenizer)
    if cache is not None:
        know_ends(student, cache.ends)
    elif teacher is not None and tokenizer is not None and one_vocabulary(tokenizer, student.tokenizer):
        know_ends(student, teacher.ends)
    # What a cache holds was read on its day.
    run = Run.open(output, "distill", held, **opened, template_date=None if cache is None else cache.template_date)
    if run.complete:
        return run
    fix_dates(sides, run.template_date)
    options = TraceOptions(config.candidates, config.max_completion_length, config.seed)
    taught_by, on = (config.teacher, config.tasks) if cache is None else (cache.teacher, cache.tasks)
    record = read_record(taught_by) or (None if cache is None else cache.result.get("teacher_record"))
    warning = warn_of_teacher(taught_by, record)
    longest = max((task.max_new_tokens for task in tasks), default=None)  # a cache has its own tasks
    config.max_completion_length = config.max_completion_length or longest
    config.output_dir = str(run.path / "checkpoints")
    config.logging_steps = 1
    config.logging_nan_inf_filter = False  # FiniteLoss has to see a NaN loss

    traces = run.samples() if cache is None else cache.traces
    if not traces:
        target = load_or_connect(config.target) if config.needs_target else None
        if target is not None:
            set_in_templates(by_name(*sides.items(), (config.target, target.tokenizer)), values)
            fix_dates({config.target: target.tokenizer}, run.template_date)
        source = method.traces if config.share_on_policy < 1.0 else "none"
        context = CONTEXTS[method.context]
        traces = []
        for place, task in enumerate(tasks):
            journal = Journal(run.unfinished).part(f"traces-{place}")
            count = divided.trained[task.name]
            traces += make_traces(source, [task], count, student, teacher, target, options, context, journal)
        check_fills_a_step(len(traces), step, f"of {problems} problems have a trace to train on")
        run.write_samples(traces)
        reader = Side(config.student, student.tokenizer, context_of(student.model.config))
        check_traces(reader, traces, "the student's spelling of the traces")
    columns = ["prompt", "completion_ids", *(["teacher_prompt"] if method.context != "plain" else [])]
    rows = [{name: row[name] for name in columns} for row in traces]
    if cache is not None:
        rows = [{**row, "trace": number} for number, row in enumerate(rows)]
    with refused_by_the_trainer():
        trainer = DistillTrainer(
            model=student.model,
            teacher_model=None if loaded is None else loaded.model,
            args=config,
            train_dataset=Dataset.from_list(rows).shuffle(seed=config.seed),
            cache=cache,
            teacher_processing_class=tokenizer,
            processing_class=student.tokenizer,
            peft_config=config.peft_config,
        )
    check_saves_whole(trainer.accelerator)
    callbacks: list[TrainerCallback] = [
        RunLogger(run, {}),
        StageProgress(f"distill {config.method}", {"loss": "loss"}),
        FiniteLoss(run),
    ]
    if evaluate is None and divided.held_out:
        evaluate = student_scores(divided, max_new_tokens=config.max_completion_length, seed=config.seed)
    if divided.reason is not None and process_index() == 0:
        print(f"warning: {divided.reason}", file=sys.stderr)
    if evaluate is not None and config.curve_steps:
        callbacks.append(LearningCurve(run, trainer, student.tokenizer, config.curve_steps, evaluate))
    add_callbacks(trainer, *callbacks)
    folder = Path(config.output_dir)
    checkpoint = start_from(run, folder, resume=resume)
    with checkpoint_errors(folder):
        trainer.train(resume_from_checkpoint=checkpoint)
        trainer.save_model(str(folder / "final"))
    wait()
    metrics = run.metrics()
    losses = [row["loss"] for row in metrics if row.get("loss") is not None]
    steps = int(trainer.state.global_step)
    trainer.accelerator.free_memory()
    card = _card(config, taught_by, on, steps, warning)
    save_model(str(folder / "final"), student.tokenizer, run.path / "model", card, whole=config.merge_adapter)
    run.finish(
        {
            "stage": "distill",
            "teacher": taught_by,
            "teacher_record": record,
            "warning": warning,
            "notes": changed_meanwhile(run, config),
            "student": config.student,
            "method": config.method,
            "steps": steps,
            "tokens": int(sum(row.get("trained_tokens", 0) for row in metrics)),
            "learning_rate": config.learning_rate,
            "final_loss": sum(losses[-10:]) / max(1, len(losses[-10:])),
            "traces": len(traces),
            "curve": {
                "problems": {name: len(examples) for name, examples in divided.held_out.items()},
                "reason": divided.reason,
            },
            "findings": [asdict(_hacking(metrics, config, steps))],
        }
    )
    return run


def _hacking(metrics: list[dict[str, Any]], config: DistillConfig, planned: int) -> Finding:
    """Does the training loss keep to its power law?"""
    steps = [row for row in metrics if row.get("loss") is not None]
    return teacher_hacking(
        [row["step"] for row in steps],
        [row["loss"] for row in steps],
        [row.get("on_policy") or 0.0 for row in steps],
        warmup=config.get_warmup_steps(planned),
    )


def _card(config: DistillConfig, teacher: str, tasks: Sequence[str], steps: int, warning: str | None) -> str:
    """The student's card: how it was made, what to know of its teacher, and that nothing was measured of it."""
    note = "" if warning is None else f"\n{warning[:1].upper()}{warning[1:]}.\n"
    return (
        f"---\nbase_model: {config.student}\ntags: [distillknob, distilled-student]\n---\n"
        f"# {config.student}, distilled from {teacher}\n\n"
        f"Made by distillknob with method `{config.method}` ({config.objective.parts}) on {', '.join(tasks)} "
        f"({steps} steps of {config.per_device_train_batch_size * config.gradient_accumulation_steps}, "
        f"learning rate {config.learning_rate:g}, seed {config.seed}).\n{note}\n"
        "Not measured here: what this student scores (`distillknob evaluate`).\n"
    )
