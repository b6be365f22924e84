"""Whether who teaches by a context answers better for it, said before the training."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from distillknob.distillation.config import DistillConfig
from distillknob.distillation.context_use import PROBLEMS, warn_of_unused_context
from distillknob.distillation.stage import distill
from distillknob.models.base import LanguageModel
from distillknob.models.load import load_model
from distillknob.models.sampling import Sample, SampleRequest
from distillknob.runs.journal import Journal
from distillknob.tasks import get_tasks

TASKS = ["math", "qa"]


class Reader(LanguageModel):
    """Answers right where `right` says so of the prompt, by the problem's own gold solution."""

    asked: list[int]
    right: Any
    gold: dict[str, str]

    def draw(self, request: SampleRequest, **_: Any) -> dict[tuple[int, int], Sample]:
        self.asked.append(len(request.prompts))
        answers = {}
        for i, prompt in enumerate(request.prompts):
            text = prompt[-1]["content"]
            gold = next(gold for question, gold in self.gold.items() if text.startswith(question))
            for j in range(request.n):
                answers[i, j] = Sample(gold if self.right(text) else "no idea", [], finished=True)
        return answers


def shown(text: str) -> bool:
    return any(word in text for word in ("reference solution", "expert answered", "a solution begins", "answer is:"))


def said_of(right: Any, **settings: Any) -> tuple[str | None, list[int]]:
    """What is said of a reader that is right where `right` says, and how many prompts it was asked each time."""
    config = DistillConfig(student="zoo:student", tasks=TASKS, problems=100, **settings)
    reader = Reader(*load_model("zoo:student"))
    tasks = get_tasks(TASKS)
    reader.asked, reader.right = [], right
    reader.gold = {
        one.prompt: one.gold_solution for task in tasks for one in task.examples("train", PROBLEMS, seed=config.seed)
    }
    pair: Any = SimpleNamespace(student=reader, teacher=None)
    return warn_of_unused_context(config, pair, tasks, Journal()), reader.asked


@pytest.mark.parametrize("method", ["opsd", "sdft", "delta_kd", "pi_distill"])
def test_who_is_right_for_the_context_alone_reads_it(method: str) -> None:
    warning, asked = said_of(shown, method=method)
    assert warning is None and asked == [PROBLEMS] * 4


@pytest.mark.parametrize(
    "right", [lambda text: False, lambda text: not shown(text) and len(text) % 2 == 0], ids=["never", "only-without-it"]
)
def test_who_is_right_no_more_often_is_named_with_both_shares(right: Any, capsys: pytest.CaptureFixture[str]) -> None:
    warning, _ = said_of(right, method="opsd")
    assert warning is not None and "zoo:student" in warning and "opsd" in warning
    assert "math 0% right with it" in warning and "qa 0% right with it" in warning
    assert f"warning: {warning}" in capsys.readouterr().err


def test_only_the_tasks_without_a_gain_are_named() -> None:
    questions = tuple(one.prompt for one in get_tasks(["qa"])[0].examples("train", PROBLEMS, seed=42))
    warning, _ = said_of(lambda text: shown(text) and text.startswith(questions), method="opsd", seed=42)
    assert warning is not None and "math 0% right" in warning and "qa" not in warning.replace("zoo:student", "")


def test_where_everything_is_right_already_there_is_nothing_to_gain() -> None:
    assert said_of(lambda text: True, method="opsd")[0] is None


def test_a_sibling_is_one_that_the_student_writes_for_this() -> None:
    """Half of its answers are right, so that nearly every group has one to show."""
    drawn = iter(range(10**6))
    warning, asked = said_of(lambda text: "that was right" not in text and next(drawn) % 2 == 0, method="sdpo")
    assert warning is not None and "math 0% right with it" in warning
    assert asked[0] == PROBLEMS and all(0 < one <= PROBLEMS for one in asked)
    drawn = iter(range(10**6))
    warning, _ = said_of(lambda text: "that was right" in text or next(drawn) % 2 == 0, method="sdpo")
    assert warning is None


def test_without_a_right_sibling_there_is_nothing_to_ask() -> None:
    warning, asked = said_of(lambda text: False, method="sdpo")
    assert warning is None and asked == [PROBLEMS] * 2


@pytest.mark.parametrize("method", ["gkd", "sft_gold", "tt_opd"], ids=["no-context", "no-teacher", "says-no-answer"])
def test_without_such_a_context_nothing_is_sampled(method: str) -> None:
    warning, asked = said_of(lambda text: False, method=method)
    assert warning is None and asked == []


def test_the_embedded_student_reads_no_solution_and_the_run_says_so(tmp_path: Path) -> None:
    config = DistillConfig(
        method="opsd", student="zoo:student", tasks=["math"], problems=16, max_steps=1, per_device_train_batch_size=8,
        learning_rate=1e-4, gradient_checkpointing=False,
    )  # fmt: skip
    run = distill(config, tmp_path / "run")
    assert "doesn't use what method opsd shows it (math 0% right with it" in run.result["warning"]
    assert "doesn't use" in (run.path / "model" / "README.md").read_text()
