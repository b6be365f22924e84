"""What a query weight is: how much each trace counts, by what is known of it before the training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from distillknob.models.base import LanguageModel
from distillknob.models.sampling import Sampler
from distillknob.models.scoring import Scorer
from distillknob.runs.journal import Journal

if TYPE_CHECKING:
    from distillknob.distillation.options import Settings


@dataclass(frozen=True)
class Traces:
    """What query weights are made from: the traces (`make_traces`), the models, and a journal of what was scored."""

    rows: Sequence[Mapping[str, Any]]
    student: LanguageModel
    teacher: Sampler | None
    target: Scorer | None
    journal: Journal


class QueryWeights(ABC):
    """Weights of traces."""

    asks_target: ClassVar[bool] = False
    """Does it read the target's scores? Then the config's `target` is loaded."""

    @abstractmethod
    def weights(self, traces: Traces) -> list[float]:
        """The weight of each trace, [n], of mean 1, so that learning rates keep their meaning. Every process makes this
        same call, and does a part of the scoring."""

    def why_not(self, settings: Settings) -> str | None:
        """Why it makes no sense with these settings; None where it does."""
        return None
