"""The student's gradients under three estimates of one reverse KL."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from distillknob.diagnosis.gradients import compare_gradients
from distillknob.diagnosis.traps.sequence_myopia import myopia_rows, sequence_myopia
from distillknob.models.chat import prompt_ids
from distillknob.models.load import load_model
from distillknob.models.scoring import answer_logits, batches
from pairs import Pair
from scored import noise


def test_sampled_gradients_are_the_token_level_one_in_the_mean(teacher: Any, tiny_pair: Pair) -> None:
    """Every answer of one token, weighted by its probability: the three gradients of `compare_gradients` agree."""
    student = load_model(tiny_pair.student)
    with torch.no_grad():
        student.model.model.norm.weight.mul_(6)  # sure of its tokens, so that few of them are nearly all
    prompt = [{"role": "user", "content": "Calculate modulo 1000: start with 1, and after that add 2."}]
    (batch,) = batches(prompt_ids(teacher.tokenizer, [prompt]), [[0]], student.model.device, 100)
    likely = answer_logits(student, batch)[0, 0].detach().log_softmax(-1).double().topk(200)
    assert float(likely.values.exp().sum()) > 0.999
    answers = [[[int(token)]] for token in likely.indices]
    gradients = compare_gradients(teacher, student, "math", [prompt] * len(answers), answers)
    assert gradients.product_BEE.shape == (len(answers), 3, 3)
    # one token: the sequence is the token, and the token-level gradient doesn't depend on which was drawn
    assert torch.allclose(gradients.product_BEE[:, 1], gradients.product_BEE[:, 2], rtol=1e-5)
    whole = gradients.product_BEE[0, 0, 0]
    assert torch.allclose(gradients.product_BEE[:, 0, 0], whole.expand(len(answers)), rtol=1e-5)
    # E[g_token · g_sampled] = |g_token|²: one answer with each token, q as its share
    expected = (likely.values.exp() * gradients.product_BEE[:, 0, 1]).sum()
    assert float(expected) == pytest.approx(float(whole), rel=1e-3)


def test_gradients_skip_prompts_without_answers(teacher: Any, student: Any) -> None:
    prompt = [{"role": "user", "content": "Calculate modulo 1000: start with 1, and after that add 2."}]
    gradients = compare_gradients(teacher, student, "math", [prompt] * 3, [[[5, 6], []], [[]], [[7]]])
    assert gradients.prompt_B.tolist() == [0, 2]
    rows = myopia_rows(gradients)
    assert [row["estimate"] for row in rows] == ["sampled_token", "sequence"] and all(row["n"] == 2 for row in rows)
    nothing = compare_gradients(teacher, student, "math", [], [])
    assert not sequence_myopia(nothing).applicable and myopia_rows(nothing) == []


def test_sketched_gradients_keep_their_inner_products() -> None:
    from distillknob.diagnosis.gradients import SKETCH, _products, _sketched

    short = [noise(1000, seed=seed) for seed in range(3)]
    assert torch.equal(_sketched(short), torch.stack(short))
    base = noise(5 * SKETCH + 17)
    long = [base, base + noise(len(base), seed=2), noise(len(base), seed=3)]
    exact, sketched = _products(long), _products(list(_sketched(long)))
    size = exact.diagonal().sqrt()
    assert ((exact - sketched).abs() <= 5 * (2 / SKETCH) ** 0.5 * size[:, None] * size).all()
    assert not torch.equal(exact, sketched)
