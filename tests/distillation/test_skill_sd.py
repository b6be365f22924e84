"""Skill-SD: its estimate has the reverse KL's gradient, and the teacher sees a skill of a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, tensor

from distilling import Rewarded, config
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.losses.skill_sd import SkillSd
from distillknob.distillation.stage import distill
from distillknob.distillation.teacher_context.skill import Skill, read_skills
from distillknob.distillation.token_rows import TokenRows
from distillknob.errors import BadInputError
from distillknob.models.load import load_model
from distillknob.tasks import get_task
from pairs import Pair

STUDENT, TEACHER = tensor([0.5, 0.5]), tensor([0.9, 0.1])


def enumerated(student_V: Tensor, teacher_V: Tensor) -> tuple[float, list[float]]:
    """The loss without a reward, over every token as often as the student draws it, and its gradient to the logits."""
    logits, tokens = student_V.log().requires_grad_(), torch.arange(len(student_V))
    nothing = torch.zeros(len(student_V))
    columns = {"advantage": nothing, "old_logprob": student_V.log(), "teacher_logprob": teacher_V.log()}
    rows = TokenRows(logits.expand(len(student_V), -1), None, tokens, columns)
    value = (student_V * SkillSd(distil_weight=1.0).of_tokens(rows)).sum()
    value.backward()
    assert logits.grad is not None
    return float(value.detach()), logits.grad.tolist()


def test_over_all_tokens_it_is_the_reverse_kl_with_its_gradient() -> None:
    """With a ratio that has no gradient it would be the forward KL's, (−0.4, 0.4)."""
    value, gradient = enumerated(STUDENT, TEACHER)
    assert value == pytest.approx(0.51083, abs=1e-5)
    assert gradient == pytest.approx([-0.54931, 0.54931], abs=1e-5)


def test_where_teacher_and_student_agree_there_is_exactly_nothing() -> None:
    value, gradient = enumerated(TEACHER, TEACHER)
    assert value == pytest.approx(0.0, abs=1e-7) and gradient == pytest.approx([0.0, 0.0], abs=1e-6)


def test_reward_and_distillation_are_one_sum() -> None:
    logits = tensor([[0.3, -0.2], [0.1, 0.4]])
    tokens = tensor([0, 1])
    old = logits.log_softmax(-1).gather(-1, tokens[:, None])[:, 0]
    teacher = tensor([-0.2, -1.0])
    columns = {"advantage": tensor([1.5, -0.5]), "old_logprob": old, "teacher_logprob": teacher}
    value = SkillSd(distil_weight=0.1).of_tokens(TokenRows(logits, None, tokens, columns))
    apart = old - teacher
    assert torch.allclose(value, tensor([-1.5, 0.5]) + 0.1 * ((-apart).exp() - 1 + apart), atol=1e-6)
    # log q = −0.47408 and −0.55436 of the two tokens, so that ℓ = −0.27408 and 0.44564
    assert value.tolist() == pytest.approx([-1.5 + 0.1 * 0.04124, 0.5 + 0.1 * 0.08604], abs=1e-4)


def skills(folder: Path, *rows: Any) -> str:
    path = folder / "skills.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return str(path)


def test_a_problem_s_own_skill_goes_before_its_task_s(tmp_path: Path) -> None:
    (first, second) = get_task("qa").examples("train", 2)
    asked = get_task("qa").messages(first)[-1]["content"]
    parts = {"golden_workflow": "Look, then answer.", "mistake_analysis": "Haste."}
    context = Skill(skills(tmp_path, {"task": "qa", "skill": "Read twice."}, "", {"prompt": asked, "skill": parts}))
    seen = [
        context.columns(get_task("qa").messages(one), one)["teacher_prompt"][-1]["content"] for one in (first, second)
    ]
    assert seen[0].startswith(asked) and "golden workflow: Look, then answer.\nmistake analysis: Haste." in seen[0]
    assert seen[1].endswith("Read twice.")


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (['{"task": "qa", "skill": "a"}', "{"], "line 2 is no JSON"),
        ([{"task": "qa", "skill": "a"}, {"skill": "b"}], "line 2 must be an object with either task or prompt"),
        ([{"task": "qa", "prompt": "x", "skill": "a"}], "line 1 must be an object"),
        (["[]"], "line 1 must be an object"),
        ([{"task": "qa", "skill": " "}], "line 1 has no skill"),
        ([{"task": "qa", "skill": {"a": 3}}], "line 1 has no skill"),
        ([{"task": "qa"}], "line 1 has no skill"),
        ([{"task": "qa", "skill": "a"}, {"task": "qa", "skill": "b"}], "line 2: a second skill for the task 'qa'"),
        ([], "holds no skill"),
    ],
)
def test_a_bad_line_is_told_by_its_number(tmp_path: Path, rows: list[Any], told: str) -> None:
    with pytest.raises(BadInputError, match=told):
        read_skills(skills(tmp_path, *rows))
    with pytest.raises(BadInputError, match="can't be read"):
        read_skills(str(tmp_path))


def test_a_missing_file_and_a_problem_without_a_skill_are_told_before_any_work(tiny_pair: Pair, tmp_path: Path) -> None:
    values = {"per_device_train_batch_size": 8, "num_generations": 4}
    with pytest.raises(BadInputError, match="there is no such file"):
        distill(config(tiny_pair, "skill_sd", skills=str(tmp_path / "none"), **values), tmp_path / "a")
    path = skills(tmp_path, {"task": "math", "skill": "Add."})
    with pytest.raises(BadInputError, match="has none for the task 'qa'"):
        distill(config(tiny_pair, "skill_sd", skills=path, **values), tmp_path / "b")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"method": "skill_sd"}, "name their file in skills"),
        ({"method": "gkd", "skills": "x"}, "skills are shown with context skill alone"),
        ({"method": "skill_sd", "skills": "x", "num_generations": 1}, "one alone has no advantage"),
        ({"method": "skill_sd", "skills": "x", "options": {"distil_weight": -1}}, "distil_weight to -1"),
    ],
)
def test_what_makes_no_sense_is_refused(values: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInputError, match=told):
        DistillConfig(**values)


def test_the_student_with_the_skill_teaches_in_a_training(
    tiny_pair: Pair, tmp_path: Path, batches: list[dict[str, Any]]
) -> None:
    path = skills(tmp_path, {"task": "qa", "skill": "Answer with one word."})
    settings = config(tiny_pair, "skill_sd", skills=path, per_device_train_batch_size=8)
    distill(settings, tmp_path / "run", trainer_class=Rewarded)
    assert len(batches) == 2
    shown = load_model(tiny_pair.student).tokenizer.batch_decode(batches[0]["teacher_prompt_ids"])
    assert all("Answer with one word." in text for text in shown)
    for batch in batches:
        here = batch["completion_mask"].bool()
        apart = (batch["old_logprob"] - batch["teacher_logprob"])[here]
        assert apart.abs().max() > 1e-4  # the skill fired
        value = -batch["advantage"][here].sum() + 0.001 * ((-apart).exp() - 1 + apart).sum()
        assert batch["loss"] == pytest.approx(float(value) / batch["items"], rel=1e-3, abs=1e-5)
        assert len({round(float(a), 3) for a in batch["advantage"][here]}) == 2
