"""Turning the knob: reinforcement fine-tuning of the teacher towards, or away from, a calibration target.

`calibrate` is the stage: data, the trainer with its guard, the walk back to the last weights that hold, the result.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from distillknob.calibration.answers import Answers, Model, Weights
from distillknob.calibration.callbacks import REWARD_STATE, GuardCallback, RewardCallback
from distillknob.calibration.card import model_card
from distillknob.calibration.check import check, check_resolves
from distillknob.calibration.config import CalibrationConfig
from distillknob.calibration.guard import UtilityGuard
from distillknob.calibration.held_out import HeldOut, Measure, remark_on_sure_tokens, reward_turned, task_scores
from distillknob.calibration.last_good import FINAL, START, LastThatHolds, last_that_holds
from distillknob.calibration.moved import what_moved
from distillknob.calibration.problems import Problems, problems_of
from distillknob.calibration.rewards.base import CalibrationReward
from distillknob.calibration.rewards.choice import make_reward
from distillknob.calibration.rows import graded_baseline, rewarded_baseline, training_rows
from distillknob.calibration.trainer import CalibrationTrainer
from distillknob.inputs.identity import changed_meanwhile
from distillknob.inputs.opening import Opening, checked
from distillknob.models.chat import set_in_templates
from distillknob.models.engines.opened import Engines
from distillknob.models.scoring import Scorer
from distillknob.models.served.model import connect, load_or_connect
from distillknob.publishing.upload import uploads
from distillknob.results.stages import CalibrateResult, GuardRow
from distillknob.runs.files import atomic_write
from distillknob.runs.journal import Journal
from distillknob.runs.model_record import record_of
from distillknob.runs.run import Run
from distillknob.runtime.machine import free_models
from distillknob.runtime.processes import notice, process_index, wait
from distillknob.runtime.template_date import by_name, fix_dates
from distillknob.tasks import graded_tasks
from distillknob.training.callbacks import FiniteLoss, RunLogger, StageProgress, add_callbacks
from distillknob.training.checkpoints import check_saves_whole, checkpoint_errors, load_trained, save_model, start_from
from distillknob.training.config import as_dict, plain_config, refused_by_the_trainer
from distillknob.training.engine import close_engine
from distillknob.training.grading import task_reward
from distillknob.verdicts.turning import Turning

TRAINED = "trained.json"  # of an unfinished run: the training is over

LOGGED = {
    "rewards/task_reward/mean": "task_score",
    "kl": "anchor_kl",
    "calibration/log_ratio": "log_ratio",
    "calibration/beta": "anchor_beta",
}

SHOWN = {"rewards/task_reward/mean": "task", "kl": "kl", "calibration/log_ratio": "calibration"}  # beside the progress


@uploads
def calibrate(
    config: CalibrationConfig,
    output: str | Path,
    *,
    resume: bool = False,
    reward_funcs: Callable[..., Any] | list[Any] | None = None,
    trainer_class: type[CalibrationTrainer] = CalibrationTrainer,
    measure: Measure = task_scores,
) -> Run:
    """Calibrate `config.teacher` and return the run; its `model/` is the calibrated teacher.

    `reward_funcs` take the place of the tasks' graders in training, as in TRL. `measure` samples a model's answers to
    the guard's held-out problems and scores them.

    Raises BadInputError before any work for input that can't be used. A guard that can't hold the teacher ends the
    training, not the stage: the last good checkpoint becomes the model, and the result says so.
    """
    tasks = graded_tasks(config.tasks)
    rows = training_rows(tasks, config.problems, config.seed, config.guard_problems, config.max_completion_length)
    opening = Opening("calibrate", config, output, plain_config(config), resume)
    if (done := opening.finished()) is not None:
        return done
    checked(check, config)
    config = copy.copy(config)  # the caller's stays as it is, to be used again
    teacher, targets = load_trained(config.teacher, config, anchored=config.beta > 0), _targets(config)
    tokenizer = teacher.tokenizer
    values = as_dict(config.chat_template_kwargs)
    named = zip(config.targets, (target.tokenizer for target in targets), strict=True)
    sides = by_name((config.teacher, tokenizer), *named)
    set_in_templates(sides, values)
    run = opening.run()
    if run.complete:
        return run
    fix_dates(sides, run.template_date)
    _set_for_the_run(config, run)

    journal, engines = Journal(run.unfinished), _engines(opening, config)

    def load(weights: Weights) -> Model:
        model = engines.start(weights.path, _loaded_with(config, weights.path))
        set_in_templates({weights.path: model.tokenizer}, values, needed=False)
        fix_dates({weights.path: model.tokenizer}, run.template_date, tell=False)
        return model

    problems = {task.name: problems_of(task, config, place) for place, task in enumerate(tasks)}
    answers = Answers(problems, config, journal, measure, load)
    untouched = Weights(str(Path(str(config.output_dir)) / START) if config.use_peft else config.teacher, 0)
    answers.hold(
        untouched, engines.of(config.teacher, teacher, revision=as_dict(config.model_init_kwargs).get("revision"))
    )
    before = answers.look(untouched, 0)
    answers.let_go()
    engines.close()  # the training needs its memory
    guard = _guard(config, before, problems)
    reward = make_reward(config, targets, tokenizer, journal.part("reward"))
    if config.reward == "sure_tokens":
        remark_on_sure_tokens(before)
    steps = _trained_before(run, guard, reward)
    if steps is None:
        # TRL samples all tasks to one length. What each task may take of it stands in the rows.
        longest = config.max_completion_length or max(task.max_new_tokens for task in tasks)
        with refused_by_the_trainer():
            trainer = trainer_class(
                model=teacher.model,
                reward_funcs=reward_funcs or [task_reward],
                args=_sampled_to(longest, config),
                train_dataset=rows,
                processing_class=tokenizer,
                target=targets,
                calibration_reward=reward,
                guard=guard if config.guard else None,
                baseline=guard.baseline,
                peft_config=config.peft_config,
            )
        check_saves_whole(trainer.accelerator)
        if reward_funcs:
            _watch_rewards(trainer, guard, before, problems, config)
        steps = _train(trainer, config, guard, run, resume=resume)
        close_engine(trainer)
        del trainer
    del teacher
    free_models()

    last = last_that_holds(steps, untouched, answers, config, guard)
    answers.let_go()
    engines.close()
    of_original = partial(load, untouched)
    turned = reward_turned(
        before, last.held_out, reward, of_original, tokenizer, config, last.step, journal.part("target")
    )
    engines.close()
    del targets, reward
    if turned.same:  # of which nothing is uncertain
        last = last._replace(guard=[_unchanged(row) for row in last.guard], fresh=[])
    result = _result(config, run, guard, steps, last, turned)
    result["moved"] = what_moved(tasks, before, last.held_out, config.right_at, same=turned.same)
    _save(config, run, tokenizer, guard, last, turned, result)
    run.finish(result)
    return run


def _guard(config: CalibrationConfig, before: Mapping[str, HeldOut], problems: Mapping[str, Problems]) -> UtilityGuard:
    """The guard, with the original's scores as its baseline. Raises BadInputError for a tolerance that the problems
    can't resolve at these scores."""
    if config.guard:
        check_resolves({name: one.scores for name, one in before.items()}, problems, config)
    baseline = graded_baseline(before)
    return UtilityGuard(
        baseline=baseline.means,
        tolerance=config.utility_tolerance,
        beta=config.beta,
        steps=config.guard_steps,
        baseline_errors=baseline.errors,
    )


