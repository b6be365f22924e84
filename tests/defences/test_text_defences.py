"""Defences that change answers after they were drawn: what is left, what it commits to, and its tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from distillknob.defences.answers_only import AnswersOnly
from distillknob.defences.reordered import Reordered, conclusions_first
from distillknob.defences.rewritten import Restated, Rewritten
from distillknob.defences.sampled import Reworded, Written
from distillknob.errors import BadInputError
from distillknob.evaluation.measure import sample_and_grade
from distillknob.models.base import LanguageModel
from distillknob.models.chat import turn_end
from distillknob.models.sampling import Sample, Sampler, SampleRequest, Sampling, generate
from distillknob.runs.journal import Journal
from distillknob.tasks import Example, get_task
from distillknob.tasks.math_task import MathTask

MATH, QA = get_task("math"), get_task("qa")
LATEX = object.__new__(MathTask)  # it reads no data


@dataclass(frozen=True)
class Planted:
    """A model that writes these texts by turns, all of them finished but the last."""

    inner: LanguageModel
    texts: tuple[str, ...]
    scorer: None = None

    @property
    def name(self) -> str:
        return "planted"

    @property
    def tokenizer(self) -> Any:
        return self.inner.tokenizer

    @property
    def ends(self) -> list[int]:
        return self.inner.ends

    def draw(self, request: SampleRequest) -> dict[tuple[int, int], Sample]:
        rows = [(i, j) for i in range(len(request.prompts)) for j in range(request.n)]
        samples = {}
        for number, row in enumerate(rows):
            text = self.texts[number % len(self.texts)]
            finished = len(self.texts) == 1 or number % len(self.texts) < len(self.texts) - 1
            ids = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            samples[row] = Sample(text, [*ids, *([turn_end(self.tokenizer)] if finished else [])], finished)
        return samples


def answers_of(sampler: Sampler, examples: list[Example], n: int = 1) -> list[Sample]:
    return generate(sampler, [MATH.messages(e) for e in examples], n, Sampling(max_new_tokens=40)).flat()[1]


def over(defence: Any, teacher: LanguageModel, *texts: str, task: Any = MATH) -> Sampler:
    """The defence before a model that writes these texts."""
    wrapped = defence.wrapped(teacher, task)
    assert isinstance(wrapped, Reworded) and wrapped.scorer is None
    return replace(wrapped, inner=Planted(teacher, texts))


def test_answers_only_gives_out_the_answer_closed_by_the_models_end(teacher: LanguageModel) -> None:
    (example,) = MATH.examples("train", 1)
    right = f"Answer: {example.reference}"
    sampler = over(AnswersOnly(), teacher, example.gold_solution)
    (sample,) = answers_of(sampler, [example])
    assert sample.text == right and sample.finished
    assert sample.token_ids == [*teacher.tokenizer(right)["input_ids"], turn_end(teacher.tokenizer)]
    assert teacher.tokenizer.decode(sample.token_ids, skip_special_tokens=True) == right
    assert sample_and_grade(sampler, MATH, [example], 2, max_new_tokens=40).scores == [[1.0, 1.0]]


def test_an_answer_that_was_cut_off_stays_without_an_end_and_what_never_commits_is_empty(
    teacher: LanguageModel,
) -> None:
    samples = answers_of(over(AnswersOnly(), teacher, "1+1=2", "1+1=2\nAnswer: 00"), MATH.examples("train", 2))
    assert [(sample.text, sample.finished) for sample in samples] == [("", True), ("Answer: 00", False)]
    assert samples[0].token_ids == [turn_end(teacher.tokenizer)]
    assert samples[1].token_ids == teacher.tokenizer("Answer: 00")["input_ids"]


def test_an_answer_that_a_defence_leaves_has_the_tokens_that_were_drawn(teacher: LanguageModel) -> None:
    prompts = [get_task("instruct").messages(e) for e in get_task("instruct").examples("train", 3)]
    sampling = Sampling(max_new_tokens=16)
    wrapped = AnswersOnly().wrapped(teacher, get_task("instruct"))
    plain = generate(teacher, prompts, 2, sampling).flat()[1]
    for own, theirs in zip(generate(wrapped, prompts, 2, sampling).flat()[1], plain, strict=True):
        assert own == theirs or own.text == theirs.text.strip()


@pytest.mark.parametrize("opened", ["", "<think>"])
def test_thoughts_that_the_prompt_opened_are_closed_before_the_answer(opened: str) -> None:
    text = "2+3 is 5.\n</think>\n\nAs 2+3=5, we get \\boxed{5}."
    written = Written([], text if opened else f"<think>{text}", opened, finished=True)
    assert written.outside_of_thoughts("\\boxed{5}.") == ("</think>\n\n\\boxed{5}." if opened else "\\boxed{5}.")
    assert written.said.strip() == "As 2+3=5, we get \\boxed{5}."


@pytest.mark.parametrize(
    "task, text, backwards",
    [
        (MATH, "769-400=369\n+1=370\nAnswer: 370", "369=769-400\n370=+1\nAnswer: 370"),
        (
            QA,
            "Cem is a teacher. A teacher works at the school. Answer: school",
            "A teacher works at the school. Cem is a teacher. Answer: school",
        ),
        (LATEX, "$$x = 2+3 = 5$$\n\nSo \\boxed{5}", "$$5 = x = 2+3$$\n\nSo \\boxed{5}"),
        (LATEX, "Wait, 2 is even. Let me check. Four is too.\n\\boxed{4}", "Four is too. 2 is even.\n\\boxed{4}"),
        (LATEX, "<think>Hmm. Two. Three.</think>\n\\boxed{3}", "<think>Three. Two.</think>\n\\boxed{3}"),
        (LATEX, "As x <= 3 and y >= 2,\n\\boxed{1}", "As x <= 3 and y >= 2,\n\\boxed{1}"),
        (get_task("instruct"), "A fox. An owl.", "A fox. An owl."),
    ],
)
def test_conclusions_stand_before_their_steps(task: Any, text: str, backwards: str) -> None:
    assert conclusions_first(task, text) == backwards
    assert task.committed(backwards) == task.committed(text)


@pytest.mark.parametrize("name", ["math", "qa", "instruct"])
def test_a_reordered_solution_is_as_right_as_it_was(name: str) -> None:
    task = get_task(name)
    solutions = [(e, text) for e in task.examples("train", 30) for text in e.solutions.values()]
    changed = [conclusions_first(task, text) for _, text in solutions]
    assert [task.grade(text, e.reference) for (e, _), text in zip(solutions, changed, strict=True)] == [1.0] * len(
        changed
    )
    assert any(text != old for (_, old), text in zip(solutions, changed, strict=True)) is (name != "instruct")


def test_a_text_that_would_commit_to_something_else_is_left() -> None:
    class Last(MathTask):
        def committed(self, completion: str) -> str | None:
            return completion.split(".")[0]

    assert conclusions_first(object.__new__(Last), "One. Two. Three.") == "One. Two. Three."


def test_a_reordering_goes_wherever_a_model_goes(teacher: LanguageModel) -> None:
    (example,) = MATH.examples("train", 1)
    sampler = over(Reordered(), teacher, example.gold_solution)
    graded = sample_and_grade(sampler, MATH, [example], 1, max_new_tokens=80)
    assert graded.scores == [[1.0]] and graded.samples[0][0].text != example.gold_solution


def restated(teacher: LanguageModel, defence: Rewritten, *texts: str) -> Restated:
    return Restated(MATH, Planted(teacher, texts), defence)


def test_a_rewriter_restates_answers_and_those_that_came_to_say_something_else_are_counted(
    teacher: LanguageModel,
) -> None:
    rewriting = restated(teacher, Rewritten(), "Thus 41.\nAnswer: 41", "Answer: 40", "Answer: 41")
    asked = ["40+1=41\nAnswer: 41"] * 3
    answers = [Written([{"role": "user", "content": "40+1?"}], text, "", finished=True) for text in asked]
    never = [replace_finished(answers[0]), Written(answers[0].prompt, "40+1", "", finished=True)]
    texts = rewriting.rewritten([*answers, *never], Sampling(), Journal())
    # The third wasn't finished by the rewriter; the last two had nothing to keep.
    assert texts == ["Thus 41.\nAnswer: 41", asked[1], asked[2], never[0].text, never[1].text]
    assert (rewriting.asked, rewriting.unchanged) == (3, 2)


def replace_finished(answer: Written) -> Written:
    return answer._replace(finished=False)


def test_a_rewriter_is_asked_with_the_problem_and_the_answer_as_they_are(teacher: LanguageModel) -> None:
    prompts: list[Any] = []

    @dataclass(frozen=True)
    class Asked(Planted):
        def draw(self, request: SampleRequest) -> dict[tuple[int, int], Sample]:
            prompts.extend(request.prompts)
            assert request.sampling.temperature == 0.3 and request.sampling.max_new_tokens == 7
            return super().draw(request)

    defence = Rewritten(prompt="Q {problem} A {answer}", temperature=0.3, max_new_tokens=7)
    rewriting = Restated(MATH, Asked(teacher, ("Answer: 4",)), defence)
    answer = Written([{"role": "user", "content": "{answer}?"}], "\\frac{1}{2}\nAnswer: 4", "", finished=True)
    assert rewriting.rewritten([answer], Sampling(), Journal()) == ["Answer: 4"]
    assert prompts == [[{"role": "user", "content": "Q {answer}? A \\frac{1}{2}\nAnswer: 4"}]]


def test_a_rewriter_is_loaded_by_name_and_writes_itself(teacher: LanguageModel, tiny_pair: Any) -> None:
    defence = Rewritten(rewriter=tiny_pair.teacher, prompt="{problem} {answer}", max_new_tokens=8)
    (example,) = MATH.examples("train", 1)
    (sample,) = answers_of(over(defence, teacher, example.gold_solution), [example])
    assert MATH.committed(sample.text) == MATH.committed(example.gold_solution)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"prompt": "Say it again"}, r"lacks \{problem\} and \{answer\}"),
        ({"max_new_tokens": 0}, "max_new_tokens=0"),
        ({"temperature": 0.0}, "temperature=0.0: must be above 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        Rewritten(**options)
