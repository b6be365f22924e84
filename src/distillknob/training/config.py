"""What the configs of both training stages share: plain values of them, and what is refused on this machine.

Left out on purpose: a training loop. Both stages are TRL Trainers; this room holds callbacks and small functions around
them.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

import torch
from transformers import TrainingArguments

from distillknob.config.recipe import resolved
from distillknob.config.shared import UPLOAD
from distillknob.errors import BadInputError
from distillknob.models.dtypes import LARGE
from distillknob.runtime.machine import multiplies_bfloat16
from distillknob.runtime.processes import connect, notice

# Where a run is kept doesn't belong to what it is. `generation_batch_size` says what `steps_per_generation` says, for
# one number of processes; TRL fills in both, and refuses both.
_PLACES = {"output_dir", "logging_dir", "run_name", "disable_tqdm", "generation_batch_size", *UPLOAD}


def plain_config(config: Any) -> dict[str, Any]:
    """What stands in `config.yaml`: our own fields, and the inherited ones that differ from their defaults."""
    default = type(config)()
    changed = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.init and field.name not in _PLACES and getattr(config, field.name) != getattr(default, field.name)
    }
    plain = resolved(type(config), changed)
    return {name: value for name, value in plain.items() if name not in _PLACES}


class TrainingConfig(Protocol):
    """What the configs of both stages have, of the options of TRL and of LoRA, that is read beside their Trainers."""

    use_peft: bool
    disable_dropout: bool
    model_init_kwargs: dict[str, Any] | str | None
    report_to: str | list[str] | None
    use_vllm: bool
    engine: str
    bf16: bool | None
    mixed_precision: str

    @property
    def trains_on_own_samples(self) -> bool: ...


def as_dict(value: dict[str, Any] | str | None) -> dict[str, Any]:
    """A field of TRL's configs that may be given as JSON, {} for None: every config has parsed it when it is made."""
    assert not isinstance(value, str)
    return value or {}


def named_dtype(config: TrainingConfig) -> torch.dtype | None:
    """The type in which the config has the trained model loaded; None where it names none, or `auto`. Raises
    BadInputError for one that torch doesn't know."""
    named = as_dict(config.model_init_kwargs).get("dtype")
    dtype = getattr(torch, str(named).removeprefix("torch."), None)
    if named is not None and named != "auto" and not isinstance(dtype, torch.dtype):
        raise BadInputError(
            f"model_init_kwargs names the dtype {named!r}, which torch doesn't know: give bfloat16, float16, float32 "
            "or auto"
        )
    return dtype if isinstance(dtype, torch.dtype) else None


def trained_options(config: TrainingConfig) -> dict[str, Any]:
    """What the model that is trained is loaded with, and a copy of it that has to give the same numbers. Raises
    BadInputError for a dtype that torch doesn't know."""
    named_dtype(config)
    precise = {} if config.use_peft else {"dtype": "float32"}
    return {**precise, **as_dict(config.model_init_kwargs)}


# Set on a config that said nothing of bf16, on a machine without an accelerator.
_PRECISION_LEFT_OPEN = "_precision_left_open"
# Are configs made for another machine, whose accelerator and packages this one hasn't?
_ELSEWHERE: ContextVar[bool] = ContextVar("elsewhere", default=False)


@contextmanager
def for_another_machine(elsewhere: bool = True) -> Iterator[None]:
    """Make configs that are only looked at here, as a dry run for a named GPU does: what this machine lacks is no
    reason to refuse them."""
    token = _ELSEWHERE.set(elsewhere)
    try:
        yield
    finally:
        _ELSEWHERE.reset(token)


def on_this_machine(config: TrainingArguments) -> None:
    """Fill in what depends on the machine before TRL does: bf16 and pinned memory need an accelerator, and several
    processes without one have to be told to Accelerate. Raises BadInputError for a precision that isn't here."""
    connect()
    if _ELSEWHERE.get():
        config.bf16 = config.fp16 = False
        config.tf32 = None
    if not torch.cuda.is_available():
        if config.bf16 and multiplies_bfloat16():
            config.use_cpu = True  # which transformers asks for beside it
        for name in ("bf16", "fp16"):
            if getattr(config, name) and not config.use_cpu:
                raise BadInputError(
                    f"{name}: this machine has no GPU, and on a CPU {name} is emulated: leave it out, or add --use-cpu "
                    "if you mean it"
                )
        setattr(config, _PRECISION_LEFT_OPEN, config.bf16 is None)
        config.bf16 = bool(config.bf16)  # None would mean True to TRL
        config.dataloader_pin_memory = False


