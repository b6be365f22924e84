"""One rule for what is right in every stage, and samplings that go on where they were stopped."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from distillknob.diagnosis.config import DiagnoseConfig
from distillknob.diagnosis.gather import gather
from distillknob.distillation.traces import TraceOptions, make_traces
from distillknob.errors import BadInputError, RunFailedError
from distillknob.evaluation.config import EvaluateConfig
from distillknob.evaluation.measure import Measured, grade_samples, sample_and_grade, scores_of
from distillknob.evaluation.stage import evaluate
from distillknob.evaluation.task_result import evaluate_task
from distillknob.models.base import LanguageModel
from distillknob.models.engines.opened import Engines
from distillknob.models.load import load_tokenizer
from distillknob.models.sampling import Sample, Sampling, generate
from distillknob.models.served.model import ServedModel
from distillknob.runs.journal import Journal
from distillknob.tasks.generated.qa import QA
from distillknob.training.grading import task_reward
from pairs import Pair


class Parity(QA):
    """Questions on which tiny models are right about half of the time."""

    def grade(self, completion: str, reference: Any) -> float:
        return float(len(completion) % 2 == 0)


class Judged(Parity):
    """Graded in batches, as by a reward model."""

    graded = 0

    def grade_all(self, completions: Any, references: Any) -> list[float]:
        self.graded += len(completions)
        return [0.7] * len(completions)


class Stopped(Exception):
    """As a kill would, but within this process."""


def stop_at(batch: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Stop while the batch of this number is kept; returns the count of those that were."""
    count, keep = [0], Journal.keep

    def stops(self: Journal, *args: Any, **options: Any) -> None:
        if count[0] == batch:
            raise Stopped
        keep(self, *args, **options)
        count[0] += 1

    monkeypatch.setattr(Journal, "keep", stops)
    return count


def test_what_did_not_end_or_says_nothing_scores_0_whatever_the_grader_says() -> None:
    answers, finished = ["even", "even", "", "  ", "odd"], [True, False, True, True, True]
    assert scores_of(Parity(), answers, [None] * 5, finished) == [1.0, 0.0, 0.0, 0.0, 0.0]
    task = Judged()  # open-ended tasks with a graded score alike
    assert scores_of(task, answers, [None] * 5, finished) == [0.7, 0.0, 0.0, 0.0, 0.7]
    assert task.graded == 2


def test_thoughts_opened_by_the_template_are_no_answer(tiny_pair: Pair) -> None:
    tokenizer = load_tokenizer(tiny_pair.teacher)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}<think>"
    tokenizer.chat_template = tokenizer.chat_template.replace(
        "<think>", "{% if add_generation_prompt %}<think>{% endif %}"
    )
    task = Judged()
    row = [Sample("Answer: Lima.", [], finished=True), Sample("Lima?</think>Answer: Lima.", [], finished=True)]
    graded = grade_samples(tokenizer, task, task.examples("train", 1), [row])
    assert graded.answers == [["", "Answer: Lima."]] and graded.scores == [[0.0, 0.7]]
    assert graded.unanswered_rate == 0.5 and graded.finished_rate == 1.0


def test_every_stage_means_the_same_by_right(teacher: LanguageModel, student: LanguageModel) -> None:
    """At a length at which many answers are cut off."""
    task = Parity()
    sizes: dict[str, Any] = {"max_new_tokens": 8, "seed": 3}
    found = evaluate_task(teacher, task, split="train", problems=32, samples=4, modes=False, **sizes)
    assert 0 < found.finished_rate < 1 and 0 < found.score.mean < found.finished_rate
    assert all(row["finished"] or row["score"] == 0 for row in found.rows)
    config = DiagnoseConfig(problems=32, samples=4, candidates=4, gradient_problems=0, ks=[1], **sizes)
    gathered = gather(task, teacher, student, config, Journal(), Engines("transformers"))
    whole = gathered.continuations.share_A == 0
    assert gathered.continuations.score_A[whole].tolist() == found.scores_PN.ravel().tolist()
    assert gathered.styled.right_A.tolist() == [row["score"] == 1 for row in found.rows]
    traces = make_traces("teacher_verified", [task], 32, student, teacher, None, TraceOptions(1, **sizes))
    drawn = sample_and_grade(teacher, task, task.examples("train", 32, seed=3), 1, **sizes)
    assert [row["completion"] for row in traces] == [
        s[0].text for s, r in zip(drawn.samples, drawn.right, strict=True) if r[0]
    ]
    reward = task_reward(
        [[{"content": ""}]] * len(found.rows),
        ["qa"] * len(found.rows),
        ["null"] * len(found.rows),
        [row["finished"] for row in found.rows],
        [row["text"] for row in found.rows],
    )
    assert all(score == 0 for score, row in zip(reward, found.rows, strict=True) if not row["finished"])


