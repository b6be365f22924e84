"""The stage `diagnose`: sample both policies, score every token under teacher and student, ask every trap."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from distillknob.errors import BadInputError, check_at_least_one
from distillknob.generation import Sample, Sampling, generate
from distillknob.gradients import compare_gradients
from distillknob.models import LanguageModel, load_model, resolve
from distillknob.runs import Run, runs_behind
from distillknob.scoring import answer_ids, score_pair, token_logprobs
from distillknob.tasks import Example, Task, get_task
from distillknob.traps.compare import BY_PROMPT, values_by_prompt
from distillknob.traps.forecast import forecast_rows
from distillknob.traps.off_policy import off_policy_instability, off_policy_rows
from distillknob.traps.pilot import pilot_rows
from distillknob.traps.scored import Candidates, Continuations, OwnAnswers, PolicySample, StyledAnswers
from distillknob.traps.sequence_myopia import myopia_rows, sequence_myopia
from distillknob.traps.signal_sparsity import position_rows, quadrant_rows, signal_sparsity
from distillknob.traps.tail_noise import scatter_rows, tail_noise, tail_rows
from distillknob.traps.teacher_gap import (
    accuracy_on_student_prefixes,
    capacity_gap,
    prefix_rows,
    style_rows,
    wrong_trace_preference,
)

PREFIXES = (0.25, 0.5, 0.75)  # shares of a student's answer that the teacher goes on from


@dataclass
class DiagnoseConfig:
    """Config of `diagnose`."""

    teacher: str = field(default="zoo:teacher", metadata={"help": "Teacher: folder, hub id or zoo:NAME."})
    student: str = field(default="zoo:student", metadata={"help": "Student before distillation."})
    tasks: list[str] = field(default_factory=lambda: ["math"], metadata={"help": "Tasks to sample prompts from."})
    problems: int = field(default=150, metadata={"help": "Problems a task, from its train split."})
    samples: int = field(default=2, metadata={"help": "Samples a problem and policy for the divergences."})
    candidates: int = field(default=16, metadata={"help": "Student answers a problem for wrong-trace preference."})
    gradient_problems: int = field(
        default=50, metadata={"help": "Problems a task, of those above, whose gradients are compared (0: none)."}
    )
    ks: list[int] = field(
        default_factory=lambda: [1, 5, 50, 500], metadata={"help": "K of the KL over the teacher's top-K; V is added."}
    )
    max_new_tokens: int | None = field(default=None, metadata={"help": "Default: the task's own longest."})
    seed: int = field(default=0, metadata={"help": "Seed of problems and sampling."})

    def __post_init__(self) -> None:
        check_at_least_one(self, "problems", "samples", "candidates")
        if self.gradient_problems < 0:
            raise BadInputError(f"gradient_problems={self.gradient_problems}: give 0 (none) or more")
        if not self.ks or min(self.ks) < 1:
            raise BadInputError(f"ks={self.ks}: give at least one K, each 1 or more")
        if not self.tasks:
            raise BadInputError("tasks is empty: name at least one, e.g. math")

    @property
    def models_read(self) -> list[str]:
        """The models that the stage reads; those that are runs' models are its inputs."""
        return [self.teacher, self.student]


