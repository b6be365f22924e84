"""The order of problems in each epoch of a training."""

from __future__ import annotations

import random
from typing import Any

from trl.trainer.utils import RepeatSampler


class EpochSampler(RepeatSampler):
    """TRL's sampler, with an order in each epoch that follows from the seed and the epoch alone.

    TRL draws the order of every epoch from one generator, in turn. A run that is resumed after its first epoch starts
    that generator anew, and would go through the data in another order than an unbroken run.
    """

    @classmethod
    def of(cls, sampler: Any) -> EpochSampler:
        names = ("data_source", "mini_repeat_count", "batch_size", "repeat_count", "shuffle", "seed")
        return cls(**{name: getattr(sampler, name) for name in names})

    @classmethod
    def grouped(cls, sampler: EpochSampler, group: int) -> EpochSampler:
        """The sampler with each problem `group` times in a row, in batches of as many rows."""
        return cls(
            data_source=sampler.data_source,
            mini_repeat_count=group,
            batch_size=max(1, sampler.batch_size // group),
            repeat_count=sampler.repeat_count,
            shuffle=sampler.shuffle,
            seed=sampler.seed,
        )

    def set_epoch(self, epoch: int) -> None:
        """Called by the Trainer before each epoch."""
        if self.shuffle and self.seed is not None:
            first = epoch == 0  # which is TRL's own order
            self.generator.manual_seed(self.seed if first else random.Random(f"{self.seed}/{epoch}").getrandbits(32))
