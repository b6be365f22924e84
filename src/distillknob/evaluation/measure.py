"""Sampling a model's answers to a task's problems and grading them: what is right, for every stage.

The rule, of which evaluation, diagnosis, traces, the guard and the training reward are all made: an answer that didn't
end by itself scores 0, whatever the task, and so does one that says nothing outside of its thoughts. What the graders
read of the others is what stands outside of the thoughts. Left out on purpose: a share of the score for an answer that
was cut off, which would grow with the length limit and could be earned by never ending.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from distillknob.models.sampling import Sample, Sampler, Sampling, generate
from distillknob.runs.journal import Journal
from distillknob.runtime.processes import by_parts
from distillknob.tasks import Example, Task, grade_all
from distillknob.tasks.graders.thoughts import after_thinking, mark_tokens, unclosed_mark

GRADED_AT_ONCE = 128  # answers, by whatever takes long: a reward model, a server
Prompt = Sequence[dict[str, str]]


class AnswerReader:
    """Reads the answer out of what a model wrote: what stands outside of its thoughts.

    `tokenizer` is the model's: some chat templates open the thoughts in the prompt, so that the completion begins
    within them, and some tokenizers mark thoughts by special tokens, which a sample's text doesn't show. Behind a chat
    interface there is none, and the text is all that is read.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase | None):
        self._tokenizer, self._marks, self._hidden = tokenizer, set[int](), set[int]()
        if tokenizer is None:
            return
        # By id rather than by `all_special_ids`, which leaves out special tokens that have no role (eos, pad …).
        special = {number: token.content for number, token in tokenizer.added_tokens_decoder.items() if token.special}
        marks = mark_tokens(frozenset(special.values()))
        self._marks = {number for number, token in special.items() if token in marks}
        self._hidden = (set(special) | set(tokenizer.all_special_ids)) - self._marks

    def opened(self, prompt: Prompt) -> str:
        """The mark of the thoughts that the chat template opens at the end of this prompt; none where it opens none or
        closes them again."""
        if self._tokenizer is None:
            return ""
        messages = list(prompt)
        plain, begun = (
            str(self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=on))
            for on in (False, True)
        )
        last = messages[-1]["content"]
        # A template whose generation prompt doesn't just go on from the conversation: behind its last words, then.
        added = begun.removeprefix(plain) if begun.startswith(plain) else begun.rpartition(str(last))[2]
        return unclosed_mark(added)

    def answer(self, text: str, token_ids: Sequence[int], opened: str = "") -> str:
        """The answer in a completion, given as its text and its token ids. `opened`: of its prompt."""
        return after_thinking(opened + self.spelled(text, token_ids))

    def spelled(self, text: str, token_ids: Sequence[int]) -> str:
        """The text of a completion with the marks of its thoughts, also where these are special tokens."""
        if self._tokenizer is None or self._marks.isdisjoint(token_ids):
            return text
        shown = [token for token in token_ids if token not in self._hidden]
        return str(self._tokenizer.decode(shown, skip_special_tokens=False))


@dataclass(frozen=True)
class Measured:
    """A model's graded answers to a task's problems, [P][S]: `samples[i][j]` is the j-th sample for `examples[i]`,
    `answers[i][j]` what of it the grader read, `scores[i][j]` its score in [0, 1]."""

    task: Task
    examples: Sequence[Example]
    samples: list[list[Sample]]
    answers: list[list[str]]
    scores: list[list[float]]

    @property
    def right(self) -> list[list[bool]]:
        """Which samples are right, [P][S]. One that didn't end is wrong."""
        return [
            [sample.finished and self.task.is_right(score) for sample, score in zip(samples, scores, strict=True)]
            for samples, scores in zip(self.samples, self.scores, strict=True)
        ]

    @property
    def per_problem(self) -> list[float]:
        """Mean score of each problem, [P]: what paired differences are made of."""
        return [sum(scores) / len(scores) for scores in self.scores]

    @property
    def mean(self) -> float:
        """Mean score of all samples."""
        return float(np.mean([score for scores in self.scores for score in scores]))

    @property
    def finished_rate(self) -> float:
        """Share of the samples that ended by themselves."""
        return float(np.mean([sample.finished for samples in self.samples for sample in samples]))

    @property
    def unanswered_rate(self) -> float:
        """Share of the samples that ended, having written something, but nothing outside of their thoughts."""
        return float(
            np.mean(
                [
                    sample.finished and bool(sample.text.strip()) and not answer.strip()
                    for samples, answers in zip(self.samples, self.answers, strict=True)
                    for sample, answer in zip(samples, answers, strict=True)
                ]
            )
        )


