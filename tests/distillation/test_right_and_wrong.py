"""Pairs of a right and a wrong trace: hand-computed values, where pairs come from, and a training on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from distilling import Hopeless, Parity, config, keep
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.losses.right_and_wrong import right_and_wrong
from distillknob.distillation.stage import distill
from distillknob.distillation.traces import TraceOptions, make_traces
from distillknob.errors import BadInputError
from distillknob.models.load import load_model
from distillknob.tasks.base import GeneratedTask
from pairs import Pair
from whole_logits import logits_of

FIVE, FOUR = torch.tensor([5.0]), torch.tensor([4.0])


def test_value_and_gradient_are_those_worked_out_by_hand() -> None:
    right, wrong = torch.tensor([-10.0], requires_grad=True), torch.tensor([-12.0], requires_grad=True)
    value = right_and_wrong(right, FIVE, wrong, FOUR, 0.8)
    assert float(value.detach()) == pytest.approx(-0.4)  # 2 − 2.4
    value.sum().backward()
    assert right.grad is not None and wrong.grad is not None
    assert float(right.grad) == pytest.approx(-0.2) and float(wrong.grad) == pytest.approx(0.2)


def test_without_wrong_ones_it_is_sft_normalised_by_length() -> None:
    wrong = torch.tensor([-12.0], requires_grad=True)
    value = right_and_wrong(torch.tensor([-10.0]), FIVE, wrong, FOUR, 0.0)
    (grad,) = torch.autograd.grad(value.sum(), wrong)
    assert float(value.detach()) == 2.0 and float(grad) == 0.0


def test_a_pair_is_the_first_right_and_the_first_wrong_sample_of_its_problem(
    tiny_pair: Pair,
) -> None:
    parity = Parity()
    student, teacher = load_model(tiny_pair.student), load_model(tiny_pair.teacher)
    options = TraceOptions(candidates=4, max_new_tokens=12)
    rows = make_traces("teacher_pairs", [parity], 12, student, teacher, None, options)
    assert 0 < len(rows) <= 12
    for row in rows:
        cut_off = row["wrong_completion_ids"][-1] != student.tokenizer.eos_token_id  # which is no answer
        assert parity.grade(row["completion"], None) == 1
        assert parity.grade(row["wrong_completion"], None) == 0 or cut_off
        assert row["wrong_completion_ids"] != row["completion_ids"]
    few = make_traces(
        "teacher_pairs", [parity], 12, student, teacher, None, TraceOptions(candidates=2, max_new_tokens=12)
    )
    prompts = [row["prompt"] for row in rows]
    assert len(few) < len(rows) and all(row["prompt"] in prompts for row in few)  # the others lack one of the two


def test_a_teacher_that_is_never_right_has_no_pairs(tiny_pair: Pair) -> None:
    student, teacher = load_model(tiny_pair.student), load_model(tiny_pair.teacher)
    options = TraceOptions(candidates=2, max_new_tokens=8)
    with pytest.raises(BadInputError, match="no right sample beside a wrong one on any of 4 problems"):
        make_traces("teacher_pairs", [Hopeless()], 4, student, teacher, None, options)


def test_a_training_costs_what_the_formula_says_and_counts_what_it_leaves_out(
    tiny_pair: Pair, tmp_path: Path, batches: list[dict[str, Any]], parity: GeneratedTask
) -> None:
    values = {"first": "none", "problems": 16, "max_completion_length": 12, "candidates": 3}
    step = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2, "max_steps": 1}
    run = keep(config(tiny_pair, "redi", **step, **values), tmp_path / "run")
    total = 0.0
    for batch in batches:  # so many pairs that a step's tokens are spread over
        assert batch["items"] / float(batch["tokens_a_pair"][0]) == pytest.approx(4)
    for batch in batches:
        logprobs, lengths = [], []
        for ids, mask in (("completion_ids", "completion_mask"), ("wrong_ids", "wrong_mask")):
            read = {**batch, "completion_ids": batch[ids], "completion_mask": batch[mask], "loss_mask": batch[mask]}
            here = batch[mask].bool()
            picked = logits_of(tiny_pair.student, read).log_softmax(-1).gather(-1, batch[ids][here][:, None])[:, 0]
            logprobs.append(torch.zeros(here.shape).masked_scatter(here, picked).sum(1))
            lengths.append(here.sum(1))
        total += float(right_and_wrong(logprobs[0], lengths[0], logprobs[1], lengths[1], 0.8).sum()) / 4
    assert sum(batch["loss"] for batch in batches) == pytest.approx(total, rel=1e-3)
    assert run.result["left_out"] == 16 - run.result["traces"] == 16 - len(run.samples())


def test_both_phases_run_and_no_pair_is_of_a_problem_of_the_first(
    tiny_pair: Pair, tmp_path: Path, parity: GeneratedTask
) -> None:
    values = {"problems": 32, "max_completion_length": 12, "candidates": 4}
    run = distill(config(tiny_pair, "redi", max_steps=2, **values), tmp_path / "run")
    assert [row["method"] for row in run.result["phases"]] == ["sft_verified", "redi"]
    assert all("wrong_completion" in row for row in run.samples())


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"traces": "teacher"}, "set traces to teacher_pairs"),
        ({"tokens_per_step": 8}, "no sum over them"),
        ({"lmbda": 0.5}, "lmbda must be 0"),
        ({"options": {"alpha": 1.5}}, "alpha to 1.5"),
        ({"query_weights": "all", "token_weights": "equal", "options": {"beta": 1.0}}, "sets 'beta'"),
    ],
)
def test_what_makes_no_sense_is_refused(values: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInputError, match=told):
        DistillConfig(method="redi", **values)
