"""The same work on more devices: what gets shorter, what doesn't, and what goes over the network."""

from __future__ import annotations

from typing import Any

import pytest

from distillknob.calibration.config import CalibrationConfig
from distillknob.diagnosis.config import DiagnoseConfig
from distillknob.errors import BadInputError
from distillknob.models.architecture import adapter_parameters, architecture
from distillknob.planning.estimate import estimate
from distillknob.planning.hardware import GPUS, Engine
from distillknob.planning.network import moved
from distillknob.planning.scaling import dealt_out, scaling
from distillknob.planning.workload import workload

H100 = GPUS["h100"]
STEP: dict[str, Any] = {
    "teacher": "Qwen/Qwen3-8B",
    "target": "Qwen/Qwen3-0.6B",
    "tasks": ["bigmath-4"],
    "max_completion_length": 1024,
    "use_peft": True,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 16,
    "num_generations": 8,
    "max_steps": 60,
}


def test_a_step_keeps_its_rows_on_any_number_of_devices() -> None:
    config = CalibrationConfig(**STEP)
    for devices, (rows, passes) in {1: (8, 16), 8: (8, 2), 64: (2, 1), 128: (1, 1)}.items():
        dealt = dealt_out(config, devices)
        assert (dealt.per_device_train_batch_size, dealt.gradient_accumulation_steps) == (rows, passes)
        work = workload("calibrate", dealt, Engine(H100, devices, "ddp"))
        assert {phase.what: phase.rows for phase in work.phases}["training"] == 60 * 128
        assert work.trained is not None and work.trained.steps == 60
    with pytest.raises(BadInputError, match="a step of 128 rows can't be dealt out to 96 devices"):
        dealt_out(config, 96)


def test_products_are_shared_and_a_token_of_a_sampling_is_not() -> None:
    one, eight, many = scaling("calibrate", CalibrationConfig(**STEP), H100, [1, 8, 64], dollars_an_hour=3.0)
    assert one.speedup == 1 and 1 < eight.speedup < 8 and eight.speedup < many.speedup < 64
    assert one.estimate.seconds["training"] == pytest.approx(64 * many.estimate.seconds["training"])
    # Sixteen rows have caches at once, two of them no sooner.
    assert many.estimate.seconds["samples"] > one.estimate.seconds["samples"] / 16
    assert many.estimate.seconds["loading"] == one.estimate.seconds["loading"]
    assert "network" not in one.estimate.seconds and one.bytes_a_step == {}
    assert many.cost == pytest.approx(3 * many.gpu_hours) == pytest.approx(3 * 64 * many.hours)


def test_a_stage_that_trains_nothing_sends_nothing() -> None:
    config = DiagnoseConfig(teacher="Qwen/Qwen3-8B", student="Qwen/Qwen3-1.7B", tasks=["bigmath-4"])
    one, eight = scaling("diagnose", config, H100, [1, 8])
    assert eight.bytes_a_step == {} and eight.hours < one.hours and eight.cost is None


def test_what_is_sent_at_a_step_by_hand() -> None:
    config = CalibrationConfig(**STEP)
    lora = workload("calibrate", config, Engine(H100, 8, "ddp")).trained
    assert lora is not None
    adapter = adapter_parameters("Qwen/Qwen3-8B", config.lora_r, ["all-linear"])
    assert moved(lora, Engine(H100, 8, "ddp")) == {"gradients": 2 * 7 / 8 * 4 * adapter}
    sharded = moved(lora, Engine(H100, 8, "fsdp2"))
    # Each of the sixteen passes gathers the weights three times: forward, forward again for the gradient, backward.
    assert sharded["weights"] == 7 / 8 * 2 * 8_190_735_360 * 3 * 16
    one_node, two_nodes = (estimate("calibrate", dealt_out(config, n), Engine(H100, n, "fsdp2")) for n in (8, 16))
    assert two_nodes.seconds["network"] > 4 * one_node.seconds["network"]  # by the network, not by NVLink


def test_a_token_multiplies_with_the_experts_that_it_is_sent_to() -> None:
    mixture = architecture("Qwen/Qwen3-30B-A3B")
    assert mixture.parameters == 30_532_122_624 and round(mixture.active / 1e9, 1) == 3.0  # and 0.3 B of embeddings
    dense = architecture("meta-llama/Llama-3.3-70B-Instruct")
    assert dense.parameters == 70_553_706_496 and dense.active == dense.read
