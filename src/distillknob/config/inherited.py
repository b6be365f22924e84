"""Fields of TRL's and transformers' configs that a recipe can't change here, each with the reason.

They would do nothing, or break what a stage promises, and none says so by itself. What acts as its documentation says
is left alone; tests/config/test_inherited.py holds that every inherited field is one or the other.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from distillknob.config.fields import default_of, plain_value
from distillknob.errors import BadInputError

_NO_SET = "there is no evaluation set here (distill has curve_steps, calibrate its guard)"
_AT_THE_END = "the run's model/ is uploaded once, when the run is finished (push_to_hub)"
_EVERY_STEP = "every step is logged, since the guard and the report read each"
_ORDER = "the order of the problems follows from the seed alone, so that a resumed run goes on as an unbroken one"
_TO_STDOUT = "it prints to stdout, which holds the result alone: read samples.jsonl"
_ANCHOR = "the anchor is the original teacher, and must not move"
_RESUMED = "a resumed run could not go on as an unbroken one"
_LAYERS = "what is scored must be what is trained, and its layers are others"


def _each(names: str, reason: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), reason)


REFUSED: dict[str, str] = {
    **_each(
        "eval_strategy eval_steps eval_delay eval_on_start eval_accumulation_steps eval_do_concat_batches "
        "eval_use_gather_object per_device_eval_batch_size prediction_loss_only include_for_metrics "
        "batch_eval_metrics num_generations_eval bf16_full_eval fp16_full_eval do_eval do_predict "
        "load_best_model_at_end metric_for_best_model greater_is_better label_names",
        _NO_SET,
    ),
    **_each(
        "hub_strategy hub_always_push log_completions_hub_repo",
        _AT_THE_END,
    ),
    **_each("logging_strategy logging_steps logging_first_step logging_nan_inf_filter", _EVERY_STEP),
    **_each("train_sampling_strategy length_column_name data_seed", _ORDER),
    **_each("log_completions num_completions_to_print log_unique_prompts log_multimodal", _TO_STDOUT),
    **_each("sync_ref_model ref_model_mixup_alpha ref_model_sync_steps", _ANCHOR),
    **_each("save_only_model ignore_data_skip restore_callback_states_from_checkpoint", _RESUMED),
    **_each("use_liger_kernel liger_kernel_config", _LAYERS),
    "do_train": "the command says what is done",
    "resume_from_checkpoint": "--resume goes on at the newest one",
    "include_num_input_tokens_seen": "a step gets problems, and its answers are drawn later: nothing would be counted",
    "max_tool_calling_iterations": "no tools are called here",
    "label_smoothing_factor": "the losses here are not the Trainer's, and would not read it",
    "average_tokens_across_devices": "losses are averaged over the tokens of all processes as it is",
    "remove_unused_columns": "graders read the columns that it would take away",
    "auto_find_batch_size": "a step must have the samples that the config says",
    "trust_remote_code": (
        "models that bring code of their own aren't supported, since their heads and caches aren't known here: take an "
        "architecture of transformers"
    ),
    "teacher_model_name_or_path": "use teacher",
}
# What is so in any case.
_SO_ALREADY: dict[str, Any] = {
    "logging_steps": 1,
    "logging_first_step": True,
    "logging_nan_inf_filter": False,
    "hub_strategy": "end",
}
_VLLM = "vllm_"


def check_inherited(config: Any) -> None:
    """Raise BadInputError for an inherited setting that would do nothing here, or break what a stage promises. To be
    asked before TRL fills in settings of its own."""
    for field in dataclasses.fields(config):
        reason = REFUSED.get(field.name)
        if reason is None and field.name.startswith(_VLLM) and not config.use_vllm:
            reason = "use_vllm is off"
        value, default = plain_value(getattr(config, field.name)), plain_value(default_of(field))
        if reason is None or value == default or value == _SO_ALREADY.get(field.name):
            continue
        if not value and default in (None, False, [], "no"):
            continue
        raise BadInputError(f"{field.name}={value!r}: {reason}. Leave it out")
