"""The stage `distill`: traces, the trainer, the student.

A method is a loss × where the traces come from × which tokens count × what the teacher sees (`methods`); SFT is
its hard-label corner. Left out on purpose: a loop of our own.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import TrainerCallback

from distillknob.config.checks import check_fills_a_step
from distillknob.distillation.cache.files import TeacherCache
from distillknob.distillation.card import student_card
from distillknob.distillation.check import check, check_rows
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.context_use import warn_of_unused_context
from distillknob.distillation.learning_curve import CurveProblems, LearningCurve, curve_point, curve_problems
from distillknob.distillation.logged import by_oracle, hacking, peak_of, phase_row, step_seconds
from distillknob.distillation.loss_weights import FILE as LOSS_WEIGHTS
from distillknob.distillation.losses import Loss
from distillknob.distillation.moving_average import AVERAGE
from distillknob.distillation.oracle import Distances
from distillknob.distillation.pair import Pair, load_pair
from distillknob.distillation.past import PAST
from distillknob.distillation.queries.base import Traces as Queried
from distillknob.distillation.replay import REPLAY
from distillknob.distillation.trace_file import read_trace_file, with_ids
from distillknob.distillation.traces import RIGHT_ONES, TraceOptions, make_traces, part_of
from distillknob.distillation.trainer import DistillTrainer
from distillknob.inputs.identity import changed_meanwhile
from distillknob.inputs.opening import Opening, checked
from distillknob.inputs.preflight import Side, check_traces
from distillknob.models.architecture import context_of
from distillknob.models.base import LanguageModel
from distillknob.models.engines.opened import Engines
from distillknob.models.sampling import Sampler
from distillknob.models.scoring import Scorer
from distillknob.publishing.upload import uploads
from distillknob.results.stages import DistillResult, TeacherRecord
from distillknob.runs.journal import Journal
from distillknob.runs.model_record import read_record, warn_of_teacher
from distillknob.runs.run import Run
from distillknob.runtime.machine import free_models
from distillknob.runtime.processes import process_count, process_index, wait
from distillknob.runtime.template_date import fix_dates
from distillknob.tasks import Example, Task, get_tasks, graded_tasks
from distillknob.training.callbacks import FiniteLoss, PeakMemory, RunLogger, StageProgress, add_callbacks
from distillknob.training.checkpoints import check_saves_whole, checkpoint_errors, save_model, start_from
from distillknob.training.config import plain_config, refused_by_the_trainer
from distillknob.training.engine import close_engine
from distillknob.training.grading import graded_by

Traces = Sequence[dict[str, Any]]
FIRST = "first"  # the folder of the phase before, within the run's


@uploads
def distill(
    config: DistillConfig,
    output: str | Path,
    *,
    resume: bool = False,
    trainer_class: type[DistillTrainer] = DistillTrainer,
) -> Run:
    """Distil `config.student` from `config.teacher` and return the run; its `model/` is the trained student.

    With `config.curve_steps`, some problems are held back and the student is scored on them on its way. Raises
    BadInputError before any work for input that can't be used.
    """
    cache = None if config.cache is None else TeacherCache(config.cache)
    graded = config.grades or config.objective.traces in RIGHT_ONES
    tasks = (graded_tasks if graded else get_tasks)(config.tasks)
    divided = curve_problems(config, cache)
    for phase in config.phases():
        check_rows(phase, _trained_on(phase, cache, divided), _rows_a_step(phase), "problems to train on")
    further = [] if config.cache is None else [Path(config.cache)]
    opening = Opening("distill", config, output, plain_config(config), resume, further)
    if (done := opening.finished()) is not None:
        return done
    checked(check, config)
    engines = opening.engines()
    *before, phase = config.phases()
    earlier: list[Run] = []
    if before:  # their runs lie within this one's
        run = opening.run()
        if run.complete:
            return run
        earlier = [distill(one, run.path / FIRST, resume=resume, trainer_class=trainer_class) for one in before]
        free_models()
        phase = phase.on_student(str(earlier[-1].path / "model"))
    pair = load_pair(phase, cache, engines)
    if not before:
        run = opening.run(None if cache is None else cache.template_date)  # what a cache holds was read on its day
        if run.complete:
            return run
    fix_dates(pair.tokenizers, run.template_date)
    taught_by = config.taught_by if cache is None else cache.teacher
    record = read_record(taught_by) or (None if cache is None else cache.result.get("teacher_record"))
    unused = warn_of_unused_context(phase, pair, tasks, Journal(run.unfinished).part("context"))
    warnings = [*(warn_of_teacher(one, record) for one in config.several_teachers or [taught_by]), unused]
    warning = "; ".join(one for one in warnings if one is not None) or None
    if divided.reason is not None and process_index() == 0:
        print(f"warning: {divided.reason}", file=sys.stderr)
    traces = _own_traces(phase, run, pair, engines, tasks, divided) if cache is None else cache.traces
    engines.close()  # the training needs its memory
    if (soft := phase.made_soft_target) is not None and phase.share_on_policy == 0:
        soft.check_texts([row["completion"] for row in traces])
    loss = phase.loss if cache is None else phase.loss.stored(cache)
    settings = _for_the_trainer(phase, run, tasks)
    with refused_by_the_trainer():
        trainer = trainer_class(
            model=pair.student.model,
            teacher_model=pair.teacher_model,
            args=settings,
            train_dataset=_rows(phase, loss, traces),
            loss=loss,
            further_models=pair.further_models,
            teacher_processing_class=pair.teacher_tokenizer,
            processing_class=pair.student.tokenizer,
            peft_config=config.peft_config,
        )
    steps, final = _train(trainer, run, divided, pair.distances, resume=resume)
    close_engine(trainer)
    trainer.accelerator.free_memory()
    in_all = steps + sum(one.result["steps"] for one in earlier)
    privacy = None if trainer.budget is None else trainer.budget.spent(steps)
    card = student_card(
        config, run.path, taught_by, config.tasks if cache is None else cache.tasks, in_all, warning, privacy
    )
    save_model(str(final), pair.student.tokenizer, run.path / "model", card, whole=config.merge_adapter)
    result = _result(
        config,
        run,
        settings,
        divided,
        taught_by=taught_by,
        record=record,
        warning=warning,
        steps=steps,
        traces=len(traces),
        left_out=_trained_on(phase, cache, divided) - len(traces),
        earlier=earlier,
    )
    if privacy is not None:
        result["privacy"] = privacy
    run.finish(result)
    return run


def _rows_a_step(config: DistillConfig) -> int:
    return config.per_device_train_batch_size * config.gradient_accumulation_steps * process_count()


def _trained_on(config: DistillConfig, cache: TeacherCache | None, divided: CurveProblems) -> int:
    """How many problems or traces there are to train on."""
    if cache is not None:
        return len(cache.traces)
    if config.traces_file is not None:
        return len(read_trace_file(config.traces_file))
    return sum(len(part_of(range(n), config.problems_part)) for n in divided.trained.values())


def _own_traces(
    config: DistillConfig, run: Run, pair: Pair, engines: Engines, tasks: Sequence[Task], divided: CurveProblems
) -> list[dict[str, Any]]:
    """The run's traces: those that it wrote before it was stopped, or new ones."""
    if traces := run.samples():
        return traces
    reader = Side(config.student, pair.student.tokenizer, context_of(pair.student.model.config))
    if config.traces_file is not None:
        traces = with_ids(read_trace_file(config.traces_file), pair.student)
        traces = _weighed(config, run, pair, pair.teacher, pair.load_target(run.template_date), traces)
        run.write_samples(traces)
        check_traces(reader, traces, f"the traces of {config.traces_file}")
        return traces
    target = pair.load_target(run.template_date)
    teacher = pair.teacher
    if isinstance(teacher, LanguageModel) and config.writes_traces:  # a loss reads its weights, too
        revision = config.teacher_options.get("revision")
        teacher = engines.of(config.teacher, teacher, revision=revision)
    source = config.objective.traces if config.share_on_policy < 1.0 else "none"
    selection, seed = config.objective.selection, config.seed
    options = TraceOptions(
        config.candidates,
        config.max_completion_length,
        seed,
        ways=config.ways,
        selection=selection,
        problem_seed=config.seed_of_problems,
        part=config.problems_part,
    )
    columns = columns_of(config)
    for place, task in enumerate(tasks):
        journal = Journal(run.unfinished).part(f"traces-{place}")
        count = divided.trained[task.name]
        traces += make_traces(source, [task], count, pair.student, teacher, target, options, columns, journal)
    problems = _trained_on(config, None, divided)
    trained = len(traces) - config.held_back(len(traces))
    check_fills_a_step(
        trained,
        _rows_a_step(config) // config.objective.num_generations,
        f"of {problems} problems have a trace to train on",
    )
    traces = _weighed(config, run, pair, teacher, target, traces)
    run.write_samples(traces)
    check_traces(reader, traces, "the student's spelling of the traces")
    return traces


