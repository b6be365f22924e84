"""Which layers stay: by place, by what was measured of each, and what ties do."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from distillknob.errors import BadInputError
from distillknob.models.base import LanguageModel
from distillknob.models.layers import without_layers
from distillknob.models.load import load_model
from distillknob.pruning.choice import by_place, choose, evenly, passes_over
from distillknob.pruning.config import PruneConfig
from distillknob.pruning.measures import influences, token_losses
from distillknob.pruning.texts import Texts
from distillknob.runs.journal import Journal

TEXTS = Texts([[4, 9], [300, 7, 2], [11]], [[50, 60, 61, 7, 80, 90], [5], [700, 701, 33]])


@pytest.mark.parametrize(
    ("count", "stay", "numbers"),
    [
        (4, 2, [0, 3]),
        (5, 3, [0, 2, 4]),
        (6, 4, [0, 2, 3, 5]),
        (28, 1, [0]),
        (3, 3, [0, 1, 2]),
        (30, 12, [0, 3, 5, 8, 11, 13, 16, 18, 21, 24, 26, 29]),
    ],
)
def test_layers_are_spread_evenly_with_both_ends(count: int, stay: int, numbers: list[int]) -> None:
    assert evenly(count, stay) == numbers


def test_every_even_choice_has_both_ends_and_no_layer_twice() -> None:
    for count in range(2, 40):
        for stay in range(2, count + 1):
            chosen = evenly(count, stay)
            assert (chosen[0], chosen[-1], len(set(chosen))) == (0, count - 1, stay)


def test_places_are_chosen_as_the_config_says() -> None:
    assert by_place(PruneConfig(layers=2, by="first"), 4) == [0, 1]
    assert by_place(PruneConfig(ratio=0.5, by="even"), 4) == [0, 3]
    assert by_place(PruneConfig(keep_layers=[1, 2, 3]), 4) == [1, 2, 3]


@pytest.fixture(scope="module")
def lazy(idle: str) -> LanguageModel:
    """A model whose layer 2 does nothing."""
    return load_model(idle)


@pytest.mark.parametrize("values", [{"by": "influence"}, {"by": "loss"}, {"by": "influence", "iterative": True}])
def test_a_layer_that_does_nothing_goes_and_nothing_changes(lazy: LanguageModel, values: dict[str, Any]) -> None:
    choice = choose(PruneConfig(layers=3, **values), lazy, 4, TEXTS, Journal())
    if values["by"] == "influence":
        assert choice.stay == [0, 1, 3]
    assert choice.importance[2] == 0.0
    ids = torch.tensor([[4, 9, 50, 60]])
    with torch.no_grad():
        before = lazy.model(input_ids=ids).logits
        with without_layers(lazy.model, [2]):
            assert torch.equal(lazy.model(input_ids=ids, use_cache=False).logits, before)


def test_one_measurement_leaves_out_the_least_at_once(lazy: LanguageModel) -> None:
    told = influences(lazy, TEXTS, Journal(), "influence")
    choice = choose(PruneConfig(layers=2, by="influence"), lazy, 4, TEXTS, Journal())
    assert choice.stay == sorted(sorted(range(4), key=lambda n: told[n])[2:])
    assert choice.importance == dict(enumerate(told)) and not choice.rounds


def test_importance_by_loss_is_the_rise_without_the_layer(lazy: LanguageModel) -> None:
    def mean(left_out: list[int]) -> float:
        rows = token_losses(lazy, TEXTS, Journal(), "loss", left_out=left_out)
        return sum(map(sum, rows)) / sum(map(len, rows))

    choice = choose(PruneConfig(layers=3, by="loss"), lazy, 4, TEXTS, Journal())
    assert [choice.importance[n] for n in range(4)] == pytest.approx([mean([n]) - mean([]) for n in range(4)])
    (left,) = set(range(4)) - set(choice.stay)
    assert choice.importance[left] == min(choice.importance.values())


def test_measured_anew_each_layer_is_the_least_of_what_was_left(lazy: LanguageModel) -> None:
    choice = choose(PruneConfig(layers=2, by="loss", iterative=True), lazy, 4, TEXTS, Journal())
    first, second = sorted(choice.rounds, key=lambda number: choice.rounds[number])
    again = choose(PruneConfig(layers=3, by="loss"), lazy, 4, TEXTS, Journal())
    assert [first] == sorted(set(range(4)) - set(again.stay))
    rest = [number for number in range(4) if number != first]
    losses = {n: sum(map(sum, token_losses(lazy, TEXTS, Journal(), "loss", left_out=[first, n]))) for n in rest}
    assert second == min(rest, key=lambda n: losses[n])
    assert sorted([*choice.stay, first, second]) == [0, 1, 2, 3]


def test_a_block_of_neighbours_goes(lazy: LanguageModel) -> None:
    choice = choose(PruneConfig(layers=2, by="block"), lazy, 4, TEXTS, Journal())
    out = sorted(set(range(4)) - set(choice.stay))
    assert out[1] == out[0] + 1 and sorted(choice.importance) == [0, 1, 2]
    assert choice.importance[out[0]] == min(choice.importance.values())


@pytest.mark.parametrize(
    ("values", "passes"),
    [
        ({"by": "even"}, 1),
        ({"by": "influence"}, 1),
        ({"by": "influence", "iterative": True}, 2),
        ({"by": "loss"}, 1 + 4),
        ({"by": "loss", "iterative": True}, (1 + 4) + (1 + 3)),
        ({"by": "block"}, 1),
    ],
)
def test_the_passes_of_a_choice_are_counted(lazy: LanguageModel, values: dict[str, Any], passes: int) -> None:
    config = PruneConfig(layers=2, **values)
    seen: list[int] = []
    hook = lazy.model.get_input_embeddings().register_forward_hook(
        lambda module, args, output: seen.append(args[0].size(0))
    )
    choose(config, lazy, 4, TEXTS, Journal())
    hook.remove()
    assert passes_over(config, 4) == passes == seen.count(len(TEXTS))


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"layers": 4}, "layers=4 leaves all 4 layers"),
        ({"layers": 5}, "layers=5 leaves 5 of the 4 layers"),
        (
            {"ratio": 0.99},
            "ratio=0.99 leaves 0 of the 4 layers of 'zoo:teacher': give 0.25, which leaves out one, to 0.75",
        ),
        ({"ratio": 0.01}, "ratio=0.01 leaves all 4 layers of 'zoo:teacher': give 0.25, which leaves out one"),
        ({"keep_layers": [0, 4]}, "keep_layers names layer 4, and 'zoo:teacher' has layers 0 to 3"),
        ({"keep_layers": [0, 1, 2, 3]}, "leaves all 4 layers"),
        ({}, "nothing says what to leave out of 'zoo:teacher', which has 4 layers"),
    ],
)
def test_counts_that_leave_nothing_or_everything_are_refused(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadInputError) as refused:
        PruneConfig(**values).count_of(4)
    assert reason in str(refused.value)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"layers": 2, "ratio": 0.5}, "layers and ratio both say"),
        ({"ratio": 1.0}, "between 0 and 1"),
        ({"layers": 0}, "must be at least 1"),
        ({"keep_layers": []}, "keep_layers is empty"),
        ({"keep_layers": [2, 1]}, "ascending"),
        ({"keep_layers": [-1]}, "from 0 on"),
        ({"keep_layers": [1, 1]}, "each once"),
        ({"keep_layers": [1], "iterative": True}, "leaves nothing to choose"),
        ({"by": "even", "iterative": True}, "measures no single layer"),
        ({"by": "luck"}, "by='luck'"),
        ({"engine": "vllm"}, "leave engine out"),
        ({"held_back": 1.0}, "between 0 and 1"),
        ({"mlp_width": 0}, "must be at least 1"),
        ({"tasks": []}, "tasks is empty"),
    ],
)
def test_values_that_make_no_sense_are_refused(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadInputError) as refused:
        PruneConfig(**values)
    assert reason in str(refused.value)
