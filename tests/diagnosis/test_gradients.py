"""The student's gradients under three estimates of one reverse KL."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from distillknob.diagnosis.gradients import compare_gradients
from distillknob.diagnosis.sketches import EXACT, SKETCH, products
from distillknob.diagnosis.traps.sequence_myopia import myopia_rows, sequence_myopia
from distillknob.models.chat import prompt_ids
from distillknob.models.load import load_model
from distillknob.models.scoring import answer_logits, batches
from pairs import Pair

ERROR = 2 / SKETCH**0.5  # of an inner product of two sketches, over the product of the lengths


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


def ordinary(teacher: Any, student: Any, prompt: Any, answers: list[list[int]]) -> list[torch.Tensor]:
    """The three gradients by their definitions: whole logits, autograd, one vector each."""
    (ids,) = prompt_ids(teacher.tokenizer, [prompt])
    losses: list[Any] = [0.0, 0.0, 0.0]
    for answer in answers:
        row = torch.tensor([[*ids, *answer]])
        logq, logp = (
            side.model(input_ids=row).logits[0, len(ids) - 1 : -1].log_softmax(-1) for side in (student, teacher)
        )
        logp, chosen = logp.detach(), torch.tensor(answer)[:, None]
        ratio = (logq - logp).gather(1, chosen)[:, 0].detach()
        losses[0] = losses[0] + (logq.exp() * (logq - logp)).sum()
        losses[1] = losses[1] + (ratio * logq.gather(1, chosen)[:, 0]).sum()
        losses[2] = losses[2] + ratio.sum() * logq.gather(1, chosen).sum()
    tokens, parameters = sum(map(len, answers)), list(student.model.parameters())
    gradients = [torch.autograd.grad(loss / tokens, parameters, retain_graph=True) for loss in losses]
    return [torch.cat([part.reshape(-1) for part in parts]) for parts in gradients]


PROMPT = [{"role": "user", "content": "Calculate modulo 1000: start with 1, and after that add 2."}]
ANSWERS = [[5, 6, 7, 9], [8], [30, 31, 2], [4, 4]]


def test_products_are_those_of_the_gradients_by_their_definitions(teacher: Any, student: Any) -> None:
    expected = products(ordinary(teacher, student, PROMPT, ANSWERS))
    compared = compare_gradients(teacher, student, "math", [PROMPT], [ANSWERS])
    assert torch.allclose(compared.product_BEE[0], expected, rtol=1e-4)
    assert torch.allclose(compared.mean_EE, expected, rtol=1e-4)
    assert all(parameter.grad is None for parameter in student.model.parameters())


@pytest.mark.parametrize("exact", [0, EXACT])
def test_products_do_not_depend_on_how_a_batch_is_cut(
    teacher: Any, student: Any, monkeypatch: pytest.MonkeyPatch, exact: int
) -> None:
    whole = compare_gradients(teacher, student, "math", [PROMPT], [ANSWERS], exact=exact)
    monkeypatch.setattr("distillknob.models.heads._CPU_LOGITS_BYTES", 4 * 2 * student.model.config.vocab_size)
    parts = compare_gradients(teacher, student, "math", [PROMPT], [ANSWERS[::-1]], exact=exact, batch_tokens=1)
    assert torch.allclose(parts.product_BEE, whole.product_BEE, rtol=1e-4)
    assert torch.allclose(parts.mean_EE, whole.mean_EE, rtol=1e-4)


def test_a_large_student_s_products_are_sketched_within_their_error(teacher: Any, student: Any) -> None:
    prompts, answers = [PROMPT] * 2, [ANSWERS, ANSWERS[:2]]
    exact, sketched = (compare_gradients(teacher, student, "math", prompts, answers, exact=n) for n in (EXACT, 0))
    for a, b in ((exact.product_BEE, sketched.product_BEE), (exact.mean_EE[None], sketched.mean_EE[None])):
        length_BE = a.diagonal(dim1=1, dim2=2).sqrt()
        assert ((a - b).abs() <= 5 * ERROR * length_BE[:, :, None] * length_BE[:, None]).all() and not torch.equal(a, b)
