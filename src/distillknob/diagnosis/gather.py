"""What the traps read of a pair on one task: samples of both policies, scored by both models.

This is the half of `diagnose` that sees models. It streams over batches, and `journal` keeps each one that is done.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

import torch

from distillknob.diagnosis.config import DiagnoseConfig
from distillknob.diagnosis.gradients import compare_gradients
from distillknob.diagnosis.knob_samples import FEW_ANSWERS, first_of, knob_samples
from distillknob.diagnosis.pair_scores import score_pair
from distillknob.diagnosis.samples import (
    TWO_TOKENIZERS,
    BothPolicies,
    Candidates,
    Continuations,
    Gathered,
    GradientSample,
    KnobSamples,
    Marks,
    Missing,
    OwnAnswers,
    ScoredAnswers,
    StyledAnswers,
)
from distillknob.diagnosis.ways import Ways, ways_of
from distillknob.diagnosis.wrong_answers import holds_more, reasons, shown_answers
from distillknob.evaluation.measure import Measured, longest_answer, sample_and_grade
from distillknob.models.architecture import context_of
from distillknob.models.base import LanguageModel
from distillknob.models.chat import prompt_ids
from distillknob.models.engines.opened import Engines
from distillknob.models.same_text import as_read, one_vocabulary, spelled
from distillknob.models.sampling import Sample
from distillknob.models.scoring import answer_ids, token_logprobs
from distillknob.models.spans import score_spans
from distillknob.results.stages import Why
from distillknob.runs.journal import Journal
from distillknob.tasks import Example, Task

PREFIXES = (0.25, 0.5, 0.75)  # shares of a student's answer that the teacher goes on from


def gather(
    task: Task,
    teacher: LanguageModel,
    student: LanguageModel,
    config: DiagnoseConfig,
    journal: Journal,
    engines: Engines,
) -> Gathered:
    """Sample the task's train split with both models, by the engine of the stage, and score the samples."""
    examples = task.examples("train", config.problems, seed=config.seed)
    work = _Work(task, examples, teacher, student, config, journal, engines)
    answers = work.draw(student, max(config.candidates, config.samples), "student's answers")
    several = work.draw(teacher, max(config.samples, config.knob_samples), "teacher's answers")
    traces = first_of(several, config.samples)
    own = [row[: config.samples] for row in answers.samples]
    ways = ways_of(task, examples, several, answers)
    scored = BothPolicies(on_policy=work.scored("on_policy", own), off_policy=work.scored("off_policy", traces.samples))
    return Gathered(
        task=task.name,
        marks=work.marks(traces, answers),
        scored=scored,
        candidates=work.judged(answers),
        own=work.own(answers),
        styled=work.styled(traces, scored.off_policy, ways),
        continuations=work.continued(traces, own),
        gradients=work.gradients(own),
        knob=work.knob(first_of(several, config.knob_samples), ways),
    )