def mix_precision(config: TrainingConfig, parameters: int) -> None:
    """Let a large model's products be in bfloat16 (its weights stay float32) on a CPU that multiplies it, where nobody
    named a precision: what TRL takes on a GPU, for a model that gains by it. To be asked before the Trainer is made.

    On two cores with AMX a step of SmolLM2-135M in full then takes less than half of the time."""
    if takes_bfloat16(config, parameters):
        config.bf16, config.mixed_precision = True, "bf16"
        notice("this CPU multiplies bfloat16: training takes its products in it (--no-bf16: all in float32)")


def takes_bfloat16(config: Any, parameters: int) -> bool:
    """Says whether `mix_precision` lets the products of a model of so many parameters be in bfloat16."""
    return getattr(config, _PRECISION_LEFT_OPEN, False) and gains_by_bfloat16(parameters)


def gains_by_bfloat16(parameters: int) -> bool:
    """Says whether a training of so many parameters is faster with its products in bfloat16 on this machine's CPU."""
    return parameters >= LARGE and multiplies_bfloat16()


def agree_on_engine(config: TrainingConfig) -> None:
    """Let `engine` and TRL's `use_vllm` say the same: who draws the guard's answers and traces draws the rollouts too.
    To be asked before `check_inherited`. Raises BadInputError where they contradict each other."""
    if config.use_vllm and config.engine == "transformers":
        raise BadInputError(
            "use_vllm is on and engine is transformers: rollouts and all other samples come from one engine, so set "
            "engine to vllm, or leave use_vllm out"
        )
    if config.use_vllm:
        config.engine = "vllm"
    elif config.engine == "vllm" and config.trains_on_own_samples:
        config.use_vllm = True


def spread_by(config: Any) -> str | None:
    """What spreads the trained model's weights over the processes, by this config or by Accelerate's: FSDP, DeepSpeed,
    or None."""
    asked = {"FSDP": config.fsdp, "DeepSpeed": config.deepspeed}
    for name, own in asked.items():
        if own or os.environ.get(f"ACCELERATE_USE_{name.upper()}", "").lower() in ("1", "true", "yes", "on"):
            return name
    return None


def zero_stage(config: Any) -> int:
    """The stage of DeepSpeed's ZeRO, by this config or by Accelerate's; 0 without DeepSpeed. Known once TRL has read
    its own options."""
    plugin = config.deepspeed_plugin
    return 0 if plugin is None else int(plugin.zero_stage)


def halved_by_deepspeed(config: Any) -> str | None:
    """The half precision in which DeepSpeed keeps weights, by this config or by Accelerate's: bf16, fp16, or None.
    Known once TRL has read its own options."""
    plugin = config.deepspeed_plugin
    if plugin is None:
        return None
    on = (name for name in ("bf16", "fp16") if plugin.deepspeed_config.get(name, {}).get("enabled") is True)
    return next(on, None)


def check_package(name: str, what: str, extra: str) -> None:
    """Raise BadInputError where `what` need a package that isn't installed on the machine they run on."""
    if not _ELSEWHERE.get() and importlib.util.find_spec(name) is None:
        raise BadInputError(f"{what} need {name}, which isn't installed: pip install 'distillknob[{extra}]'")


def check_installed(config: TrainingConfig) -> None:
    """Raise BadInputError for a tracker or an engine that the config asks for and that isn't installed: the Trainer
    would say so only once the models are loaded and the first samples drawn."""
    if _ELSEWHERE.get():
        return
    from transformers.integrations.integration_utils import get_available_reporting_integrations
    from trl.import_utils import is_vllm_available

    wanted = config.report_to if isinstance(config.report_to, list) else [config.report_to]
    missing = {name for name in wanted if name} - {"none", "all", *get_available_reporting_integrations()}
    if missing:
        name = min(missing)
        raise BadInputError(f"report_to names {name!r}, which isn't installed: pip install {name}, or leave it out")
    if config.use_vllm and not is_vllm_available():
        raise BadInputError(
            "use_vllm needs vLLM, which isn't installed: pip install 'distillknob[vllm]', or leave it (and engine) out"
        )


def _holds_here(record: logging.LogRecord) -> bool:
    """False for TRL's notice that `model_init_kwargs` are ignored: `load_trained` has read them."""
    return "`model_init_kwargs` will be ignored" not in record.getMessage()


@contextmanager
def refused_by_the_trainer() -> Iterator[None]:
    """What TRL's or transformers' constructor refuses is bad input, like what their configs refuse."""
    for name in ("grpo_trainer", "distillation_trainer"):
        logging.getLogger(f"trl.trainer.{name}").addFilter(_holds_here)
    try:
        yield
    except ValueError as error:
        raise BadInputError(str(error)) from error