def diagnose(config: DiagnoseConfig, output: str | Path, *, resume: bool = False) -> Run:
    """Measure the traps of a pair that shares a tokenizer and return the run. Raises BadInputError before any work."""
    tasks = [get_task(name) for name in config.tasks]
    for name in config.models_read:
        resolve(name)
    teacher, student = (load_model(name) for name in config.models_read)
    if teacher.tokenizer.get_vocab() != student.tokenizer.get_vocab():
        raise BadInputError(
            f"{config.teacher!r} and {config.student!r} have different tokenizers: token-level divergences need one"
        )
    inputs = runs_behind(config.models_read)
    run = Run.open(output, "diagnose", asdict(config), inputs=inputs, resume=resume)
    if run.complete:
        return run
    vocabulary = min(m.model.get_output_embeddings().weight.size(0) for m in (teacher, student))
    ks = sorted({min(k, vocabulary) for k in config.ks} | {vocabulary})
    result: dict[str, list[Any]] = {
        name: []
        for name in (
            *("pilot", "scatter", "tail", "off_policy", "myopia", "position", "quadrant", "style", "prefix"),
            *("forecast", "findings"),
        )
    }
    by_prompt: list[dict[str, Any]] = []
    for task in tasks:
        examples = task.examples("train", config.problems, seed=config.seed)
        answers = _draw(student, task, examples, max(config.candidates, config.samples), config)
        candidates = _candidates(task, examples, answers, teacher)
        own = [row[: config.samples] for row in answers]
        on_policy = _policy_sample(task, examples, "on_policy", own, teacher, student, ks)
        traces = _draw(teacher, task, examples, config.samples, config)
        off_policy = _policy_sample(task, examples, "off_policy", traces, teacher, student, ks)
        styled = _styled(task, examples, traces, off_policy, answers)
        continuations = _continued(task, examples, traces, own, teacher, config)
        compared = examples[: config.gradient_problems]
        gradients = compare_gradients(
            teacher,
            student,
            task.name,
            [task.messages(example) for example in compared],
            [[answer.token_ids for answer in row] for row in own[: config.gradient_problems]],
        )
        result["pilot"] += pilot_rows([on_policy, off_policy])
        result["scatter"] += scatter_rows(off_policy, lambda token: str(teacher.tokenizer.decode([token])))
        result["tail"] += tail_rows(off_policy)
        result["off_policy"] += off_policy_rows(off_policy, on_policy)
        result["position"] += position_rows(off_policy)
        result["quadrant"] += quadrant_rows(off_policy)
        result["myopia"] += myopia_rows(gradients)
        result["style"] += style_rows(styled)
        result["prefix"] += prefix_rows(continuations)
        result["forecast"] += forecast_rows(_own(task, examples, answers), styled)
        by_prompt += values_by_prompt(on_policy, off_policy, candidates, styled, continuations)
        result["findings"] += [
            asdict(finding)
            for finding in (
                tail_noise(off_policy),
                signal_sparsity(off_policy),
                off_policy_instability(off_policy),
                sequence_myopia(gradients),
                wrong_trace_preference(candidates, "sum"),
                wrong_trace_preference(candidates, "mean"),
                capacity_gap(styled),
                accuracy_on_student_prefixes(continuations),
            )
        ]
        run.log(task=task.name, findings=len(result["findings"]))
    run.write_json(BY_PROMPT, by_prompt)
    run.finish({"stage": "diagnose", "teacher": config.teacher, "student": config.student, **result})
    return run


def _draw(
    language_model: LanguageModel, task: Task, examples: Sequence[Example], n: int, config: DiagnoseConfig
) -> list[list[Sample]]:
    sampling = Sampling(max_new_tokens=config.max_new_tokens or task.max_new_tokens, seed=config.seed)
    prompts = [task.messages(example) for example in examples]
    return generate(language_model, prompts, n, sampling, description=f"diagnose: {task.name}").completions


def _policy_sample(
    task: Task,
    examples: Sequence[Example],
    policy: str,
    drawn: Sequence[Sequence[Sample]],
    teacher: LanguageModel,
    student: LanguageModel,
    ks: Sequence[int],
) -> PolicySample:
    """Answers of one policy, scored at every token under both models."""
    rows = [(i, answer) for i, row in enumerate(drawn) for answer in row]
    pair = score_pair(
        teacher,
        student,
        [task.messages(examples[i]) for i, _ in rows],
        [answer.token_ids for _, answer in rows],
        ks,
        description=f"score: {task.name} {policy}",
    )
    return PolicySample(
        task=task.name,
        policy=policy,
        prompt_A=torch.tensor([i for i, _ in rows]),
        answer_N=pair.answer_N,
        token_N=pair.token_N,
        forward_kl_N=pair.forward_kl_N,
        reverse_kl_N=pair.reverse_kl_N,
        teacher_logprob_N=pair.teacher_logprob_N,
        student_logprob_N=pair.student_logprob_N,
        student_entropy_N=pair.student_entropy_N,
        forward_kl_by_k_NK=pair.forward_kl_by_k_NK,
        ks=pair.ks,
    )


