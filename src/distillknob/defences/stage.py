"""The stage `defend`: a teacher trained on its own right answers, away from a reference.

The training is distillation's, of the teacher from itself: its trainer, its traces, its checkpoints; what differs is
the loss. Left out on purpose: a guard like calibrate's. `evaluate` says what a defence costs its teacher, and a suite
of attacks what it is worth.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from distillknob.config.checks import check_fills_a_step
from distillknob.defences.card import defended_card
from distillknob.defences.check import check
from distillknob.defences.config import DefendConfig
from distillknob.defences.losses import REASONING
from distillknob.defences.proxies import check_one_tokenizer
from distillknob.defences.trainer import DefendTrainer
from distillknob.defences.weights import add_noise, train_head_alone, untie
from distillknob.distillation.traces import TraceOptions, make_traces
from distillknob.errors import BadInputError
from distillknob.inputs.identity import changed_meanwhile
from distillknob.inputs.opening import Opening, checked
from distillknob.inputs.preflight import Side, check_traces
from distillknob.models.architecture import context_of
from distillknob.models.base import LanguageModel
from distillknob.models.chat import set_in_templates
from distillknob.models.engines.opened import Engines
from distillknob.models.load import load_model
from distillknob.publishing.upload import uploads
from distillknob.results.stages import DefendResult
from distillknob.runs.journal import Journal
from distillknob.runs.model_record import read_record, warn_of_teacher
from distillknob.runs.run import Run
from distillknob.runtime.processes import notice, process_count, wait
from distillknob.runtime.template_date import by_name, fix_dates
from distillknob.tasks import Task, get_task, graded_tasks
from distillknob.tasks.answer_alone import answer_alone
from distillknob.training.callbacks import FiniteLoss, RunLogger, StageProgress, add_callbacks
from distillknob.training.checkpoints import check_saves_whole, checkpoint_errors, load_trained, save_model, start_from
from distillknob.training.config import as_dict, plain_config, refused_by_the_trainer
from distillknob.training.engine import close_engine

Traces = Sequence[dict[str, Any]]
LAST = 10  # steps over which the end of the training is told


@uploads
def defend(
    config: DefendConfig,
    output: str | Path,
    *,
    resume: bool = False,
    trainer_class: type[DefendTrainer] = DefendTrainer,
) -> Run:
    """Train `config.teacher` so that it is hard to learn from, and return the run; its `model/` is the defended
    teacher.

    Raises BadInputError before any work for input that can't be used, and where no trace has a token for the KL.
    """
    tasks = graded_tasks(config.tasks)
    opening = Opening("defend", config, output, plain_config(config), resume)
    if (done := opening.finished()) is not None:
        return done
    checked(check, config)
    teacher = load_trained(config.teacher, config)
    reference = load_model(config.reference, options=config.teacher_options)
    check_one_tokenizer(config.reference, reference.tokenizer, config.teacher, teacher.tokenizer)
    sides = by_name((config.teacher, teacher.tokenizer), (config.reference, reference.tokenizer))
    set_in_templates(sides, as_dict(config.chat_template_kwargs))
    run = opening.run()
    if run.complete:
        return run
    fix_dates(sides, run.template_date)
    warning = warn_of_teacher(config.teacher)
    engines = opening.engines()
    traces = _own_traces(config, run, teacher, engines, tasks)
    engines.close()  # the training needs its memory
    untied = _choose_weights(config, teacher)
    with refused_by_the_trainer():
        trainer = trainer_class(
            model=teacher.model,
            teacher_model=reference.model,
            args=_for_the_trainer(config, run, tasks),
            train_dataset=_rows(config, teacher.tokenizer, traces),
            loss=config.loss,
            teacher_processing_class=reference.tokenizer,
            processing_class=teacher.tokenizer,
            peft_config=config.peft_config,
        )
    if config.way.against_itself:
        add_noise(trainer.model, config.noise, config.seed)
    steps, final = _train(trainer, run, resume=resume)
    close_engine(trainer)
    trainer.accelerator.free_memory()
    result = _result(config, run, untied=untied, steps=steps, traces=len(traces), warning=warning)
    card = defended_card(config, run.path, result)
    record = read_record(config.teacher)  # it stays what it was calibrated to be
    save_model(
        str(final), teacher.tokenizer, run.path / "model", card, whole=config.merge_adapter, record=record or None
    )
    run.finish(result)
    return run


def _own_traces(
    config: DefendConfig, run: Run, teacher: LanguageModel, engines: Engines, tasks: Sequence[Task]
) -> list[dict[str, Any]]:
    """The teacher's right answers: those that the run wrote before it was stopped, or new ones."""
    if traces := run.samples():
        return traces
    sampler = engines.of(config.teacher, teacher, revision=as_dict(config.model_init_kwargs).get("revision"))
    options = TraceOptions(config.candidates, config.max_completion_length, config.seed)
    for place, task in enumerate(tasks):
        journal = Journal(run.unfinished).part(f"traces-{place}")
        source = config.objective.traces
        traces += make_traces(source, [task], config.problems, teacher, sampler, None, options, journal=journal)
    batch = config.per_device_train_batch_size * config.gradient_accumulation_steps * process_count()
    check_fills_a_step(len(traces), batch, "problems with a right answer to train on")
    run.write_samples(traces)
    reader = Side(config.teacher, teacher.tokenizer, context_of(teacher.model.config))
    check_traces(reader, traces, "the teacher's own answers")
    return traces


