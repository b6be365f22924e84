"""One process of test_processes.py: trains a stage on recorded completions and writes gradients and weights.

With "sampled-" before the stage the completions are the models' own, and each process writes what it trained on.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from distillknob.calibration.config import CalibrationConfig
from distillknob.calibration.rows import training_rows
from distillknob.calibration.trainer import CalibrationTrainer
from distillknob.distillation.batches import completions_of
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.trainer import DistillTrainer
from distillknob.models.load import load_model
from distillknob.models.scoring import token_logprobs
from distillknob.runtime.processes import disconnect, process_index
from distillknob.tasks import get_task
from distillknob.training.grading import graded_by

GROUP, STEPS = 4, 10


def recorded(text: str, place: int) -> list[int]:
    """A completion of 1 to 12 tokens for the place-th sample of a prompt, the same wherever it is asked for."""
    rng = random.Random(f"{text}/{place}")
    return [*(rng.randrange(20, 400) for _ in range(rng.randrange(12))), 1]


class Recorder(TrainerCallback):
    """Keeps the first step's gradients and, at the end, the weights (of process 0)."""

    def __init__(self, model: Any, output: Path):
        self.model, self.output = model, output

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 0:
            self._write(
                "gradients.pt", {name: p.grad for name, p in self.model.named_parameters() if p.grad is not None}
            )

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._write("weights.pt", dict(self.model.named_parameters()))

    def _write(self, name: str, tensors: dict[str, Any]) -> None:
        """What is spread over the processes is brought together by all of them."""
        whole = {key: t.full_tensor() if isinstance(t, DTensor) else t for key, t in tensors.items()}
        if any(isinstance(t, DTensor) for t in tensors.values()):
            (self.output / "spread").touch()
        if process_index() == 0:
            torch.save({key: tensor.detach().clone() for key, tensor in whole.items()}, self.output / name)


class RecordedCalibration(CalibrationTrainer):
    """Its samples are recorded ones."""

    def _generate_single_turn(self, prompt_ids: list[list[int]], *args: Any, **kwargs: Any) -> Any:
        first = self.accelerator.process_index * len(prompt_ids)
        return [recorded(str(ids), (first + i) % GROUP) for i, ids in enumerate(prompt_ids)], None


class SampledCalibration(CalibrationTrainer):
    """Writes the first batch's advantages, and what they were made of on this process."""

    folder: Path

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        rollout = self._rollout
        scored = token_logprobs(self.targets[0], rollout["prompts"], rollout["ids"])
        target = torch.stack([row.sum() for row in scored])
        texts = self._tokenizer.batch_decode(rollout["ids"], skip_special_tokens=True)
        policy = (self._policy_logprobs(batch) * batch["completion_mask"]).sum(1)
        told = {
            "advantages": batch["advantages"],
            "task": reward([[{"content": text}] for text in texts]),
            "log_ratio": policy - target,
            "finished": rollout["in_time"],
            "prompts": [str(prompt) for prompt in rollout["prompts"]],
            "items": int(batch["num_items_in_batch"]),
            "tokens": int(batch["completion_mask"].sum()),
        }
        if self.state.global_step == 0:
            torch.save(told, self.folder / f"process-{self.accelerator.process_index}.pt")
        return batch


class SampledDistillation(DistillTrainer):
    """Writes the denominator of the first batch's loss beside this process's tokens."""

    folder: Path

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        told = {"items": int(batch["num_items_in_batch"]), "tokens": int(batch["loss_mask"].sum())}
        if self.state.global_step == 0:
            torch.save(told, self.folder / f"process-{self.accelerator.process_index}.pt")
        return batch

    def _graded(self, rows: Any, batch: Any) -> torch.Tensor:
        """Rewards that follow from the completions, of which about a half is right."""
        return torch.tensor([float(sum(ids) % 2) for ids in completions_of(batch)])


class ReplayedDistillation(DistillTrainer):
    """Writes what each step read on this process, what was kept before it, and the share with its validation loss."""

    folder: Path
    steps: list[dict[str, Any]]

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        assert self.replay is not None
        kept = [list(row["completion_ids"]) for row in self.replay.rows]
        batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        self.steps.append(
            {"kept": kept, "read": completions_of(batch), "share": tuple(vars(self.replay.share).values())}
        )
        torch.save(self.steps, self.folder / f"process-{self.accelerator.process_index}.pt")
        return batch