def _candidates(
    task: Task, examples: Sequence[Example], drawn: Sequence[Sequence[Sample]], teacher: LanguageModel
) -> Candidates:
    """The student's finished answers, right or wrong, judged by the teacher."""
    rows = [(i, answer) for i, row in enumerate(drawn) for answer in row if answer.finished]
    ids = answer_ids(teacher, [answer.text for _, answer in rows], [True] * len(rows))
    logprobs = token_logprobs(teacher, [task.messages(examples[i]) for i, _ in rows], ids, description="candidates")
    right = [task.is_right(task.grade(answer.text, examples[i].reference)) for i, answer in rows]
    return Candidates(
        task=task.name,
        prompt_A=torch.tensor([i for i, _ in rows], dtype=torch.long),
        right_A=torch.tensor(right, dtype=torch.bool),
        logprob_A=torch.tensor([float(t.sum()) for t in logprobs]),
        tokens_A=torch.tensor([len(t) for t in logprobs]),
    )


def _own(task: Task, examples: Sequence[Example], answers: Sequence[Sequence[Sample]]) -> OwnAnswers:
    rows = [(i, answer) for i, row in enumerate(answers) for answer in row]
    return OwnAnswers(
        task=task.name,
        prompt_A=torch.tensor([i for i, _ in rows]),
        right_A=torch.tensor(
            [a.finished and task.is_right(task.grade(a.text, examples[i].reference)) for i, a in rows], dtype=torch.bool
        ),
        style_A=[task.style(answer.text) for _, answer in rows],
    )


def _styled(
    task: Task,
    examples: Sequence[Example],
    traces: Sequence[Sequence[Sample]],
    scored: PolicySample,
    answers: Sequence[Sequence[Sample]],
) -> StyledAnswers:
    """The teacher's answers by the way they are written in, beside the student's habits."""
    rows = [(i, trace) for i, row in enumerate(traces) for trace in row]
    styles = [task.style(trace.text) for _, trace in rows]
    habits = Counter(task.style(answer.text) for row in answers for answer in row)
    known = sorted({*styles, *habits})
    total = sum(habits.values()) + 0.5 * len(known)  # half an answer more of each: a way never seen has no share of 0
    return StyledAnswers(
        task=task.name,
        prompt_A=scored.prompt_A,
        right_A=torch.tensor(
            [t.finished and task.is_right(task.grade(t.text, examples[i].reference)) for i, t in rows], dtype=torch.bool
        ),
        style_A=styles,
        student_logprob_A=scored.per_answer(scored.student_logprob_N),
        log_habit={style: math.log((habits[style] + 0.5) / total) for style in known},
    )


def _continued(
    task: Task,
    examples: Sequence[Example],
    traces: Sequence[Sequence[Sample]],
    own: Sequence[Sequence[Sample]],
    teacher: LanguageModel,
    config: DiagnoseConfig,
) -> Continuations:
    """The teacher's own answers, and those that begin as the student's first answer to each problem."""
    rows = [(i, 0.0, trace) for i, row in enumerate(traces) for trace in row]
    begun = [
        (i, share, answer.token_ids[: int(share * len(answer.token_ids))])
        for share in PREFIXES
        for i, (answer, *_) in enumerate(own)
    ]
    begun = [(i, share, ids) for i, share, ids in begun if ids]
    if begun:
        sampling = Sampling(max_new_tokens=config.max_new_tokens or task.max_new_tokens, seed=config.seed)
        prompts = [task.messages(examples[i]) for i, _, _ in begun]
        starts, what = [ids for _, _, ids in begun], f"diagnose: {task.name}, student's beginnings"
        led = generate(teacher, prompts, 1, sampling, begun=starts, description=what).completions
        rows += [(i, share, sample) for (i, share, _), (sample,) in zip(begun, led, strict=True)]
    return Continuations(
        task=task.name,
        prompt_A=torch.tensor([i for i, _, _ in rows]),
        kept_A=torch.tensor([share for _, share, _ in rows], dtype=torch.float64),
        score_A=torch.tensor(
            [task.grade(s.text, examples[i].reference) if s.finished else 0.0 for i, _, s in rows], dtype=torch.float64
        ),
    )
