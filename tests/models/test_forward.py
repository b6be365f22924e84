"""Attention is kept from cuDNN wherever a text is read, also where a layer is computed again for its gradients.

Nothing here needs a GPU: the switch is one of the process, and is looked at as each attention is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from distillknob.models.chat import prompt_ids
from distillknob.models.layers import decoder_layers
from distillknob.models.load import load_model
from distillknob.models.recomputing import recomputed
from distillknob.models.sampling import Sampling, generate
from distillknob.models.scoring import answer_hidden, answer_logits, batches, token_logprobs
from distillknob.training.likelihood import add_likelihood_gradients
from pairs import Pair

PROMPTS = [[{"role": "user", "content": text}] for text in ("Start with 12. Add 30. What is it?", "Who is Ada?")]
ANSWERS = [[5, 9, 30, 41, 1], [7, 8, 1]]


@contextmanager
def switches(model: Any) -> Iterator[list[bool]]:
    """Whether cuDNN's attention may be taken, each time that a layer's attention is computed."""
    seen: list[bool] = []
    layers: Any = decoder_layers(model).modules
    hooks = [
        layer.self_attn.register_forward_pre_hook(
            lambda *_, **__: seen.append(torch.backends.cuda.cudnn_sdp_enabled()), with_kwargs=True
        )
        for layer in layers
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def batch_of(language_model: Any) -> Any:
    (batch,) = batches(prompt_ids(language_model.tokenizer, PROMPTS), ANSWERS, language_model.model.device, 10_000)
    return batch


def with_gradients(language_model: Any) -> None:
    with torch.enable_grad(), recomputed(language_model.model):
        answer_hidden(language_model, batch_of(language_model)).square().sum().backward()


READINGS: dict[str, Callable[[Any], Any]] = {
    "hidden states": lambda model: answer_hidden(model, batch_of(model)),
    "logits": lambda model: answer_logits(model, batch_of(model)),
    "scores": lambda model: token_logprobs(model, PROMPTS, ANSWERS),
    "scores behind a prompt read once": lambda model: token_logprobs(model, PROMPTS[:1] * 8, ANSWERS[:1] * 8),
    "samples": lambda model: generate(model, PROMPTS, 1, Sampling(max_new_tokens=4)),
    "samples of a prompt read once": lambda model: generate(model, PROMPTS, 4, Sampling(max_new_tokens=4)),
    "gradients of recomputed layers": with_gradients,
    "gradients of a likelihood": lambda model: add_likelihood_gradients(model, PROMPTS, ANSWERS, [1.0, -1.0]),
}


@pytest.mark.parametrize("reading", READINGS)
def test_every_reading_keeps_attention_from_cudnn_and_leaves_the_switch_as_it_was(
    reading: str, tiny_pair: Pair
) -> None:
    model = load_model(tiny_pair.teacher)
    before = torch.backends.cuda.cudnn_sdp_enabled()
    with switches(model.model) as seen:
        READINGS[reading](model)
    assert before and seen and not any(seen)
    assert torch.backends.cuda.cudnn_sdp_enabled()
    layers = len(decoder_layers(model.model).modules)
    assert len(seen) >= (2 * layers if "gradients" in reading else layers)  # each layer once more


def test_it_changes_no_bit_on_a_cpu(tiny_pair: Pair) -> None:
    model = load_model(tiny_pair.teacher)
    batch = batch_of(model)
    with torch.no_grad():
        plain = model.model(
            input_ids=batch.input_ids_BT,
            attention_mask=batch.attention_mask_BT,
            position_ids=(batch.attention_mask_BT.cumsum(-1) - 1).clamp(min=0),
            use_cache=False,
        ).logits
        width = batch.answer_ids_BA.size(1)
        assert torch.equal(answer_logits(model, batch), plain[:, -(width + 1) : -1])
