"""Loading whole models: in every process of a Trainer that will deal out their weights, and with all of an adapter."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from distillknob.errors import BadInputError

if TYPE_CHECKING:
    from peft import PeftModelForCausalLM
    from transformers import PreTrainedModel


@contextmanager
def whole_weights() -> Iterator[None]:
    """Load as if there were no ZeRO-3. Under it transformers hands every process a part of the weights, which only an
    engine puts together, and models are sampled from and score without one; what is trained is dealt out later, when
    the Trainer makes its engine."""
    from transformers.integrations import deepspeed

    config_ref = deepspeed._hf_deepspeed_config_weak_ref  # which has a setter and no getter
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if config_ref is not None and config_ref() is not None:
            deepspeed.set_hf_deepspeed_config(config_ref())


def with_adapter(model: PreTrainedModel, where: str, base: str) -> PeftModelForCausalLM:
    """Put the adapter in the folder `where` on its base model, which is called `base`. Raises BadInputError where the
    adapter's files lack weights, which PEFT only warns of, or don't fit this model."""
    import torch
    from peft import PeftModelForCausalLM

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*Found missing adapter keys")
        try:
            adapted: Any = PeftModelForCausalLM.from_pretrained(model, where)
        except torch.OutOfMemoryError:
            raise
        except UserWarning as warning:
            raise BadInputError(
                f"the adapter {where!r} doesn't fill its places in {base!r} ({str(warning)[:200]} …), which would "
                "leave them as they were: give the base model that it was trained on (base_model_name_or_path in its "
                "adapter_config.json), or save it again"
            ) from warning
        except RuntimeError as error:
            told = next((line.strip() for line in str(error).splitlines() if "size mismatch" in line), str(error))
            raise BadInputError(
                f"the adapter {where!r} doesn't fit its base model {base!r} ({told[:300]}): set "
                "base_model_name_or_path in its adapter_config.json to the model that it was trained on"
            ) from error
    on_base: PeftModelForCausalLM = adapted
    return on_base
