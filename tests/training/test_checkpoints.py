"""What a training starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from distillknob.distillation.stage import DistillConfig
from distillknob.errors import BadInputError
from distillknob.models.load import load_model
from distillknob.training.checkpoints import load_trained
from pairs import Pair


def test_what_is_trained_is_loaded_as_trl_would(tiny_pair: Pair, tmp_path: Path) -> None:
    half = load_model(tiny_pair.student, dtype="bfloat16")
    half.model.save_pretrained(tmp_path)
    half.tokenizer.save_pretrained(tmp_path)

    def dtype(**values: Any) -> torch.dtype:
        return load_trained(str(tmp_path), DistillConfig(student=str(tmp_path), **values)).model.dtype

    assert dtype() == torch.float32  # also on a device that would work in the checkpoint's own
    assert dtype(model_init_kwargs={"dtype": "bfloat16"}) == torch.bfloat16
    assert load_model(str(tmp_path), options={"dtype": "auto"}).model.dtype == torch.bfloat16
    with pytest.raises(BadInputError, match="can't load a causal language model"):
        dtype(model_init_kwargs={"attn_implementation": "no-such-attention"})