def reward(completions: list[Any], **kwargs: Any) -> list[float]:
    return [float(random.Random(text[0]["content"]).random() < 0.5) for text in completions]


def _parts(method: str, tokens: str, sampled: bool) -> dict[str, Any]:
    """What of a method is replaced: so that it trains on recorded traces, or on samples in small groups."""
    if method == "distillm":
        return {"options": {"own_share": 1.0, "replay_capacity": 4, "validation_every": 1}}
    if method == "entrocraft":  # a fresh student lies above the band, so that samples below their group are left out
        return {"num_generations": GROUP, "options": {"alpha": 0.01}}
    if method in ("sft", "redi", "ps_kd"):
        return {"first": "none"}
    traces = {} if sampled else {"traces": "gold"}
    return {"lmbda": 1.0 * sampled, "tokens": tokens or "all", "tokens_share": 0.3, **traces}


def _traces(count: int) -> list[dict[str, Any]]:
    """Rows of a data set, each with a recorded trace, and a second one as the wrong one of a pair."""
    task, rows = get_task("math"), []
    for number, example in enumerate(task.examples("train", count)):
        prompt = task.messages(example)
        right, wrong = (recorded(str(prompt), place) for place in (0, 1))
        row = {"prompt": prompt, "completion_ids": right, "wrong_completion_ids": wrong, "trace": number}
        rows.append({**row, **graded_by(task, example, 16)})
    return rows


def train(stage: str, teacher_name: str, student_name: str, output: str, batch: int, accumulation: int) -> None:
    sampled, stage = stage.startswith("sampled-"), stage.removeprefix("sampled-")
    Path(output).mkdir(parents=True, exist_ok=True)
    SampledCalibration.folder = SampledDistillation.folder = ReplayedDistillation.folder = Path(output)
    ReplayedDistillation.steps = []
    common: dict[str, Any] = {
        "output_dir": f"{output}/trainer",
        "per_device_train_batch_size": batch,
        "gradient_accumulation_steps": accumulation,
        "max_steps": 3 if sampled else STEPS,
        "learning_rate": 0.05,
        "lr_scheduler_type": "constant",
        "optim": "sgd",
        "max_grad_norm": 0.0,
        "gradient_checkpointing": False,
        "save_strategy": "no",
        "use_cpu": True,
        "seed": 3,
        "report_to": "none",
        "max_completion_length": 16,
    }
    teacher, student = load_model(teacher_name), load_model(student_name)
    trainer: Any
    if stage == "calibrate":
        config = CalibrationConfig(
            teacher=teacher_name,
            eta=0.5,
            reward="sequence",
            beta=0.1,
            num_generations=GROUP,
            guard=False,
            **common,
        )
        trainer = (SampledCalibration if sampled else RecordedCalibration)(
            model=teacher.model,
            reward_funcs=[reward],
            args=config,
            train_dataset=training_rows([get_task("math"), get_task("qa")], 20, seed=0),
            processing_class=teacher.tokenizer,
            target=student,
        )
    else:
        method, _, tokens = stage.partition("+")
        settings = DistillConfig(student=student_name, method=method, **_parts(method, tokens, sampled), **common)
        writes = ReplayedDistillation if method == "distillm" else SampledDistillation
        trainer = (writes if sampled else DistillTrainer)(
            model=student.model,
            teacher_model=teacher.model if settings.needs_teacher_weights else None,
            args=settings,
            train_dataset=Dataset.from_list(_traces(24 if method == "ps_kd" else 96)),
            processing_class=student.tokenizer,
            teacher_processing_class=teacher.tokenizer if settings.needs_teacher_weights else None,
        )
    trainer.add_callback(Recorder(trainer.accelerator.unwrap_model(trainer.model), Path(output)))
    trainer.train()
    assert trainer.accelerator.num_processes == int(os.environ.get("WORLD_SIZE", "1"))
    disconnect()