def _choose_weights(config: DefendConfig, teacher: LanguageModel) -> bool:
    """Freeze what isn't to move. Says whether the head had to be parted from the embedding for that."""
    if config.moved != "head":
        return False
    untied = untie(teacher.model)
    if untied:
        notice(f"{config.teacher} has one matrix for head and embedding: the head gets a copy, which alone is trained")
    train_head_alone(teacher.model)
    return untied


def _rows(config: DefendConfig, tokenizer: PreTrainedTokenizerBase, traces: Traces) -> Dataset:
    """The data set: prompts, completions, and how many of a completion's tokens the KL is taken over. Raises
    BadInputError where that is none in all of them."""
    rows = [
        {
            "prompt": row["prompt"],
            "completion_ids": row["completion_ids"],
            REASONING: tokens_before_the_answer(get_task(row["task"]), tokenizer, row["completion"], ids)
            if config.way.reasoning
            else len(ids),
        }
        for row in traces
        for ids in (row["completion_ids"],)
    ]
    if not any(row[REASONING] for row in rows):
        raise BadInputError(
            f"method={config.method!r} works on the tokens before the final answer, and no right answer to "
            f"{', '.join(config.tasks)} has any: take a task with working to show, or method nasty"
        )
    return Dataset.from_list(rows).shuffle(seed=config.seed)


def tokens_before_the_answer(task: Task, tokenizer: PreTrainedTokenizerBase, text: str, ids: Sequence[int]) -> int:
    """How many of a completion's tokens end before the final answer in its text begins (`answer_alone`)."""
    characters = len(text) - len(answer_alone(task, text))
    least, most = 0, len(ids)
    while least < most:  # the longest beginning that is no longer than the working
        middle = (least + most + 1) // 2
        if len(str(tokenizer.decode(list(ids[:middle]), skip_special_tokens=True))) <= characters:
            least = middle
        else:
            most = middle - 1
    return least


def _for_the_trainer(config: DefendConfig, run: Run, tasks: Sequence[Task]) -> Any:
    """A copy of the config that says what a run fixes: where checkpoints lie, and that each step is logged."""
    settings = copy.copy(config)  # the caller's stays as it is, to be used again
    settings.max_completion_length = config.max_completion_length or max(task.max_new_tokens for task in tasks)
    settings.output_dir = str(run.path / "checkpoints")
    settings.push_to_hub = False  # the Trainer would upload its own folder; the model is `uploads`' work
    settings.logging_steps = 1
    settings.logging_nan_inf_filter = False  # FiniteLoss has to see a KL that is infinite
    return settings


def _train(trainer: DefendTrainer, run: Run, *, resume: bool) -> tuple[int, Path]:
    """Train from the newest checkpoint on; the number of steps, and the folder of the trained weights."""
    check_saves_whole(trainer.accelerator)
    shown = {"cross_entropy": "cross-entropy", "kl": "kl"}
    add_callbacks(trainer, RunLogger(run, {}), StageProgress(f"defend {trainer.args.method}", shown), FiniteLoss(run))
    folder = Path(str(trainer.args.output_dir))
    checkpoint = start_from(run, folder, resume=resume)
    with checkpoint_errors(folder):
        trainer.train(resume_from_checkpoint=checkpoint)
        trainer.save_model(str(folder / "final"))
    wait()
    return int(trainer.state.global_step), folder / "final"


def _result(
    config: DefendConfig, run: Run, *, untied: bool, steps: int, traces: int, warning: str | None
) -> DefendResult:
    """The stage's result, from what was logged."""
    metrics = [row for row in run.metrics() if row.get("kl") is not None]

    def at_the_end(name: str) -> float:
        last = [float(row[name]) for row in metrics[-LAST:]]
        return sum(last) / len(last)

    return {
        "stage": "defend",
        "teacher": config.teacher,
        "teacher_record": read_record(config.teacher),
        "warning": warning,
        "notes": changed_meanwhile(run, config),
        "method": config.method,
        "reference": config.reference,
        "moved": config.moved,
        "untied": untied,
        "strength": config.loss.strength,
        "kl_temperature": config.loss.temperature,
        "steps": steps,
        "tokens": int(sum(row.get("trained_tokens", 0) for row in metrics)),
        "learning_rate": config.learning_rate,
        "traces": traces,
        "cross_entropy": [float(metrics[0]["cross_entropy"]), at_the_end("cross_entropy")],
        "kl": [float(metrics[0]["kl"]), at_the_end("kl")],
    }
