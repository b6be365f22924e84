"""Which engine samples and scores the models of a stage, and why.

Left out on purpose: transformers' continuous batching (`generate_batch`), whose draws come from one random state for
whatever rows happen to be in a batch: its samples can't be drawn again (docs/reference/engines.md).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from distillknob.errors import BadInputError
from distillknob.models.architecture import architecture, model_config
from distillknob.models.checkpoint_files import is_adapter
from distillknob.models.names import SERVED, resolve

INSTALL = "pip install 'distillknob[vllm]'"
SMALL = 100e6  # parameters below which a model is sampled from before a vLLM has started


@dataclass(frozen=True)
class Choice:
    """The engine that samples and scores, and the reason."""

    engine: Literal["transformers", "vllm"]
    why: str


def choose(wanted: str, models: Sequence[str], *, trains_on_own_samples: bool) -> Choice:
    """The engine for these models: the `wanted` one, or for `auto` vLLM where it can be and pays.

    Raises BadInputError where vLLM is wanted and can't be.
    """
    models = [name for name in dict.fromkeys(models) if not name.startswith(SERVED)]
    if wanted == "transformers":
        return Choice("transformers", "the config says so")
    if wanted == "vllm":
        if (reason := _missing() or _unfit(models)) is not None:
            raise BadInputError(f"engine is vllm, but {reason}, or set engine to transformers (or auto)")
        return Choice("vllm", f"the config says so; it is {_version()}")
    if not models:
        return Choice("transformers", "no model is sampled from here")
    if trains_on_own_samples:
        return Choice("transformers", "trainings on a model's own samples can't be repeated by vLLM")
    if (reason := _missing() or _unfit(models)) is not None:
        return Choice("transformers", reason.partition(":")[0])
    small = min(models, key=lambda name: architecture(name).parameters)
    if architecture(small).parameters < SMALL:
        return Choice("transformers", f"{small} is sampled from before a vLLM has started")
    return Choice("vllm", f"{_version()} is installed, a GPU is there, and it knows {', '.join(models)}")


def worth_telling(choice: Choice, wanted: str, models: Sequence[str]) -> bool:
    """Does a reader need to know which engine samples? On a machine without a GPU there is nothing to choose, and a
    small model gains nothing by vLLM."""
    if choice.engine == "vllm":
        return True
    here = [name for name in models if not name.startswith(SERVED)]
    if not here or not torch.cuda.is_available():
        return False
    return wanted != "auto" or min(architecture(name).parameters for name in here) >= SMALL


def _version() -> str:
    return f"vLLM {importlib.metadata.version('vllm')}"


def _missing() -> str | None:
    """What this machine lacks, with the remedy behind a colon; None where nothing."""
    if importlib.util.find_spec("vllm") is None:
        return f"vLLM isn't installed: {INSTALL}"
    from vllm.platforms import current_platform

    if not current_platform.is_cuda_alike():
        return "there is no GPU that vLLM works on: run on a machine with one"
    return None


def _unfit(models: Sequence[str]) -> str | None:
    """Which of the models vLLM can't take, with the remedy behind a colon; None where it takes all."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    from vllm import ModelRegistry

    known = set(ModelRegistry.get_supported_archs())
    for name in models:
        if is_adapter(resolve(name)):
            return f"{name} is a LoRA adapter: make it a whole model (the run that made it with --merge-adapter)"
        config, _ = model_config(name)
        of_type = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(config.model_type)
        classes = getattr(config, "architectures", None) or [of_type]
        if known.isdisjoint(classes):
            return f"vLLM doesn't know {classes[0] or config.model_type} ({name}): take another model"
    return None
