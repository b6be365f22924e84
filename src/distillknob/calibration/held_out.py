"""What a teacher writes on the guard's held-out problems, before and after: scores, and the log-ratio to the target.

The problems come from the train split and are not trained on. Test problems are left to `evaluate`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
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
from distillknob.verdicts.turning import Turning, turning_of_tasks


@dataclass(frozen=True)
class HeldOut:
    """What a teacher wrote on the guard's problems of one task. `scores` lie by problem and sample; the rest has one
    row a sample, in the same order: `logprobs` are the teacher's own, in the unit of the calibration reward (none where
    only scores were asked for), and `rewarded` says whether that reward is given to the sample."""

    scores: list[list[float]]
    prompts: list[Prompt]
    samples: list[Sample]
    rewarded: list[bool]
    logprobs: list[float]

    @property
    def means(self) -> list[float]:
        """The mean score of each problem's samples."""
        return [fmean(row) for row in self.scores]

    @property
    def score(self) -> float:
        """The mean of all samples' scores."""
        return fmean(self.means)


def standard_error(means: Sequence[float]) -> float:
    """The standard error of the mean over problems; infinite for one, which says nothing of its own scatter."""
    return stdev(means) / math.sqrt(len(means)) if len(means) > 1 else math.inf


# (model, task, examples, config, "before" or "after", journal, logprobs) -> what the model writes on these problems.
Measure = Callable[..., HeldOut]


def task_scores(
    language_model: LanguageModel | VllmModel,
    task: Task,
    examples: Sequence[Example],
    config: CalibrationConfig,
    what: str,
    journal: Journal | None = None,
    *,
    logprobs: bool = True,
) -> HeldOut:
    """Samples and their scores on some of a task's problems, and unless they aren't asked for the samples'
    log-probabilities. What `journal` holds is neither sampled nor scored again."""
    part = journal or Journal()
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
    tokenizer, unit = language_model.tokenizer, config.log_ratio
    return HeldOut(
        scores=drawn.scores,
        prompts=prompts,
        samples=flat,
        rewarded=[not config.gate or (sample.finished and score >= config.right_at) for _, sample, score in rows],
        logprobs=_logprobs(language_model, tokenizer, prompts, flat, unit, part.part("logprobs")) if logprobs else [],
    )


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
