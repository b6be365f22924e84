"""What the dry run counts of a distillation's steps is what a training does: who reads each text, and how often."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from distilling import Rewarded, config
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.losses.projection import Projection
from distillknob.distillation.stage import distill
from distillknob.planning.hardware import GPUS, Engine
from distillknob.planning.memory import footprint
from distillknob.planning.workload import workload
from pairs import Pair

ONE = Engine(GPUS["h100"])


class Reading(Rewarded):
    """Counts the texts that models read beside the student's writing: with gradients, and without."""

    read: Counter[str]

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        models = [self.model, self.teacher_model, *self.further_models.values()]
        for model in {id(one): one for one in models if one is not None}.values():
            model.base_model.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if kwargs.get("use_cache") is False:
            Reading.read["with" if torch.is_grad_enabled() else "without"] += len(kwargs["input_ids"])


@pytest.mark.parametrize(
    ("method", "values"),
    [
        ("gkd", {"lmbda": 0.0}),
        ("tip", {}),
        ("opd_pg", {"tokens": "entropy"}),
        ("entrocraft", {"num_generations": 4}),
        ("tsd_kd", {}),
        ("edge_body", {"lmbda": 0.0}),
        ("shred", {"traces": "gold"}),
        ("avsd", {}),
        ("delta_kd", {}),
        ("delta_kd", {"teacher_weights": "given"}),
        ("pi_distill", {}),
        ("pi_distill", {"options": {"alpha": 0.0}}),
        ("pi_on_policy", {}),
        ("averaged_teachers", {}),
    ],
)
def test_each_reading_of_a_step_is_counted(
    tiny_pair: Pair, tmp_path: Path, batches: Any, method: str, values: dict[str, Any]
) -> None:
    Reading.read = Counter()
    several = {"teachers": {"a": tiny_pair.teacher, "b": tiny_pair.student}} if method == "averaged_teachers" else {}
    settings = config(tiny_pair, method, tasks=["math"], max_steps=1, max_completion_length=8, **several, **values)
    phases = workload("distill", settings, ONE).phases
    distill(settings, tmp_path / "run", trainer_class=Reading)
    assert Reading.read["with"] == sum(one.rows for one in phases if one.kind == "train")
    assert Reading.read["without"] == sum(one.rows for one in phases if one.kind == "score")


def test_an_epoch_has_a_group_of_samples_for_each_problem() -> None:
    values: dict[str, Any] = {"num_train_epochs": 2, "problems": 64, "per_device_train_batch_size": 8}
    alone, groups = (
        workload("distill", DistillConfig(method="opd_rkl", num_generations=size, **values), ONE) for size in (1, 4)
    )
    assert [one.rows for one in alone.phases if one.kind == "train"] == [128]
    assert [one.rows for one in groups.phases if one.kind == "train"] == [4 * 128]


def test_a_student_that_is_read_as_it_was_is_held_once() -> None:
    for kind, held in (("start", ["teacher"]), ("given", ["teacher", "student at the start"])):
        settings = DistillConfig(method="delta_kd", teacher_weights=kind)
        assert [name for name, _ in workload("distill", settings, ONE).resident] == held


def test_weights_that_are_trained_along_and_clipped_gradients_take_memory() -> None:
    plain, projected, private = (
        footprint(workload("distill", DistillConfig(method=method, max_steps=4), ONE), ONE)
        for method in ("gkd", "projection", "dp_opd")
    )
    work = workload("distill", DistillConfig(method="projection", max_steps=4), ONE)
    (student, teacher) = (model.hidden for model in (work.models[1], work.models[0]))
    module = Projection.of("mse")(DistillConfig(method="projection")).module(student, teacher)
    assert module is not None
    along = sum(weight.numel() for weight in module.parameters())
    assert along == student * teacher
    assert projected.resident["the loss's own weights"] == 16 * along and projected.phase["projected states"] > 0
    assert private.resident["clipped gradients"] == 2 * private.resident["gradients"]
    assert not {"the loss's own weights", "clipped gradients"} & plain.resident.keys()
