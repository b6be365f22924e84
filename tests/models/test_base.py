"""A model that wraps another goes wherever a model goes: stages ask for what it can do, and never for its kind."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LogitsProcessor, TemperatureLogitsWarper

from distillknob.errors import BadInputError
from distillknob.evaluation.measure import sample_and_grade
from distillknob.evaluation.task_result import evaluate_task
from distillknob.models.base import LanguageModel
from distillknob.models.chat import prompt_ids
from distillknob.models.same_text import answers_logprob, as_read
from distillknob.models.sampling import Sample, Sampler, SampleRequest, Sampling, generate
from distillknob.models.scoring import ScoreRequest, answer_ids, answer_logits, batches, token_logprobs
from distillknob.models.served.chat import ServedChat
from distillknob.runs.journal import Journal
from distillknob.tasks import get_task

MATH = get_task("math")


@dataclass(frozen=True)
class Edited:
    """A model whose next-token distribution is another one: as a defence at sampling time would be."""

    inner: LanguageModel
    edit: LogitsProcessor
    knows_every_end: bool = True

    @property
    def name(self) -> str:
        return f"edited {self.inner.name}"

    @property
    def tokenizer(self) -> Any:
        return self.inner.tokenizer

    @property
    def ends(self) -> list[int]:
        return self.inner.ends

    @property
    def weights(self) -> Any:
        return self.inner.weights

    @property
    def scorer(self) -> Edited:
        return self

    def draw(self, request: SampleRequest) -> dict[tuple[int, int], Sample]:
        return self.inner.draw(request, edit=self.edit)

    def score(self, request: ScoreRequest) -> list[torch.Tensor]:
        return self.inner.score(request, edit=self.edit)


@dataclass(frozen=True)
class Answering:
    """A model that has one answer instead of another's: as a defence that rewrites answers would be. How likely its
    own answers are isn't known."""

    inner: Sampler
    answer: str
    scorer: None = None

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def tokenizer(self) -> Any:
        return self.inner.tokenizer

    @property
    def ends(self) -> list[int]:
        return self.inner.ends

    def draw(self, request: SampleRequest) -> dict[tuple[int, int], Sample]:
        ids = [] if self.tokenizer is None else [*self.tokenizer(self.answer)["input_ids"], self.ends[0]]
        return {row: Sample(self.answer, ids, sample.finished) for row, sample in self.inner.draw(request).items()}


class Hurried(LogitsProcessor):
    """The longer the row, the colder: so it matters what stands before a token, and whether that is padding."""

    def __init__(self, pad_token: int):
        self.pad_token = pad_token

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores * (1 + 0.1 * (input_ids != self.pad_token).sum(1, keepdim=True))


@dataclass(frozen=True)
class Chat(ServedChat):
    """A chat interface without a network."""

    asked: list[Any] = field(default_factory=list)

    def sample(self, messages: Any, n: int, **sampling: Any) -> list[tuple[str, bool]]:
        self.asked.append((messages, n, sampling["seed"]))
        return [(f"answer {j}", True) for j in range(n)]


def problems(n: int) -> list[Any]:
    """Prompts of different lengths."""
    tasks = [get_task(name) for name in ("math", "instruct", "qa")]
    return [task.messages(example) for task in tasks for example in task.examples("train", n)]


def test_a_colder_distribution_is_drawn_from_as_by_a_lower_temperature(teacher: LanguageModel) -> None:
    cold = Edited(teacher, TemperatureLogitsWarper(0.25))
    sampling = Sampling(max_new_tokens=12, seed=5, batch_size=7)
    drawn = generate(cold, problems(2), 3, sampling)
    assert drawn == generate(teacher, problems(2), 3, replace(sampling, temperature=0.25))
    assert drawn != generate(teacher, problems(2), 3, sampling)


