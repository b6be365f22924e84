"""The layers of a model: passed over, watched, and left as they were."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from distillknob.errors import BadInputError
from distillknob.models.layers import decoder_layers, directions, forwards, without_layers
from tiny_families import EVERY, tiny_config

IDS = torch.tensor([[5, 9, 77, 300, 12, 8], [3, 3, 40, 2, 900, 7]])


def model(family: str = "llama", layers: int = 3) -> Any:
    torch.manual_seed(0)
    values = {**EVERY, "num_hidden_layers": layers}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **values), dtype=torch.float32).eval()


@torch.no_grad()
def logits(made: Any) -> torch.Tensor:
    out: torch.Tensor = made(input_ids=IDS, use_cache=False).logits
    return out


def test_layers_are_passed_over_and_come_back() -> None:
    whole = model()
    before = logits(whole)
    with without_layers(whole, [1]):
        passed = logits(whole)
    assert torch.equal(logits(whole), before)
    assert all("forward" not in vars(layer) for layer in decoder_layers(whole).modules)
    layers = whole.model.layers
    whole.model.layers, whole.config.num_hidden_layers = torch.nn.ModuleList([layers[0], layers[2]]), 2
    assert torch.equal(passed, logits(whole)) and not torch.equal(passed, before)


def test_a_layer_gets_the_forward_pass_back_that_it_had_of_its_own() -> None:
    plain: Any = torch.nn.Identity()
    hooked: Any = torch.nn.Identity()
    hooked.forward = own = lambda given: given + 1
    with pytest.raises(ZeroDivisionError), forwards([plain, hooked], [lambda given: given / 0] * 2):
        hooked(1)
    assert "forward" not in vars(plain) and hooked.forward is own


def test_a_layer_that_gives_several_outputs_is_passed_over_too() -> None:
    made = AutoModelForCausalLM.from_config(tiny_config("bloom"), dtype=torch.float32).eval()
    with torch.no_grad(), without_layers(made, [0, 1]):
        passed = made(input_ids=IDS, use_cache=False).logits
    states = made.transformer.word_embeddings_layernorm(made.transformer.word_embeddings(IDS))
    assert torch.allclose(passed, made.lm_head(made.transformer.ln_f(states)), atol=1e-6)


def test_directions_are_those_of_the_tokens_under_the_mask() -> None:
    made = model(layers=2)
    mask = torch.ones_like(IDS, dtype=torch.bool)
    mask[0, :2] = False
    seen: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    with torch.no_grad(), directions(made, mask, lambda n, before, after: seen.update({n: (before, after)})):
        made(input_ids=IDS, use_cache=False)
    states = made.model.embed_tokens(IDS)[mask]
    assert torch.allclose(seen[0][0], states / states.norm(dim=-1, keepdim=True), atol=1e-6)
    assert torch.equal(seen[0][1], seen[1][0]) and len(seen[1][1]) == int(mask.sum()) == 10


def test_a_layer_that_adds_to_its_input_in_place_is_seen_to_change_it() -> None:
    made = model(layers=2)
    made.model.layers[1].forward = lambda hidden_states, **kwargs: hidden_states.add_(
        torch.arange(32.0)
    )  # what came in is what goes out
    turned: list[float] = []
    with (
        torch.no_grad(),
        directions(made, torch.ones_like(IDS, dtype=torch.bool), lambda n, a, b: turned.append(float((a - b).norm()))),
    ):
        made(input_ids=IDS, use_cache=False)
    assert turned[1] > 0.1


def test_hooks_are_gone_even_where_reading_failed() -> None:
    made = model()
    mask = torch.ones_like(IDS, dtype=torch.bool)
    with pytest.raises(BadInputError, match="one hidden state a token"), directions(made, mask[:1], lambda *_: None):
        made(input_ids=IDS, use_cache=False)
    hooks = [layer._forward_hooks or layer._forward_pre_hooks for layer in made.model.layers]
    assert not any(hooks)


def test_layers_in_several_lists_or_places_are_refused_by_name() -> None:
    with pytest.raises(BadInputError, match="'xlm' don't have their 2 layers in one list"):
        decoder_layers(AutoModelForCausalLM.from_config(tiny_config("xlm")))
    shared = model()
    shared.model.layers[2] = shared.model.layers[0]
    with pytest.raises(BadInputError, match="each once"):
        decoder_layers(shared)
