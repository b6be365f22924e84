"""Turning the knob: reinforcement fine-tuning of the teacher towards, or away from, a calibration target.

`calibrate` is the stage: data, the trainer with its guard, the walk back to the last weights that hold, the result.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset

from distillknob.calibration.check import check
from distillknob.calibration.config import CalibrationConfig
from distillknob.calibration.guard import UtilityGuard
from distillknob.calibration.held_out import HeldOut, log_ratio_turned, task_scores, train_and_guard
from distillknob.calibration.rewards import task_reward
from distillknob.calibration.trainer import CalibrationTrainer, GuardCallback
from distillknob.errors import BadInputError
from distillknob.evaluation.measure import longest_answer
from distillknob.inputs.identity import changed_meanwhile, read_by
from distillknob.inputs.preflight import Preflight
from distillknob.models.load import load_model, set_in_templates
from distillknob.models.served.model import connect, load_or_connect
from distillknob.results.schema import Bounds
from distillknob.results.stages import CalibrateResult, GuardRow
from distillknob.runs.files import atomic_write
from distillknob.runs.journal import Journal
from distillknob.runs.model_record import calibrated_as, read_record, record_of
from distillknob.runs.run import Run, runs_behind
from distillknob.runtime.processes import process_count, process_index, wait
from distillknob.runtime.template_date import by_name, fix_dates
from distillknob.stats import paired_difference
from distillknob.tasks import Example, Task, graded_tasks
from distillknob.training.config import (
    FiniteLoss,
    RunLogger,
    StageProgress,
    add_callbacks,
    check_saves_whole,
    checkpoint_errors,
    load_trained,
    plain_config,
    refused_by_the_trainer,
    save_model,
    start_from,
)
from distillknob.verdicts import Turning, turned_text

__all__ = ["CalibrationConfig", "CalibrationTrainer", "calibrate", "check", "task_reward"]

FINAL, START = "final", "start"  # what lies beside the Trainer's checkpoints
TRAINED = "trained.json"  # of an unfinished run: the training is over

LOGGED = {
    "rewards/task_reward/mean": "task_score",
    "kl": "anchor_kl",
    "calibration/log_ratio": "log_ratio",
    "calibration/beta": "anchor_beta",
}

SHOWN = {"rewards/task_reward/mean": "task", "kl": "kl", "calibration/log_ratio": "log-ratio"}  # beside the progress


def training_rows(
    tasks: Sequence[Task], problems: int, seed: int, guard_problems: int = 0, max_new_tokens: int | None = None
) -> Dataset:
    """Prompts, task names, references (as JSON: their form differs by task) and the tokens that an answer may take,
    from the tasks' train split, shuffled, without the guard's."""
    rows = [
        _row(task, example, max_new_tokens)
        for task in tasks
        for example in train_and_guard(task, problems, guard_problems, seed)[0]
    ]
    return Dataset.from_list(rows).shuffle(seed=seed)


def _row(task: Task, example: Example, max_new_tokens: int | None) -> dict[str, Any]:
    return {
        "prompt": task.messages(example),
        "task": task.name,
        "reference": json.dumps(example.reference),
        "longest": longest_answer(task, max_new_tokens),
    }


def _rewarded_as_in_training(
    trainer: CalibrationTrainer, before: dict[str, HeldOut], tasks: Sequence[Task], config: CalibrationConfig
) -> tuple[dict[str, float], dict[str, float]]:
    """Mean and variance, by task, of the rewards of what the original wrote: reward functions of one's own have a scale
    of their own, and the guard's windows are on it. Raises BadInputError where they give a task's answers nothing."""
    means, variances = {}, {}
    for task in tasks:
        _, examples = train_and_guard(task, config.problems, config.guard_problems, config.seed)
        rows = [
            _row(task, example, config.max_completion_length)
            for example in examples
            for _ in range(config.guard_samples)
        ]
        rewards = trainer.rewards_of(rows, [sample.token_ids for sample in before[task.name].samples])
        known = [reward for reward in rewards if not math.isnan(reward)]
        if not known:
            raise BadInputError(
                f"the reward functions give none of {len(rewards)} answers to {task.name!r} a reward, so that the "
                "guard has nothing to hold: mend them, leave the task out, or set guard to false"
            )
        means[task.name] = sum(known) / len(known)
        variances[task.name] = sum((reward - means[task.name]) ** 2 for reward in known) / len(known)
    return means, variances


def _mean(scores: list[list[float]]) -> float:
    return sum(map(sum, scores)) / sum(map(len, scores))


def calibrate(
    config: CalibrationConfig,
    output: str | Path,
    *,
    resume: bool = False,
    reward_funcs: Callable[..., Any] | list[Any] | None = None,
) -> Run:
    """Calibrate `config.teacher` and return the run; its `model/` is the calibrated teacher.

    Raises BadInputError before any work for input that can't be used. A guard that can't hold the teacher ends the
    training, not the stage: the last good checkpoint becomes the model, and the result says so.
    """
    tasks = graded_tasks(config.tasks)
    rows = training_rows(tasks, config.problems, config.seed, config.guard_problems, config.max_completion_length)
    inputs = runs_behind(config.models_read)
    held = plain_config(config)
    opened: dict[str, Any] = {"inputs": inputs, "read": read_by(config), "resume": resume}
    if (done := Run.finished(output, "calibrate", held, **opened)) is not None:
        return done
    preflight = Preflight(process_count())
    check(config, preflight)
    preflight.tell()
    config = copy.copy(config)  # the caller's stays as it is, to be used again
    teacher = load_trained(config.teacher, config, anchored=config.beta > 0)
    target = (
        load_or_connect(config.target, device=config.target_device)
        if config.target_url is None
        else connect(config.target_url, config.target_name or config.target, config.target)
    )
    values: Any = config.chat_template_kwargs  # a dict once the config has parsed it
    sides = by_name((config.teacher, teacher.tokenizer), (config.target, target.tokenizer))
    set_in_templates(sides, values)
    run = Run.open(output, "calibrate", held, **opened)
    if run.complete:
        return run
    fix_dates(sides, run.template_date)
    checkpoints = run.path / "checkpoints"
    config.output_dir = str(checkpoints)
    config.logging_steps = 1
    if config.guard:  # which says itself when a checkpoint is worth keeping
        config.save_strategy, config.save_total_limit = "no", config.save_total_limit or 3
    config.logging_nan_inf_filter = False  # the guard has to see a NaN loss

    journal = Journal(run.unfinished)
    before = task_scores(teacher, tasks, config, "before", journal.part("before"))
    guard = UtilityGuard(
        baseline={name: _mean(held_out.scores) for name, held_out in before.items()},
        tolerance=config.utility_tolerance,
        beta=config.beta,
        steps=config.guard_steps,
    )
    tokenizer = teacher.tokenizer
    trained = run.unfinished / TRAINED
    if trained.exists():  # stopped behind the training
        state = json.loads(trained.read_text())
        guard.load_state_dict(state["guard"])
        steps = int(state["steps"])
    else:
        # TRL samples all tasks to one length. What each task may take of it stands in the rows.
        longest = config.max_completion_length or max(task.max_new_tokens for task in tasks)
        with refused_by_the_trainer():
            trainer = CalibrationTrainer(
                model=teacher.model,
                reward_funcs=reward_funcs or [task_reward],
                args=_sampled_to(longest, config),
                train_dataset=rows,
                processing_class=tokenizer,
                target=target,
                guard=guard if config.guard else None,
                peft_config=config.peft_config,
            )
        check_saves_whole(trainer.accelerator)
        if reward_funcs and config.guard:
            guard.baseline, guard.variance = _rewarded_as_in_training(trainer, before, tasks, config)
        steps = _train(trainer, config, guard, run, resume=resume)
        # What was trained is on the disk, whole, however it was spread over devices: from here on models are loaded.
        trainer.accelerator.free_memory()
        del trainer
        if process_index() == 0:
            trained.parent.mkdir(exist_ok=True)
            atomic_write(trained, json.dumps({"steps": steps, "guard": guard.state_dict()}).encode())
        wait()
    del teacher
    kept_step, kept, after, comparison = _best_that_holds(
        steps, before, tasks, config, guard, run.template_date, journal
    )
    turned = log_ratio_turned(before, after, target, tokenizer, config, kept_step, journal.part("target"))
    del target
    if turned.same:  # of which nothing is uncertain
        comparison = [{**row, "difference": 0.0, "interval": [0.0, 0.0]} for row in comparison]
    card = _card(config, guard, kept_step, comparison, turned)
    last: dict[str, Any] = next((row for row in reversed(run.metrics()) if row["step"] <= kept_step), {})
    result: CalibrateResult = {
        "stage": "calibrate",
        "eta": config.eta,
        "outcome": "finished" if guard.reason is None else "stopped",
        "reason": guard.reason,
        "steps": steps,
        "kept_step": kept_step,
        "turned": turned.as_row(),
        "final_beta": guard.beta,
        "anchor_kl": last.get("anchor_kl"),
        "log_ratio": last.get("log_ratio"),
        "tolerance": config.utility_tolerance,
        "guard": comparison,
        "events": guard.events,
        "notes": changed_meanwhile(run, config),
    }
    given: Any = config.model_init_kwargs or {}
    revision = {"revision": given["revision"]} if kept == config.teacher and "revision" in given else None
    save_model(
        kept,
        tokenizer,
        run.path / "model",
        card,
        whole=config.merge_adapter,
        options=revision,
        record=record_of(result, config.teacher, config.target),
    )
    run.finish(result)
    return run


def _train(
    trainer: CalibrationTrainer, config: CalibrationConfig, guard: UtilityGuard, run: Run, *, resume: bool
) -> int:
    """Train, from the last checkpoint if there is one, save the final weights, and return the number of steps."""
    folder = Path(str(config.output_dir))
    add_callbacks(
        trainer,
        RunLogger(run, LOGGED),
        StageProgress(f"calibrate η={config.eta:g}", SHOWN),
        GuardCallback(guard) if config.guard else FiniteLoss(run),
    )
    checkpoint = start_from(run, folder, *(["guard.json"] if config.guard else []), resume=resume)
    if checkpoint is not None:
        guard.load_state_dict(json.loads((Path(checkpoint) / "guard.json").read_text()))
    with checkpoint_errors(folder):
        if config.use_peft:
            # An adapter that does nothing yet. Not by the Trainer, whose engine comes with the training.
            tokenizer: Any = trainer.processing_class
            if process_index() == 0:
                trainer.accelerator.unwrap_model(trainer.model).save_pretrained(folder / START)
                tokenizer.save_pretrained(folder / START)
            wait()
        trainer.train(resume_from_checkpoint=checkpoint)
        trainer.save_model(str(folder / FINAL))
    wait()
    return int(trainer.state.global_step)


def _best_that_holds(
    steps: int,
    before: dict[str, HeldOut],
    tasks: Sequence[Task],
    config: CalibrationConfig,
    guard: UtilityGuard,
    day: str,
    journal: Journal,
) -> tuple[int, str, dict[str, HeldOut], list[GuardRow]]:
    """Walk back from the final weights over the kept checkpoints to the first whose scores hold on unseen problems.

    Returns its step, where it lies, what it wrote there, and how it compares with the original teacher, which is the
    last resort (step 0). Without a guard, the final weights are kept as they are.
    """
    folder = Path(str(config.output_dir))
    saved = sorted((int(path.name.split("-")[1]) for path in folder.glob("checkpoint-*")), reverse=True)
    candidates = [steps, *saved, 0] if guard.reason is None else [*saved, 0]
    for candidate in dict.fromkeys(candidates):
        if candidate == 0:
            path = str(folder / START) if config.use_peft else config.teacher
        else:
            final = candidate == steps and guard.reason is None
            path = str(folder / (FINAL if final else f"checkpoint-{candidate}"))
        after = before
        if candidate:
            after = _scores_of(path, tasks, config, day, journal.part(f"after-{candidate}"))
        comparison: list[GuardRow] = []
        for name in before:
            first, second = before[name].scores, after[name].scores
            change = paired_difference([sum(s) / len(s) for s in first], [sum(s) / len(s) for s in second])
            comparison.append(
                {
                    "task": name,
                    "before": _mean(first),
                    "after": _mean(second),
                    "difference": change.mean,
                    "interval": change.as_list(),
                }
            )
        if not config.guard or all(row["difference"] >= -config.utility_tolerance for row in comparison):
            return candidate, path, after, comparison
        lost = min(comparison, key=lambda row: row["difference"])
        guard.events.append(
            {
                "step": candidate,
                "what": f"not kept: {lost['task']} changed by {lost['difference']:+.3f} on unseen problems",
            }
        )
    raise AssertionError("the original teacher always holds against itself")


def _sampled_to(longest: int, config: CalibrationConfig) -> CalibrationConfig:
    """The config with answers of up to `longest` tokens."""
    config = copy.copy(config)
    config.max_completion_length = longest
    return config


def _scores_of(
    path: str, tasks: Sequence[Task], config: CalibrationConfig, day: str, journal: Journal
) -> dict[str, HeldOut]:
    """What a checkpoint writes, which is gone again when that is there: two at a time may not fit."""
    model, values = load_model(path), config.chat_template_kwargs
    set_in_templates({path: model.tokenizer}, values, needed=False)  # type: ignore[arg-type]  # a dict once parsed
    fix_dates({path: model.tokenizer}, day, tell=False)
    return task_scores(model, tasks, config, "after", journal)


def _interval(bounds: Bounds) -> str:
    low, high = bounds
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return "no interval of the difference, from one problem"
    return f"95 % interval of the difference {low:+.3f} to {high:+.3f}"


def _card(
    config: CalibrationConfig,
    guard: UtilityGuard,
    kept_step: int,
    comparison: list[GuardRow],
    turned: Turning,
) -> str:
    """The model card: what was done to this model, what was measured of it, and what was not."""
    stopped = f"The utility guard stopped the run: {guard.reason}.\n\n" if guard.reason else ""
    made_by = "distillknob (a reconstruction of arXiv 2604.18963)"
    if turned.same:
        earlier = read_record(config.teacher)  # a teacher that had been calibrated before
        was = f"not calibrated: it is the original (η = {config.eta:g})"
        if earlier is not None:
            was = f"unchanged by a calibration at η = {config.eta:g}; it is {calibrated_as(earlier)}"
        title = f"{config.teacher}, {was}"
        text = (
            f"This is `{config.teacher}` itself. {made_by} tried to calibrate it against `{config.target}`: "
            f"{turned.reason}.\n\n{stopped}"
        )
    else:
        title = f"{config.teacher}, calibrated with η = {config.eta:g} ({turned.verdict})"
        held = "\n".join(
            f"- {row['task']}: {row['before']:.3f} before, {row['after']:.3f} after ({_interval(row['interval'])})"
            for row in comparison
        )
        text = (
            f"Made by {made_by}: {kept_step} steps of reinforcement fine-tuning against `{config.target}`.\n\n"
            f"{stopped}{turned_text(turned.as_row())}\n\n"
            f"Task scores on training-split problems that were not trained on:\n\n{held}\n\n"
            "Not measured here: whether students learn more or less from this model than from the original.\n"
        )
    tags = "distillknob" if turned.same else "distillknob, calibrated-teacher"
    return f"---\nbase_model: {config.teacher}\ntags: [{tags}]\n---\n# {title}\n\n{text}"
