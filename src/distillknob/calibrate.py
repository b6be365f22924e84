"""Turning the knob: reinforcement fine-tuning of the teacher towards, or away from, a calibration target.

`calibrate` is the stage: data, the trainer with its guard, the walk back to the last weights that hold, the result.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from datasets import Dataset

from distillknob.calibration_trainer import CalibrationConfig, CalibrationTrainer, GuardCallback, task_reward
from distillknob.errors import BadInputError, check_fills_a_step
from distillknob.generation import Sampling, generate
from distillknob.guard import UtilityGuard
from distillknob.models import LanguageModel, check_meant, load_model, resolve, set_in_templates
from distillknob.processes import by_parts, process_index, wait
from distillknob.runs import Run, runs_behind
from distillknob.served import connect, load_or_connect
from distillknob.stats import paired_difference
from distillknob.tasks import Example, Task, get_task, grade_all
from distillknob.training import (
    FiniteLoss,
    RunLogger,
    StageProgress,
    add_callbacks,
    check_saves_whole,
    checkpoint_errors,
    last_checkpoint,
    load_trained,
    plain_config,
    refused_by_the_trainer,
    save_model,
)

__all__ = ["CalibrationConfig", "CalibrationTrainer", "calibrate", "task_reward"]

FINAL, START = "final", "start"  # what lies beside the Trainer's checkpoints

LOGGED = {
    "rewards/task_reward/mean": "task_score",
    "kl": "anchor_kl",
    "calibration/log_ratio": "log_ratio",
    "calibration/beta": "anchor_beta",
}


def train_and_guard(task: Task, problems: int, guard_problems: int, seed: int) -> tuple[list[Example], list[Example]]:
    """Examples of the train split to train on, and others for the guard: `guard_problems`, or a fifth of what a small
    task has. Raises BadInputError where there is too little for both."""
    found = task.examples("train", problems + guard_problems, seed=seed)
    spare = len(found) - problems
    held_out = min(guard_problems, max(spare, len(found) // 5))
    if guard_problems and not held_out:
        raise BadInputError(f"task {task.name!r} has {len(found)} train problems: at least 5 are needed with a guard")
    return found[: min(problems, len(found) - held_out)], found[len(found) - held_out :]


def training_rows(tasks: Sequence[Task], problems: int, seed: int, guard_problems: int = 0) -> Dataset:
    """Prompts, task names and references (as JSON: their form differs by task) from the tasks' train split, shuffled,
    without the guard's."""
    rows = [
        {"prompt": task.messages(example), "task": task.name, "reference": json.dumps(example.reference)}
        for task in tasks
        for example in train_and_guard(task, problems, guard_problems, seed)[0]
    ]
    return Dataset.from_list(rows).shuffle(seed=seed)


def task_scores(
    language_model: LanguageModel, tasks: Sequence[Task], config: CalibrationConfig, what: str
) -> dict[str, list[list[float]]]:
    """Scores by task, problem and sample, on train-split problems that the fine-tuning does not see."""
    scores = {}
    for task in tasks:
        _, examples = train_and_guard(task, config.problems, config.guard_problems, config.seed)
        samples = generate(
            language_model,
            [task.messages(example) for example in examples],
            config.guard_samples,
            Sampling(max_new_tokens=config.max_completion_length or task.max_new_tokens, seed=config.seed),
            shared=True,
            description=f"guard: {task.name} {what}",
        )
        _, flat, problem_of = samples.flat()
        references = [examples[i].reference for i in problem_of]
        graded = by_parts(partial(grade_all, task), [sample.text for sample in flat], references)
        n = config.guard_samples
        scores[task.name] = [graded[i * n : (i + 1) * n] for i in range(len(examples))]
    return scores


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
    tasks = [get_task(name) for name in config.tasks]
    for task in tasks:
        if config.gate and config.right_at == 1 and task.is_right(0.99):  # graded by a probability, which is below 1
            raise BadInputError(
                f"right_at={config.right_at:g}: no answer of task {task.name!r} scores 1, so none would be given the "
                "calibration reward: set right_at to 0.5, from where its answers count as right"
            )
    rows = training_rows(tasks, config.problems, config.seed, config.guard_problems)
    step = int(config.generation_batch_size or 0) // int(config.num_generations or 1)
    check_fills_a_step(len(rows), step, "problems to train on")
    inputs = runs_behind(config.models_read)
    for name in config.models_read:
        resolve(name)
    teacher = load_trained(config.teacher, config, anchored=config.beta > 0)
    target = (
        load_or_connect(config.target, device=config.target_device)
        if config.target_url is None
        else connect(config.target_url, config.target_name or config.target, config.target)
    )
    values: Any = config.chat_template_kwargs  # a dict once the config has parsed it
    set_in_templates({config.teacher: teacher.tokenizer, config.target: target.tokenizer}, values)
    check_meant("target", config.target, target.tokenizer, config.teacher, teacher.tokenizer)
    run = Run.open(output, "calibrate", plain_config(config), inputs=inputs, resume=resume)
    if run.complete:
        return run
    if config.max_completion_length is None:
        config.max_completion_length = max(task.max_new_tokens for task in tasks)
    checkpoints = run.path / "checkpoints"
    config.output_dir = str(checkpoints)
    config.logging_steps = 1
    if config.guard:  # which says itself when a checkpoint is worth keeping
        config.save_strategy, config.save_total_limit = "no", config.save_total_limit or 3
    config.logging_nan_inf_filter = False  # the guard has to see a NaN loss

    before = task_scores(teacher, tasks, config, "before")
    guard = UtilityGuard(
        baseline={name: _mean(scores) for name, scores in before.items()},
        tolerance=config.utility_tolerance,
        beta=config.beta,
        steps=config.guard_steps,
    )
    tokenizer = teacher.tokenizer
    with refused_by_the_trainer():
        trainer = CalibrationTrainer(
            model=teacher.model,
            reward_funcs=reward_funcs or [task_reward],
            args=config,
            train_dataset=rows,
            processing_class=tokenizer,
            target=target,
            guard=guard if config.guard else None,
            peft_config=config.peft_config,
        )
    check_saves_whole(trainer.accelerator)
    steps = _train(trainer, config, guard, run, resume=resume)
    # What was trained is on the disk now, whole, however it was spread over devices: from here on models are loaded.
    trainer.accelerator.free_memory()
    del teacher, target, trainer
    kept_step, kept, comparison = _best_that_holds(steps, before, tasks, config, guard)
    card = _card(config, guard, kept_step, comparison)
    given: Any = config.model_init_kwargs or {}
    revision = {"revision": given["revision"]} if kept == config.teacher and "revision" in given else None
    save_model(kept, tokenizer, run.path / "model", card, whole=config.merge_adapter, options=revision)
    last: dict[str, Any] = next((row for row in reversed(run.metrics()) if row["step"] <= kept_step), {})
    run.finish(
        {
            "stage": "calibrate",
            "eta": config.eta,
            "outcome": "finished" if guard.reason is None else "stopped",
            "reason": guard.reason,
            "steps": steps,
            "kept_step": kept_step,
            "final_beta": guard.beta,
            "anchor_kl": last.get("anchor_kl"),
            "log_ratio": last.get("log_ratio"),
            "tolerance": config.utility_tolerance,
            "guard": comparison,
            "events": guard.events,
        }
    )
    return run


