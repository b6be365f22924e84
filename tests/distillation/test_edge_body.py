"""Edge and body: weights that make a mean of two groups' means, and a training in which they are applied."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from distilling import config_of, keep
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.losses.token_selective import entropies
from distillknob.distillation.token_weights.edge_body import edge_body_weights
from distillknob.divergences.dense import divergence
from distillknob.errors import BadInputError
from pairs import Pair
from whole_logits import logits_of


def test_the_weighted_mean_is_the_mean_of_both_groups_means() -> None:
    entropy, value = torch.tensor([4.0, 1.0, 3.0, 0.5]), torch.tensor([8.0, 1.0, 4.0, 3.0])
    weight = edge_body_weights(entropy, entropy, 0.5, 0.25)
    assert weight.tolist() == pytest.approx([0.5, 1.5, 0.5, 1.5])
    assert float((weight * value).mean()) == pytest.approx(0.25 * 6.0 + 0.75 * 2.0)


def test_a_group_s_share_of_the_tokens_as_its_weight_is_the_plain_mean() -> None:
    entropy = torch.tensor([4.0, 1.0, 3.0, 0.5])
    assert edge_body_weights(entropy, entropy, 0.25, 0.25).tolist() == pytest.approx([1.0] * 4)


def test_one_group_alone_counts_as_all_do() -> None:
    same = torch.full((3,), 0.7)  # which can't be told apart
    assert edge_body_weights(same, same, 0.2, 0.9).tolist() == [1.0] * 3
    assert edge_body_weights(same[:0], same[:0], 0.2, 0.9).tolist() == []


def test_the_edge_is_that_of_all_processes() -> None:
    everywhere = torch.tensor([1.0, 2.0, 3.0, 4.0])
    parts = [edge_body_weights(part, everywhere, 0.5, 0.5) for part in everywhere.split(2)]
    assert torch.equal(torch.cat(parts), edge_body_weights(everywhere, everywhere, 0.5, 0.5))


@pytest.mark.parametrize(("edge_of", "budget"), [(0, None), (1, None), (0, 31)])
def test_a_training_weighs_both_groups_of_the_tokens_that_count(
    tiny_pair: Pair, tmp_path: Path, batches: list[dict[str, Any]], edge_of: int, budget: int | None
) -> None:
    options = {"edge_weight": 0.9, "edge_of": edge_of}
    values: dict[str, Any] = {"gradient_accumulation_steps": 2, "max_steps": 1, "lmbda": 0.0, "options": options}
    values["tokens_per_step"] = budget
    keep(config_of(tiny_pair, method="edge_body", **values), tmp_path / "run")
    entropy, apart, weight = [], [], []
    for batch in batches:
        student, teacher = logits_of(tiny_pair.student, batch), logits_of(tiny_pair.teacher, batch)
        entropy.append(entropies(teacher if edge_of else student))
        apart.append(divergence(student, teacher, "jsd"))
        weight.append(batch["weight"][batch["loss_mask"].bool()])
    assert len(torch.cat(weight)) == (budget or batches[0]["items"])
    expected = edge_body_weights(torch.cat(entropy), torch.cat(entropy), 0.2, 0.9)
    assert torch.allclose(torch.cat(weight), expected) and len(expected.unique()) == 2
    loss = float((expected * torch.cat(apart)).mean())
    assert sum(batch["loss"] for batch in batches) == pytest.approx(loss, rel=1e-3)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"tokens": "tip"}, "edge and body are all tokens"),
        ({"options": {"edge_of": 0.5}}, "edge_of to 0.5"),
        ({"divergence": "hard_label", "lmbda": 0.0, "options": {"edge_of": 1}}, "asks the teacher nothing"),
        ({"divergence": "spans"}, "no sum over single tokens"),
    ],
)
def test_what_makes_no_sense_is_refused(values: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInputError, match=told):
        DistillConfig(method="edge_body", **values)
