"""Is a teacher right more often with its context before it? Asked before a training that rests on that.

A model that teaches itself knows more than its student only by what it is shown. One that can't read it answers worse
for the longer prompt, as small models do that were never taught to read one, and the student learns that. The published
methods were measured on models that read a context; nothing in a training says that this one doesn't.

A context that is made of the student's own answers (`Context.late`) is made here of some that it writes for this.

Left out on purpose: a refusal. The answer is one of samples, and the run's owner may know better.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from distillknob.distillation.config import DistillConfig
from distillknob.distillation.pair import Pair
from distillknob.distillation.teacher_context.base import TEACHER_PROMPT, Context, Messages, Written
from distillknob.evaluation.measure import sample_and_grade
from distillknob.models.base import LanguageModel
from distillknob.runs.journal import Journal
from distillknob.runtime.processes import notice
from distillknob.tasks import Example, Task

PROBLEMS = 64  # a task, one answer each way: the failure that is looked for is one of tens of points
NO_ROOM = 0.9  # the share of right answers from which a context has nothing left to bring


def warn_of_unused_context(config: DistillConfig, pair: Pair, tasks: Sequence[Task], journal: Journal) -> str | None:
    """Give a warning that names the tasks on which who teaches isn't right more often for its context, now and as
    what is returned; None where there are none, and where it can't be asked: no context, one that doesn't say how to
    answer, no grader.

    Train-split problems, one answer each with the context and without. Every process makes this same call.
    """
    context = config.made_context
    if context is None or not context.informs:
        return None
    reader = _reader(config, pair)
    said = []
    for place, task in enumerate(one for one in tasks if one.verifiable):
        part = journal.part(f"task-{place}")
        examples = task.examples("train", min(config.problems, PROBLEMS), seed=config.seed)
        shown = _prompts(config, context, pair.student, task, examples, part.part("written"))
        asked = [(example, prompt) for example, prompt in zip(examples, shown, strict=True) if prompt is not None]
        if not asked:  # no right answer to learn from, or no skill
            continue
        without_it, with_it = (
            sample_and_grade(
                reader,
                task,
                [example for example, _ in asked],
                1,
                max_new_tokens=config.max_completion_length,
                seed=config.seed,
                prompts=prompts,
                journal=part.part(name),
                shared=True,
                description="context",
            )
            for name, prompts in (("without", None), ("with", [prompt for _, prompt in asked]))
        )
        if with_it.mean <= without_it.mean < NO_ROOM:
            said.append(f"{task.name} {with_it.mean:.0%} right with it, {without_it.mean:.0%} without")
    if not said:
        return None
    warning = (
        f"{config.teacher} doesn't use what method {config.method} shows it ({'; '.join(said)}; {PROBLEMS} train-split "
        "problems a task at most), so it has little to teach: name a better model as teacher (gkd, sft_verified), or "
        "take one that follows its prompt"
    )
    notice(f"warning: {warning}")
    return warning


def _prompts(
    config: DistillConfig,
    context: Context,
    student: LanguageModel,
    task: Task,
    examples: Sequence[Example],
    journal: Journal,
) -> list[Messages | None]:
    """What the teacher sees of each example; None where there is nothing to show."""
    messages = [task.messages(example) for example in examples]
    columns = [context.columns(plain, example) for plain, example in zip(messages, examples, strict=True)]
    if not context.late:
        return [seen.get(TEACHER_PROMPT) for seen in columns]
    n = config.objective.num_generations
    limit = config.max_completion_length
    drawn = sample_and_grade(
        student, task, examples, n, max_new_tokens=limit, seed=config.seed, journal=journal, shared=True
    )
    written = Written(
        rows=[{"prompt": messages[i], **columns[i]} for i in range(len(examples)) for _ in range(n)],
        texts=[sample.text for row in drawn.samples for sample in row],
        rewards=torch.tensor([score for row in drawn.scores for score in row]),
        num_generations=n,
    )
    shown = context.shown(written)
    groups = [shown[start : start + n] for start in range(0, len(shown), n)]
    return [next((prompt for prompt in group if prompt is not None), None) for group in groups]


def _reader(config: DistillConfig, pair: Pair) -> LanguageModel:
    """Who reads the context: the teacher, or the student where that teaches itself."""
    teaches = pair.student if config.teaches_itself else pair.teacher
    if not isinstance(teaches, LanguageModel):
        raise ValueError("a context is read by a model whose weights are at hand")
    return teaches