def _train(
    trainer: CalibrationTrainer, config: CalibrationConfig, guard: UtilityGuard, run: Run, *, resume: bool
) -> int:
    """Train, from the last checkpoint if there is one, save the final weights, and return the number of steps."""
    folder = Path(str(config.output_dir))
    add_callbacks(
        trainer,
        RunLogger(run, LOGGED),
        StageProgress(f"calibrate η={config.eta:g}", {"rewards/task_reward/mean": "task", "kl": "kl"}),
        GuardCallback(guard) if config.guard else FiniteLoss(run),
    )
    checkpoint = last_checkpoint(folder, *(["guard.json"] if config.guard else [])) if resume else None
    if checkpoint is not None:
        guard.load_state_dict(json.loads((Path(checkpoint) / "guard.json").read_text()))
    # Without a checkpoint the training starts over, and so does its log.
    run.drop_metrics_after(-1 if checkpoint is None else int(Path(checkpoint).name.split("-")[1]))
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
    before: dict[str, list[list[float]]],
    tasks: Sequence[Task],
    config: CalibrationConfig,
    guard: UtilityGuard,
) -> tuple[int, str, list[dict[str, Any]]]:
    """Walk back from the final weights over the kept checkpoints to the first whose scores hold on unseen problems.

    Returns its step, where it lies, and how it compares with the original teacher, which is the last resort (step 0).
    Without a guard, the final weights are kept as they are.
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
        after = _scores_of(path, tasks, config) if candidate else before
        comparison: list[dict[str, Any]] = []
        for name in before:
            change = paired_difference([sum(s) / len(s) for s in before[name]], [sum(s) / len(s) for s in after[name]])
            comparison.append(
                {
                    "task": name,
                    "before": _mean(before[name]),
                    "after": _mean(after[name]),
                    "difference": change.mean,
                    "interval": [change.low, change.high],
                }
            )
        if not config.guard or all(row["difference"] >= -config.utility_tolerance for row in comparison):
            return candidate, path, comparison
        lost = min(comparison, key=lambda row: row["difference"])
        guard.events.append(
            {
                "step": candidate,
                "what": f"not kept: {lost['task']} changed by {lost['difference']:+.3f} on unseen problems",
            }
        )
    raise AssertionError("the original teacher always holds against itself")


def _scores_of(path: str, tasks: Sequence[Task], config: CalibrationConfig) -> dict[str, list[list[float]]]:
    """The scores of a checkpoint, which is gone again when they are there: two at a time may not fit."""
    model, values = load_model(path), config.chat_template_kwargs
    set_in_templates({path: model.tokenizer}, values, needed=False)  # type: ignore[arg-type]  # a dict once parsed
    return task_scores(model, tasks, config, "after")


def _card(config: CalibrationConfig, guard: UtilityGuard, kept_step: int, comparison: list[dict[str, Any]]) -> str:
    """The model card: what was done to this model, and what it was measured to keep."""
    direction = (
        "distillable" if config.eta < 0 else "undistillable" if config.eta > 0 else "unchanged in distillability"
    )
    held = "\n".join(
        f"- {row['task']}: {row['before']:.3f} before, {row['after']:.3f} after "
        f"(95 % interval of the difference {row['interval'][0]:+.3f} to {row['interval'][1]:+.3f})"
        for row in comparison
    )
    stopped = f"\nThe utility guard stopped the run: {guard.reason}.\n" if guard.reason else ""
    return (
        f"---\nbase_model: {config.teacher}\ntags: [distillknob, calibrated-teacher]\n---\n"
        f"# {config.teacher}, calibrated with η = {config.eta:g}\n\n"
        f"Made to be {direction} by distillknob (a reconstruction of arXiv 2604.18963): {kept_step} steps of "
        f"reinforcement fine-tuning against `{config.target}`.\n{stopped}\nTask scores on unseen training-split "
        f"problems:\n\n{held}\n"
    )
