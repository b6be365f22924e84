"""The student's own past as its teacher: hand-computed values and gradients, its memory, order, and a resumed run."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from distilling import config, keep, weights
from distillknob.distillation.check import check
from distillknob.distillation.losses.own_past import own_past
from distillknob.distillation.past import Past
from distillknob.distillation.stage import distill
from distillknob.distillation.trainer import DistillTrainer
from distillknob.divergences.top_k import topk_of
from distillknob.errors import BadInputError
from distillknob.inputs.preflight import Preflight, Side
from pairs import Pair

GENERATOR = torch.Generator().manual_seed(1)
NOW, BEFORE = (torch.randn(4, 20, generator=GENERATOR, dtype=torch.float64) for _ in range(2))
LABELS = torch.randint(20, (4,), generator=GENERATOR)


def packed(logits_NV: Tensor, k: int) -> Tensor:
    ids, logprobs, tail, _ = topk_of(logits_NV, k)
    return torch.cat([ids.double(), logprobs, tail[:, None]], dim=-1)


def test_with_the_whole_past_value_and_gradient_are_the_paper_s() -> None:
    student, share = NOW.clone().requires_grad_(), torch.tensor([0.0, 0.2, 0.4, 0.8]).double()
    value = own_past(student, LABELS, packed(BEFORE, 20), share)
    onehot = torch.nn.functional.one_hot(LABELS, 20).double()
    target = (1 - share)[:, None] * onehot + share[:, None] * BEFORE.softmax(-1)
    torch.testing.assert_close(value, cross_entropy(NOW, target, reduction="none"))
    value.sum().backward()
    torch.testing.assert_close(student.grad, NOW.softmax(-1) - target)
    assert student.grad is not None
    of_label = student.grad.gather(-1, LABELS[:, None])[:, 0]
    p, before = (one.softmax(-1).gather(-1, LABELS[:, None])[:, 0] for one in (NOW, BEFORE))
    torch.testing.assert_close(of_label, p - 1 + share * (1 - before))


def test_a_cut_past_compares_the_other_tokens_as_one() -> None:
    value = own_past(NOW, LABELS, packed(BEFORE, 6), torch.ones(4).double())
    ids, _, _, _ = topk_of(BEFORE, 6)
    p, q = BEFORE.softmax(-1), NOW.softmax(-1)
    listed = -(p.gather(-1, ids) * q.gather(-1, ids).log()).sum(-1)
    rest = -(1 - p.gather(-1, ids).sum(-1)) * (1 - q.gather(-1, ids).sum(-1)).log()
    torch.testing.assert_close(value, listed + rest)
    hard = own_past(NOW, LABELS, torch.zeros(4, 13).double(), torch.zeros(4).double())
    torch.testing.assert_close(hard, cross_entropy(NOW, LABELS, reduction="none"))


def test_a_memory_is_by_trace_and_lies_beside_a_checkpoint(tmp_path: Path) -> None:
    past, size = Past(1), 3
    rows = {7: torch.rand(4, size), 2: torch.rand(2, size)}
    tokens = [
        torch.cat([torch.tensor([[trace, t]]), row[t : t + 1]], dim=1)
        for trace, row in rows.items()
        for t in range(len(row))
    ]
    past.keep(torch.cat([tokens[n] for n in (5, 0, 3, 2, 4, 1)]))
    columns = past.columns([2, 9, 7], 4)
    assert torch.equal(columns[2], rows[7]) and torch.equal(columns[0, :2], rows[2])
    assert not columns[1].any() and not columns[0, 2:].any()
    assert [past.reads(trace) for trace in (2, 9, 7)] == [1, 0, 1]
    (tmp_path / "checkpoint-3").mkdir()
    past.on_save(SimpleNamespace(output_dir=tmp_path), SimpleNamespace(is_world_process_zero=True, global_step=3), None)
    other = Past(1)
    other.restore(tmp_path / "checkpoint-3")
    assert torch.equal(other.columns([2, 9, 7], 4), columns) and other.reads(7) == 1
    past.keep(torch.cat(tokens[:4]))
    assert past.reads(7) == 2 and past.reads(2) == 1
    with pytest.raises(BadInputError, match="the student's past isn't known"):
        other.restore(tmp_path)


THREE_EPOCHS: dict[str, Any] = {"method": "ps_kd", "problems": 8, "max_steps": 6, "options": {"top_k": 4}}


def test_the_past_comes_in_epoch_by_epoch(tiny_pair: Pair, tmp_path: Path, batches: list[dict[str, Any]]) -> None:
    keep(config(tiny_pair, **THREE_EPOCHS), tmp_path / "run")
    shares = [float(batch["share_of_past"].unique()) for batch in batches]
    assert shares == pytest.approx([0, 0, 0.8 * 2 / 3, 0.8 * 2 / 3, 0.8, 0.8])
    assert not batches[0]["past"].any() and batches[2]["past"].any()
    masses = batches[4]["past"][..., 4:].exp().sum(-1)[batches[4]["completion_mask"].bool()]
    torch.testing.assert_close(masses, torch.ones_like(masses), atol=1e-5, rtol=0)


def test_the_order_of_the_data_changes_no_past(tiny_pair: Pair, tmp_path: Path, batches: list[dict[str, Any]]) -> None:
    """With next to no learning rate every epoch predicts the same, wherever a text stands."""
    for seed in (1, 2):
        values = {**THREE_EPOCHS, "learning_rate": 1e-9, "seed": seed, "problem_seed": 0}
        keep(config(tiny_pair, **values), tmp_path / f"run-{seed}")
    pasts: list[dict[Any, Tensor]] = [{}, {}]
    for n, batch in enumerate(batches):
        if n % 6 >= 2:
            for ids, mask, past in zip(
                batch["completion_ids"], batch["completion_mask"].bool(), batch["past"], strict=True
            ):
                pasts[n // 6][tuple(ids[mask].tolist())] = past[mask]
    assert pasts[0].keys() == pasts[1].keys() and len(pasts[0]) == 8
    for text, past in pasts[0].items():
        torch.testing.assert_close(past, pasts[1][text], atol=1e-4, rtol=1e-4)


def test_a_resumed_run_has_its_past(tiny_pair: Pair, tmp_path: Path) -> None:
    values = {**THREE_EPOCHS, "save_steps": 3, "save_strategy": "steps"}
    whole = distill(config(tiny_pair, **values), tmp_path / "whole")

    class Stopped(DistillTrainer):
        def _compute_loss(self, *args: Any) -> Any:
            if self.state.global_step == 4:
                raise KeyboardInterrupt
            return super()._compute_loss(*args)

    with pytest.raises(KeyboardInterrupt):
        distill(config(tiny_pair, **values), tmp_path / "run", trainer_class=Stopped)
    assert (tmp_path / "run" / "checkpoints" / "checkpoint-3" / "past.safetensors").is_file()
    run = distill(config(tiny_pair, **values), tmp_path / "run", resume=True)
    for (name, ours), theirs in zip(
        weights(run.path / "model").items(), weights(whole.path / "model").values(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, msg=name)


def test_a_text_that_is_read_once_has_no_past(tiny_pair: Pair, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="has to be read 2 times: 8 problems to train on are read 1 times"):
        distill(config(tiny_pair, "ps_kd", max_steps=2), tmp_path / "run")
    with pytest.raises(BadInputError, match="lmbda must be 0"):
        config(tiny_pair, "ps_kd", lmbda=0.5)


class Small(Preflight):
    """Finds models of a hundred tokens."""

    def sides(self, *args: Any, **kwargs: Any) -> list[Side]:
        return [dataclasses.replace(side, vocabulary=100) for side in super().sides(*args, **kwargs)]


def test_no_more_tokens_are_kept_than_there_are(tiny_pair: Pair) -> None:
    check(config(tiny_pair, "ps_kd", max_steps=4, options={"top_k": 100}), Small())
    with pytest.raises(BadInputError, match=r"top_k to 101: .* has 100 tokens, of which no more can be kept"):
        check(config(tiny_pair, "ps_kd", max_steps=4, options={"top_k": 101}), Small())