def _watch_rewards(
    trainer: CalibrationTrainer,
    guard: UtilityGuard,
    before: dict[str, HeldOut],
    problems: Mapping[str, Problems],
    config: CalibrationConfig,
) -> None:
    """Let the guard, and a task that is held, go by reward functions of one's own, whose scale is theirs."""
    if config.guard or trainer.hold is not None:
        baseline = rewarded_baseline(trainer, before, problems, config)
        guard.baseline, guard.baseline_errors, guard.variance = baseline
        if trainer.hold is not None:
            trainer.hold.baseline = dict(baseline.means)


def _save(
    config: CalibrationConfig,
    run: Run,
    tokenizer: PreTrainedTokenizerBase,
    guard: UtilityGuard,
    last: LastThatHolds,
    turned: Turning,
    result: CalibrateResult,
) -> None:
    """Write the weights that hold into the run's `model/`, with their card and record."""
    in_place = as_dict(config.model_init_kwargs)
    revision = {"revision": in_place["revision"]} if last.path == config.teacher and "revision" in in_place else None
    save_model(
        last.path,
        tokenizer,
        run.path / "model",
        model_card(config, run.path, guard, last, turned),
        whole=config.merge_adapter,
        options=revision,
        record=record_of(result, config.teacher, config.target),
    )