def _weighed(
    config: DistillConfig,
    run: Run,
    pair: Pair,
    teacher: Sampler | None,
    target: Scorer | None,
    traces: list[dict[str, Any]],
) -> list[dict[str, Any]]:
    """The traces, each with its `weight` where the method weighs them."""
    weights = config.made_query_weights
    if weights is None:
        return traces
    queried = Queried(traces, pair.student, teacher, target, Journal(run.unfinished).part("queries"))
    return [{**row, "weight": weight} for row, weight in zip(traces, weights.weights(queried), strict=True)]


def columns_of(config: DistillConfig) -> Callable[[Task, Example], dict[str, Any]]:
    """What a row of the data set holds beside its trace: what the teacher sees, and what a grader reads."""
    context, grades = config.made_context, config.grades

    def columns(task: Task, example: Example) -> dict[str, Any]:
        shown = {} if context is None else context.columns(task.messages(example), example)
        return {**shown, **(graded_by(task, example, config.max_completion_length) if grades else {})}

    return columns


def _rows(config: DistillConfig, loss: Loss, traces: Traces) -> Dataset:
    """The data set: of each trace what the trainer and the loss read, and its number as `trace`."""
    numbered = [{**row, "trace": number} for number, row in enumerate(traces)]
    seen = [name for name in traces[0] if name != "completion"]
    columns = dict.fromkeys([*seen, *loss.columns])
    return Dataset.from_list([{name: row[name] for name in columns} for row in numbered]).shuffle(seed=config.seed)


