"""The traces that a student is trained on: where they come from, and which are kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from distilling import Hopeless, Parity
from distillknob.distillation.traces import TraceOptions, make_traces
from distillknob.errors import BadInputError
from distillknob.models.base import LanguageModel
from distillknob.models.sampling import generate
from distillknob.models.scoring import answer_ids, token_logprobs
from distillknob.tasks.generated.qa import QA

Rows = list[dict[str, Any]]


def traces(source: Any, task: Any, student: Any, teacher: Any, target: Any = None, **options: Any) -> Rows:
    return make_traces(source, [task], 12, student, teacher, target, TraceOptions(**{"candidates": 4, **options}))


def test_verified_traces_are_the_first_right_ones(teacher: LanguageModel, student: LanguageModel) -> None:
    task = Parity()
    plain = traces("teacher", task, student, teacher)
    assert len(plain) == 12 and {len(row["completion"]) % 2 for row in plain} == {0, 1}
    verified = traces("teacher_verified", task, student, teacher)
    assert 6 <= len(verified) <= 12
    assert all(len(row["completion"]) % 2 == 0 for row in verified)
    assert all(row["completion_ids"][-1] == teacher.tokenizer.eos_token_id for row in verified)  # right and finished
    prompts = [row["prompt"] for row in plain]
    assert [row["prompt"] for row in verified] == [p for p in prompts if p in [row["prompt"] for row in verified]]


def test_the_best_of_n_is_the_right_one_that_the_target_finds_likeliest(
    teacher: LanguageModel, student: LanguageModel
) -> None:
    from distillknob.models.sampling import Sampling

    task = Parity()
    found = {
        str(row["prompt"]): row["completion"]
        for row in traces("teacher_best_of_n", task, student, teacher, student, candidates=12)
    }
    examples = task.examples("train", 12, seed=0)
    prompts = [task.messages(example) for example in examples]
    drawn = generate(teacher, prompts, 12, Sampling(max_new_tokens=task.max_new_tokens, seed=0)).completions
    chosen = 0
    for prompt, row in zip(prompts, drawn, strict=True):
        right = [s for s in row if s.finished and s.text and len(s.text) % 2 == 0]  # nothing is no answer
        if not right:
            assert str(prompt) not in found
            continue
        scored = token_logprobs(student, [prompt] * len(right), [s.token_ids for s in right])
        values = torch.stack([row.sum() for row in scored])
        assert found[str(prompt)] == right[int(values.argmax())].text
        chosen += len({s.text for s in right}) > 1
    assert chosen >= 3  # there was a choice


def test_traces_are_told_apart_by_their_source(teacher: LanguageModel, student: LanguageModel) -> None:
    task = QA()
    gold = traces("gold", task, student, None)
    assert [row["completion"] for row in gold] == [e.gold_solution for e in task.examples("train", 12, seed=0)]
    assert [row["completion_ids"] for row in gold] == answer_ids(student, [r["completion"] for r in gold], [True] * 12)
    assert all(row["completion_ids"] == [] for row in traces("none", task, student, None))
    assert traces("teacher", task, student, teacher) == traces("teacher", task, student, teacher)
    assert traces("teacher", task, student, teacher) != traces("teacher", task, student, teacher, seed=1)


@pytest.mark.parametrize("source", ["teacher_verified", "teacher_best_of_n"])
def test_a_teacher_that_is_never_right_is_told(source: str, teacher: LanguageModel, student: LanguageModel) -> None:
    with pytest.raises(BadInputError, match="no right sample on any of 12 problems of 'qa': raise candidates"):
        traces(source, Hopeless(), student, teacher, student)


def test_what_traces_need_is_told(teacher: LanguageModel, student: LanguageModel) -> None:
    with pytest.raises(BadInputError, match="need a teacher"):
        traces("teacher", QA(), student, None)
    with pytest.raises(BadInputError, match="need a target"):
        traces("teacher_best_of_n", Parity(), student, teacher, None)
