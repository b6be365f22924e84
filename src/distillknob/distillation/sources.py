"""Where the texts of a step come from, by name: the student's own samples or stored traces, and how often which.

    fixed     a share of the steps, λ (`lmbda`), has fresh samples, the others stored traces
    adaptive  DistiLLM's (arXiv 2402.03898): a share φ that rises whenever the loss on held-back traces has risen, of
              which more and more replays earlier samples

With t/T the part of the training that is done and r uniform in [0, 1), drawn anew for each step:

    fresh     r < φ·(1 − t/T), or r < φ while the buffer isn't full
    replayed  else r < φ
    stored    else

A whole step has one source, on all processes, as with a fixed share. Left out on purpose: a draw for each text, for
which a step would write few samples and read several kinds of texts.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from distillknob.distillation.options import Settings, make, option
from distillknob.distillation.teacher_context import CONTEXTS
from distillknob.errors import BadInputError

FRESH, REPLAYED, STORED = "fresh", "replayed", "stored"
MOST_HELD_BACK = 0.1  # of the traces


def draw_of(seed: int, step: int) -> float:
    """Draw the r of a step from seed and step: the same on every process, and after a resume."""
    return random.Random(f"{seed}/{step}").random()


def source_of(draw: float, share: float, progress: float, *, full: bool) -> str:
    """Return the source of a step: `draw` is r, `share` φ, `progress` t/T, `full` whether the buffer is."""
    if draw < share * (1 - progress) or (draw < share and not full):
        return FRESH
    return REPLAYED if draw < share else STORED


@dataclass(frozen=True)
class Share:
    """The share φ of steps on the student's own samples, and the validation loss with which the next is compared; None
    before the first."""

    share: float
    loss: float | None = None

    def after(self, loss: float, *, rise: float, tolerance: float) -> Share:
        """Return what a validation loss makes of it. The loss that is compared with is replaced only where φ rises, so
        that small rises add up."""
        if self.loss is None:
            return Share(self.share, loss)
        if loss >= self.loss + tolerance:
            return Share(min(1.0, round(self.share + rise, 9)), loss)
        return self


@dataclass(frozen=True)
class AdaptiveShare:
    """The numbers of the adaptive share and of its buffer."""

    own_share: float = option(0.0, "φ at the start: the share of steps on own samples.", low=0.0, high=1.0)
    own_share_rise: float = option(0.1, "How far φ rises, up to 1.", low=0.0, high=1.0)
    own_share_tolerance: float = option(
        0.1, "ε: the rise of the validation loss by which φ rises, in nats a token.", low=0.0
    )
    replay_capacity: float = option(1000, "Own samples that each process keeps, the oldest leave.", low=1)
    validation_rows: float = option(32, "Traces held back for the validation loss, at most a tenth of all.", low=1)
    validation_every: float = option(25, "The validation loss is measured every so many steps.", low=1)

    def held_back(self, traces: int) -> int:
        """Return how many of so many traces aren't trained on; one at least."""
        return min(int(self.validation_rows), max(1, int(MOST_HELD_BACK * traces)))

    def why_not(self, settings: Settings) -> str | None:
        """Why it makes no sense with these settings; None where it does."""
        objective = settings.objective
        if not 0 < objective.lmbda < 1 or objective.traces == "none":
            return (
                f"sources=adaptive with lmbda={objective.lmbda:g} and traces={objective.traces}: it goes from stored "
                "traces to the student's own samples, and here every step has one of both (with a cache: the cache's "
                "traces). Name traces, leave cache out and lmbda between 0 and 1, or set sources to fixed"
            )
        context = CONTEXTS[objective.context]
        refused = {
            f"num_generations={objective.num_generations}": objective.num_generations > 1,
            f"edit={objective.edit}": objective.edit != "none",
            f"query_weights={objective.queries}": objective.queries != "all",
            f"context={objective.context}": context is not None and context(settings).late,
        }
        if named := [name for name, does in refused.items() if does]:
            return (
                f"sources=adaptive with {', '.join(named)}: that is made for own samples alone or for stored traces "
                "alone, and here steps have either: leave it out, or set sources to fixed"
            )
        return None


MIXES: dict[str, Callable[[Settings], AdaptiveShare] | None] = {
    "fixed": None,
    "adaptive": lambda settings: make(AdaptiveShare, settings),
}


class StepSettings(Protocol):
    """What the check of a step's sources reads of the config."""

    per_device_train_batch_size: int
    gradient_accumulation_steps: int

    @property
    def made_sources(self) -> AdaptiveShare | None: ...

    @property
    def private_steps(self) -> bool: ...


def check_sources(config: StepSettings) -> None:
    """Raise BadInputError for a buffer that couldn't fill a step, and for private steps, which replay nothing."""
    mix = config.made_sources
    if mix is None:
        return
    here = config.per_device_train_batch_size * config.gradient_accumulation_steps
    if mix.replay_capacity < here:
        raise BadInputError(
            f"options sets replay_capacity to {mix.replay_capacity:g}, and a step of each process reads {here} texts: "
            "raise it to that at least"
        )
    if config.private_steps:
        raise BadInputError(
            "sources=adaptive with private steps (dp_epsilon, dp_noise): problems would be read again in steps that "
            "didn't draw them, and held-back ones steer the training without noise: set sources to fixed"
        )