def _for_the_trainer(config: DistillConfig, run: Run, tasks: Sequence[Task]) -> DistillConfig:
    """A copy of the config that says what a run fixes: where checkpoints lie, and that each step is logged."""
    settings = copy.copy(config)  # the caller's stays as it is, to be used again
    longest = max((task.max_new_tokens for task in tasks), default=None)  # a cache has its own tasks
    settings.max_completion_length = config.max_completion_length or longest
    settings.output_dir = str(run.path / "checkpoints")
    settings.push_to_hub = False  # the Trainer would upload its own folder; the model is `uploads`' work
    settings.logging_steps = 1
    settings.logging_nan_inf_filter = False  # FiniteLoss has to see a NaN loss
    return settings


def _train(
    trainer: DistillTrainer, run: Run, divided: CurveProblems, distances: Distances | None, *, resume: bool
) -> tuple[int, Path]:
    """Train from the newest checkpoint on; the number of steps, and the folder of the trained weights."""
    config = trainer.args
    tokenizer: Any = trainer.processing_class
    check_saves_whole(trainer.accelerator)
    callbacks: list[TrainerCallback] = [
        PeakMemory(run),
        RunLogger(run, {}),
        StageProgress(f"distill {config.method}", {"loss": "loss"}),
        FiniteLoss(run),
    ]
    if divided.held_out and config.curve_steps:
        point = curve_point(divided, max_new_tokens=config.max_completion_length, seed=config.seed, distances=distances)
        callbacks.append(LearningCurve(run, trainer, tokenizer, config.curve_steps, point))
    add_callbacks(trainer, *callbacks)
    folder = Path(str(config.output_dir))
    also = [] if trainer.average is None else [AVERAGE]
    also += [] if trainer.loss.memory is None else [PAST]
    also += [] if trainer.replay is None else [REPLAY]
    also += [] if trainer.loss_module is None else [LOSS_WEIGHTS]
    checkpoint = start_from(run, folder, *also, resume=resume)
    with checkpoint_errors(folder):
        trainer.train(resume_from_checkpoint=checkpoint)
        trainer.save_model(str(folder / "final"))
    wait()
    return int(trainer.state.global_step), folder / "final"


def _result(
    config: DistillConfig,
    run: Run,
    settings: DistillConfig,
    divided: CurveProblems,
    *,
    taught_by: str,
    record: TeacherRecord | None,
    warning: str | None,
    steps: int,
    traces: int,
    left_out: int,
    earlier: Sequence[Run],
) -> DistillResult:
    """The stage's result, from what was logged."""
    metrics = run.metrics()
    tokens = int(sum(row.get("trained_tokens", 0) for row in metrics))
    phases = [phase_row(one.result) for one in earlier]
    phases.append(
        {
            "method": config.method,
            "learning_rate": settings.learning_rate,
            "steps": steps,
            "tokens": tokens,
            "traces": traces,
        }
    )
    losses = [row["loss"] for row in metrics if row.get("loss") is not None]
    result: DistillResult = {
        "stage": "distill",
        "teacher": taught_by,
        "teacher_record": record,
        "warning": warning,
        "notes": changed_meanwhile(run, config),
        "student": config.student,
        "method": config.method,
        "steps": sum(row["steps"] for row in phases),
        "tokens": sum(row["tokens"] for row in phases),
        "learning_rate": config.learning_rate,
        "step_seconds": step_seconds([one.metrics() for one in (*earlier, run)]),
        "peak_memory": peak_of([one.metrics() for one in (*earlier, run)]),
        "first_loss": None if config.loss.signed else sum(losses[:10]) / max(1, len(losses[:10])),
        "final_loss": sum(losses[-10:]) / max(1, len(losses[-10:])),
        "traces": traces,
        "left_out": left_out,
        "curve": {
            "problems": {name: len(examples) for name, examples in divided.held_out.items()},
            "reason": divided.reason,
        },
        "findings": [
            hacking(metrics, settings, steps).as_row(),
            *(by_oracle(metrics, task).as_row() for task in (divided.held_out if config.oracle is not None else ())),
        ],
    }
    if earlier:
        result["phases"] = phases
    return result