def test_one_rule_draws_scores_and_gives_the_distribution(teacher: LanguageModel) -> None:
    hurried = Edited(teacher, Hurried(teacher.tokenizer.pad_token_id))
    prompts, rows, _ = generate(hurried, problems(2), 2, Sampling(max_new_tokens=10)).flat()
    ids = [sample.token_ids for sample in rows]
    ids[1] = []
    together = token_logprobs(hurried, prompts, ids, batch_tokens=200)
    alone = [token_logprobs(hurried, [prompt], [row])[0] for prompt, row in zip(prompts, ids, strict=True)]
    assert [len(row) for row in together] == [len(row) for row in ids]
    before = prompt_ids(teacher.tokenizer, prompts)
    for batch in batches(before, ids, torch.device("cpu"), 300):
        with torch.no_grad():
            logits_BAV = answer_logits(teacher, batch, hurried.edit)
        logprob_BA = logits_BAV.log_softmax(-1).gather(-1, batch.answer_ids_BA[..., None])[..., 0]
        for r, i in enumerate(batch.rows):
            torch.testing.assert_close(together[i], alone[i], atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(logprob_BA[r][batch.answer_mask_BA[r]], alone[i], atol=1e-4, rtol=1e-4)
    plain = token_logprobs(teacher, prompts, ids)
    assert sum(float(row.sum()) for row in together) > sum(float(row.sum()) for row in plain) + 1


def test_what_is_drawn_from_an_edited_model_has_the_probability_that_it_scores(teacher: LanguageModel) -> None:
    hurried = Edited(teacher, Hurried(teacher.tokenizer.pad_token_id))
    prompt = MATH.messages(MATH.examples("train", 1)[0])
    drawn = generate(hurried, [prompt], 2000, Sampling(max_new_tokens=2, batch_size=2000)).completions[0]
    pairs = [tuple(sample.token_ids) for sample in drawn]
    likeliest = max(set(pairs), key=pairs.count)
    p = float(token_logprobs(hurried, [prompt], [list(likeliest)])[0].sum().exp())
    assert 0.02 < p < 0.98
    assert abs(pairs.count(likeliest) / 2000 - p) < 4 * (p * (1 - p) / 2000) ** 0.5


def test_a_wrapper_is_evaluated_like_any_model(teacher: LanguageModel, tmp_path: Path) -> None:
    cold = Edited(teacher, TemperatureLogitsWarper(0.25))
    result = evaluate_task(cold, MATH, problems=3, samples=2, k=2, max_new_tokens=8)
    assert all(row["mean_logprob"] <= 0 for row in result.rows)
    (example,) = MATH.examples("train", 1)
    right = Answering(teacher, example.gold_solution)
    # One of them may not have ended in time, and then none of its answers counts.
    graded = sample_and_grade(right, MATH, [example], 4, max_new_tokens=200, journal=Journal(tmp_path))
    assert {sample.text for sample in graded.samples[0]} == {example.gold_solution}
    assert graded.right == [[sample.finished for sample in graded.samples[0]]] and any(graded.right[0])
    resumed = sample_and_grade(right, MATH, [example], 4, max_new_tokens=200, journal=Journal(tmp_path))
    assert resumed.samples == graded.samples
    unscored = evaluate_task(right, MATH, problems=3, samples=2, k=2, max_new_tokens=8)
    assert {row["mean_logprob"] for row in unscored.rows} == {None}


def test_a_wrapper_of_a_chat_interface_has_texts_alone() -> None:
    chat = Chat("http://x", "hosted")
    wrapped = Answering(chat, "41")
    drawn = generate(wrapped, problems(1), 2, Sampling(max_new_tokens=4))
    assert {sample.text for _, sample, _ in zip(*drawn.flat(), strict=True)} == {"41"}
    assert [n for _, n, _ in chat.asked] == [2, 2, 2]
    assert wrapped.tokenizer is None and wrapped.scorer is None
    with pytest.raises(BadInputError, match="'hosted' behind a chat interface can't go on with an answer begun here"):
        generate(wrapped, problems(1), 1, begun=[[5], [], []])


def test_a_reader_that_wraps_another_reads_its_ends(teacher: LanguageModel, student: LanguageModel) -> None:
    wrapped = Edited(teacher, TemperatureLogitsWarper(2.0))
    ids = answer_ids(student, ["12", "13"], [True, False])
    assert as_read(ids, [True, False], student.tokenizer, wrapped) == as_read(
        ids, [True, False], student.tokenizer, teacher
    )
    scored = answers_logprob(wrapped, problems(1)[:2], ids, [True, False], student.tokenizer)
    rows = token_logprobs(wrapped, problems(1)[:2], ids)
    assert scored.tolist() == pytest.approx([float(row.sum()) for row in rows])
