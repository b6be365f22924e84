"""Checks that one text has one score, for any checkpoint: its log-ratio to itself, and its rollouts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from distillknob.calibration.config import CalibrationConfig
from distillknob.calibration.trainer import CalibrationTrainer
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.trainer import DistillTrainer
from distillknob.models.chat import prompt_ids
from distillknob.models.load import load_model

# Of two lengths, so that a batch of them is padded.
PROMPTS = [
    [{"role": "user", "content": text}]
    for text in ("Hi", "Start with 12. Add 30, then 5, and take 7 away. What is it, and why?")
]
# Every setting of a checkpoint that bends its samples, as far as they don't exclude each other.
BENT = {
    "do_sample": True,
    "temperature": 0.3,
    "top_k": 2,
    "top_p": 0.5,
    "min_p": 0.2,
    "typical_p": 0.5,
    "epsilon_cutoff": 0.01,
    "eta_cutoff": 0.01,
    "repetition_penalty": 1.8,
    "no_repeat_ngram_size": 2,
    "min_new_tokens": 3,
    "min_length": 3,
    "bad_words_ids": [[40]],
    "suppress_tokens": [41, 42],
    "begin_suppress_tokens": [43],
    "forced_bos_token_id": 44,
    "forced_eos_token_id": 45,
    "sequence_bias": [[[46], 5.0]],
    "exponential_decay_length_penalty": [2, 1.5],
    "guidance_scale": 1.5,
    "renormalize_logits": True,
    "stop_strings": ["a"],
    "watermarking_config": {"greenlist_ratio": 0.25, "bias": 4.0},
    "prompt_lookup_num_tokens": 3,
    "num_beams": 2,
}


def tiny(kind: str, folder: Path, tokenizer_of: str, **shape: Any) -> str:
    """A random checkpoint of an architecture with the tokenizer of another; sharp, so that a wrong score shows."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_of)
    size = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**size, **shape}), dtype=torch.float32)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def bent(checkpoint: str, folder: Path, **settings: Any) -> str:
    """A copy of a checkpoint whose generation settings are these, or `BENT`."""
    shutil.copytree(checkpoint, folder)
    file = folder / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **(settings or BENT)}))
    return str(folder)


def calibration_trainer(model: Any, target: Any, folder: Path, **values: Any) -> CalibrationTrainer:
    """A trainer on `PROMPTS`, 2 samples each, ungated and without a task."""
    settings: dict[str, Any] = {
        "eta": 0.5,
        "gate": False,
        "guard": False,
        "num_generations": 2,
        "reward": "sequence",
        "per_device_train_batch_size": 4,
        "max_completion_length": 12,
        "max_steps": 1,
        "gradient_checkpointing": False,
        "output_dir": str(folder / "out"),
        **values,
    }
    config = CalibrationConfig(**settings)
    return CalibrationTrainer(
        model=model.model,
        reward_funcs=[lambda completions, **kwargs: [0.0] * len(completions)],
        args=config,
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in PROMPTS]),
        processing_class=model.tokenizer,
        target=target,
        peft_config=config.peft_config,
    )


def self_log_ratio(checkpoint: str, folder: Path, **values: Any) -> torch.Tensor:
    """The log-ratio of a checkpoint to itself in nats, as `calibrate` takes it of rollouts: [b, T], a token each."""
    seen: list[torch.Tensor] = []

    class Recorder(CalibrationTrainer):
        def _calibration_values(self, *args: Any) -> torch.Tensor:
            seen.append(super()._calibration_values(*args))
            return seen[-1]

    trainer = calibration_trainer(
        load_model(checkpoint), load_model(checkpoint), folder, **{"reward": "token", **values}
    )
    trainer.__class__ = Recorder
    trainer.train()
    return seen[0]


def distillation_trainer(
    checkpoint: str,
    folder: Path,
    completions: Sequence[Sequence[int]],
    load: Callable[..., Any] | None = None,
    **values: Any,
) -> DistillTrainer:
    """A trainer of a checkpoint on `PROMPTS` with these stored traces, with itself as the teacher. `load` takes the
    checkpoint's name and the config (default: `load_model` by the name)."""
    settings: dict[str, Any] = {
        "method": "sft_gold",
        "per_device_train_batch_size": 2,
        "max_completion_length": 12,
        "max_steps": 1,
        "learning_rate": 1e-9,
        "gradient_checkpointing": False,
        "output_dir": str(folder / "out"),
        **values,
    }
    config = DistillConfig(student=checkpoint, teacher=checkpoint, **settings)
    student = load_model(checkpoint) if load is None else load(checkpoint, config)
    rows = [{"prompt": p, "completion_ids": list(ids)} for p, ids in zip(PROMPTS, completions, strict=True)]
    return DistillTrainer(
        model=student.model,
        teacher_model=load_model(checkpoint).model if config.needs_teacher_weights else None,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=student.tokenizer,
        peft_config=config.peft_config,
    )


def rollouts(stage: str, checkpoint: str, folder: Path, n: int = 20) -> list[list[int]]:
    """`n` rollouts of each of `PROMPTS`, token ids, as `calibrate` or `distill` draws them from a checkpoint."""
    trainer: Any
    if stage == "calibrate":
        model = load_model(checkpoint)
        trainer = calibration_trainer(model, load_model(checkpoint), folder)
    else:
        trainer = distillation_trainer(checkpoint, folder, [[5], [6]], method="opd_rkl")
    ids = [row for row in prompt_ids(trainer.processing_class, PROMPTS) for _ in range(n)]
    trainer.model.train()
    torch.manual_seed(0)
    drawn = trainer._generate_single_turn(ids, None, {}, *([n] if stage == "calibrate" else []))
    return drawn[0] if stage == "calibrate" else drawn
