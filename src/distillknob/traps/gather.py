"""What the traps read of a pair on one task: samples of both policies, scored by both models.

This is the half of `diagnose` that sees models. It streams over batches, and `journal` keeps each one that is done.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from distillknob.generation import Sample, Sampling, generate
from distillknob.gradients import compare_gradients
from distillknob.journal import Journal
from distillknob.models import LanguageModel
from distillknob.scoring import answer_ids, score_pair, score_spans, token_logprobs
from distillknob.tasks import Example, Task, grade_all
from distillknob.traps.scored import (
    Candidates,
    Continuations,
    GradientSample,
    OwnAnswers,
    PolicySample,
    ScoredText,
    StyledAnswers,
)

PREFIXES = (0.25, 0.5, 0.75)  # shares of a student's answer that the teacher goes on from


@dataclass(frozen=True)
class Gathering:
    """How much is gathered on a task; the fields are those of `DiagnoseConfig`."""

    problems: int
    samples: int
    candidates: int
    gradient_problems: int
    ks: tuple[int, ...]
    max_new_tokens: int | None
    seed: int


@dataclass(frozen=True)
class Gathered:
    """Everything that the traps read on one task. `on_policy` and `off_policy` are PolicySamples where the two models
    share a tokenizer; `gradients` are None where they don't."""

    on_policy: ScoredText
    off_policy: ScoredText
    candidates: Candidates
    own: OwnAnswers
    styled: StyledAnswers
    continuations: Continuations
    gradients: GradientSample | None


def gather(
    task: Task, teacher: LanguageModel, student: LanguageModel, settings: Gathering, journal: Journal
) -> Gathered:
    """Sample the task's train split with both models, and score the samples."""
    work = _Work(
        task, task.examples("train", settings.problems, seed=settings.seed), teacher, student, settings, journal
    )
    answers = work.draw(student, max(settings.candidates, settings.samples), "student's answers")
    traces = work.draw(teacher, settings.samples, "teacher's answers")
    own = [row[: settings.samples] for row in answers]
    on_policy, off_policy = work.scored("on_policy", own), work.scored("off_policy", traces)
    return Gathered(
        on_policy=on_policy,
        off_policy=off_policy,
        candidates=work.judged(answers),
        own=work.own(answers),
        styled=work.styled(traces, off_policy, answers),
        continuations=work.continued(traces, own),
        gradients=work.gradients(own) if work.one_tokenizer else None,
    )


