"""The grid of a method's parts, walked: each pair of values is refused with a reason, or can be trained.

A pair stands on a method and a share of own samples that a hash of it draws, so that nobody has chosen what goes
together. Of those that are taken the dry run counts what they would do, and a sample, drawn likewise, is trained.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from distilling import config
from distillknob.distillation import stage
from distillknob.distillation.check import check
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.edits import EDITS
from distillknob.distillation.losses import LOSSES
from distillknob.distillation.parts import PartsAlone
from distillknob.distillation.queries import QUERIES
from distillknob.distillation.selection import SELECTIONS
from distillknob.distillation.soft_targets import SOFT_TARGETS
from distillknob.distillation.sources import MIXES
from distillknob.distillation.teacher_context import CONTEXTS
from distillknob.distillation.teachers import TEACHERS
from distillknob.distillation.token_choice import CHOICES
from distillknob.distillation.token_weights import TOKEN_WEIGHTS
from distillknob.distillation.traces import SOURCES
from distillknob.distillation.trainer import DistillTrainer
from distillknob.errors import BadInputError
from distillknob.inputs.preflight import Preflight
from distillknob.methods import METHODS, Method
from distillknob.planning.hardware import GPUS, Engine
from distillknob.planning.workload import workload
from distillknob.tasks import get_task
from distillknob.tasks.generated.math import Math
from pairs import Pair

PARTS: dict[str, tuple[Any, ...]] = {
    "divergence": tuple(LOSSES),
    "context": tuple(CONTEXTS),
    "teacher_weights": TEACHERS,
    "traces": SOURCES,
    "selection": SELECTIONS,
    "token_weights": tuple(TOKEN_WEIGHTS),
    "tokens": tuple(CHOICES),
    "edit": tuple(EDITS),
    "soft_target": tuple(SOFT_TARGETS),
    "query_weights": tuple(QUERIES),
    "sources": tuple(MIXES),
    "first": ("none", "sft_gold", "gkd"),
    "num_generations": (1, 2),
    "tokens_per_step": (21,),
    "temperature": (2.0,),
    "dp_noise": (0.5,),
}
WALKS, TRAINED = 6, 4  # parts of the walk, and how many a part of those that are taken are trained
Values = dict[str, Any]


def drawn(what: object, count: int) -> int:
    """A number below `count` that follows from the text of this."""
    return int.from_bytes(hashlib.sha256(repr(what).encode()).digest()[:8], "big") % count


def pairs() -> Iterator[Values]:
    """Each pair of values of two parts, once, on a method and with a share of own samples."""
    methods = list(METHODS)
    shares: tuple[Values, ...] = ({}, {"lmbda": 0.0}, {"lmbda": 1.0})
    for (one, ours), (other, theirs) in itertools.combinations(PARTS.items(), 2):
        for value, more in itertools.product(ours, theirs):
            pair = {one: value, other: more}
            yield {"method": methods[drawn(pair, len(methods))], **pair, **shares[drawn((pair, "share"), 3)]}


@dataclasses.dataclass(frozen=True)
class Around:
    """What some values need beside themselves: files and models."""

    pair: Pair
    folder: Path

    @classmethod
    def of(cls, pair: Pair, folder: Path) -> Around:
        """With the files written."""
        task = get_task("math")
        rows = [{"prompt": task.messages(e), "completion": e.gold_solution} for e in task.examples("train", 16)]
        (folder / "traces.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        (folder / "skills.jsonl").write_text(json.dumps({"task": "math", "skill": "Add."}))
        (folder / "private.txt").write_text("[0-9]\n")
        return cls(pair, folder)

    def config(self, values: Values) -> DistillConfig:
        """The config of these parts, and what they need."""
        objective = objective_of(values)
        needed: dict[str, Values] = {
            "file": {"traces_file": str(self.folder / "traces.jsonl")},
            "skill": {"skills": str(self.folder / "skills.jsonl")},
            "private_tokens": {"private": str(self.folder / "private.txt")},
            "routed": {"teachers": {"math": self.pair.teacher}},
            "averaged": {"teachers": {"a": self.pair.teacher, "b": self.pair.student}},
            "robust": {"options": {"wrong_share": 0.25}},
        }
        more: Values = {}
        for part in (objective.traces, objective.context, objective.soft_target, objective.teacher, objective.queries):
            more |= needed.get(part, {})
        first = values.get("first", objective.first) not in ("none", None)
        steps = 4 if first or objective.loss == "own_past" else 2
        size = {"problems": 16, "max_completion_length": 24, "per_device_train_batch_size": 8, "max_steps": steps}
        return config(self.pair, **{**size, "tasks": ["math"], "target": self.pair.teacher, **more, **values})


def objective_of(values: Values) -> Method:
    named = {field.name for field in dataclasses.fields(PartsAlone)}
    return PartsAlone(**{name: value for name, value in values.items() if name in named}).objective


class Confident(DistillTrainer):
    """Whose student says behind each answer how sure it is."""

    def _rolled_out(self, prompt_ids: Any) -> list[list[int]]:
        rows, ends = super()._rolled_out(prompt_ids), self.eos_token_ids
        said = self._tokenizer(" Confidence: 0.9", add_special_tokens=False)["input_ids"]
        self.sampled_logprobs = None  # which knows of other tokens
        return [[*(one for one in row if one not in ends), *said, ends[0]] for row in rows]


class EvenMath(Math):
    """Sums of which an answer of even length is right: half of all."""

    def grade(self, completion: str, reference: Any) -> float:
        return float(len(completion) % 2 == 0)


def is_a_reason(told: str, values: Values) -> bool:
    """Does a refusal name one of the parts by its value, and say more?"""
    objective: Mapping[str, Any] = vars(objective_of(values))
    parts = {str(value) for value in (*objective.values(), *values.values()) if isinstance(value, str)}
    numbers = ("lmbda", "num_generations", "temperature", "tokens_per_step", "dp_noise")
    return len(told) > 40 and any(name in told for name in (*parts, *numbers))


@pytest.mark.parametrize("walk", [0, *(pytest.param(n, marks=pytest.mark.slow) for n in range(1, WALKS))])
def test_each_pair_of_parts_is_refused_with_a_reason_or_trains(
    tiny_pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, walk: int
) -> None:
    around, preflight = Around.of(tiny_pair, tmp_path), Preflight(1)
    taken: list[tuple[Values, DistillConfig]] = []
    for values in (one for one in pairs() if drawn((one, "walk"), WALKS) == walk):
        try:
            settings = around.config(values)
            check(settings, preflight)
        except BadInputError as error:
            assert is_a_reason(str(error), values), f"{values}: {error}"
            continue
        taken.append((values, settings))
        assert workload("distill", settings, Engine(GPUS["h100"])).phases, values
    assert len(taken) > 100
    monkeypatch.setattr(stage, "graded_tasks", lambda names: [EvenMath()])
    monkeypatch.setattr(stage, "get_tasks", lambda names: [EvenMath()])
    for number, (values, settings) in enumerate(sorted(taken, key=lambda one: drawn(one[0], 2**60))[:TRAINED]):
        run = stage.distill(settings, tmp_path / f"run-{number}", trainer_class=Confident)
        assert run.result["steps"] == settings.max_steps, values
