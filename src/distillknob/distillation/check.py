"""What `distill` and its dry run look at before any weight is loaded."""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from distillknob.config.checks import check_fills_a_step
from distillknob.distillation.cache.files import TeacherCache
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.privacy import Budget, planned_steps
from distillknob.distillation.queries.base import refuse_unscored
from distillknob.distillation.selection import refuse_without_scores
from distillknob.distillation.teacher_context.skill import read_skills
from distillknob.distillation.trace_file import read_trace_file
from distillknob.distillation.traces import RIGHT_ONES, part_of
from distillknob.errors import BadInputError, nearest
from distillknob.inputs.preflight import Preflight, Side, check_learning_rate, check_traces, same_weights
from distillknob.models.architecture import architecture
from distillknob.models.names import check_meant, is_chat
from distillknob.models.scoring import Prompt, encoded_texts
from distillknob.models.served.model import check_scores_texts
from distillknob.publishing.upload import check_upload
from distillknob.tasks import Example, Task
from distillknob.training.checkpoints import check_trainable
from distillknob.training.config import as_dict


class Sides(NamedTuple):
    """The models of a distillation that read texts; None where one isn't asked for anything."""

    student: Side
    teacher: Side | None
    target: Side | None
    oracle: Side | None


def check(config: DistillConfig, preflight: Preflight) -> None:
    """Raise BadInputError for what `distill` couldn't use, before any weight is loaded."""
    check_upload(config, preflight)
    for phase in config.phases():
        _check_phase(phase, preflight)


def _check_phase(config: DistillConfig, preflight: Preflight) -> None:
    preflight.engine(config)
    cache = None if config.cache is None else TeacherCache(config.cache)
    if config.skills is not None:
        read_skills(config.skills)
    if config.chooses_by_scores:
        _check_selection(config)
    _check_query_weights(config)
    sides = _sides(config, preflight)
    _check_tokenizers(config, sides, cache)
    others = [sides._replace(teacher=one, target=None) for one in _other_teachers(config, preflight)]
    for other in others:
        _check_tokenizers(config, other, cache)
        _check_templates(config, sides, other)
    check_trainable(config.student, config)
    check_learning_rate(config.student, config)
    if config.loss.exit_share is not None and architecture(config.student).layers < 2:
        raise BadInputError(
            f"loss {config.objective.loss}: it reads an exit below the last layer, and {config.student!r} has 1 "
            "layer: take a deeper student"
        )
    memory, tokens = config.loss.memory, sides.student.vocabulary
    if memory is not None and tokens is not None and memory.top_k > tokens:
        raise BadInputError(
            f"options sets top_k to {memory.top_k}: {config.student!r} has {tokens} tokens, of which no more can be "
            "kept: lower it"
        )
    alone = sides.teacher is not None and not config.several_teachers
    itself = alone and same_weights(config.teacher, config.student)
    method = config.objective
    if itself and method.context == "plain" and method.soft_target == "plain" and not config.grades:
        preflight.remark(
            f"teacher and student are the same model ({config.student}): there is nothing to learn, and a divergence "
            "will be about 0"
        )
    _remark_on_what_does_nothing(config, preflight)
    step = config.per_device_train_batch_size * config.gradient_accumulation_steps * preflight.processes
    if cache is not None:
        check_traces(sides.student, cache.traces, f"the cache {config.cache}")
        check_rows(config, len(cache.traces), step, "problems to train on")
        return
    if config.traces_file is not None:
        traces = read_trace_file(config.traces_file)
        if sides.student.tokenizer is not None:
            texts = [row["completion"] for row in traces]
            ids = encoded_texts(sides.student.tokenizer, texts)["input_ids"]
            rows_read = [{**row, "completion_ids": one} for row, one in zip(traces, ids, strict=True)]
            check_traces(sides.student, rows_read, f"the traces of {config.traces_file}")
        _check_each_once(config, [row["prompt"] for row in traces], f"the traces of {config.traces_file}")
        _check_private_texts(config, [row["completion"] for row in traces])
        check_rows(config, len(traces), step, "traces to train on")
        _remark_on_replay(config, len(traces), step, preflight)
        return
    tasks = [
        preflight.task(name, graded=config.grades or config.objective.traces in RIGHT_ONES) for name in config.tasks
    ]
    rows = 0
    prompts: list[Prompt] = []
    solutions: list[str] = []
    for task in tasks:
        if task is None:  # its data would have to be fetched
            continue
        examples = task.examples("train", config.problems, seed=config.seed_of_problems)
        trained = part_of(examples, config.problems_part)
        rows += len(trained)
        if config.private_steps:
            prompts += [task.messages(example) for example in trained]
        if config.objective.traces == "gold":
            solutions += [example.gold_solution for example in trained]
        _check_way(config.ways.get(task.name), task, examples)
        for these in (sides, *others):
            _check_lengths(config, preflight, task, examples, these)
    _check_each_once(config, prompts, f"the tasks {', '.join(config.tasks)}")
    if None not in tasks:
        if config.objective.traces == "gold":
            _check_private_texts(config, solutions)
        check_rows(config, rows, step, "problems to train on")
        _remark_on_replay(config, rows, step, preflight)


