"""The traces that a student is trained on: where they come from, and which are kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from distilling import Hopeless, Parity
from distillknob.distillation.check import check
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.traces import TraceOptions, make_traces
from distillknob.errors import BadInputError
from distillknob.inputs.opening import checked
from distillknob.models.base import LanguageModel
from distillknob.models.sampling import generate
from distillknob.models.scoring import answer_ids, token_logprobs
from distillknob.tasks.generated.qa import QA

WAYS = ("fourths", "halves")
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


class Lengths(Parity):
    """Right answers are written in one of two ways, by their length."""

    def style(self, completion: str) -> str:
        return "fourths" if len(completion) % 4 == 0 else "halves"


@pytest.mark.parametrize("source", ["teacher_verified", "teacher_best_of_n"])
def test_traces_of_one_way_are_the_right_ones_written_so(
    source: str, teacher: LanguageModel, student: LanguageModel
) -> None:
    task = Lengths()
    everything = traces(source, task, student, teacher, student, candidates=8)
    ways = {way: traces(source, task, student, teacher, student, candidates=8, ways={"qa": way}) for way in WAYS}
    for way, rows in ways.items():
        assert 0 < len(rows) <= len(everything) and {task.style(row["completion"]) for row in rows} == {way}
    assert traces(source, task, student, teacher, student, candidates=8, ways={"math": "halves"}) == everything
    with pytest.raises(BadInputError, match="no right sample in the way 'thirds' on any of 12 problems of 'qa'"):
        traces(source, task, student, teacher, student, ways={"qa": "thirds"})


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"method": "sft", "ways": {"qa": "recall"}}, "the traces of sft are teacher: use method sft_verified"),
        ({"method": "sft_verified", "ways": {"math": "every_step"}}, "ways names math, and tasks are qa"),
    ],
)
def test_ways_that_choose_nothing_are_refused(values: dict[str, Any], told: str) -> None:
    with pytest.raises(BadInputError, match=told):
        DistillConfig(tasks=["qa"], **values)


@pytest.mark.parametrize(("way", "told"), [("recal", "did you mean 'recall'"), ("xyz", "it has elimination, recall")])
def test_a_way_that_the_task_does_not_name_is_refused(way: str, told: str) -> None:
    config = DistillConfig(tasks=["qa"], method="sft_verified", ways={"qa": way}, gradient_checkpointing=False)
    with pytest.raises(BadInputError, match=told):
        checked(check, config)


@pytest.mark.parametrize("source", ["teacher_verified", "teacher_best_of_n"])
def test_a_teacher_that_is_never_right_is_told(source: str, teacher: LanguageModel, student: LanguageModel) -> None:
    with pytest.raises(BadInputError, match="no right sample on any of 12 problems of 'qa': raise candidates"):
        traces(source, Hopeless(), student, teacher, student)


def test_what_traces_need_is_told(teacher: LanguageModel, student: LanguageModel) -> None:
    with pytest.raises(BadInputError, match="need a teacher"):
        traces("teacher", QA(), student, None)
    with pytest.raises(BadInputError, match="need a target"):
        traces("teacher_best_of_n", Parity(), student, teacher, None)
