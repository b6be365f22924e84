"""What a query weight is: how much each trace counts, by what is known of it before the training."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn

from distillknob.distillation.options import MethodPart
from distillknob.errors import BadInputError, RunFailedError
from distillknob.models.base import LanguageModel
from distillknob.models.same_text import answers_logprob
from distillknob.models.sampling import Sampler
from distillknob.models.scoring import Scorer
from distillknob.runs.journal import Journal


@dataclass(frozen=True)
class Traces:
    """What query weights are made from: the traces (`make_traces`), the models, and a journal of what was scored."""

    rows: Sequence[Mapping[str, Any]]
    student: LanguageModel
    teacher: Sampler | None
    target: Scorer | None
    journal: Journal

    @property
    def finished(self) -> list[bool]:
        """Which traces end by themselves, [n]."""
        return [bool(row["completion_ids"]) and row["completion_ids"][-1] in self.student.ends for row in self.rows]

    def losses(self, scorer: Scorer, name: str) -> list[float]:
        """−log-likelihood of each trace under a model, in nats a token of the student's, [n]; `name` is that of its
        part of the journal. Raises RunFailedError for a model that gives no numbers."""
        ids = [list(row["completion_ids"]) for row in self.rows]
        values = answers_logprob(
            scorer,
            [row["prompt"] for row in self.rows],
            ids,
            self.finished,
            self.student.tokenizer,
            journal=self.journal.part(name),
            shared=True,
            description=f"query weights: {name}",
        )
        losses = [-float(value) / max(1, len(one)) for value, one in zip(values, ids, strict=True)]
        if broken := sum(not math.isfinite(loss) for loss in losses):
            raise RunFailedError(
                f"{broken} of {len(losses)} traces have no likelihood under {scorer.name!r}, which gives a token of "
                "theirs the probability 0, or no number: take a model that gives every token a probability"
            )
        return losses


def of_mean_1(values: Sequence[float]) -> list[float]:
    """Weights in proportion to these values, of mean 1. Their sum must be above 0."""
    mean = math.fsum(values) / len(values)
    return [value / mean for value in values]


def refuse_unscored(teacher: str, weights: str) -> NoReturn:
    """Raise BadInputError: these weights ask for what this teacher doesn't give."""
    raise BadInputError(
        f"query_weights={weights}: {teacher!r} gives no log-probabilities of texts: serve it with vLLM (URL#NAME with "
        "the API's root), give a folder or hub id, or use query_weights learnability"
    )


class QueryWeights(MethodPart, ABC):
    """Weights of traces."""

    asks_target: ClassVar[bool] = False
    """Does it read the target's scores? Then the config's `target` is loaded."""
    asks_teacher: ClassVar[bool] = False
    """Does it read the teacher's scores?"""
    grades: bool = False
    """Does it read the traces' rewards? Then rows have the columns that a grader reads (`training.grading`)."""

    @abstractmethod
    def weights(self, traces: Traces) -> list[float]:
        """The weight of each trace, [n], of mean 1, so that learning rates keep their meaning. Every process makes this
        same call, and does a part of the scoring."""
