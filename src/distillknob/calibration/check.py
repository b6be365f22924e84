"""What `calibrate` and its dry run look at before any weight is loaded."""

from __future__ import annotations

from distillknob.calibration.config import CalibrationConfig
from distillknob.calibration.held_out import train_and_guard
from distillknob.config.checks import check_fills_a_step
from distillknob.errors import BadInputError
from distillknob.inputs.preflight import Preflight, check_learning_rate, same_weights
from distillknob.models.names import SERVED, check_meant
from distillknob.training.checkpoints import check_trainable
from distillknob.training.config import as_dict

TRAIN_COPIES = ("co_distilled", "influence")


def check(config: CalibrationConfig, preflight: Preflight) -> None:
    """Raise BadInputError for what `calibrate` couldn't use, before any weight is loaded."""
    preflight.engine(config)
    named = config.target
    if config.target_url is not None:
        named = f"{config.target_url}#{config.target_name or config.target}#{config.target}"
    teacher, *targets = preflight.sides(
        [config.teacher, named, *config.more_targets],
        as_dict(config.chat_template_kwargs),
        weights=[config.teacher],
        revisions={config.teacher: as_dict(config.model_init_kwargs).get("revision")},
    )
    for name, target in zip(config.targets, targets, strict=True):
        if teacher.tokenizer is not None and target.tokenizer is not None:
            check_meant("target", name, target.tokenizer, config.teacher, teacher.tokenizer)
        if config.reward == "token" and teacher.same_tokens(target) is False:
            raise BadInputError(
                f"reward='token' compares token by token, but the target {name!r} has another tokenizer than the "
                "teacher: use sequence or sure_tokens, which compare texts"
            )
        if config.reward in TRAIN_COPIES and (config.target_url is not None or name.startswith(SERVED)):
            raise BadInputError(
                f"reward={config.reward!r} trains copies of the target, and {name!r} is behind a server: name its "
                "folder or hub id, or use sequence or sure_tokens"
            )
    check_trainable(config.teacher, config, anchored=config.beta > 0)
    check_learning_rate(config.teacher, config)
    if config.eta and len(targets) == 1 and same_weights(config.teacher, config.target):
        preflight.remark(
            f"teacher and target are the same model ({config.target}): their log-ratio is 0 at the start, so η has "
            "nothing to turn towards or away from"
        )
    if abs(config.eta) > 1:
        preflight.remark(f"eta={config.eta:g}: all that was measured here is for |η| up to 1")
    answer, rows, seen = preflight.longest_answer(config.tasks, config.max_completion_length), 0, True
    for task in map(preflight.task, config.tasks):
        if task is None:
            seen = False
            continue
        if config.gate and config.right_at == 1 and task.is_right(0.99):  # graded by a probability, which is below 1
            raise BadInputError(
                f"right_at={config.right_at:g}: no answer of task {task.name!r} scores 1, so none would be given the "
                "calibration reward: set right_at to 0.5, from where its answers count as right"
            )
        trained, held_out = train_and_guard(task, config.problems, config.guard_problems, config.seed)
        for side in (teacher, *targets):
            preflight.check_fit(side, task, [*trained, *held_out], answer, "max_completion_length")
        rows += len(trained)
        if config.guard and not preflight.fetch:
            _remark_on_the_guard(config, task.name, len(held_out), preflight)
    step = config.per_device_train_batch_size * int(config.steps_per_generation or config.gradient_accumulation_steps)
    if seen:
        groups = step * preflight.processes // int(config.num_generations or 1)
        check_fills_a_step(rows, groups, "problems to train on")


def _remark_on_the_guard(config: CalibrationConfig, task: str, problems: int, preflight: Preflight) -> None:
    """What the guard can't tell from noise: the two standard errors of a difference of two means of right and wrong
    answers, for a teacher that is right three times in four."""
    noise = 2 * (2 * 0.75 * 0.25 / (problems * config.guard_samples)) ** 0.5
    if noise > config.utility_tolerance:
        preflight.remark(
            f"the guard compares {problems} problems × {config.guard_samples} samples of {task!r}, which differ by up "
            f"to {100 * noise:.1f} points by chance (two standard errors, for a teacher that is right 3 times in 4); "
            f"the tolerance is {100 * config.utility_tolerance:g}: more guard_problems or guard_samples tell more"
        )
