"""What a teacher writes on the guard's held-out problems, before and after: scores, and the log-ratio to the target.

The problems come from the train split and are not trained on. Test problems are left to `evaluate`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from distillknob.calibration.config import CalibrationConfig
from distillknob.evaluation.measure import sample_and_grade
from distillknob.models.base import LanguageModel
from distillknob.models.engines.vllm_model import VllmModel
from distillknob.models.same_text import answers_logprob
from distillknob.models.sampling import Sample
from distillknob.models.scoring import Prompt, Scorer
from distillknob.runs.journal import Journal
from distillknob.tasks import Example, Task
from distillknob.tasks.held_back import hold_back
from distillknob.verdicts.turning import Turning, turning_of_tasks


def train_and_guard(task: Task, problems: int, guard_problems: int, seed: int) -> tuple[list[Example], list[Example]]:
    """Examples of the train split to train on, and others for the guard (`tasks.held_back`)."""
    return hold_back(task, problems, guard_problems, seed, why="with a guard")


@dataclass(frozen=True)
class HeldOut:
    """What a teacher wrote on the guard's problems of one task. `scores` lie by problem and sample; the rest has one
    row a sample, in the same order: `logprobs` are the teacher's own, in the unit of the calibration reward, and
    `rewarded` says whether that reward is given to the sample."""

    scores: list[list[float]]
    prompts: list[Prompt]
    samples: list[Sample]
    rewarded: list[bool]
    logprobs: list[float]


# (model, tasks, config, "before" or "after", journal) -> by task, what the model writes on the guard's problems.
Measure = Callable[..., dict[str, HeldOut]]


def task_scores(
    language_model: LanguageModel | VllmModel,
    tasks: Sequence[Task],
    config: CalibrationConfig,
    what: str,
    journal: Journal | None = None,
) -> dict[str, HeldOut]:
    """Samples and their scores by task, on train-split problems that the fine-tuning does not see. What `journal` holds
    is neither sampled nor scored again."""
    held_out = {}
    for place, task in enumerate(tasks):
        part = (journal or Journal()).part(f"task-{place}")
        _, examples = train_and_guard(task, config.problems, config.guard_problems, config.seed)
        drawn = sample_and_grade(
            language_model,
            task,
            examples,
            config.guard_samples,
            max_new_tokens=config.max_completion_length,
            seed=config.seed,
            journal=part,
            shared=True,
            description=f"guard: {task.name} {what}",
        )
        rows = [
            (task.messages(example), sample, score)
            for example, samples, scores in zip(examples, drawn.samples, drawn.scores, strict=True)
            for sample, score in zip(samples, scores, strict=True)
        ]
        prompts, flat = [prompt for prompt, _, _ in rows], [sample for _, sample, _ in rows]
        held_out[task.name] = HeldOut(
            scores=drawn.scores,
            prompts=prompts,
            samples=flat,
            rewarded=[not config.gate or (sample.finished and score >= config.right_at) for _, sample, score in rows],
            logprobs=_logprobs(
                language_model, language_model.tokenizer, prompts, flat, config.log_ratio, part.part("logprobs")
            ),
        )
    return held_out


def _logprobs(
    model: Scorer,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    samples: Sequence[Sample],
    log_ratio: str,
    journal: Journal,
) -> list[float]:
    """Each sample's log-probability under `model` in nats, drawn with `tokenizer`: its sum, or the mean a token."""
    ids, finished = [sample.token_ids for sample in samples], [sample.finished for sample in samples]
    reduction: Any = "sum" if log_ratio == "sum" else "mean"
    scored = answers_logprob(
        model, prompts, ids, finished, tokenizer, reduction=reduction, journal=journal, shared=True
    )
    return [float(value) for value in scored]


def log_ratio_turned(
    before: Mapping[str, HeldOut],
    after: Mapping[str, HeldOut],
    target: Scorer,
    tokenizer: PreTrainedTokenizerBase,
    config: CalibrationConfig,
    kept_step: int,
    journal: Journal | None = None,
) -> Turning:
    """Whether the calibration moved the log-ratio to the target on the guard's problems: the original teacher and the
    kept one, each on its own samples, drawn with the teacher's `tokenizer`."""
    same = None
    if kept_step == 0:
        same = "the calibration kept step 0, so model/ is the teacher as it was"
    elif all(
        [sample.token_ids for sample in before[name].samples] == [sample.token_ids for sample in after[name].samples]
        and before[name].logprobs == after[name].logprobs
        for name in before
    ):
        same = "model/ gives the same answers as the original, with the same probabilities"

    def by_problem(held_out: Mapping[str, HeldOut], what: str) -> dict[str, list[float | None]]:
        means: dict[str, list[float | None]] = {name: [] for name in held_out}
        for place, (name, one) in enumerate(held_out.items()):
            part = (journal or Journal()).part(f"{what}/task-{place}")
            chosen = [i for i, counts in enumerate(one.rewarded) if counts]
            prompts, samples = [one.prompts[i] for i in chosen], [one.samples[i] for i in chosen]
            scored = _logprobs(target, tokenizer, prompts, samples, config.log_ratio, part) if chosen else []
            ratio = {i: one.logprobs[i] - value for i, value in zip(chosen, scored, strict=True)}
            n = config.guard_samples
            for problem in range(len(one.scores)):
                own = [ratio[i] for i in range(problem * n, (problem + 1) * n) if i in ratio]
                means[name].append(sum(own) / len(own) if own else None)
        return means

    first = by_problem(before, "before")
    return turning_of_tasks(
        first,
        first if same is not None else by_problem(after, "after"),
        eta=config.eta,
        log_ratio=config.log_ratio,
        gated=config.gate,
        same=same,
    )
