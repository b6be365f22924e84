"""What the workloads of all stages are counted with: the lengths of prompts and answers, rows at a time, steps."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from distillknob.config.shared import StageConfig
from distillknob.models.architecture import Architecture, adapter_parameters, architecture
from distillknob.models.chat import prompt_ids
from distillknob.models.load import load_tokenizer
from distillknob.models.names import resolve
from distillknob.models.sampling import Sampling
from distillknob.models.scoring import BATCH_TOKENS
from distillknob.planning.phases import Lengths
from distillknob.tasks import Example, RowsTask, Task, get_task, task_on_the_hub
from distillknob.tasks.graders.reward_model import DEFAULT
from distillknob.tasks.reward_task import RewardTask
from distillknob.training.config import named_dtype

if TYPE_CHECKING:
    from distillknob.calibration.config import CalibrationConfig
    from distillknob.defences.config import DefendConfig
    from distillknob.distillation.config import DistillConfig

# A task whose data may still have to be fetched isn't opened for its prompts' length.
PROMPT_TOKENS = 256
MEASURED = 64  # problems
OF_TASKS = ("max_new_tokens", "max_completion_length")  # the limits of answers to tasks, and not of any texts
SAMPLED_AT_ONCE = Sampling().batch_size
SCORED_AT_ONCE, PAIRED_AT_ONCE = BATCH_TOKENS, 16_384  # the second is `batch_tokens` of score_pair


@cache
def _prompt_tokens(model: str, name: str) -> int | None:
    """Tokens of the longest prompt among the first `MEASURED` of a task under the model's chat template; None where the
    task's data or the tokenizer might have to be fetched."""
    if not Path(resolve(model)).is_dir() or not (examples := _examples(name)):
        return None
    task = get_task(name)
    return max(map(len, prompt_ids(load_tokenizer(model), [task.messages(example) for example in examples])))


def longest_prompt(model: str, tasks: Sequence[str]) -> int:
    """Return how many tokens the tasks' longest prompt has under the model's template, as far as that is known here."""
    lengths = (_prompt_tokens(model, name) or PROMPT_TOKENS for name in tasks)
    return max(lengths, default=PROMPT_TOKENS)  # a distillation from a cache may name no task


def usual_lengths(config: StageConfig) -> Lengths | None:
    """Return how long the prompts of the stage's tasks and their worked solutions are in the mean, in the tokens of
    the stage's first model that is a folder; None where a task has no solutions or isn't here, without a folder, and
    where the texts come from a file or a cache."""
    if getattr(config, "cache", None) is not None or getattr(config, "traces_file", None) is not None:
        return None
    folder = next((name for name in config.models_read if Path(resolve(name)).is_dir()), None)
    lengths = [] if folder is None else [_mean_lengths(folder, name) for name in config.tasks]
    measured = [one for one in lengths if one is not None]
    if not measured or len(measured) < len(lengths):
        return None
    prompt, answer = sum(one.prompt for one in measured), sum(one.answer for one in measured)
    return Lengths(prompt / len(measured), answer / len(measured), max(one.longest for one in measured))


@cache
def _mean_lengths(model: str, name: str) -> Lengths | None:
    """The mean lengths of a task's prompts and of its solutions (all its right ways alike), each with its end."""
    examples = _examples(name)
    solutions = [text for example in examples for text in example.solutions.values()]
    if not solutions:
        return None
    tokenizer, task = load_tokenizer(model), get_task(name)
    prompts = prompt_ids(tokenizer, [task.messages(example) for example in examples])
    answers = [1 + len(ids) for ids in tokenizer(solutions, add_special_tokens=False)["input_ids"]]
    return Lengths(sum(map(len, prompts)) / len(prompts), sum(answers) / len(answers), max(answers))


def _examples(name: str) -> list[Example]:
    """The first `MEASURED` problems of a task; none where its data might have to be fetched."""
    task = task_of(name)
    if isinstance(task, type):
        return []
    return task.examples("train" if "train" in task.splits else task.splits[0], MEASURED)


def task_of(name: str) -> Task | type[RowsTask]:
    """A task, or of one whose data are on the hub its class: a dry run fetches nothing."""
    return task_on_the_hub(name) or get_task(name)


def reward_models(tasks: Sequence[str]) -> list[tuple[str, Architecture]]:
    """Return the models that grade these tasks' answers in the same process, each once."""
    judges: dict[str, Architecture] = {}
    for name in tasks:
        task = task_of(name)
        options = dict(part.partition("=")[::2] for part in name.partition("?")[2].split("&"))
        if issubclass(task if isinstance(task, type) else type(task), RewardTask) and "reward_url" not in options:
            checkpoint = options.get("reward", DEFAULT)
            judges[checkpoint] = architecture(checkpoint)
    return [("reward model", model) for model in judges.values()]


def longest_answer(config: StageConfig) -> int:
    """Return how many tokens an answer of the stage may have."""
    return config.answer_limit or max((task_of(name).max_new_tokens for name in config.tasks), default=0)


def adapter_of(config: CalibrationConfig | DistillConfig | DefendConfig, name: str) -> int:
    """Return how many parameters the model's LoRA adapter has; 0 without one."""
    return _adapter_parameters(name, config.lora_r, tuple(config.lora_target_modules)) if config.use_peft else 0


_adapter_parameters = cache(adapter_parameters)  # a search for settings that fit asks many times


def steps_of(config: CalibrationConfig | DistillConfig | DefendConfig, rows: float, batch: int) -> float:
    """Return how many steps of `batch` rows a training on so many has."""
    return float(config.max_steps) if config.max_steps > 0 else rows * config.num_train_epochs / batch


def dtype_of(config: CalibrationConfig | DistillConfig | DefendConfig) -> torch.dtype | None:
    """Return the type in which the config has the model under an adapter loaded; None where it names none."""
    return named_dtype(config) if config.use_peft else None


def vllm_of(config: CalibrationConfig | DistillConfig) -> dict[str, Any]:
    """Return what a `Workload` says of vLLM."""
    beside = config.use_vllm and config.vllm_mode == "colocate"
    return {"vllm": config.use_vllm, "vllm_share": config.vllm_gpu_memory_utilization if beside else 0.0}


def scored_rows(tokens: int, at_once: int = SCORED_AT_ONCE) -> int:
    """Return how many rows of so many tokens are scored at once."""
    return max(1, at_once // tokens)


def sampled_rows(rows: int, tasks: Sequence[str]) -> int:
    """Return how many of `rows` over all tasks, which are sampled one after the other, are written at once."""
    return max(1, min(SAMPLED_AT_ONCE, rows // max(1, len(tasks))))