@dataclass(frozen=True)
class _Work:
    task: Task
    examples: Sequence[Example]
    teacher: LanguageModel
    student: LanguageModel
    config: DiagnoseConfig
    journal: Journal
    engines: Engines

    @property
    def one_tokenizer(self) -> bool:
        return one_vocabulary(self.teacher.tokenizer, self.student.tokenizer)

    def draw(
        self,
        language_model: LanguageModel,
        n: int,
        what: str,
        of: Sequence[int] | None = None,
        begun: Sequence[Sequence[int]] | None = None,
    ) -> Measured:
        """`n` graded answers to each problem; to the problems `of` these numbers, where they have `begun` already."""
        name = self.config.student if language_model is self.student else self.config.teacher
        return sample_and_grade(
            self.engines.of(name, language_model),
            self.task,
            self.examples if of is None else [self.examples[i] for i in of],
            n,
            max_new_tokens=self.config.max_new_tokens,
            seed=self.config.seed,
            begun=begun,
            journal=self.journal.part(what),
            shared=True,
            description=f"diagnose: {self.task.name}, {what}",
        )

    def scored(self, policy: str, drawn: Sequence[Sequence[Sample]]) -> ScoredAnswers:
        """Answers of one policy under both models: token by token where they share a tokenizer, else span by span."""
        rows = [(i, answer) for i, row in enumerate(drawn) for answer in row]
        prompts = [self.task.messages(self.examples[i]) for i, _ in rows]
        prompt_A = torch.tensor([i for i, _ in rows])
        answers, finished = [answer for _, answer in rows], [answer.finished for _, answer in rows]
        description, journal = f"score: {self.task.name} {policy}", self.journal.part(policy)
        if not self.one_tokenizer:
            spans = score_spans(
                self.teacher,
                self.student,
                prompts,
                self.texts(policy, answers),
                finished,
                journal=journal,
                shared=True,
                description=description,
            )
            return ScoredAnswers(
                task=self.task.name,
                policy=policy,
                prompt_A=prompt_A,
                answer_N=spans.answer_N,
                teacher_logprob_N=spans.teacher_logprob_N,
                student_logprob_N=spans.student_logprob_N,
            )
        vocabulary = min(m.model.get_output_embeddings().weight.size(0) for m in (self.teacher, self.student))
        return score_pair(
            self.teacher,
            self.student,
            prompts,
            as_read([answer.token_ids for answer in answers], finished, self.author(policy).tokenizer, self.student),
            sorted({min(k, vocabulary) for k in self.config.ks} | {vocabulary}),
            task=self.task.name,
            policy=policy,
            prompt_A=prompt_A,
            journal=journal,
            shared=True,
            description=description,
        )

    def author(self, policy: str) -> LanguageModel:
        return self.student if policy == "on_policy" else self.teacher

    def texts(self, policy: str, answers: Sequence[Sample]) -> list[str]:
        """What was drawn, special tokens spelled out, for a reader with another tokenizer."""
        ids, finished = [answer.token_ids for answer in answers], [answer.finished for answer in answers]
        return spelled(self.author(policy).tokenizer, ids, finished)

    def as_taught(self, answers: Sequence[Sample]) -> list[list[int]]:
        """The student's answers as token ids of the teacher's tokenizer."""
        finished = [answer.finished for answer in answers]
        if self.one_tokenizer:
            return as_read([answer.token_ids for answer in answers], finished, self.student.tokenizer, self.teacher)
        return answer_ids(self.teacher, self.texts("on_policy", answers), finished)

    def judged(self, drawn: Measured) -> Candidates:
        """The student's finished answers, right or wrong, judged by the teacher."""
        judged = [row for row in _rows(drawn) if row[1].finished]
        rows = [(i, answer) for i, answer, _ in judged]
        logprobs = token_logprobs(
            self.teacher,
            [self.task.messages(self.examples[i]) for i, _ in rows],
            self.as_taught([answer for _, answer in rows]),
            journal=self.journal.part("candidates"),
            shared=True,
            description=f"score: {self.task.name} candidates",
        )
        return Candidates(
            task=self.task.name,
            prompt_A=torch.tensor([i for i, _ in rows], dtype=torch.long),
            right_A=torch.tensor([right for _, _, right in judged], dtype=torch.bool),
            logprob_A=torch.tensor([float(t.sum()) for t in logprobs]),
            tokens_A=torch.tensor([len(t) for t in logprobs]),
            style_A=[self.task.style(answer.text) for _, answer in rows],
        )

    def own(self, answers: Measured) -> OwnAnswers:
        """All of the student's answers."""
        rows = _rows(answers)
        return OwnAnswers(
            task=self.task.name,
            prompt_A=torch.tensor([i for i, _, _ in rows]),
            right_A=torch.tensor([right for _, _, right in rows], dtype=torch.bool),
            style_A=[self.task.style(answer.text) for _, answer, _ in rows],
        )

    def marks(self, teacher: Measured, student: Measured) -> Marks:
        """How often both models are right, and why the teacher's wrong answers are wrong."""
        graded = self.task.verifiable
        why_A: list[Why | None] = reasons(teacher) if graded else [None for row in teacher.samples for _ in row]
        (teacher_prompt_A, teacher_mark_A), (student_prompt_A, student_mark_A) = (
            _marks(drawn, graded) for drawn in (teacher, student)
        )
        return Marks(
            task=self.task.name,
            graded=graded,
            chance=self.task.chance,
            teacher_prompt_A=teacher_prompt_A,
            teacher_mark_A=teacher_mark_A,
            student_prompt_A=student_prompt_A,
            student_mark_A=student_mark_A,
            why_A=why_A,
            shown=shown_answers(teacher, why_A),
            holding_more=mean(holds_more(self.task, example.reference) for example in self.examples),
            solutions=all(example.gold is not None for example in self.examples),
            longest=longest_answer(self.task, self.config.max_new_tokens),
            room=self.room(),
        )

    def room(self) -> int | None:
        """Tokens that both models' contexts leave for an answer to the longest prompt; the teacher also goes on from
        the beginnings of the student's answers. None where neither context has a limit."""
        prompts = [self.task.messages(example) for example in self.examples]
        rooms = [
            int((context - max(map(len, prompt_ids(side.tokenizer, prompts)))) / (1 + begun))
            for side, begun in ((self.teacher, max(PREFIXES)), (self.student, 0.0))
            if (context := context_of(side.model.config)) is not None
        ]
        return min(rooms, default=None)

    def styled(self, traces: Measured, scored: ScoredAnswers, ways: Ways) -> StyledAnswers:
        """The teacher's answers by their way of writing, beside the student's habits."""
        rows = _rows(traces)
        styles = [way for row in ways.teacher for way in row[: self.config.samples]]
        own = [way for row in ways.student for way in row]
        either = sorted({*styles, *own})
        return StyledAnswers(
            task=self.task.name,
            prompt_A=scored.prompt_A,
            right_A=torch.tensor([right for _, _, right in rows], dtype=torch.bool),
            style_A=styles,
            student_logprob_A=scored.per_answer(scored.student_logprob_N),
            teacher_logprob_A=scored.per_answer(scored.teacher_logprob_N),
            log_habit=_log_shares(own, either),
            teacher_log_habit=_log_shares(styles, either),
            named=ways.named,
        )

    def continued(self, traces: Measured, own: Sequence[Sequence[Sample]]) -> Continuations:
        """The teacher's own answers, and those that begin as the student's first answer to each problem."""
        rows = [(i, 0.0, score) for i, scores in enumerate(traces.scores) for score in scores]
        cut = [
            (i, share, answer.token_ids[: int(share * len(answer.token_ids))])
            for share in PREFIXES
            for i, (answer, *_) in enumerate(own)
        ]
        if not self.one_tokenizer:
            texts = spelled(self.student.tokenizer, [ids for _, _, ids in cut], [False] * len(cut))
            ids_of = answer_ids(self.teacher, texts, [False] * len(texts))
            cut = [(i, share, ids) for (i, share, _), ids in zip(cut, ids_of, strict=True)]
        cut = [(i, share, ids) for i, share, ids in cut if ids]
        if cut:
            of, begun = [i for i, _, _ in cut], [ids for _, _, ids in cut]
            led = self.draw(self.teacher, 1, "student's beginnings", of, begun)
            rows += [(i, share, score) for (i, share, _), (score,) in zip(cut, led.scores, strict=True)]
        return Continuations(
            task=self.task.name,
            prompt_A=torch.tensor([i for i, _, _ in rows]),
            share_A=torch.tensor([share for _, share, _ in rows], dtype=torch.float64),
            score_A=torch.tensor([score for _, _, score in rows], dtype=torch.float64),
        )

    def knob(self, drawn: Measured, ways: Ways) -> KnobSamples | Missing:
        """What a calibration of the teacher would see of it, with the student as its target."""
        if self.config.knob_samples < 2:
            return Missing(FEW_ANSWERS[self.config.knob_samples])
        return knob_samples(self.task, self.teacher, self.student, drawn, ways, self.config, self.journal.part("knob"))

    def gradients(self, own: Sequence[Sequence[Sample]]) -> GradientSample | Missing:
        """The student's gradients on its own answers to the first problems."""
        compared = self.config.gradient_problems
        if not self.one_tokenizer:
            return Missing(TWO_TOKENIZERS)
        if compared == 0:
            return Missing("left out, as gradient_problems is 0")
        return compare_gradients(
            self.teacher,
            self.student,
            self.task.name,
            [self.task.messages(example) for example in self.examples[:compared]],
            [[answer.token_ids for answer in row] for row in own[:compared]],
            journal=self.journal.part("gradients"),
        )


def _rows(drawn: Measured) -> list[tuple[int, Sample, bool]]:
    """Of each answer its problem's number, the sample, and whether it is right."""
    return [
        (i, sample, right)
        for i, (samples, row) in enumerate(zip(drawn.samples, drawn.right, strict=True))
        for sample, right in zip(samples, row, strict=True)
    ]


def _marks(drawn: Measured, graded: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The problem and the mark of each answer, [A]."""
    given = [[float(right) for right in row] for row in drawn.right] if graded else drawn.scores
    problem_A = torch.tensor([i for i, row in enumerate(given) for _ in row], dtype=torch.long)
    return problem_A, torch.tensor([mark for row in given for mark in row], dtype=torch.float64)


def _log_shares(styles: Sequence[str], names: Sequence[str]) -> dict[str, float]:
    """The log of the share of `styles` that each of the styles by these `names` has, with half an answer more of each:
    one that was never seen has no share of 0."""
    count, total = Counter(styles), len(styles) + 0.5 * len(names)
    return {name: math.log((count[name] + 0.5) / total) for name in names}