def check_rows(config: DistillConfig, rows: int, batch: int, what: str) -> None:
    """Raise BadInputError where so many rows, a problem each, are fewer than a step of `batch` texts takes, where the
    training doesn't read them as often as the loss has to, and for an ε that no noise keeps."""
    if held_back := config.held_back(rows):
        rows, what = rows - held_back, f"{what} beside {held_back} held back for the validation loss"
    batch //= config.objective.num_generations  # of which a problem fills as many
    check_fills_a_step(rows, batch, what)
    epochs = config.max_steps / (rows // batch) if config.max_steps > 0 else config.num_train_epochs
    if 1 < config.loss.epochs > epochs:
        raise BadInputError(
            f"{config.method} ({config.objective.loss}) learns from what it has read before, so that each text has to "
            f"be read {config.loss.epochs} times: {rows} {what} are read {epochs:.2g} times (max_steps="
            f"{config.max_steps}, num_train_epochs={config.num_train_epochs:g}): raise either, or give fewer problems"
        )
    if config.private_steps:  # an ε that no noise keeps
        Budget.of(config, rows, planned_steps(config, rows))


def _check_each_once(config: DistillConfig, prompts: Sequence[Prompt], what: str) -> None:
    """Raise BadInputError for private steps on problems of which one stands in several rows: the accountant counts
    rows, and promises the bound for each problem."""
    if not config.private_steps:
        return
    often, count = Counter(json.dumps(prompt) for prompt in prompts).most_common(1)[0] if prompts else ("", 0)
    if count > 1:
        raise BadInputError(
            f"private steps (dp_epsilon, dp_noise): {what} have one problem {count} times ({often[:80]}): its gradient "
            "would be in a step more often than the accountant knows, and the bound would not hold for it: leave one "
            "row a problem"
        )


def _check_private_texts(config: DistillConfig, texts: Sequence[str]) -> None:
    """Raise BadInputError for a soft target that would do nothing on any of the texts that will be trained on."""
    if (soft := config.made_soft_target) is not None and config.share_on_policy == 0:
        soft.check_texts(texts)


def _check_way(way: str | None, task: Task, examples: Sequence[Example]) -> None:
    """Raise BadInputError for a way of writing that the task names in none of its known solutions."""
    named = {task.style(text) for example in examples for text in example.solutions.values()}
    known = sorted(named - {"other"})
    if way is not None and named and way not in known:
        guess = nearest(way, known, otherwise=f": it has {', '.join(known)}") if known else ": it names no ways"
        raise BadInputError(f"ways has {way!r} for the task {task.name!r}{guess}")


def _remark_on_what_does_nothing(config: DistillConfig, preflight: Preflight) -> None:
    """Say which fields were set that the method doesn't read. Not in an experiment, where a recipe's section serves
    several methods: a field that one of them reads is no mistake."""
    if preflight.chained:
        return
    read = {
        "beta": "beta" in config.loss.reads,
        "skew": "skew" in config.loss.reads,
        "tokens_share": config.objective.tokens != "all",
        "selection": config.objective.selects,
        "lmbda": config.objective.sources == "fixed",
    }
    defaults = {field.name: field.default for field in dataclasses.fields(DistillConfig)}
    for name, does in read.items():
        value = getattr(config, name)
        if not does and value != defaults[name]:
            parts = f"{config.method} ({config.objective.parts})"
            preflight.remark(f"{name}={value} does nothing: {parts} doesn't read it")


def _remark_on_replay(config: DistillConfig, rows: int, batch: int, preflight: Preflight) -> None:
    """Say where a buffer can't be filled, so that nothing would be replayed."""
    mix = config.made_sources
    if mix is None:
        return
    epochs = config.num_train_epochs * ((rows - mix.held_back(rows)) // batch)
    steps = config.max_steps if config.max_steps > 0 else math.ceil(epochs)
    written = steps * (batch // preflight.processes)
    if written <= mix.replay_capacity:
        preflight.remark(
            f"replay_capacity={mix.replay_capacity:g}: in {steps} steps a process writes at most {written} samples, so "
            "that no buffer is full before the end, and nothing is replayed: lower it (--options), or train longer"
        )


def _sides(config: DistillConfig, preflight: Preflight) -> Sides:
    if config.needs_target:
        check_scores_texts(config.target)
    sides = preflight.sides(
        config.models_read,
        as_dict(config.chat_template_kwargs),
        weights=[
            config.student,
            *(config.teachers_read if config.needs_teacher_weights else []),
            *([config.oracle] if config.oracle is not None else []),
        ],
        revisions={
            config.student: as_dict(config.model_init_kwargs).get("revision"),
            config.teacher: config.teacher_options.get("revision"),
        },
    )
    named = {side.name: side for side in sides}
    return Sides(
        named[config.student],
        named[config.teacher] if config.needs_teacher else None,
        named[config.target] if config.needs_target else None,
        None if config.oracle is None else named[config.oracle],
    )


def _other_teachers(config: DistillConfig, preflight: Preflight) -> list[Side]:
    """All but the first of several teachers."""
    values = as_dict(config.chat_template_kwargs)
    return preflight.sides(config.several_teachers[1:], values, needed=False)


def _check_templates(config: DistillConfig, first: Sides, other: Sides) -> None:
    """Raise BadInputError for teachers that would read one prompt in two ways."""
    one, two = first.teacher, other.teacher
    if one is None or two is None or one.tokenizer is None or two.tokenizer is None:
        return
    if one.tokenizer.chat_template != two.tokenizer.chat_template:
        raise BadInputError(
            f"teachers {one.name!r} and {two.name!r} have different chat templates, and several teachers read one "
            "prompt alike: give both the same template (chat_template.jinja)"
        )


def _check_tokenizers(config: DistillConfig, sides: Sides, cache: TeacherCache | None) -> None:
    """Raise BadInputError for a pair whose tokenizers the method can't compare, and for chat templates of one
    another's."""
    student, teacher, target, oracle = sides
    for side in () if oracle is None else (oracle, teacher):
        if side is not None and side.same_tokens(student) is False:
            raise BadInputError(
                f"oracle={config.oracle!r}: {side.name!r} and {config.student!r} have different tokenizers, so that "
                "their distance can't be measured by token: name an oracle with the student's tokenizer, or none"
            )
    compared = teacher is not None and config.needs_teacher_weights and not config.loss.crosses_tokenizers
    if teacher is not None and compared and teacher.same_tokens(student) is False:
        raise BadInputError(
            f"{config.method} compares next-token distributions, but {teacher.name!r} and {config.student!r} have "
            "different tokenizers: use divergence spans, uld or gold, an sft method, or a student with its tokenizer"
        )
    if target is not None and config.chooses_by_scores:
        _check_spans(config, target, teacher)
    if student.tokenizer is None:
        return
    if teacher is not None and teacher.tokenizer is not None:
        check_meant("student", config.student, student.tokenizer, config.teacher, teacher.tokenizer)
    if target is not None and target.tokenizer is not None:
        check_meant("target", config.target, target.tokenizer, config.student, student.tokenizer)
    if cache is not None:
        cache.check_student(config.student, student.tokenizer)


def _check_selection(config: DistillConfig) -> None:
    """Raise BadInputError for a teacher and a target between which there is nothing to select by."""
    selection = config.objective.selection
    if is_chat(config.teacher):
        refuse_without_scores(config.teacher, selection)
    if same_weights(config.teacher, config.target):
        raise BadInputError(
            f"selection={selection}: teacher and target are the same model ({config.target}), so that their log-ratio "
            "is 0 for every sample: set target to the student, or to another model that stands for it"
        )


def _check_query_weights(config: DistillConfig) -> None:
    """Raise BadInputError for models between which there is nothing to weigh traces by."""
    weights, name = config.made_query_weights, config.objective.queries
    if weights is None:
        return
    if weights.asks_teacher and is_chat(config.teacher):
        refuse_unscored(config.teacher, name)
    for what, other, asked in (
        ("target", config.target, weights.asks_target),
        ("teacher", config.teacher, weights.asks_teacher),
    ):
        if asked and same_weights(other, config.student):
            raise BadInputError(
                f"query_weights={name}: {what} and student are the same model ({config.student}), so that no trace "
                f"differs between them: set {what} to another"
            )


def _check_spans(config: DistillConfig, target: Side, teacher: Side | None) -> None:
    """Raise BadInputError for a target that can't say where its tokens lie in a text of another vocabulary."""
    if teacher is None or target.tokenizer is None or target.same_tokens(teacher) is not False:
        return
    if not target.tokenizer.is_fast:
        raise BadInputError(
            f"selection={config.objective.selection}: {config.teacher!r} and {config.target!r} have different "
            f"tokenizers, and that of {config.target!r} is a slow one, which can't say where its tokens lie in a text: "
            "save it as a fast one (tokenizer.json), or set selection to likelihood"
        )


def _check_lengths(
    config: DistillConfig, preflight: Preflight, task: Task, examples: Sequence[Example], sides: Sides
) -> None:
    """Does what each model reads fit its context? The student its own samples and stored traces, the teacher what it
    samples and judges, with more in its prompt where the method says so."""
    method, field = config.objective, "max_completion_length"
    made = config.made_context
    context = None if made is None else made.longest
    judge = sides.teacher if config.loss.asks_teacher else None
    gold = config.share_on_policy < 1 and method.traces == "gold"
    if not gold or config.share_on_policy > 0:
        answer = preflight.longest_answer(config.tasks, config.max_completion_length)
        for side in sides:
            if side is not None:
                preflight.check_fit(side, task, examples, answer, field)
        if judge is not None and context is not None:
            begun = 1.0 if made is not None and made.shows_samples else 0.0
            preflight.check_fit(judge, task, examples, answer, field, context, begun)
    if gold:
        longest = preflight.check_gold(sides.student, task, examples)
        if judge is not None:
            preflight.check_gold(judge, task, examples, context)
        if config.max_completion_length is not None and longest > config.max_completion_length:
            preflight.remark(
                f"solutions of {task.name!r} have up to {longest} tokens: max_completion_length="
                f"{config.max_completion_length} bounds samples, and solutions are trained on whole"
            )
