"""What a training starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import one_score
from distillknob.distillation.config import DistillConfig
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


@pytest.mark.parametrize(
    ("named", "capable", "smallest", "mixed"),
    [
        (None, True, 1, True),
        (None, False, 1, False),  # converting every factor takes longer than multiplying it
        (None, True, 1_000_000_000, False),
        (False, True, 1, False),  # named is named
    ],
)
def test_a_large_model_trains_in_mixed_precision_on_a_cpu_that_gains_by_it(
    tiny_pair: Pair,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    named: bool | None,
    capable: bool,
    smallest: int,
    mixed: bool,
) -> None:
    if torch.cuda.is_available():
        pytest.skip("a GPU takes TRL's own default")
    monkeypatch.setattr("distillknob.training.config.multiplies_bfloat16", lambda: capable)
    monkeypatch.setattr("distillknob.training.config.LARGE", smallest)
    trainer = one_score.distillation_trainer(
        tiny_pair.student, tmp_path, [[5, 6, 7]] * len(one_score.PROMPTS), load=load_trained, bf16=named
    )
    seen: list[torch.dtype] = []
    assert trainer.model is not None
    layer = next(one for one in trainer.model.modules() if isinstance(one, torch.nn.Linear))
    layer.register_forward_hook(lambda module, args, output: seen.append(output.dtype))
    trainer.train()
    assert set(seen) == {torch.bfloat16 if mixed else torch.float32}
    assert {weights.dtype for weights in trainer.model.parameters()} == {torch.float32}