@pytest.mark.parametrize("batches", [0, 1, 2, 4, 6])
def test_a_stopped_evaluation_goes_on_at_its_batch(
    tiny_pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batches: int
) -> None:
    def config() -> EvaluateConfig:
        return EvaluateConfig([*tiny_pair], ["qa", "math"], problems=4, samples=3, k=2, max_new_tokens=8)

    whole = evaluate(config(), tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_at(batches, patch)
        with pytest.raises(Stopped):
            evaluate(config(), tmp_path / "run")
    count = stop_at(-1, monkeypatch)
    resumed = evaluate(config(), tmp_path / "run", resume=True)
    assert resumed.result == whole.result and resumed.samples() == whole.samples()
    assert batches + count[0] == 8  # two models, two tasks: samples and confidence
    assert not resumed.unfinished.exists()


@pytest.mark.parametrize(
    ("source", "selection", "batches"),
    [
        *((source, "likelihood", n) for source in ("teacher", "teacher_verified", "teacher_best_of_n") for n in (0, 1)),
        *(
            ("teacher_best_of_n", "sure_tokens_soft", n) for n in (1, 2, 3)
        ),  # samples, the teacher's scores, the target's
    ],
)
def test_stopped_traces_go_on_at_their_batch(
    source: Any,
    selection: str,
    batches: int,
    teacher: LanguageModel,
    student: LanguageModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def made(journal: Journal | None = None) -> list[dict[str, Any]]:
        options = TraceOptions(4, None, 0, selection=selection)
        return make_traces(source, [Parity(), Parity()], 6, student, teacher, student, options, journal=journal)

    whole = made()
    with monkeypatch.context() as patch:
        stop_at(batches, patch)
        with pytest.raises(Stopped):
            made(Journal(tmp_path))
    assert len(list(tmp_path.rglob("*.pt"))) == batches
    assert made(Journal(tmp_path)) == whole


def test_a_grade_that_was_paid_for_is_not_paid_again(teacher: LanguageModel, tmp_path: Path) -> None:
    task = Judged()
    example = task.examples("train", 4)

    def drawn() -> Measured:
        return sample_and_grade(teacher, task, example, 4, max_new_tokens=12, journal=Journal(tmp_path))

    first, paid = drawn(), task.graded
    assert paid > 0 and drawn().scores == first.scores and task.graded == paid


@dataclass(frozen=True)
class Server(ServedModel):
    """Answers without a network, up to `dead_after` requests."""

    asked: list[tuple[int, ...]] = field(default_factory=list)
    dead_after: list[int] = field(default_factory=lambda: [10**9])
    lock: Any = field(default_factory=threading.Lock)

    def sample(self, ids: Any, n: int, **sampling: Any) -> list[list[tuple[str, list[int], bool]]]:
        with self.lock:
            if len(self.asked) >= self.dead_after[0]:
                raise RunFailedError("lost")
            self.asked.append(tuple(ids[0]))
        return [[(f"{len(ids[0])}/{j}", [5, 1], True) for j in range(n)]]


@pytest.mark.parametrize("dead_after", [0, 1, 6, 11])
def test_what_a_lost_server_has_answered_is_not_asked_again(tiny_pair: Pair, tmp_path: Path, dead_after: int) -> None:
    server = Server("http://x", "m", load_tokenizer(tiny_pair.teacher), batch_size=8)
    prompts = [[{"role": "user", "content": f"{i} plus {i}"}] for i in range(12)]

    def drawn(journal: Journal) -> Any:
        return generate(server, prompts, 2, Sampling(max_new_tokens=4), journal=journal)  # four prompts at a time

    whole = drawn(Journal())
    server.asked.clear()
    server.dead_after[0] = dead_after
    with pytest.raises(RunFailedError, match="lost"):
        drawn(Journal(tmp_path))
    server.dead_after[0] = 10**9
    assert drawn(Journal(tmp_path)) == whole
    assert len(server.asked) == len(set(server.asked)) == 12


def test_a_journal_of_other_inputs_is_refused(teacher: LanguageModel, tmp_path: Path) -> None:
    def drawn(text: str, seed: int = 0) -> Callable[[], Any]:
        prompts = [[{"role": "user", "content": text}]]
        return lambda: generate(teacher, prompts, 1, Sampling(max_new_tokens=2, seed=seed), journal=Journal(tmp_path))

    assert drawn("1 plus 1")() == drawn("1 plus 1")()
    for other in (drawn("1 plus 2"), drawn("1 plus 1", seed=1)):
        with pytest.raises(BadInputError, match="from other inputs"):
            other()


def test_answers_that_none_could_end_and_samples_that_are_too_few_are_told(tiny_pair: Pair, tmp_path: Path) -> None:
    values = EvaluateConfig([tiny_pair.teacher], ["qa"], problems=3, samples=2, k=4, max_new_tokens=1)
    notes = evaluate(values, tmp_path / "run").result["notes"]
    assert any("none of the answers" in note and "within 1 tokens" in note for note in notes)
    assert any("pass@4 on qa needs 4 samples a problem and there are 2" in note for note in notes)
