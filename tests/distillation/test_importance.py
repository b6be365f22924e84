"""Weights by the advantage that is still to come."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import tensor

from distilling import config, keep
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.token_weights.importance import weights_by_rest
from distillknob.errors import BadInputError
from pairs import Pair


def test_weights_by_hand_and_the_sign_of_an_advantage_plays_no_part() -> None:
    ones = torch.ones(1, 3)
    assert weights_by_rest(tensor([[1.0, 2.0, 1.0]]), ones, 0.5).tolist() == [[1.5, 1.375, 1.125]]
    assert weights_by_rest(tensor([[-1.0, 2.0, -1.0]]), ones, 0.5).tolist() == [[1.5, 1.375, 1.125]]
    assert weights_by_rest(tensor([[1.0, 2.0, 1.0]]), ones, 0.0).tolist() == [[1.0, 1.0, 1.0]]


def test_padding_has_no_part_in_a_row_s_advantage() -> None:
    padded = weights_by_rest(tensor([[1.0, 2.0, 1.0, 99.0]]), tensor([[1, 1, 1, 0]]), 0.5)
    assert padded[0, :3].tolist() == [1.5, 1.375, 1.125]


def test_a_row_without_any_advantage_weighs_as_it_is() -> None:
    both = weights_by_rest(tensor([[0.0, 0.0], [1.0, 1.0]]), torch.ones(2, 2), 0.5)
    assert both.tolist() == [[1.0, 1.0], [1.5, 1.25]]


def test_the_weights_reach_the_loss(tiny_pair: Pair, tmp_path: Path, batches: list[dict[str, Any]]) -> None:
    keep(config(tiny_pair, "iw_opd"), tmp_path / "run")
    assert len(batches) == 2
    for batch in batches:
        mask = batch["completion_mask"]
        wanted = weights_by_rest(batch["advantage"], mask, 0.5)
        assert torch.equal(batch["weight"], wanted) and len(set(wanted[mask.bool()].tolist())) > 2
        value = -(wanted * batch["advantage"])[mask.bool()].sum() / batch["items"]
        assert batch["loss"] == pytest.approx(float(value), rel=1e-3)


def test_a_gamma_of_0_is_bit_for_bit_the_method_without(tiny_pair: Pair, tmp_path: Path) -> None:
    plain = keep_losses(config(tiny_pair, "opd_pg"), tmp_path / "plain")
    assert keep_losses(config(tiny_pair, "iw_opd", options={"gamma": 0.0}), tmp_path / "zero") == plain


def keep_losses(settings: DistillConfig, folder: Path) -> list[float]:
    from distillknob.distillation.stage import distill

    return [row["loss"] for row in distill(settings, folder).metrics() if "loss" in row]


def test_a_loss_without_advantages_is_refused() -> None:
    with pytest.raises(BadInputError, match="importance reads advantages, and the loss jsd has none"):
        DistillConfig(method="gkd", token_weights="importance")
    with pytest.raises(BadInputError, match="gamma to -1"):
        DistillConfig(method="iw_opd", options={"gamma": -1})