def _engines(opening: Opening, config: CalibrationConfig) -> Engines:
    """What writes the answers to the guard's problems, before and after."""
    if config.use_peft and opening.choice.engine == "vllm":
        notice("the guard's answers are transformers', before and after: the trained teacher is a LoRA adapter")
        return Engines("transformers")
    return opening.engines()


def _loaded_with(config: CalibrationConfig, path: str) -> dict[str, Any]:
    """How weights of this run are loaded, so that the original writes later what it would have written at the start,
    and what became of it is compared with it in the same type."""
    options = {**({} if config.use_peft else {"dtype": "float32"}), **as_dict(config.model_init_kwargs)}
    if path == config.teacher:
        return options
    return {"dtype": options["dtype"]} if "dtype" in options else {}  # of an adapter, or of whole weights of its own


def _targets(config: CalibrationConfig) -> list[Scorer]:
    """The calibration targets, loaded or behind their servers."""
    if config.target_url is None:
        return [load_or_connect(target, device=config.target_device) for target in config.targets]
    return [connect(config.target_url, config.target_name or config.target, config.target)]


def _set_for_the_run(config: CalibrationConfig, run: Run) -> None:
    """Set what the Trainer has to know of the run."""
    config.output_dir = str(run.path / "checkpoints")
    config.push_to_hub = False  # the Trainer would upload its own folder; the model is `uploads`' work
    config.logging_steps = 1
    config.logging_nan_inf_filter = False  # the guard has to see a NaN loss
    if config.guard:  # which says itself when a checkpoint is worth keeping
        config.save_strategy, config.save_total_limit = "no", config.save_total_limit or 3


def _trained_before(run: Run, guard: UtilityGuard, reward: CalibrationReward) -> int | None:
    """The steps of a run that was stopped behind its training, with guard and reward as they were then, or None."""
    path = run.unfinished / TRAINED
    if not path.exists():
        return None
    state = json.loads(path.read_text())
    guard.load_state_dict(state["guard"])
    reward.load_state_dict(state["reward"])
    return int(state["steps"])


def _result(
    config: CalibrationConfig, run: Run, guard: UtilityGuard, steps: int, last: LastThatHolds, turned: Turning
) -> CalibrateResult:
    """The stage's result."""
    logged: dict[str, Any] = next((row for row in reversed(run.metrics()) if row["step"] <= last.step), {})
    return {
        "stage": "calibrate",
        "eta": config.eta,
        "outcome": "finished" if guard.reason is None else "stopped",
        "reason": guard.reason,
        "steps": steps,
        "kept_step": last.step,
        "turned": turned.as_row(),
        "learning_rate": config.learning_rate,
        "final_beta": guard.beta,
        "anchor_kl": logged.get("anchor_kl"),
        "log_ratio": logged.get("log_ratio"),
        "tolerance": config.utility_tolerance,
        "guard": last.guard,
        "fresh": last.fresh,
        "events": guard.events,
        "notes": changed_meanwhile(run, config),
    }


def _unchanged(row: GuardRow) -> GuardRow:
    return {**row, "difference": 0.0, "interval": [0.0, 0.0]}


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
        RewardCallback(trainer),
    )
    checkpoint = start_from(run, folder, REWARD_STATE, *(["guard.json"] if config.guard else []), resume=resume)
    if checkpoint is not None:
        trainer.load_reward_state(json.loads((Path(checkpoint) / REWARD_STATE).read_text()))
        if config.guard:
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
    # What was trained is on the disk, whole, however it was spread over devices: from here on models are loaded.
    trainer.accelerator.free_memory()
    steps = int(trainer.state.global_step)
    if process_index() == 0:
        (run.unfinished / TRAINED).parent.mkdir(exist_ok=True)
        state = {"steps": steps, "guard": guard.state_dict(), "reward": trainer.reward_state()["reward"]}
        atomic_write(run.unfinished / TRAINED, json.dumps(state).encode())
    wait()
    return steps


def _sampled_to(longest: int, config: CalibrationConfig) -> CalibrationConfig:
    """The config with answers of up to `longest` tokens."""
    config = copy.copy(config)
    config.max_completion_length = longest
    return config
