"""What a teacher writes on the guard's held-out problems, before and after: scores, and the calibration reward.

The problems come from the train split and are not trained on. Test problems are left to `evaluate`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from distillknob.calibration.config import CalibrationConfig
from distillknob.calibration.rewards.base import CalibrationReward, Rollout
from distillknob.evaluation.measure import sample_and_grade
from distillknob.models.base import LanguageModel
from distillknob.models.engines.vllm_model import VllmModel
from distillknob.models.same_text import as_read
from distillknob.models.sampling import Sample
from distillknob.models.scoring import Prompt, Scorer, token_logprobs
from distillknob.models.sure_tokens import SURE, sure_weights
from distillknob.runs.journal import Journal
from distillknob.runtime.processes import by_parts, notice
from distillknob.tasks import Example, Task
from distillknob.verdicts.turning import Turning, turning_of_tasks


@dataclass(frozen=True)
class HeldOut:
    """What a teacher wrote on the guard's problems of one task. `scores` lie by problem and sample; the rest has one
    row a sample, in the same order: `logprobs` are those that the teacher itself gives each token, in nats (none where
    only scores were asked for); `rewarded` says whether the sample is given the calibration reward."""

    scores: list[list[float]]
    prompts: list[Prompt]
    samples: list[Sample]
    rewarded: list[bool]
    logprobs: list[torch.Tensor]

    @property
    def means(self) -> list[float]:
        """The mean score of each problem's samples."""
        return [fmean(row) for row in self.scores]

    @property
    def score(self) -> float:
        """The mean of all samples' scores."""
        return fmean(self.means)


FEW_SURE = 0.05  # of the tokens: below it the reward of sure tokens has hardly anything to tell answers apart by


def remark_on_sure_tokens(before: Mapping[str, HeldOut]) -> None:
    """Say so where the original teacher is sure of hardly any token of the answers that are rewarded."""
    for name, held_out in before.items():
        rows = [row for row, counts in zip(held_out.logprobs, held_out.rewarded, strict=True) if counts]
        sure = torch.cat([sure_weights(row) for row in rows]) if rows else torch.zeros(0)
        if len(sure) and float(sure.mean()) < FEW_SURE:
            notice(
                f"the teacher gave more than {SURE:g} to {100 * float(sure.mean()):.1f} % of the tokens of its right "
                f"answers to {name!r}, and reward='sure_tokens' counts these alone: reward sure_tokens_soft, or "
                "sequence, has more to tell answers apart by"
            )


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
    tokenizer = language_model.tokenizer
    return HeldOut(
        scores=drawn.scores,
        prompts=prompts,
        samples=flat,
        rewarded=[not config.gate or (sample.finished and score >= config.right_at) for _, sample, score in rows],
        logprobs=_logprobs(language_model, tokenizer, prompts, flat, part.part("logprobs")) if logprobs else [],
    )


def _logprobs(
    model: Scorer,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Prompt],
    samples: Sequence[Sample],
    journal: Journal,
) -> list[torch.Tensor]:
    """The log-probability in nats that a model gives each token of samples drawn with `tokenizer`, which is its own or
    has the same vocabulary, [tokens] a sample."""
    ids = as_read([sample.token_ids for sample in samples], [sample.finished for sample in samples], tokenizer, model)
    return token_logprobs(model, prompts, ids, journal=journal, shared=True)


def reward_turned(
    before: Mapping[str, HeldOut],
    after: Mapping[str, HeldOut],
    reward: CalibrationReward,
    original: Callable[[], Scorer],
    tokenizer: PreTrainedTokenizerBase,
    config: CalibrationConfig,
    kept_step: int,
    journal: Journal | None = None,
) -> Turning:
    """Whether the calibration moved its reward on the guard's problems: the original teacher and the kept one, each on
    its own samples, drawn with the teacher's `tokenizer`. `original` loads the original teacher, where the reward asks
    what it gives to the kept one's samples."""
    journal = journal or Journal()
    same = None
    if kept_step == 0:
        same = "the calibration kept step 0, so model/ is the teacher as it was"
    elif all(
        [sample.token_ids for sample in before[name].samples] == [sample.token_ids for sample in after[name].samples]
        and all(map(torch.equal, before[name].logprobs, after[name].logprobs))
        for name in before
    ):
        same = "model/ gives the same answers as the original, with the same probabilities"

    def by_problem(held_out: Mapping[str, HeldOut], what: str, judge: Scorer | None) -> dict[str, list[float | None]]:
        """The mean value of each problem's rewarded samples."""
        means: dict[str, list[float | None]] = {}
        for place, (name, one) in enumerate(held_out.items()):
            part = journal.part(f"{what}/task-{place}")
            chosen = [i for i, counts in enumerate(one.rewarded) if counts]
            original_rows = [one.logprobs[i] for i in chosen]
            if judge is not None:
                prompts, samples = [one.prompts[i] for i in chosen], [one.samples[i] for i in chosen]
                original_rows = _logprobs(judge, tokenizer, prompts, samples, part.part("original"))
            value = dict(zip(chosen, _values(reward, one, chosen, original_rows, part), strict=True))
            n = config.guard_samples
            problems = [range(problem * n, (problem + 1) * n) for problem in range(len(one.scores))]
            rows = [[value[i] for i in samples if i in value] for samples in problems]
            means[name] = [sum(row) / len(row) if row else None for row in rows]
        return means

    first = by_problem(before, "before", None)
    if same is None:
        second = by_problem(after, "after", original() if reward.needs_original else None)
    return turning_of_tasks(
        first,
        first if same is not None else second,
        eta=config.eta,
        quantity=reward.quantity,
        unit=reward.unit,
        gated=config.gate,
        same=same,
    )


def _values(
    reward: CalibrationReward,
    held_out: HeldOut,
    chosen: Sequence[int],
    original_rows: Sequence[torch.Tensor],
    journal: Journal,
) -> list[float]:
    """What the reward gives to these samples, each process its part; of tokens' rewards their mean."""

    def of_part(rows: Sequence[int], original: Sequence[torch.Tensor]) -> list[float]:
        samples = [held_out.samples[i] for i in rows]
        policy = [held_out.logprobs[i] for i in rows]
        answers = Rollout(
            prompts=[held_out.prompts[i] for i in rows],
            ids=[sample.token_ids for sample in samples],
            finished=[sample.finished for sample in samples],
            right=[True] * len(rows),
        )
        lengths = torch.tensor([len(row) for row in policy])
        policy_BT, original_BT = (pad_sequence(list(side), batch_first=True) for side in (policy, original))
        mask_BT = torch.arange(policy_BT.size(1)) < lengths[:, None]
        values = reward.values(answers, policy_BT, mask_BT, original_BT)
        if reward.by_token:
            values = values.sum(1) / lengths.clamp(min=1)
        return [float(value) for value in values]

    if not chosen:
        return []
    values: list[float] | None = journal.take(list(chosen))
    if values is None:
        values = by_parts(of_part, list(chosen), list(original_rows))
        journal.keep(list(chosen), values)
    return values
