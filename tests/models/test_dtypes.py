"""Weights are bfloat16 on a CPU that multiplies it, where the checkpoint has 16 bits and the model is large."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from distillknob.models.architecture import architecture
from distillknob.models.dtypes import LARGE, cpu_dtype, dtype_on, own_dtype
from distillknob.models.load import load_model
from distillknob.models.names import ZOO
from distillknob.runtime.machine import multiplies_bfloat16
from pairs import Pair


@pytest.mark.parametrize("own", [torch.float32, torch.bfloat16, torch.float16, torch.float64, None])
@pytest.mark.parametrize("parameters", [800_000, int(LARGE) - 1, int(LARGE), 135_000_000])
@pytest.mark.parametrize("capable", [False, True])
def test_bfloat16_needs_the_processor_the_checkpoint_and_the_size(
    capable: bool, own: torch.dtype | None, parameters: int
) -> None:
    gains = capable and own in (torch.bfloat16, torch.float16) and parameters >= 50_000_000
    assert cpu_dtype(capable, own, lambda: parameters) == ("bfloat16" if gains else "float32")


def test_parameters_are_counted_only_where_they_decide() -> None:
    def counted() -> int:
        raise AssertionError("counted")

    assert cpu_dtype(False, torch.bfloat16, counted) == cpu_dtype(True, torch.float32, counted) == "float32"
    assert dtype_on("cuda", torch.float32, counted) == "auto"


@pytest.mark.parametrize(
    ("capabilities", "capable"),
    [
        ({"architecture": "x86_64", "avx2": True, "avx512_f": True, "avx512_fp16": True, "avx512_bf16": False}, False),
        ({"architecture": "x86_64", "avx2": True, "avx512_bf16": True}, True),
        ({"architecture": "x86_64", "amx_tile": True, "amx_int8": True, "amx_bf16": False}, False),
        ({"architecture": "x86_64", "amx_tile": True, "amx_bf16": True}, True),
        ({"architecture": "aarch64", "neon": True, "fp16_arith": True}, False),
        ({"architecture": "aarch64", "neon": True, "bf16": True}, True),
        ({}, False),
    ],
)
def test_a_processor_is_asked_for_products_of_bfloat16(capabilities: dict[str, Any], capable: bool) -> None:
    assert multiplies_bfloat16(capabilities) is capable
    assert multiplies_bfloat16() in (True, False)


@pytest.mark.parametrize("name", ZOO)
def test_the_embedded_models_stay_float32_on_any_processor(name: str) -> None:
    parameters = architecture(f"zoo:{name}").parameters
    assert parameters > 100_000
    assert cpu_dtype(True, torch.bfloat16, lambda: parameters) == "float32"


def test_a_type_that_is_named_decides(tiny_pair: Pair) -> None:
    assert load_model(tiny_pair.student).model.dtype == torch.float32
    assert load_model(tiny_pair.student, dtype="bfloat16").model.dtype == torch.bfloat16
    named = load_model(tiny_pair.student, options={"dtype": "bfloat16"}).model
    assert named.dtype == torch.bfloat16 == own_dtype(named.config)
