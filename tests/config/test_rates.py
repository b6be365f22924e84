"""The learning rate that `init` writes, by the size of what is trained."""

from __future__ import annotations

import pytest

from distillknob.config.rates import Trained, usual_rate, why_rate
from distillknob.inputs.preflight import LARGE, TOY_RATE

STAGES: tuple[Trained, Trained] = ("calibrate", "distill")


@pytest.mark.parametrize(
    ("stage", "parameters", "lora", "rate"),
    [
        ("distill", 8_000_000_000, False, 1e-5),
        ("distill", 1_700_000_000, True, 1e-4),  # the shipped recipes'
        ("distill", 494_000_000, False, 2e-5),  # TRL's script of distillation
        ("distill", 494_000_000, True, 2e-4),
        ("distill", 135_000_000, False, 7e-5),
        ("distill", 200_000, False, 1e-3),  # the embedded student's
        ("calibrate", 8_000_000_000, False, 1e-6),  # TRL's of GRPO
        ("calibrate", 8_000_000_000, True, 2e-5),  # the shipped recipes'
        ("calibrate", 393_920, False, 3e-4),
    ],
)
def test_a_rate_is_that_of_the_places_it_is_known_from(
    stage: Trained, parameters: int, lora: bool, rate: float
) -> None:
    assert usual_rate(stage, parameters, lora=lora) == pytest.approx(rate)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("lora", [False, True])
def test_a_smaller_model_never_has_a_smaller_rate_and_no_rate_is_one_that_is_refused(
    stage: Trained, lora: bool
) -> None:
    sizes = [10**power * digit for power in range(4, 12) for digit in range(1, 10)]
    rates = [usual_rate(stage, size, lora=lora) for size in sizes]
    assert rates == sorted(rates, reverse=True)
    assert all(rate < TOY_RATE[lora] for rate, size in zip(rates, sizes, strict=True) if size > LARGE)
    assert all(usual_rate(stage, size, lora=True) > usual_rate(stage, size, lora=False) for size in sizes)


def test_the_reason_names_the_size_and_what_an_adapter_takes() -> None:
    small = why_rate("distill", 393_920, lora=False)
    assert "this has 0.39 M" in small and "1e-05 from 1 B" in small and "adapter" not in small
    assert "this has 0.49 B, times 10 for an adapter" in why_rate("distill", 494_000_000, lora=True)
    assert "a billion parameters or more" in why_rate("calibrate", 4_000_000_000, lora=True)
