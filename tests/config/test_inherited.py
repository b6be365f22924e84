"""Every setting that the stages inherit acts as its documentation says, or is refused with the reason."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from trl import DistillationConfig, GRPOConfig  # type: ignore[attr-defined]

from distillknob.calibration.config import CalibrationConfig
from distillknob.config.fields import REFUSED as NEVER_SET
from distillknob.config.fields import default_of
from distillknob.config.inherited import REFUSED, check_inherited
from distillknob.distillation.config import DistillConfig
from distillknob.errors import BadInputError
from distillknob.training.rollouts import BENDING

# What acts in a run as TRL and transformers say. A field of a new release belongs here only once its code was read:
# does it reach our losses, our rollouts and what is scored, and does a resumed run go on as an unbroken one with it?
ACTS = set(
    # The optimiser and the steps
    "per_device_train_batch_size num_train_epochs max_steps learning_rate lr_scheduler_type lr_scheduler_kwargs "
    "warmup_steps optim optim_args weight_decay adam_beta1 adam_beta2 adam_epsilon optim_target_modules "
    "gradient_accumulation_steps max_grad_norm neftune_noise_alpha seed full_determinism "
    # Memory, speed and devices
    "bf16 fp16 tf32 activation_checkpointing activation_checkpointing_kwargs gradient_checkpointing "
    "gradient_checkpointing_kwargs torch_compile torch_compile_backend torch_compile_mode use_cache use_cpu "
    "torch_empty_cache_steps accelerator_config parallelism_config ddp_find_unused_parameters ddp_bucket_cap_mb "
    "ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout fsdp fsdp_config deepspeed local_rank "
    "ds3_gather_for_generation "
    # The data's way to the model
    "dataloader_drop_last dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers "
    "dataloader_prefetch_factor dataloader_multiprocessing_context dataloader_in_order shuffle_dataset "
    "pad_to_multiple_of chat_template_kwargs "
    # Logs, trackers and checkpoints
    "output_dir log_on_each_node log_level log_level_replica disable_tqdm report_to run_name project trackio_space_id "
    "trackio_bucket_id trackio_static_space_id save_strategy save_steps save_on_each_node save_total_limit "
    "enable_jit_checkpoint debug skip_memory_metrics "
    # The upload of the finished model, which is publishing/upload.py's
    "push_to_hub hub_model_id hub_private_repo hub_revision "
    # Models and rollouts
    "model_init_kwargs teacher_model_revision teacher_model_init_kwargs disable_dropout max_completion_length "
    "temperature cache_implementation use_vllm beta "
    # GRPO's losses
    "router_aux_loss_coef cast_lm_head_to_fp32 num_generations generation_batch_size steps_per_generation "
    "num_iterations epsilon delta epsilon_high sapo_temperature_neg sapo_temperature_pos vespo_k_pos "
    "vespo_lambda_pos vespo_k_neg vespo_lambda_neg importance_sampling_level reward_weights loss_type "
    "top_entropy_quantile entropy_coef "
    "use_adaptive_entropy entropy_coef_min entropy_coef_max entropy_coef_delta entropy_target "
    "off_policy_mask_threshold use_transformers_continuous_batching transformers_continuous_batching_config "
    "use_transformers_paged".split()
)
# Which calibrate's own config looks at, since they would change what the advantage is or blur what is scored.
BY_CALIBRATE = {"multi_objective_aggregation", "scale_rewards", "mask_truncated_completions", "use_bias_correction_kl"}
BASES = {CalibrationConfig: GRPOConfig, DistillConfig: DistillationConfig}


def raw(cls: type[Any], **values: Any) -> Any:
    """A config as its `__post_init__` sees it."""
    config = object.__new__(cls)
    for field in dataclasses.fields(cls):
        setattr(config, field.name, values.get(field.name, default_of(field)))
    return config


@pytest.mark.parametrize("base", BASES.values())
def test_every_inherited_field_is_known_to_act_or_refused(base: type[Any]) -> None:
    fields = {field.name for field in dataclasses.fields(base)}
    known = ACTS | {*REFUSED} | {*BENDING} | {*NEVER_SET} | BY_CALIBRATE
    assert sorted(name for name in fields - known if not name.startswith("vllm_")) == []


def test_no_field_is_named_that_nothing_has() -> None:
    fields = {field.name for base in BASES.values() for field in dataclasses.fields(base)}
    assert sorted((ACTS | {*REFUSED} | {*BENDING} | BY_CALIBRATE) - fields) == []
    assert not ACTS & {*REFUSED}


@pytest.mark.parametrize("cls", BASES)
def test_each_setting_that_would_not_act_is_refused_by_name(cls: type[Any]) -> None:
    check_inherited(raw(cls))
    refused = [field for field in dataclasses.fields(cls) if field.name in REFUSED or field.name.startswith("vllm_")]
    assert len(refused) > 50
    for field in refused:
        value = not default_of(field) if isinstance(default_of(field), bool) else 7
        if field.name not in ("logging_nan_inf_filter", "logging_first_step"):  # whose other value is ours
            with pytest.raises(BadInputError, match=rf"{field.name}={value}: .*Leave it out"):
                check_inherited(raw(cls, **{field.name: value}))


def test_what_is_so_already_may_be_said() -> None:
    check_inherited(raw(CalibrationConfig, logging_steps=1, logging_nan_inf_filter=False, do_eval=None))
    check_inherited(raw(DistillConfig, use_vllm=True, vllm_gpu_memory_utilization=0.2))


@pytest.mark.parametrize(
    ("cls", "setting", "reason"),
    [
        (CalibrationConfig, {"hub_strategy": "checkpoint"}, "uploaded once, when the run is finished"),
        (CalibrationConfig, {"sync_ref_model": True}, "the anchor is the original teacher"),
        (CalibrationConfig, {"vllm_mode": "server"}, "use_vllm is off"),
        (CalibrationConfig, {"neftune_noise_alpha": 5.0}, "the log-ratio would be that noise"),
        (DistillConfig, {"label_smoothing_factor": 0.1}, "would not read it"),
        (DistillConfig, {"data_seed": 3}, "follows from the seed alone"),
    ],
)
def test_a_config_with_such_a_setting_is_bad_input(cls: type[Any], setting: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadInputError, match=reason):
        cls(**setting)
