"""How TRL's rollouts are read and graded: as every other stage reads and grades what a model wrote (`measure`)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase
from trl.chat_template_utils import parse_response

from distillknob.evaluation.measure import AnswerReader, longest_answer, scores_of
from distillknob.models.chat import prompt_ids
from distillknob.tasks import Example, Task, get_task

GRADED = ("task", "reference", "longest")  # the columns of a row that a grader reads


def graded_by(task: Task, example: Example, max_new_tokens: int | None) -> dict[str, Any]:
    """What a row of a data set holds for the grader: the task's name, the reference as JSON (its form differs by task),
    and the tokens that an answer may take."""
    return {
        "task": task.name,
        "reference": json.dumps(example.reference),
        "longest": longest_answer(task, max_new_tokens),
    }


def task_reward(
    completions: list[Any],
    task: list[str],
    reference: list[str],
    finished: list[bool],
    answer_text: list[str],
    **kwargs: Any,
) -> list[float]:
    """GRPO reward function: each answer's score by its own task's grader, in [0, 1], as every stage measures it
    (`measure`). `finished` and `answer_text` are what `CalibrationTrainer` gives every reward function beside TRL's
    arguments: whether the answer ended in time, and what it says outside of its thoughts."""
    scores = [0.0] * len(completions)
    for name in sorted(set(task)):
        rows = [i for i, own in enumerate(task) if own == name]
        texts, wanted = [answer_text[i] for i in rows], [json.loads(reference[i]) for i in rows]
        ended = [finished[i] for i in rows]
        graded = scores_of(get_task(name), texts, wanted, ended)
        for i, score in zip(rows, graded, strict=True):
            scores[i] = score
    return scores


def ended_in_time(
    rows: Sequence[Mapping[str, Any]], completion_ids: Sequence[Sequence[int]], ended: Sequence[bool]
) -> list[bool]:
    """Which completions ended by themselves within their own task's tokens (`longest` of their row). All tasks are
    sampled to one length, that of the longest; elsewhere an answer has its own task's."""
    return [
        done and len(ids) <= (row.get("longest") or len(ids))
        for row, ids, done in zip(rows, completion_ids, ended, strict=True)
    ]


def answers_of(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Any], completion_ids: Sequence[Sequence[int]]
) -> list[str]:
    """What each completion says outside of its thoughts."""
    reader = AnswerReader(tokenizer)
    texts = tokenizer.batch_decode([list(ids) for ids in completion_ids], skip_special_tokens=True)
    opened: dict[str, str] = {}  # by prompt, which a group shares
    answers = []
    for prompt, text, ids in zip(prompts, texts, completion_ids, strict=True):
        key = json.dumps(prompt, default=str)
        if key not in opened:
            opened[key] = reader.opened(prompt)
        answers.append(reader.answer(text, ids, opened[key]))
    return answers


def completions_of(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Any], completion_ids: Sequence[Sequence[int]]
) -> list[list[dict[str, Any]]]:
    """The completions as TRL gives them to reward functions: parsed where the tokenizer has a response template, which
    takes the thoughts out of the content."""
    if getattr(tokenizer, "response_template", None) is not None:
        prefixes = prompt_ids(tokenizer, list(prompts))
        return [
            [parse_response(tokenizer, list(ids), prefix=prefix)]
            for ids, prefix in zip(completion_ids, prefixes, strict=True)
        ]
    texts = tokenizer.batch_decode([list(ids) for ids in completion_ids], skip_special_tokens=True)
    return [[{"role": "assistant", "content": text}] for text in texts]


def graded_rollouts(
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Mapping[str, Any]],
    completion_ids: Sequence[Sequence[int]],
    ended: Sequence[bool],
) -> list[float]:
    """The reward of each completion by its row's own task, in [0, 1]; `ended`: which ended by themselves."""
    return task_reward(
        [None] * len(rows),
        [row["task"] for row in rows],
        [row["reference"] for row in rows],
        ended_in_time(rows, completion_ids, ended),
        answers_of(tokenizer, [row["prompt"] for row in rows], completion_ids),
    )
