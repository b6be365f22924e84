"""Models of four layers for the tests of pruning: trained for no second, so that each layer does something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tiny_architectures import made


@pytest.fixture(scope="session")
def deep(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Qwen3 of four layers with a tied head. Don't write into it: copy."""
    return made("qwen3", tmp_path_factory.mktemp("deep") / "model", 7, num_hidden_layers=4)


@pytest.fixture(scope="session")
def idle(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Llama of four layers of which layer 2 does nothing: what it would add is 0."""
    from transformers import AutoModelForCausalLM

    folder: Path = tmp_path_factory.mktemp("idle") / "model"
    made("llama", folder, 8, num_hidden_layers=4)
    model = AutoModelForCausalLM.from_pretrained(folder)
    for linear in (model.model.layers[2].self_attn.o_proj, model.model.layers[2].mlp.down_proj):
        linear.weight.data.zero_()
        if linear.bias is not None:
            linear.bias.data.zero_()
    model.save_pretrained(folder)
    return str(folder)
