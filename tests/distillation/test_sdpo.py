"""Self-distillation policy optimisation: a right sibling is what the teacher sees; the student's top k and a tail."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from distilling import Hopeless, config, keep
from distillknob.distillation import stage
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.losses.student_top_k import top_k_jsd
from distillknob.distillation.teacher_context.base import Written
from distillknob.distillation.teacher_context.sibling import FEEDBACK, Sibling
from distillknob.divergences.dense import divergence
from distillknob.errors import BadInputError
from distillknob.models.load import load_model
from distillknob.training import grading
from pairs import Pair

STUDENT, TEACHER = torch.tensor([[0.5, 0.3, 0.2]]).log(), torch.tensor([[0.6, 0.35, 0.05]]).log()

# The loss


def test_the_hand_computed_case() -> None:
    full = float(divergence(STUDENT, TEACHER, "jsd"))
    assert full == pytest.approx(0.02733, abs=1e-5)
    assert float(top_k_jsd(STUDENT, TEACHER, 2)) == pytest.approx(full, rel=1e-5)  # one token is outside
    assert float(top_k_jsd(STUDENT, TEACHER, 1)) == pytest.approx(0.00506, abs=1e-5)
    assert float(top_k_jsd(STUDENT, TEACHER, 100)) == pytest.approx(full, rel=1e-5)


def test_its_gradient_is_the_whole_one_s_where_one_token_is_outside_and_spreads_over_a_tail() -> None:
    grads = []
    for function in (lambda s: divergence(s, TEACHER, "jsd"), lambda s: top_k_jsd(s, TEACHER, 2)):
        student = STUDENT.clone().requires_grad_()
        function(student).sum().backward()
        assert student.grad is not None
        grads.append(student.grad)
    assert torch.allclose(grads[0], grads[1], atol=1e-6)
    student = STUDENT.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: top_k_jsd(s, TEACHER.double(), 1), (student,))


def test_the_k_tokens_are_the_student_s() -> None:
    """By the teacher's own favourite the value would be another."""
    student, teacher = torch.tensor([[0.7, 0.2, 0.1]]).log(), torch.tensor([[0.2, 0.3, 0.5]]).log()
    by_student = divergence(torch.tensor([[0.7, 0.3]]).log(), torch.tensor([[0.2, 0.8]]).log(), "jsd")
    by_teacher = divergence(torch.tensor([[0.1, 0.9]]).log(), torch.tensor([[0.5, 0.5]]).log(), "jsd")
    assert float(top_k_jsd(student, teacher, 1)) == pytest.approx(float(by_student), rel=1e-5)
    assert float(by_student) > 1.2 * float(by_teacher)
    assert float(top_k_jsd(teacher, teacher, 1)) == pytest.approx(0.0, abs=1e-12)


# What the teacher sees


def written(rewards: list[float], size: int) -> Written:
    rows: list[Mapping[str, Any]] = [
        {"prompt": [{"role": "system", "content": "S"}, {"role": "user", "content": f"Q{b // size}?"}]}
        for b in range(len(rewards))
    ]
    return Written(rows, [f"answer {b}" for b in range(len(rewards))], torch.tensor(rewards), size)


def contents(prompts: list[Any]) -> list[str | None]:
    return [None if one is None else one[-1]["content"] for one in prompts]


def test_a_right_answer_of_another_sample_is_shown_and_never_one_s_own() -> None:
    shown = contents(Sibling().shown(written([0, 1, 1, 0, 0, 1, 0, 0, 0], 3)))
    assert all("answer 1" in str(shown[b]) for b in (0, 2)) and "answer 2" in str(shown[1])
    assert [FEEDBACK in str(one) for one in shown[:3]] == [True, False, False]
    assert "answer 5" in str(shown[3]) and "answer 5" in str(shown[4]) and shown[5] is None  # which alone is right
    assert shown[6:] == [None] * 3
    assert str(shown[3]).startswith("Q1?") and all("Q0?" in str(one) for one in shown[:3])


def test_what_counts_as_right_can_be_set() -> None:
    assert contents(Sibling(success=0.9).shown(written([0.5, 0.8], 2))) == [None, None]
    assert "answer 1" in str(contents(Sibling().shown(written([0.0, 0.5], 2)))[0])


# In training


def test_it_trains_on_those_that_have_a_right_sibling(
    tiny_pair: Pair,
    tmp_path: Path,
    batches: list[dict[str, Any]],
    parity: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(grading, "get_task", lambda name: parity)
    settings = config(tiny_pair, "sdpo", num_generations=4, options={"success": 1.0})
    keep(settings, tmp_path / "run")
    student = load_model(tiny_pair.student)
    assert len(batches) == 2
    for batch in batches:
        texts = student.tokenizer.batch_decode(batch["teacher_prompt_ids"])
        for b, text in enumerate(texts):
            assert bool(batch["shown"][b]) == ("was right" in text) == bool(batch["loss_mask"][b].any())
            assert not batch["shown"][b] or batch["loss_mask"][b].equal(batch["completion_mask"][b])
        assert len({tuple(row.tolist()) for row in batch["prompt_ids"]}) == 1  # a group is of one prompt
    assert any(batch["shown"].any() for batch in batches) and any(batch["loss"] > 1e-6 for batch in batches)


def test_where_nobody_is_right_the_loss_is_exactly_zero(
    tiny_pair: Pair, tmp_path: Path, batches: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (stage, grading):
        monkeypatch.setattr(module, "get_task", lambda name: Hopeless(), raising=False)
    monkeypatch.setattr(stage, "graded_tasks", lambda names: [Hopeless()])
    run = keep(config(tiny_pair, "sdpo", num_generations=2, max_completion_length=8), tmp_path / "run")
    assert [batch["loss"] for batch in batches] == [0.0, 0.0] and not any(b["loss_mask"].any() for b in batches)
    assert all(row["loss"] == 0.0 and row["grad_norm"] == 0.0 for row in run.metrics() if "loss" in row)
    model, start = load_model(str(run.path / "model")).model, load_model(tiny_pair.student).model
    pairs = zip(model.parameters(), start.parameters(), strict=True)
    assert all(torch.isfinite(a).all() and torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"num_generations": 1}, "num_generations to 2 or more"),
        ({"lmbda": 0.5, "traces": "teacher", "num_generations": 8}, "set lmbda to 1"),
        ({"options": {"top_k": 1.5}}, "give a whole number"),
        ({"options": {"top_k": 0}}, "at least 1"),
        ({"num_generations": 8, "per_device_train_batch_size": 4}, "isn't a multiple"),
    ],
)
def test_what_makes_no_sense_is_refused(values: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInputError, match=told):
        DistillConfig(method="sdpo", **values)
