"""What the tests of calibration share: tiny runs, and trainers that record them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from distillknob.calibration.config import CalibrationConfig
from distillknob.calibration.held_out import HeldOut
from distillknob.calibration.trainer import CalibrationTrainer
from distillknob.models.base import LanguageModel
from distillknob.models.sampling import Sample
from distillknob.models.scoring import answer_ids, sequence_logprob, token_logprobs
from distillknob.runs.run import Run, verify_manifest
from pairs import Pair


def even_length(completions: list[Any], **kwargs: Any) -> list[float]:
    """A task that tiny models are right on about half of the time."""
    return [float(len(completion[0]["content"]) % 2 == 0) for completion in completions]


def config(pair: Pair, **values: Any) -> CalibrationConfig:
    return CalibrationConfig(
        **{
            "teacher": pair.teacher,
            "target": pair.student,
            "tasks": ["qa"],
            "problems": 8,
            "max_steps": 2,
            "per_device_train_batch_size": 8,
            "num_generations": 4,
            "learning_rate": 5e-3,
            "lr_scheduler_type": "constant",
            "gradient_checkpointing": False,
            "guard_steps": 1,
            "guard_problems": 4,
            "guard_problems_max": 4,
            "guard_samples": 2,
            "utility_tolerance": 0.9,
            "reward": "sequence",  # tiny models are sure of no token
            **values,
        }
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(folder / "model.safetensors")
    return found


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


class Recorder(CalibrationTrainer):
    """Keeps each batch with what it was made of, and scores it anew while the policy is still the one that drew it."""

    batches: list[dict[str, Any]]

    def _calibration_values(self, batch: dict[str, Any], right_b: torch.Tensor) -> torch.Tensor:
        values, rollout = super()._calibration_values(batch, right_b), self._rollout
        (target,) = self.targets
        assert isinstance(target, LanguageModel)
        model: Any = self.model
        policy = target._replace(model=model)  # the pair's tokenizer
        ids = [
            row[mask.bool()].tolist()
            for row, mask in zip(batch["completion_ids"], batch["completion_mask"], strict=True)
        ]
        texts = self._tokenizer.batch_decode(ids, skip_special_tokens=True)
        finished, prompts = rollout["finished"], rollout["prompts"]
        canonical = answer_ids(policy, texts, finished)
        self.batches.append(
            {
                "log_ratio": values,
                "ids": ids,
                "prompts": prompts,
                "texts": texts,
                "finished": finished,
                "canonical": [a == b for a, b in zip(ids, canonical, strict=True)],
                "drawn": torch.stack([t.sum() for t in token_logprobs(policy, prompts, ids)]),
                "policy": sequence_logprob(policy, prompts, texts, finished),
                "target": torch.stack([t.sum() for t in token_logprobs(target, prompts, ids)]),
                "tokens": torch.tensor([len(row) for row in ids]),
            }
        )
        return values

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        self.batches[-1] |= {"advantages": batch["advantages"], "rewards": self._rollout["rewards"]}
        self.batches[-1]["in_time"] = self._rollout["in_time"]
        return batch


class Killed(Exception):
    """Stands for a kill: nothing in the stage catches it."""


def killed_behind_step(last: int) -> Callable[..., list[float]]:
    """`even_length`, which is killed at the first samples behind step `last`."""

    def reward(completions: list[Any], trainer_state: Any, **kwargs: Any) -> list[float]:
        if trainer_state.max_steps and trainer_state.global_step == last:
            raise Killed
        return even_length(completions)

    return reward


def scored(examples: Sequence[Any], right: float) -> HeldOut:
    """These problems with two scores each, of an answer that nobody scores."""
    samples = [Sample("", [1], finished=True)] * (2 * len(examples))
    prompts = [[{"role": "user", "content": f"Problem {i // 2}"}] for i in range(len(samples))]
    return HeldOut([[right, right]] * len(examples), prompts, samples, [], [])


def perfect(language_model: Any, task: Any, examples: Sequence[Any], *_: Any, **__: Any) -> HeldOut:
    """Stands for the teacher's scores before and after: always right."""
    return scored(examples, 1.0)


def after_step(last: int, then: Callable[[int], float]) -> Callable[..., list[float]]:
    """Right up to step `last`, and what `then` says from there on."""

    def reward(completions: list[Any], trainer_state: Any, **kwargs: Any) -> list[float]:
        step = trainer_state.global_step + 1 if trainer_state.max_steps else 0  # 0: what the original wrote
        return [1.0 if step <= last else then(step)] * len(completions)

    return reward


def stopped(run: Run) -> dict[str, Any]:
    result = run.result
    assert result["outcome"] == "stopped" and result["reason"]
    assert result["events"] and verify_manifest(run.path) == []
    kept = run.path / "checkpoints" / f"checkpoint-{result['kept_step']}"
    assert same(weights(run.path / "model"), weights(kept))
    return result
