"""The calibration reward that a config names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from transformers import PreTrainedTokenizerBase

from distillknob.calibration.problems import train_and_guard
from distillknob.calibration.rewards.base import CalibrationReward
from distillknob.calibration.rewards.co_distilled import CoDistilledRatio
from distillknob.calibration.rewards.ensemble import Ensemble
from distillknob.calibration.rewards.influence import Influence
from distillknob.calibration.rewards.sequence import SequenceRatio
from distillknob.calibration.rewards.sure_tokens import SureTokenRatio
from distillknob.calibration.rewards.token import TokenRatio
from distillknob.models.scoring import Scorer
from distillknob.runs.journal import Journal
from distillknob.tasks import graded_tasks

if TYPE_CHECKING:
    from distillknob.calibration.config import CalibrationConfig


def make_reward(
    config: CalibrationConfig,
    targets: Sequence[Scorer],
    tokenizer: PreTrainedTokenizerBase,
    journal: Journal | None = None,
) -> CalibrationReward:
    """Make the reward that `config.reward` names, for answers drawn with the teacher's `tokenizer`; of several targets,
    the mean of theirs. What `journal` holds of what targets have to write for it is not drawn again. Raises
    BadInputError for a target that the reward can't use."""
    journal = journal or Journal()
    rewards = [
        _of_one(config, target, tokenizer, journal.part(f"target-{place}")) for place, target in enumerate(targets)
    ]
    return rewards[0] if len(rewards) == 1 else Ensemble(rewards)


def _of_one(
    config: CalibrationConfig, target: Scorer, tokenizer: PreTrainedTokenizerBase, journal: Journal
) -> CalibrationReward:
    match config.reward:
        case "sequence":
            return SequenceRatio(target, tokenizer)
        case "sequence_mean":
            return SequenceRatio(target, tokenizer, "mean")
        case "token":
            return TokenRatio(target, tokenizer)
        case "sure_tokens":
            return SureTokenRatio(target, tokenizer)
        case "sure_tokens_soft":
            return SureTokenRatio(target, tokenizer, "soft")
        case "co_distilled":
            return CoDistilledRatio(
                target,
                tokenizer,
                steps=config.co_distilled_steps,
                every=config.co_distilled_every,
                learning_rate=config.co_distilled_learning_rate,
                batch_size=config.co_distilled_batch_size,
                learns_from=config.co_distilled_from,
                seed=config.seed,
            )
        case "influence":
            problems = [
                (task, train_and_guard(task, config.problems, config.guard_problems, config.seed)[0])
                for task in graded_tasks(config.tasks)
            ]
            return Influence(
                target,
                tokenizer,
                [(task, examples[: config.influence_problems]) for task, examples in problems],
                samples=config.influence_samples,
                max_new_tokens=config.max_completion_length,
                seed=config.seed,
                journal=journal,
            )
