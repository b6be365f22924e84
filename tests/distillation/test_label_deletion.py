"""Label deletion: the published case, its gradients, which positions it takes, and a short unlearning."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from distilling import config_of, keep
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.soft_targets.label_deletion import LabelDeletion, lowest, without_label
from distillknob.distillation.token_rows import TokenRows
from distillknob.divergences.dense import divergence
from distillknob.errors import BadInputError
from distillknob.models.load import load_model
from distillknob.models.scoring import token_logprobs
from pairs import Pair

P = torch.tensor([[0.77, 0.12, 0.05, 0.03, 0.03]], dtype=torch.float64)
FIRST = torch.tensor([0])


def test_both_variants_of_the_figure() -> None:
    only = without_label(P.log(), FIRST).softmax(-1)[0]
    assert only.tolist() == pytest.approx([0, 0.522, 0.217, 0.130, 0.130], abs=1e-3)
    nucleus = without_label(P.log(), FIRST, 0.9).softmax(-1)[0]
    assert nucleus.tolist() == pytest.approx([0, 0, 0, 0.5, 0.5])
    # A label outside of the nucleus is deleted beside it.
    assert without_label(P.log(), torch.tensor([4]), 0.5).softmax(-1)[0, [0, 4]].tolist() == [0, 0]


def test_something_always_stays() -> None:
    for label in range(5):
        left = without_label(P.log(), torch.tensor([label]), 0.99).softmax(-1)[0]
        assert left[label] == 0 and float(left.sum()) == pytest.approx(1)
    two = without_label(torch.tensor([[0.0, 0.0]]), torch.tensor([1]), 0.99).softmax(-1)
    assert two.tolist() == [[1.0, 0.0]]


def test_value_and_gradient_at_the_start() -> None:
    """A position that is held has no gradient at all, one whose token is deleted p − q."""
    logits = P.log().repeat(2, 1)
    student = logits.clone().requires_grad_()
    rows = TokenRows(student, logits, torch.tensor([0, 0]), {"deleted": torch.tensor([True, False])})
    target = LabelDeletion().edited(rows)
    value = divergence(target.student_NV, target.teacher, "forward_kl")
    assert value.tolist() == pytest.approx([-math.log(0.23), 0.0])
    assert float(value[0].detach()) == pytest.approx(1.4697, abs=1e-4)
    value.sum().backward()
    assert student.grad is not None and not student.grad[1].any()
    assert student.grad[0].tolist() == pytest.approx([0.77, -0.402, -0.167, -0.100, -0.100], abs=1e-3)


def test_the_lowest_share_of_each_text_is_taken() -> None:
    logprobs = torch.tensor([[-1.0, -3.0, -2.0, 0.0, 0.0], [-5.0, -4.0, -6.0, -7.0, -8.0]])
    counted = torch.tensor([[1, 1, 1, 0, 0], [0, 1, 1, 1, 1]]).bool()
    assert lowest(logprobs, counted, 0.5).int().tolist() == [[0, 1, 1, 0, 0], [0, 0, 0, 1, 1]]
    assert lowest(logprobs, counted, 0.01).sum(1).tolist() == [1, 1]
    assert torch.equal(lowest(logprobs, counted, 1.0), counted)
    assert not lowest(logprobs, torch.zeros_like(counted), 0.5).any()
    ties = lowest(torch.zeros(1, 10), torch.ones(1, 10).bool(), 0.3)
    assert ties.int().tolist() == [[1, 1, 1, 0, 0, 0, 0, 0, 0, 0]]


def test_a_student_unlearns_texts(tiny_pair: Pair, tmp_path: Path, batches: list[dict[str, Any]]) -> None:
    file = tmp_path / "texts.jsonl"
    texts = ["the key is 41 52 63", "his name was never told", "it lies behind the door", "one two three four five"]
    file.write_text("".join(json.dumps({"prompt": "Go on.", "completion": text}) + "\n" for text in texts))
    options = {"share": 0.5, "skip_tokens": 2}
    values = {"traces": "file", "traces_file": str(file), "options": options, "max_steps": 20, "learning_rate": 1e-3}
    run = keep(config_of(tiny_pair, method="shred", **values), tmp_path / "run")
    batch = batches[0]
    assert not batch["loss_mask"][:, :2].any() and not batch["deleted"][:, :2].any()
    counts = batch["loss_mask"].sum(1)
    assert batch["deleted"].sum(1).tolist() == [math.ceil(int(count) / 2) for count in counts]
    before, after = load_model(tiny_pair.student), load_model(str(run.path / "model"))
    rows = run.samples()
    prompts, ids = [row["prompt"] for row in rows], [row["completion_ids"] for row in rows]
    told, kept = (torch.stack([row[2:].sum() for row in token_logprobs(m, prompts, ids)]) for m in (before, after))
    assert (kept < told).all()
    first, last = (batches[n]["loss"] for n in (0, -1))
    assert last < first


def test_the_start_teaches_whatever_the_teacher_is(tiny_pair: Pair) -> None:
    settings = config_of(tiny_pair, method="shred")
    assert settings.teaches_itself and settings.teacher == tiny_pair.student


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lmbda": 0.5}, "unlearns stored texts"),
        ({"divergence": "reverse_kl"}, "reverse_kl is infinite"),
        ({"options": {"nucleus": 1.0}}, "nucleus to 1.0"),
        ({"options": {"share": 0.0}}, "share to 0.0"),
        ({"cache": "x"}, "holds its top k"),
    ],
)
def test_what_makes_no_sense_is_told(values: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        DistillConfig(**{"method": "shred", **values})
