"""Loading whole models in processes among which a Trainer will deal out their weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


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