def longest_answer(task: Task, max_new_tokens: int | None) -> int:
    """The tokens that an answer may take: the setting's, or without one the task's own longest."""
    return max_new_tokens or task.max_new_tokens


def scores_of(
    task: Task,
    answers: Sequence[str],
    references: Sequence[Any],
    finished: Sequence[bool],
    *,
    journal: Journal | None = None,
    shared: bool = False,
) -> list[float]:
    """The score of each answer, as an `AnswerReader` read it, by the rule of this module. What a task grades in
    batches, by a reward model or a server, isn't graded again where `journal` holds it. `shared` says that every
    process makes this same call: each grades a part, and all get the whole."""
    counted = [i for i, (answer, ended) in enumerate(zip(answers, finished, strict=True)) if ended and answer.strip()]
    columns = [answers[i] for i in counted], [references[i] for i in counted]
    grade = partial(grade_all, task)
    if journal is not None and hasattr(task, "grade_all"):  # a rule is sooner applied again than read from a file
        grade = partial(_graded, task, journal.of_process() if shared else journal)
    graded = by_parts(grade, *columns) if shared else grade(*columns)
    scores = [0.0] * len(answers)
    for i, score in zip(counted, graded, strict=True):
        scores[i] = score
    return scores


def _graded(task: Task, journal: Journal, answers: Sequence[str], references: Sequence[Any]) -> list[float]:
    """`grade_all`, some answers at a time, each time kept."""
    scores: list[float] = []
    for start in range(0, len(answers), GRADED_AT_ONCE):
        rows = slice(start, start + GRADED_AT_ONCE)
        made_of = [list(answers[rows]), list(references[rows])]
        batch: list[float] | None = journal.take([start], made_of)
        if batch is None:
            batch = grade_all(task, answers[rows], references[rows])
            journal.keep([start], batch, made_of)
        scores += batch
    return scores


def grade_samples(
    tokenizer: PreTrainedTokenizerBase | None,
    task: Task,
    examples: Sequence[Example],
    samples: list[list[Sample]],
    *,
    journal: Journal | None = None,
    shared: bool = False,
) -> Measured:
    """Grade samples, [P][S], of a model with this tokenizer for these problems. The rest is as for `scores_of`."""
    reader = AnswerReader(tokenizer)
    answers = []
    for example, row in zip(examples, samples, strict=True):
        opened = reader.opened(task.messages(example))
        answers.append([reader.answer(sample.text, sample.token_ids, opened) for sample in row])
    rows = [(i, j) for i, row in enumerate(samples) for j in range(len(row))]
    graded = iter(
        scores_of(
            task,
            [answers[i][j] for i, j in rows],
            [examples[i].reference for i, _ in rows],
            [samples[i][j].finished for i, j in rows],
            journal=journal,
            shared=shared,
        )
    )
    return Measured(task, examples, samples, answers, [[next(graded) for _ in row] for row in samples])


def sample_and_grade(
    sampler: Sampler,
    task: Task,
    examples: Sequence[Example],
    n: int,
    *,
    max_new_tokens: int | None = None,
    seed: int = 0,
    prompts: Sequence[list[dict[str, str]]] | None = None,
    begun: Sequence[Sequence[int]] | None = None,
    journal: Journal | None = None,
    shared: bool = False,
    description: str = "sample",
) -> Measured:
    """Sample `n` answers to each problem at temperature 1 and grade them. `prompts` are the problems' own by default.

    `max_new_tokens` defaults to the task's own longest. What `journal` holds is neither sampled nor graded again, so
    that a run that was stopped goes on at the batch where it was. `begun` and `shared` are those of `generate`, and so
    is what is raised.
    """
    journal = journal or Journal()
    drawn = generate(
        sampler,
        prompts if prompts is not None else [task.messages(example) for example in examples],
        n,
        Sampling(max_new_tokens=longest_answer(task, max_new_tokens), seed=seed),
        begun=begun,
        journal=journal.part("samples"),
        shared=shared,
        description=description,
    )
    grades = journal.part("grades")
    return grade_samples(sampler.tokenizer, task, examples, drawn.completions, journal=grades, shared=shared)
