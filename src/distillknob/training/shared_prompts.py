"""Training on several samples of one prompt without reading the prompt again for each.

The prompts of a batch go through the model once. What it keeps of them is repeated for their samples, and the gradients
of all these meet in it: eight samples of 30 tokens to a prompt of 100 make 340 tokens to read in place of 1,040.
Log-probabilities and gradients are those of whole rows, up to rounding.

Only where it pays (`pays`), and where a model remembers a prompt in a cache that can be repeated. Left out on purpose:
several processes, each of which would have to do the same, and gradient checkpoints, which keep no cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from distillknob.models.adapters import bare
from distillknob.models.heads import body_of
from distillknob.models.layers import forwards
from distillknob.models.shared_prefix import GroupedBatch, hidden_behind_prompts, keeps_a_cache
from distillknob.training.reading import distinct_rows, padded_to, without_padding

# Products (parameters × tokens) that have to be saved for each layer, since a second pass starts its operations once
# more. Rules, between the sizes that were looked at on a CPU: models of less than a million parameters stay with whole
# rows, and a step of one of 135 million takes 0.6 times as long. An accelerator makes more products in that time.
_CPU_PRODUCTS, _DEVICE_PRODUCTS = 1e9, 1e11
_REPEATABLE: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()  # asked once a model, as it takes a pass


def read_prompts_once(
    model: Any, read: Callable[[Tensor, Tensor, int], Tensor], ids_BT: Tensor, mask_BT: Tensor, completion: int
) -> Tensor | None:
    """What `reading.read_rows` gives of these rows, each of their prompts read once; None where that doesn't pay.

    `read` calls the model (wrapped or not), and TRL's head on what its body gives.
    """
    ids_Bt, mask_Bt, width = without_padding(ids_BT, mask_BT, completion)
    batch = shared_prompts(ids_Bt, mask_Bt, width)
    if not pays(model, batch):
        return None
    with prompts_read_once(model, batch):
        values_BC = read(ids_Bt[:, -width - 1 :], mask_Bt[:, -width - 1 :], width)
    return padded_to(values_BC, completion)


def shared_prompts(ids_BT: Tensor, mask_BT: Tensor, completion: int) -> GroupedBatch:
    """A batch of prompts padded on the left and completions of the width `completion` padded on the right, each
    distinct prompt once."""
    prompt = ids_BT.size(1) - completion
    first_P, which_B = distinct_rows(ids_BT[:, :prompt], mask_BT[:, :prompt])
    return GroupedBatch(
        rows=list(range(len(ids_BT))),
        prompt_ids_PT=ids_BT[first_P, :prompt],
        prompt_mask_PT=mask_BT[first_P, :prompt],
        prompt_R=which_B,
        answer_ids_RA=ids_BT[:, prompt:],
        answer_mask_RA=mask_BT[:, prompt:].bool(),
    )


def pays(model: Any, batch: GroupedBatch) -> bool:
    """Is the model (wrapped or not) faster if it reads each prompt of this batch once, and does it give the same?"""
    repeated = len(batch.prompt_R) - len(batch.prompt_ids_PT)
    if not repeated or batch.answer_ids_RA.size(1) < 2:
        return False
    causal: Any = bare(model)
    parameters = sum(p.numel() for p in body_of(causal).parameters())
    layers = causal.config.get_text_config().num_hidden_layers
    on_cpu = batch.prompt_ids_PT.device.type == "cpu"
    saved = repeated * batch.prompt_ids_PT.size(1)
    return saves_enough(saved, parameters, layers, on_cpu=on_cpu) and repeatable(causal)


def saves_enough(tokens: float, parameters: int, layers: int, *, on_cpu: bool) -> bool:
    """Is it worth a second pass that a model of so many parameters and layers doesn't read so many tokens again?"""
    return tokens * parameters >= (_CPU_PRODUCTS if on_cpu else _DEVICE_PRODUCTS) * layers


def repeatable(causal: Any) -> bool:
    """Can what a causal language model (unwrapped) keeps of a prompt be repeated in training? Gradient checkpoints keep
    nothing, and a router's loss depends on the whole batch."""
    if causal.is_gradient_checkpointing or getattr(causal.config.get_text_config(), "output_router_logits", False):
        return False
    if causal not in _REPEATABLE:
        _REPEATABLE[causal] = keeps_a_cache(causal)
    return _REPEATABLE[causal]


@contextmanager
def prompts_read_once(model: Any, batch: GroupedBatch) -> Iterator[None]:
    """Let the model's body give, whatever it is called with, the hidden states of the batch's rows from their prompt's
    last token on, [B, 1 + completion, H], those of the last token 0: what TRL's head needs."""
    body = body_of(bare(model))
    read = body.forward

    def grouped(*args: Any, **kwargs: Any) -> Any:
        from transformers.modeling_outputs import BaseModelOutputWithPast

        hidden_RAH = hidden_behind_prompts(read, batch)
        unread_R1H = torch.zeros_like(hidden_RAH[:, :1])
        return BaseModelOutputWithPast(last_hidden_state=torch.cat([hidden_RAH, unread_R1H], dim=1))

    with forwards([body], [grouped]):
        yield
