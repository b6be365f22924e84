"""The learning rate of a training by the number of parameters of what it trains.

Small models take larger steps. Of full fine-tuning:

| parameters | distill | calibrate | known from |
|---|---|---|---|
| 1 billion and more | 1e-5 | 1e-6 | usual for fine-tuning; TRL's default for GRPO |
| 0.5 billion | 2e-5 | 2e-6 | TRL's script of distillation, for Qwen2.5-0.5B |
| 10 million and fewer | 1e-3 | 1e-4 to 3e-4 | the embedded models, of 0.2 and 0.4 million |

Between these the rate is taken to fall as one over the number of parameters. Of the embedded pair students learned best
at 1e-3 to 4e-3 (`recipes/embedded.yaml`, from `benchmarks/learning_rates.py`), and teachers turned at 3e-4 with Adam's
usual ε; a pair of their size that was calibrated at 2e-5 hardly moved (both in docs/research/lab-notebook.md). Between
10 million and 0.5 billion one pair was run, at one rate each (`recipes/smollm2.yaml`: an adapter on 135 million
calibrated at 5e-4, its half trained at 1e-4), and published rates differ tenfold: SmolLM2's recipe of SFT has 1e-3. So
the rule is careful there.

A LoRA adapter takes ten times the rate of distillation, which TRL's script has too ("LoRA Without Regret", Thinking
Machines 2025, finds ten times for any model), and twenty times that of calibration, as the shipped recipes have it.

Left out on purpose: batch size, which these trainings vary little, and a search. `compare` searches a student's rate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

BILLION = 1e9
Trained = Literal["calibrate", "distill"]


@dataclass(frozen=True)
class Usual:
    """The rates of full fine-tuning from a billion parameters on, and the highest for small models; how many times as
    much an adapter takes, and the highest of that."""

    large: float
    small: float
    adapter: float
    adapter_most: float


# An adapter's highest is where `check_learning_rate` begins to ask how large the model is.
USUAL: dict[Trained, Usual] = {
    "calibrate": Usual(large=1e-6, small=3e-4, adapter=20, adapter_most=2e-3),
    "distill": Usual(large=1e-5, small=1e-3, adapter=10, adapter_most=2e-3),
}


def usual_rate(stage: Trained, parameters: int, *, lora: bool) -> float:
    """The rate for a model with so many parameters, trained in full or by an adapter, to one digit."""
    usual = USUAL[stage]
    rate = min(usual.small, usual.large * max(1.0, BILLION / parameters))
    if lora:
        rate = min(usual.adapter_most, usual.adapter * rate)
    return float(f"{rate:.0e}")


def why_rate(stage: Trained, parameters: int, *, lora: bool) -> str:
    """Why a recipe has this rate, as it says behind it."""
    usual = USUAL[stage]
    size = f"{parameters / BILLION:.2g} B" if parameters >= BILLION / 10 else f"{parameters / 1e6:.2g} M"
    if parameters >= BILLION:
        why = "usual for models of a billion parameters or more"
    else:
        why = f"small models take larger steps: {usual.large:g} from 1 B parameters on, and this has {size}"
    times = f", times {usual.adapter:g} for an adapter" if lora else ""
    return f"{why}{times}; three times as much if nothing moves"