@dataclass(frozen=True)
class _Work:
    task: Task
    examples: Sequence[Example]
    teacher: LanguageModel
    student: LanguageModel
    settings: Gathering
    journal: Journal

    @property
    def one_tokenizer(self) -> bool:
        return bool(self.teacher.tokenizer.get_vocab() == self.student.tokenizer.get_vocab())

    @property
    def sampling(self) -> Sampling:
        longest = self.settings.max_new_tokens or self.task.max_new_tokens
        return Sampling(max_new_tokens=longest, seed=self.settings.seed)

    def draw(self, language_model: LanguageModel, n: int, what: str) -> list[list[Sample]]:
        """`n` answers to each problem."""
        prompts = [self.task.messages(example) for example in self.examples]
        named = f"diagnose: {self.task.name}, {what}"
        return generate(
            language_model, prompts, n, self.sampling, journal=self.journal.part(what), shared=True, description=named
        ).completions

    def scores(self, rows: Sequence[tuple[int, Sample]]) -> list[float]:
        """Of answers to problems, by number. One that didn't end scores 0."""
        ended = [(i, sample) for i, sample in rows if sample.finished]
        graded = iter(grade_all(self.task, [s.text for _, s in ended], [self.examples[i].reference for i, _ in ended]))
        return [next(graded) if sample.finished else 0.0 for _, sample in rows]

    def right(self, rows: Sequence[tuple[int, Sample]]) -> torch.Tensor:
        """Which answers are right, [A]; one that didn't end is wrong."""
        scores = self.scores(rows)
        right = [s.finished and self.task.is_right(score) for (_, s), score in zip(rows, scores, strict=True)]
        return torch.tensor(right, dtype=torch.bool)

    def scored(self, policy: str, drawn: Sequence[Sequence[Sample]]) -> ScoredText:
        """Answers of one policy under both models: token by token where they share a tokenizer, else span by span."""
        rows = [(i, answer) for i, row in enumerate(drawn) for answer in row]
        prompts = [self.task.messages(self.examples[i]) for i, _ in rows]
        prompt_A = torch.tensor([i for i, _ in rows])
        named, journal = f"score: {self.task.name} {policy}", self.journal.part(policy)
        if not self.one_tokenizer:
            spans = score_spans(
                self.teacher,
                self.student,
                prompts,
                [answer.text for _, answer in rows],
                [answer.finished for _, answer in rows],
                journal=journal,
                shared=True,
                description=named,
            )
            return ScoredText(
                task=self.task.name,
                policy=policy,
                prompt_A=prompt_A,
                answer_N=spans.answer_N,
                teacher_logprob_N=spans.teacher_logprob_N,
                student_logprob_N=spans.student_logprob_N,
            )
        vocabulary = min(m.model.get_output_embeddings().weight.size(0) for m in (self.teacher, self.student))
        pair = score_pair(
            self.teacher,
            self.student,
            prompts,
            [answer.token_ids for _, answer in rows],
            sorted({min(k, vocabulary) for k in self.settings.ks} | {vocabulary}),
            journal=journal,
            shared=True,
            description=named,
        )
        return PolicySample(
            task=self.task.name,
            policy=policy,
            prompt_A=prompt_A,
            answer_N=pair.answer_N,
            token_N=pair.token_N,
            forward_kl_N=pair.forward_kl_N,
            reverse_kl_N=pair.reverse_kl_N,
            teacher_logprob_N=pair.teacher_logprob_N,
            student_logprob_N=pair.student_logprob_N,
            student_entropy_N=pair.student_entropy_N,
            forward_kl_by_k_NK=pair.forward_kl_by_k_NK,
            gap_by_k_NK=pair.gap_by_k_NK,
            rare_kl_N=pair.rare_kl_N,
            ks=pair.ks,
        )

    def judged(self, drawn: Sequence[Sequence[Sample]]) -> Candidates:
        """The student's finished answers, right or wrong, judged by the teacher."""
        rows = [(i, answer) for i, row in enumerate(drawn) for answer in row if answer.finished]
        logprobs = token_logprobs(
            self.teacher,
            [self.task.messages(self.examples[i]) for i, _ in rows],
            answer_ids(self.teacher, [answer.text for _, answer in rows], [True] * len(rows)),
            journal=self.journal.part("candidates"),
            shared=True,
            description=f"score: {self.task.name} candidates",
        )
        return Candidates(
            task=self.task.name,
            prompt_A=torch.tensor([i for i, _ in rows], dtype=torch.long),
            right_A=self.right(rows),
            logprob_A=torch.tensor([float(t.sum()) for t in logprobs]),
            tokens_A=torch.tensor([len(t) for t in logprobs]),
            style_A=[self.task.style(answer.text) for _, answer in rows],
        )

    def own(self, answers: Sequence[Sequence[Sample]]) -> OwnAnswers:
        """All of the student's answers."""
        rows = [(i, answer) for i, row in enumerate(answers) for answer in row]
        return OwnAnswers(
            task=self.task.name,
            prompt_A=torch.tensor([i for i, _ in rows]),
            right_A=self.right(rows),
            style_A=[self.task.style(answer.text) for _, answer in rows],
        )

    def styled(
        self, traces: Sequence[Sequence[Sample]], scored: ScoredText, answers: Sequence[Sequence[Sample]]
    ) -> StyledAnswers:
        """The teacher's answers by the way they are written in, beside the student's habits."""
        rows = [(i, trace) for i, row in enumerate(traces) for trace in row]
        styles = [self.task.style(trace.text) for _, trace in rows]
        own = [self.task.style(answer.text) for row in answers for answer in row]
        known = sorted({*styles, *own})
        return StyledAnswers(
            task=self.task.name,
            prompt_A=scored.prompt_A,
            right_A=self.right(rows),
            style_A=styles,
            student_logprob_A=scored.per_answer(scored.student_logprob_N),
            teacher_logprob_A=scored.per_answer(scored.teacher_logprob_N),
            log_habit=_log_shares(own, known),
            teacher_log_habit=_log_shares(styles, known),
        )

    def continued(self, traces: Sequence[Sequence[Sample]], own: Sequence[Sequence[Sample]]) -> Continuations:
        """The teacher's own answers, and those that begin as the student's first answer to each problem."""
        rows = [(i, 0.0, trace) for i, row in enumerate(traces) for trace in row]
        cut = [
            (i, share, answer.token_ids[: int(share * len(answer.token_ids))])
            for share in PREFIXES
            for i, (answer, *_) in enumerate(own)
        ]
        if not self.one_tokenizer:
            texts = [str(self.student.tokenizer.decode(ids, skip_special_tokens=True)) for _, _, ids in cut]
            ids_of = answer_ids(self.teacher, texts, [False] * len(texts))
            cut = [(i, share, ids) for (i, share, _), ids in zip(cut, ids_of, strict=True)]
        cut = [(i, share, ids) for i, share, ids in cut if ids]
        if cut:
            prompts = [self.task.messages(self.examples[i]) for i, _, _ in cut]
            starts, what = [ids for _, _, ids in cut], "student's beginnings"
            named, journal = f"diagnose: {self.task.name}, {what}", self.journal.part(what)
            led = generate(
                self.teacher, prompts, 1, self.sampling, begun=starts, journal=journal, shared=True, description=named
            ).completions
            rows += [(i, share, sample) for (i, share, _), (sample,) in zip(cut, led, strict=True)]
        scores = self.scores([(i, sample) for i, _, sample in rows])
        return Continuations(
            task=self.task.name,
            prompt_A=torch.tensor([i for i, _, _ in rows]),
            kept_A=torch.tensor([share for _, share, _ in rows], dtype=torch.float64),
            score_A=torch.tensor(scores, dtype=torch.float64),
        )

    def gradients(self, own: Sequence[Sequence[Sample]]) -> GradientSample:
        """The student's gradients on its own answers to the first problems."""
        compared = self.settings.gradient_problems
        return compare_gradients(
            self.teacher,
            self.student,
            self.task.name,
            [self.task.messages(example) for example in self.examples[:compared]],
            [[answer.token_ids for answer in row] for row in own[:compared]],
            journal=self.journal.part("gradients"),
        )


def _log_shares(styles: Sequence[str], known: Sequence[str]) -> dict[str, float]:
    """The log of each known way's share of `styles`, with half an answer more of each: a way that was never seen has no
    share of 0."""
    count, total = Counter(styles), len(styles) + 0.5 * len(known)
    return {style: math.log((count[style] + 0.5) / total) for style in known}
