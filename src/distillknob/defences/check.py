"""What `defend` and its dry run look at before any weight is loaded."""

from __future__ import annotations

from distillknob.config.checks import check_fills_a_step
from distillknob.defences.config import DefendConfig
from distillknob.errors import BadInputError
from distillknob.inputs.preflight import Preflight, check_learning_rate, same_weights
from distillknob.publishing.upload import check_upload
from distillknob.training.checkpoints import check_trainable
from distillknob.training.config import as_dict


def check(config: DefendConfig, preflight: Preflight) -> None:
    """Raise BadInputError for what `defend` couldn't use, before any weight is loaded."""
    check_upload(config, preflight)
    preflight.engine(config)
    sides = preflight.sides(
        config.models_read,
        as_dict(config.chat_template_kwargs),
        weights=config.models_read,
        revisions=dict(config.revisions_read),
    )
    teacher, reference = sides[0], sides[-1]
    if teacher.same_tokens(reference) is False:
        raise BadInputError(
            f"proxy={config.proxy!r} has another tokenizer than the teacher {config.teacher!r}, so that their next "
            "tokens can't be compared: name a proxy with the teacher's tokenizer, such as a smaller model of its family"
        )
    check_trainable(config.teacher, config)
    check_learning_rate(config.teacher, config)
    if not config.way.against_itself and same_weights(config.proxy, config.teacher):
        preflight.remark("the proxy is the teacher itself, from which the KL has no gradient: name a smaller model")
    if config.way.against_itself and config.proxy != DefendConfig.proxy:
        preflight.remark(f"proxy={config.proxy!r} does nothing: {config.method} goes away from the original teacher")
    step = config.per_device_train_batch_size * config.gradient_accumulation_steps * preflight.processes
    tasks = [preflight.task(name, graded=True) for name in config.tasks]
    rows = 0
    for task in tasks:
        if task is None:  # its data would have to be fetched
            continue
        examples = task.examples("train", config.problems, seed=config.seed)
        rows += len(examples)
        answer = preflight.longest_answer(config.tasks, config.max_completion_length)
        for side in dict.fromkeys((teacher.name, reference.name)):
            (one,) = (s for s in sides if s.name == side)
            preflight.check_fit(one, task, examples, answer, "max_completion_length")
    if None not in tasks:
        check_fills_a_step(rows, step, "problems to train on")
