"""What `calibrate` and its dry run look at before any weight is loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from distillknob.calibration.config import CalibrationConfig
from distillknob.calibration.decision import (
    RESOLVED_AT,
    expected_error,
    least_problems,
    least_samples,
    resolved_tolerance,
    resolving_problems,
    scatter_of,
)
from distillknob.calibration.problems import Problems, problems_of
from distillknob.config.checks import check_fills_a_step
from distillknob.errors import BadInputError
from distillknob.inputs.preflight import Preflight, check_learning_rate, same_weights
from distillknob.models.names import SERVED, check_meant
from distillknob.models.served.model import check_scores_texts
from distillknob.publishing.upload import check_upload
from distillknob.training.checkpoints import check_trainable
from distillknob.training.config import as_dict

TRAIN_COPIES = ("co_distilled", "influence")


def check(config: CalibrationConfig, preflight: Preflight) -> None:
    """Raise BadInputError for what `calibrate` couldn't use, before any weight is loaded."""
    check_upload(config, preflight)
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
        check_scores_texts(target.name)
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
        problems = problems_of(task, config)
        for side in (teacher, *targets):
            texts = [*problems.trained, *problems.decided, *problems.fresh]
            preflight.check_fit(side, task, texts, answer, "max_completion_length")
        rows += len(problems.trained)
        if config.guard:
            _check_could_resolve(problems, config)
            if not preflight.fetch:
                _remark_on_the_guard(config, task.name, len(problems.decided), preflight)
    step = config.per_device_train_batch_size * int(config.steps_per_generation or config.gradient_accumulation_steps)
    if seen:
        groups = step * preflight.processes // int(config.num_generations or 1)
        check_fills_a_step(rows, groups, "problems to train on")


def _check_could_resolve(problems: Problems, config: CalibrationConfig) -> None:
    """Raise BadInputError for a tolerance that so few problems couldn't show to hold even of the same answers."""
    first, most, tolerance = problems.looks[0], len(problems.decided), config.utility_tolerance
    least = resolved_tolerance(first, most)
    if least <= tolerance:
        return
    remedies = [f"set guard_problems_max to {resolving_problems(tolerance, first, most)} or more"]
    if most < config.guard_budget:
        remedies = [f"take a task with more problems ({most} are left of this one's train split)"]
    if least < 1:
        remedies.append(f"utility_tolerance to {_rounded_up(least)} or more")
    raise BadInputError(
        f"utility_tolerance={tolerance:g}: {most} problems of {problems.task.name!r} can't show that a score holds to "
        f"within {100 * tolerance:g} points, even if not one answer changed: {', or '.join(remedies)}, or guard to "
        "false, and the last step is kept unjudged"
    )


def check_resolves(
    scores: Mapping[str, Sequence[Sequence[float]]], problems: Mapping[str, Problems], config: CalibrationConfig
) -> None:
    """Raise BadInputError for a tolerance below two standard errors of what the guard may compare, by the original's
    `scores` by task, problem and sample: an unchanged teacher would be taken for one that lost twice as much."""

    def noise(task: str) -> float:
        scatter = scatter_of(scores[task])
        return RESOLVED_AT * expected_error(scatter, config.guard_samples, len(problems[task].decided))

    worst, tolerance = max(scores, key=noise), config.utility_tolerance
    if noise(worst) <= tolerance:
        return
    scatter, most = scatter_of(scores[worst]), len(problems[worst].decided)
    remedies = []
    if most >= config.guard_budget:
        remedies.append(f"guard_problems_max to {least_problems(tolerance, scatter, config.guard_samples)} or more")
    samples = least_samples(tolerance, scatter, most)
    if samples is not None:
        remedies.append(f"guard_samples to {samples} or more")
    if noise(worst) < 1:
        remedies.append(f"utility_tolerance to {_rounded_up(noise(worst))} or more")
    score = fmean(map(fmean, scores[worst]))
    raise BadInputError(
        f"utility_tolerance={tolerance:g}: the original scores {100 * score:.1f} % on {worst!r}, and a score by "
        f"{most} problems × {config.guard_samples} samples may change by {100 * noise(worst):.1f} points by chance "
        f"(two standard errors): set {', or '.join([*remedies, 'guard to false'])}"
    )


def _rounded_up(tolerance: float) -> float:
    return math.ceil(1000 * tolerance) / 1000


def _remark_on_the_guard(config: CalibrationConfig, task: str, problems: int, preflight: Preflight) -> None:
    """What the guard can't tell from noise: the two standard errors of a difference of two means of right and wrong
    answers, for a teacher that is right three times in four."""
    noise = RESOLVED_AT * expected_error(0.75 * 0.25, config.guard_samples, problems)
    if noise > config.utility_tolerance:
        preflight.remark(
            f"the guard compares up to {problems} problems × {config.guard_samples} samples of {task!r}, which differ "
            f"by up to {100 * noise:.1f} points by chance (two standard errors, for a teacher that is right 3 times in "
            f"4 on each problem); the tolerance is {100 * config.utility_tolerance:g}: calibrate refuses it if the "
            "teacher's own answers scatter as much; more guard_problems_max or guard_samples tell more"
        )
