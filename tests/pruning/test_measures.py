"""What is measured of layers and neurons, against the same by hand: a text at a time, without padding."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from distillknob.models.base import LanguageModel
from distillknob.models.load import load_model
from distillknob.pruning.measures import angles, influences, neuron_sums, token_losses
from distillknob.pruning.texts import Texts
from distillknob.runs.journal import Journal
from tiny_architectures import made

# Of several lengths, so that all but one are padded.
TEXTS = Texts([[4, 9], [300, 7, 2], [11]], [[50, 60, 61, 7, 80, 90], [5], [700, 701, 33]])


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    """A Qwen3 of two layers."""
    return load_model(made("qwen3", tmp_path_factory.mktemp("two") / "model", 3))


@pytest.fixture(scope="module")
def four(deep: str) -> LanguageModel:
    return load_model(deep)


@torch.no_grad()
def states(language_model: LanguageModel, row: int) -> list[torch.Tensor]:
    """The hidden states of one text before the first layer and behind each, [T, H], the final norm left out."""
    body = language_model.model.model
    ids = torch.tensor([TEXTS.before[row] + TEXTS.scored[row]])
    hidden = body.embed_tokens(ids)
    positions = body.rotary_emb(hidden, torch.arange(ids.size(1))[None])
    rows = [hidden[0]]
    for layer in body.layers:
        hidden = layer(hidden, position_embeddings=positions, attention_mask=None)
        rows.append(hidden[0])
    return rows


def test_block_influence_is_that_of_all_tokens_of_all_texts(two: LanguageModel) -> None:
    told = influences(two, TEXTS, Journal(), "influence")
    by_hand = []
    for layer in range(2):
        rows = [states(two, row) for row in range(3)]
        cosines = [torch.cosine_similarity(row[layer].double(), row[layer + 1].double(), dim=-1) for row in rows]
        by_hand.append(float((1 - torch.cat(cosines)).mean()))
    assert told == pytest.approx(by_hand, abs=1e-6) and min(by_hand) > 0.01
    assert sum(len(row[0]) for row in rows) == TEXTS.tokens == 16


def test_losses_are_those_of_the_tokens_that_count(two: LanguageModel) -> None:
    told = token_losses(two, TEXTS, Journal(), "loss")
    for row, (before, scored) in enumerate(zip(TEXTS.before, TEXTS.scored, strict=True)):
        ids = torch.tensor([before + scored])
        with torch.no_grad():
            logprobs = two.model(input_ids=ids).logits[0].log_softmax(-1)
        by_hand = [-float(logprobs[len(before) + i - 1, token]) for i, token in enumerate(scored)]
        assert told[row] == pytest.approx(by_hand, abs=1e-4)


def test_losses_without_a_layer_are_those_of_the_model_that_was_never_given_it(two: LanguageModel) -> None:
    told = token_losses(two, TEXTS, Journal(), "loss", left_out=[0])
    body = two.model.model
    hidden = states(two, 0)[0][None]
    positions = body.rotary_emb(hidden, torch.arange(hidden.size(1))[None])
    with torch.no_grad():
        last = body.layers[1](hidden, position_embeddings=positions, attention_mask=None)
        logprobs = two.model.lm_head(body.norm(last))[0].log_softmax(-1)
    by_hand = [-float(logprobs[len(TEXTS.before[0]) + i - 1, token]) for i, token in enumerate(TEXTS.scored[0])]
    assert told[0] == pytest.approx(by_hand, abs=1e-4)


def test_angles_across_a_block_are_those_of_last_tokens(four: LanguageModel) -> None:
    told = angles(four, TEXTS, 3, Journal(), "angle")
    by_hand = []
    for start in range(2):
        last = [(states(four, row)[start][-1], states(four, row)[start + 3][-1]) for row in range(3)]
        cosines = [float(torch.cosine_similarity(one, other, dim=0)) for one, other in last]
        by_hand.append(sum(math.acos(cosine) / math.pi for cosine in cosines) / 3)
    assert told == pytest.approx(by_hand, abs=1e-4) and len(told) == 2


def test_sums_of_activations_leave_padding_out(two: LanguageModel) -> None:
    told = neuron_sums(two, TEXTS, [], Journal(), "activations")
    alone = [Texts([TEXTS.before[i]], [TEXTS.scored[i]]) for i in range(3)]
    by_hand = sum(neuron_sums(two, text, [], Journal(), "activations") for text in alone)
    assert told.shape == (2, 64)
    assert torch.allclose(told, torch.as_tensor(by_hand), rtol=1e-4)


def test_what_was_read_before_a_stop_is_not_read_again(two: LanguageModel, tmp_path: Path) -> None:
    first = influences(two, TEXTS, Journal(tmp_path), "influence")
    broken = LanguageModel(two.model, two.tokenizer)
    weight = broken.model.model.layers[0].mlp.down_proj.weight
    kept = weight.detach().clone()
    try:
        weight.data.zero_()
        assert influences(broken, TEXTS, Journal(tmp_path), "influence") == first
        assert influences(broken, TEXTS, Journal(), "influence") != first
    finally:
        weight.data.copy_(kept)
