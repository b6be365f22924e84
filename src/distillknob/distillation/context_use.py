"""Is a teacher right more often with its context before it? Asked before a training that rests on that.

A model that teaches itself knows more than its student only by what it is shown. One that can't read it answers worse
for the longer prompt, as small models do that were never taught to read one, and the student learns that. The published
methods were measured on models that read a context; nothing in a training says that this one doesn't.

Left out on purpose: contexts that are made of the student's own answers (`Context.late`), which exist only once it
has written some, and a refusal: the answer is one of samples, and the run's owner may know better.
"""

from __future__ import annotations

from collections.abc import Sequence

from distillknob.distillation.config import DistillConfig
from distillknob.distillation.pair import Pair
from distillknob.distillation.teacher_context.base import TEACHER_PROMPT
from distillknob.evaluation.measure import Measured, grade_samples, longest_answer
from distillknob.models.base import LanguageModel
from distillknob.models.sampling import Prompt, Sampling, generate
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
    if context is None or not context.informs or context.late:
        return None
    reader = _reader(config, pair)
    said = []
    for place, task in enumerate(one for one in tasks if one.verifiable):
        examples = task.examples("train", min(config.problems, PROBLEMS), seed=config.seed)
        plain = [task.messages(example) for example in examples]
        shown = [context.columns(task.messages(one), one).get(TEACHER_PROMPT, task.messages(one)) for one in examples]
        if shown == plain:
            continue
        limit = longest_answer(task, config.max_completion_length)
        without_it, with_it = (
            _answered(reader, task, examples, prompts, limit, config.seed, journal.part(f"{name}-{place}"))
            for name, prompts in (("without", plain), ("with", shown))
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


def _reader(config: DistillConfig, pair: Pair) -> LanguageModel:
    """Who reads the context: the teacher, or the student where that teaches itself."""
    teaches = pair.student if config.teaches_itself else pair.teacher
    if not isinstance(teaches, LanguageModel):
        raise ValueError("a context is read by a model whose weights are at hand")
    return teaches


def _answered(
    reader: LanguageModel,
    task: Task,
    examples: Sequence[Example],
    prompts: Sequence[Prompt],
    limit: int,
    seed: int,
    journal: Journal,
) -> Measured:
    """The reader's answer to each prompt, graded as an answer to its example."""
    drawn = generate(
        reader,
        prompts,
        1,
        Sampling(max_new_tokens=limit, seed=seed),
        journal=journal.part("samples"),
        shared=True,
        description="context",
    )
    grades = journal.part("grades")
    return grade_samples(reader.tokenizer, task, examples, drawn.completions, journal=grades, shared=True)
