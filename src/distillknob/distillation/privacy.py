"""How private a distillation is: the bound on what its weights tell of any one problem, by Opacus' accountant.

Steps are those of DP-SGD: each problem is drawn with the same chance, whatever the others (Poisson sampling), the
gradient of its loss is clipped to a norm C, and noise of σ·C is added to the sum. The bound (ε, δ) follows from σ, the
chance and the number of steps, by Rényi differential privacy. Two data sets are neighbours where one has one problem
more. A problem's trace and its rollouts are that problem's own. The teacher and the number of problems are public.

The bound is of the weights. What a run keeps beside them (traces, losses, samples) isn't private, nor are scores of
private problems. Left out on purpose: a cryptographic source of random numbers.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from distillknob.errors import BadInputError
from distillknob.results.stages import Privacy

if TYPE_CHECKING:
    from distillknob.distillation.config import DistillConfig

LARGEST_NOISE = 1e4  # beyond which nothing is learnt, whatever the batch


def planned_steps(config: DistillConfig, problems: int) -> int:
    """How many steps a training on so many problems has."""
    if config.max_steps > 0:
        return int(config.max_steps)
    return math.ceil(config.num_train_epochs * max(1, problems // config.per_device_train_batch_size))


@dataclass(frozen=True)
class Budget:
    """What the noise of private steps follows from. `rate` is the chance with which a problem is in a step's batch;
    `noise` is σ, over `max_grad_norm` C."""

    problems: int
    batch: int
    steps: int
    delta: float
    max_grad_norm: float
    noise: float

    @classmethod
    def of(cls, config: DistillConfig, problems: int, steps: int) -> Budget:
        """The budget of a training of so many steps. Raises BadInputError for an ε that no noise keeps."""
        batch = min(config.per_device_train_batch_size, problems)
        delta = 1 / (10 * problems) if config.dp_delta is None else config.dp_delta
        noise = config.dp_noise
        if noise is None:
            epsilon = config.objective.epsilon
            assert epsilon is not None, "private steps have a noise or an ε"
            noise = noise_for(epsilon, delta, batch / problems, steps)
        return cls(problems, batch, steps, delta, config.dp_max_grad_norm, noise)

    @property
    def rate(self) -> float:
        return self.batch / self.problems

    def spent(self, steps: int) -> Privacy:
        """What so many of the steps have spent, as the result tells it."""
        return {
            "epsilon": epsilon_of(self.noise, self.delta, self.rate, steps),
            "delta": self.delta,
            "noise": self.noise,
            "max_grad_norm": self.max_grad_norm,
            "sampling_rate": self.rate,
            "steps": steps,
            "problems": self.problems,
        }


def epsilon_of(noise: float, delta: float, rate: float, steps: int) -> float | None:
    """ε at δ after so many steps, by Opacus' Rényi accountant; None without noise, or so little that nothing is
    bounded."""
    from opacus.accountants import RDPAccountant

    if noise == 0:
        return None
    accountant = RDPAccountant()
    accountant.history = [(noise, rate, steps)]
    with warnings.catch_warnings():  # of orders at the edge of its list: the bound holds, and might be tighter
        warnings.simplefilter("ignore", UserWarning)
        epsilon = float(accountant.get_epsilon(delta))
    return epsilon if math.isfinite(epsilon) else None


def noise_for(epsilon: float, delta: float, rate: float, steps: int) -> float:
    """The least noise σ, to 0.1 %, with which so many steps keep ε at δ. Raises BadInputError where none does."""

    def spent(noise: float) -> float:
        value = epsilon_of(noise, delta, rate, steps)
        return math.inf if value is None else value

    low, high = 0.0, 1.0
    while spent(high) > epsilon:
        low, high = high, 2 * high
        if high > LARGEST_NOISE:
            raise BadInputError(
                f"dp_epsilon={epsilon:g}: no noise up to {LARGEST_NOISE:g} keeps it over {steps} steps at δ={delta:g} "
                f"and a sampling rate of {rate:.3g}: take fewer steps, more problems, a smaller "
                "per_device_train_batch_size, or a larger dp_epsilon"
            )
    while high - low > 1e-3 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if spent(middle) > epsilon else (low, middle)
    return high
