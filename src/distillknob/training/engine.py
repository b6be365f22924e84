"""The vLLM that TRL's trainers hold beside a training: sampled from by stages too, and freed behind the training.

Left out on purpose: telling by it whether a training holds. Its weights are rounded to its own dtype, and small steps
are lost in that: the guard's verdict is of the weights as they are saved.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from distillknob.models.base import LanguageModel
from distillknob.models.engines.vllm_engine import VllmEngine
from distillknob.models.engines.vllm_model import VllmModel


def holds_engine(trainer: Any) -> bool:
    """Has the trainer a vLLM in this process?"""
    return bool(trainer.use_vllm and trainer.vllm_mode == "colocate")


@contextmanager
def engine_of(trainer: Any, trained: LanguageModel) -> Iterator[VllmModel]:
    """The model in training as the trainer's vLLM has it, its weights brought up to now. `trained` has its tokenizer
    and its ends. All processes have to call it."""
    generation = trainer.vllm_generation
    generation.sync_weights()  # which wakes the weights of an engine that sleeps, and not its cache
    if generation.enable_sleep_mode:
        generation.llm.wake_up(tags=["kv_cache"])
    yield VllmModel(trained.name, trained.tokenizer, trained.ends, VllmEngine(trained.name, "auto", llm=generation.llm))
    if generation.enable_sleep_mode:
        generation.llm.sleep(level=2)
        generation._llm_weights_sleeping = True  # as TRL leaves it: the next rollouts bring the weights anew


def close_engine(trainer: Any) -> None:
    """Free the trainer's vLLM, where it has one in this process. It can't train on."""
    if holds_engine(trainer):
        llm, trainer.vllm_generation.llm = trainer.vllm_generation.llm, None
        VllmEngine(str(trainer.model.name_or_path), "auto", llm=llm).close()
