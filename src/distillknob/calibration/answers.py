"""What the original teacher and its checkpoints write on the guard's problems, each drawn when first asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from distillknob.calibration.config import CalibrationConfig
from distillknob.calibration.held_out import HeldOut, Measure
from distillknob.calibration.problems import Problems
from distillknob.models.base import LanguageModel
from distillknob.models.engines.vllm_model import VllmModel
from distillknob.runs.journal import Journal
from distillknob.tasks import Example

Model = LanguageModel | VllmModel


class Weights(NamedTuple):
    """Weights that write answers: where they lie, and the step that they are from; 0 is the original teacher."""

    path: str
    step: int


class Answers:
    """Asks weights for answers to a block of the guard's problems: those that a look adds, or the fresh ones.

    `load` gives the model at a path. One is held at a time, and its place is free before the next is loaded: two may
    not fit. What `journal` holds isn't drawn again.
    """

    def __init__(
        self,
        problems: Mapping[str, Problems],
        config: CalibrationConfig,
        journal: Journal,
        measure: Measure,
        load: Callable[[Weights], Model],
    ):
        self.problems = problems
        self._config, self._journal, self._measure, self._load = config, journal, measure, load
        self._held: tuple[Weights, Model] | None = None
        self._drawn: dict[tuple[int, str, str], HeldOut] = {}

    def hold(self, weights: Weights, model: Model) -> None:
        """Take a model that is loaded already; `let_go` when it is to be freed."""
        self._held = (weights, model)

    def let_go(self) -> None:
        """Hold no model any more."""
        self._held = None

    def look(self, weights: Weights, number: int, tasks: Iterable[str] | None = None) -> dict[str, HeldOut]:
        """What these weights write on a look's own problems, by task; in the first look with log-probabilities."""
        names = list(self.problems if tasks is None else tasks)
        return {name: self._of(weights, f"look-{number}", name, self.problems[name].look(number)) for name in names}

    def pairs(
        self, original: Weights, candidate: Weights, number: int, tasks: Sequence[str]
    ) -> dict[str, tuple[list[float], list[float]]]:
        """Both weights' mean scores by problem, of the problems that a look adds."""
        return self._both(original, candidate, lambda weights: self.look(weights, number, tasks))

    def fresh(
        self, original: Weights, candidate: Weights, problems: Mapping[str, int]
    ) -> dict[str, tuple[list[float], list[float]]]:
        """Both weights' mean scores on so many fresh problems by task, or as many as there are; tasks that have none
        are left out."""
        chosen = {name: self.problems[name].fresh[:count] for name, count in problems.items()}

        def drawn(weights: Weights) -> dict[str, HeldOut]:
            return {name: self._of(weights, "fresh", name, examples) for name, examples in chosen.items() if examples}

        return self._both(original, candidate, drawn)

    def _both(
        self, original: Weights, candidate: Weights, drawn: Callable[[Weights], dict[str, HeldOut]]
    ) -> dict[str, tuple[list[float], list[float]]]:
        """The weights whose model is held come first, so that models are loaded half as often."""
        order = [original, candidate]
        if self._held is not None and self._held[0] == candidate:
            order.reverse()
        answers = {weights.step: drawn(weights) for weights in order}
        first, second = answers[original.step], answers[candidate.step]
        return {name: (first[name].means, second[name].means) for name in first}

    def _of(self, weights: Weights, block: str, name: str, examples: list[Example]) -> HeldOut:
        key = (weights.step, block, name)
        if key not in self._drawn:
            task, place = self.problems[name].task, self.problems[name].place
            self._drawn[key] = self._measure(
                self._model(weights),
                task,
                examples,
                self._config,
                "before" if weights.step == 0 else "after",
                self._journal.part(f"{block}/step-{weights.step}/task-{place}"),
                logprobs=block == "look-0",
            )
        return self._drawn[key]

    def _model(self, weights: Weights) -> Model:
        if self._held is None or self._held[0] != weights:
            self._held = None
            self._held = (weights, self._load(weights))
        return self._held[1]
