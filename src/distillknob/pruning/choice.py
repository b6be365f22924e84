"""Which layers stay: by their places, or by what was measured of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from distillknob.models.base import LanguageModel
from distillknob.pruning.config import PruneConfig
from distillknob.pruning.measures import angles, influences, token_losses
from distillknob.pruning.texts import Texts
from distillknob.runs.journal import Journal


@dataclass(frozen=True)
class Choice:
    """The numbers of the layers that `stay`, ascending, and what was measured of each layer: `importance` (None where
    nothing is defined, by `measure`), and the round in which it was left out, where layers were measured anew."""

    stay: list[int]
    measure: str
    importance: Mapping[int, float]
    rounds: Mapping[int, int]


def evenly(count: int, stay: int) -> list[int]:
    """Spread `stay` of the numbers 0 to `count` − 1 evenly; the first and the last are among them (of one alone, the
    first)."""
    if stay == 1:
        return [0]
    steps = stay - 1
    return [(2 * i * (count - 1) + steps) // (2 * steps) for i in range(stay)]  # rounded to the nearest


def by_place(config: PruneConfig, count: int) -> list[int]:
    """The layers of a model's `count` that stay where their places decide. Raises BadInputError as
    `PruneConfig.count_of`."""
    stay = config.count_of(count)
    if config.keep_layers is not None:
        return list(config.keep_layers)
    return evenly(count, stay) if config.by == "even" else list(range(stay))


def choose(config: PruneConfig, language_model: LanguageModel, count: int, texts: Texts, journal: Journal) -> Choice:
    """Choose the layers of a model's `count` that stay. Where their places decide, each layer's influence is measured
    too, to be told.

    Of layers that matter equally little the later one goes first.
    """
    stay = config.count_of(count)
    everyone = list(range(count))
    if not config.measures or stay == count:
        told = influences(language_model, texts, journal, "influence of each layer")
        chosen = everyone if stay == count else by_place(config, count)
        return Choice(chosen, "influence", dict(enumerate(told)), {})
    if config.by == "block":
        turned = angles(language_model, texts, count - stay, journal, f"angle across {count - stay} layers")
        start = min(range(len(turned)), key=lambda layer: (turned[layer], -layer))
        left = range(start, start + count - stay)
        return Choice([n for n in everyone if n not in left], "block", dict(enumerate(turned)), {})
    out: list[int] = []
    importance: dict[int, float] = {}
    while len(out) < count - stay:
        rest = [number for number in everyone if number not in out]
        measured = _measured(config, language_model, texts, rest, out, journal.part(f"round-{len(out)}"))
        importance |= measured
        least = sorted(rest, key=lambda number: (measured[number], -number))
        out += least[: 1 if config.iterative else count - stay]
    rounds = {number: at for at, number in enumerate(out, start=1)} if config.iterative else {}
    return Choice(sorted(set(everyone) - set(out)), config.by, importance, rounds)


def passes_over(config: PruneConfig, count: int) -> int:
    """How often `choose` reads the calibration texts, of a model with `count` layers."""
    out = count - config.count_of(count)
    if not config.measures or not out or config.by == "block":
        return 1
    rounds = out if config.iterative else 1
    return sum(1 if config.by == "influence" else 1 + count - done for done in range(rounds))


def _measured(
    config: PruneConfig,
    language_model: LanguageModel,
    texts: Texts,
    rest: Sequence[int],
    out: Sequence[int],
    journal: Journal,
) -> dict[int, float]:
    """How much each layer of `rest` matters in the model without the layers `out`."""
    step = f" without {len(out)}" if out else ""
    if config.by == "influence":
        told = influences(language_model, texts, journal, f"influence of each layer{step}", left_out=out)
        return {number: told[number] for number in rest}
    whole = _mean(token_losses(language_model, texts, journal.part("whole"), f"loss{step}", left_out=out))
    return {
        number: _mean(
            token_losses(
                language_model,
                texts,
                journal.part(f"layer-{number}"),
                f"loss{step} without layer {number}",
                left_out=[*out, number],
            )
        )
        - whole
        for number in rest
    }


def _mean(losses: Sequence[Sequence[float]]) -> float:
    return sum(map(sum, losses)) / sum(map(len, losses))
