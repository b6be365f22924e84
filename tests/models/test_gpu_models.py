"""On a GPU a token has one log-probability too, in both precisions: as it is drawn, scored and trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from distillknob.calibration.config import CalibrationConfig
from distillknob.calibration.stage import calibrate
from distillknob.models.forward import attention_without_cudnn
from pairs import Pair
from tiny_families import LIMIT, documented, outcome, tiny_config

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "families.md").read_text(encoding="utf-8")
WORKING = sorted(family for family, verdict in documented(PAGE).items() if verdict == "works")
# Nats between two ways to one log-probability: bfloat16 keeps 8 bits of each number, and two ways round otherwise.
# Where rounding sends a token to another expert, it is more. Wrong positions make one to four nats (GPT-2, GPT-Neo).
ROUNDED, ROUTED = 0.15, 0.4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", WORKING)
def test_a_token_has_one_log_probability_on_a_gpu(gpu: str, family: str, dtype: torch.dtype) -> None:
    routed = any("expert" in name for name in vars(tiny_config(family)))
    rounded = ROUTED if routed else ROUNDED
    assert outcome(family, gpu, dtype, LIMIT if dtype == torch.float32 else rounded) == "works"


@pytest.mark.parametrize(
    ("how", "limit"),
    [
        ({"bf16": False}, 1e-3),
        ({"bf16": True}, 0.1),  # the policy in mixed precision, the target in the checkpoint's float32
        ({"bf16": True, "use_peft": True}, 0.1),  # both from a checkpoint in bfloat16, as of real models
    ],
    ids=["float32", "mixed", "bfloat16 and LoRA"],
)
def test_the_log_ratio_of_a_teacher_to_itself_is_0_on_a_gpu(
    gpu: str, tiny_pair: Pair, tmp_path: Path, how: dict[str, Any], limit: float
) -> None:
    """In nats a sample, of some 24 tokens; the mean over 16 samples, before the first step has moved anything."""
    name = tiny_pair.teacher
    if "use_peft" in how:
        name = str(tmp_path / "bfloat16")
        AutoModelForCausalLM.from_pretrained(tiny_pair.teacher, dtype=torch.bfloat16).save_pretrained(name)
        AutoTokenizer.from_pretrained(tiny_pair.teacher).save_pretrained(name)
    config = CalibrationConfig(
        teacher=name,
        target=name,
        eta=0.5,
        reward="sequence",
        gate=False,
        guard=False,
        max_steps=1,
        num_generations=4,
        per_device_train_batch_size=16,
        problems=8,
        guard_problems=2,
        guard_samples=1,
        max_completion_length=24,
        use_cpu=gpu == "cpu",
        **how,
    )
    run = calibrate(config, tmp_path / "run")
    assert abs(run.metrics()[0]["log_ratio"]) <= limit


def test_gradients_of_attention_are_numbers_at_every_length_on_a_gpu(gpu: str) -> None:
    """Heads whose scores are all far below 0, as some of SmolLM2's and Qwen2.5's: cuDNN's backward pass makes NaN of
    them at 64, 192, 320 … tokens (pytorch issue 196678)."""
    dtype = torch.bfloat16
    for length in (64, 96, 128, 192):
        q, k, v = (torch.randn(1, 1, length, 64, device=gpu, dtype=dtype) for _ in range(3))
        q[..., 0], k[..., 0] = 1.0, -960.0  # every score about −120
        q.requires_grad_()
        mask = torch.ones(length, length, dtype=torch.bool, device=gpu).tril()[None, None]
        with attention_without_cudnn():
            torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).sum().backward()
        assert q.grad is not None and q.grad.isfinite().all()
