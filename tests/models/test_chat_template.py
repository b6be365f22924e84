"""`chat_template_kwargs` reach every prompt of every stage: those that TRL renders, and our own."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from distillknob.calibration.config import CalibrationConfig
from distillknob.calibration.stage import calibrate
from distillknob.diagnosis.config import DiagnoseConfig
from distillknob.diagnosis.stage import diagnose
from distillknob.distillation.cache.config import CacheConfig
from distillknob.distillation.cache.stage import cache_teacher
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.stage import distill
from distillknob.errors import BadInputError
from distillknob.evaluation.config import EvaluateConfig
from distillknob.evaluation.stage import evaluate
from distillknob.models.load import load_tokenizer
from pairs import Pair

THINKS = "{% if enable_thinking is not defined or enable_thinking %}{{ '<|system|>' }}{% endif %}"
SMALL: dict[str, Any] = {
    "tasks": ["math"],
    "max_steps": 2,
    "problems": 8,
    "learning_rate": 1e-3,
    "gradient_checkpointing": False,
    "max_completion_length": 6,
    "per_device_train_batch_size": 4,
}
OFF = {"enable_thinking": False}
Make = Callable[[str, str, dict[str, Any]], Any]
STAGES: dict[str, tuple[Callable[..., Any], Make]] = {
    "calibrate": (
        calibrate,
        lambda teacher, student, values: CalibrationConfig(
            teacher=teacher,
            target=student,
            eta=0.5,
            num_generations=2,
            guard_problems=4,
            guard_samples=1,
            utility_tolerance=0.99,
            chat_template_kwargs=values,
            **SMALL,
        ),
    ),
    "distill": (
        distill,
        lambda teacher, student, values: DistillConfig(
            teacher=teacher, student=student, method="gkd", chat_template_kwargs=values, **SMALL
        ),
    ),
    "diagnose": (
        diagnose,
        lambda teacher, student, values: DiagnoseConfig(
            teacher,
            student,
            problems=4,
            samples=1,
            candidates=2,
            gradient_problems=2,
            max_new_tokens=6,
            chat_template_kwargs=values,
        ),
    ),
    "cache": (
        cache_teacher,
        lambda teacher, student, values: CacheConfig(
            teacher, problems=4, top_k=4, max_completion_length=6, chat_template_kwargs=values
        ),
    ),
    "evaluate": (
        evaluate,
        lambda teacher, student, values: EvaluateConfig(
            [teacher, student], problems=3, samples=2, k=2, max_new_tokens=6, chat_template_kwargs=values
        ),
    ),
}


@pytest.fixture(scope="module")
def thinking_pair(tiny_pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The tiny pair with a chat template that thinks unless it is told not to."""
    folder = tmp_path_factory.mktemp("thinking")
    for name, source in (("teacher", tiny_pair.teacher), ("student", tiny_pair.student)):
        shutil.copytree(source, folder / name)
        tokenizer = AutoTokenizer.from_pretrained(source)
        tokenizer.chat_template = THINKS + str(tokenizer.chat_template)
        tokenizer.save_pretrained(folder / name)
    return str(folder / "teacher"), str(folder / "student")


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each prompt that was rendered thinks."""
    found: list[bool] = []
    render = PreTrainedTokenizerBase.apply_chat_template

    def recorded(self: Any, *args: Any, **kwargs: Any) -> Any:
        given: Any = render(self, *args, **kwargs)
        if isinstance(given, str):  # a turn, to see how it ends
            return given
        token = self.convert_tokens_to_ids("<|system|>")
        found.extend(token in row for row in given["input_ids"])
        return given

    monkeypatch.setattr(PreTrainedTokenizerBase, "apply_chat_template", recorded)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_a_template_s_variable_reaches_every_prompt(
    stage: str, thinking_pair: tuple[str, str], rendered: list[bool], tmp_path: Path
) -> None:
    work, make = STAGES[stage]
    run = work(make(*thinking_pair, OFF), tmp_path / "run")
    assert rendered and not any(rendered)
    if (run.path / "model").exists():
        assert load_tokenizer(str(run.path / "model")).chat_template.startswith("{%- set enable_thinking = false %}")


@pytest.mark.parametrize("stage", STAGES)
def test_a_variable_that_no_template_reads_is_told(stage: str, thinking_pair: tuple[str, str], tmp_path: Path) -> None:
    work, make = STAGES[stage]
    with pytest.raises(BadInputError, match="sets 'enable_thinkng', but no chat template of"):
        work(make(*thinking_pair, {"enable_thinkng": False}), tmp_path / "run")
    assert not (tmp_path / "run").exists()
