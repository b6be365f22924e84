"""Attacks on open weights: what they make of the target, and that the student learns from that."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from distilling import Parity, weights
from distillknob.attacks.access import Access
from distillknob.attacks.base import Attack, NotApplicableError
from distillknob.attacks.merged import Merged
from distillknob.attacks.pruned import Pruned
from distillknob.attacks.quantised import Quantised
from distillknob.attacks.undone import Undone
from distillknob.errors import BadInputError
from distillknob.models.load import load_model
from pairs import Pair
from planted_scene import PlantedScene

LAYER = "model.layers.0.mlp.up_proj.weight"
EMBEDDINGS = "model.embed_tokens.weight"


@pytest.fixture
def scene(tiny_pair: Pair, tmp_path: Path) -> PlantedScene:
    return PlantedScene(tiny_pair.teacher, tiny_pair.student, tmp_path)


@pytest.fixture
def base(tiny_pair: Pair, tmp_path: Path) -> str:
    """The target with other weights of the same shapes."""
    loaded = load_model(tiny_pair.teacher)
    with torch.no_grad():
        for weight in loaded.model.parameters():
            weight.mul_(0.5)
    loaded.model.save_pretrained(tmp_path / "base")
    loaded.tokenizer.save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


def test_merging_takes_each_weight_part_of_the_way_to_the_base(scene: PlantedScene, base: str) -> None:
    scene.base_name = base
    Merged(share=0.25).student(scene)
    target, merged = weights(scene.teacher_name), weights(scene.distilled[0]["teacher"])
    assert target.keys() == merged.keys()
    for name, weight in target.items():
        torch.testing.assert_close(merged[name], 0.875 * weight)


def test_merging_needs_a_base_of_the_same_shapes(scene: PlantedScene) -> None:
    with pytest.raises(NotApplicableError, match="names no public model from which the target descends"):
        Merged().student(scene)
    scene.base_name = scene.student_name
    with pytest.raises(NotApplicableError, match="weights of other names or shapes than the target"):
        Merged().student(scene)
    assert not scene.distilled and not (scene.folder / "merged").exists()


def test_pruning_zeroes_the_smallest_share_of_each_matrix(scene: PlantedScene) -> None:
    Pruned(share=0.3).student(scene)
    target, pruned = weights(scene.teacher_name), weights(scene.distilled[0]["teacher"])
    before, after = target[LAYER], pruned[LAYER]
    gone = after == 0
    assert int(gone.sum()) == int(0.3 * before.numel())
    assert float(before[gone].abs().max()) <= float(before[~gone].abs().min())
    assert torch.equal(after[~gone], before[~gone])
    assert torch.equal(pruned[EMBEDDINGS], target[EMBEDDINGS])


@pytest.mark.parametrize("bits", [8, 4])
def test_rounding_leaves_a_row_as_many_values_as_its_bits_allow(scene: PlantedScene, bits: int) -> None:
    Quantised(bits).student(scene)
    target, rounded = weights(scene.teacher_name), weights(scene.distilled[0]["teacher"])
    most = 2 ** (bits - 1) - 1
    step_R1 = target[LAYER].abs().amax(1, keepdim=True) / most
    levels = rounded[LAYER] / step_R1
    torch.testing.assert_close(levels, levels.round(), atol=1e-3, rtol=0)
    assert float(levels.abs().max()) == pytest.approx(most)
    assert bool(((rounded[LAYER] - target[LAYER]).abs() <= step_R1 / 2 + 1e-6).all())
    assert torch.equal(rounded[EMBEDDINGS], target[EMBEDDINGS])


def test_what_was_written_before_a_cell_stopped_is_not_made_again(scene: PlantedScene) -> None:
    Pruned().student(scene)
    file = scene.folder / "pruned" / "model.safetensors"
    then = file.stat().st_mtime_ns
    Pruned().student(scene)
    assert file.stat().st_mtime_ns == then


@pytest.mark.parametrize("lora", [False, True])
def test_the_target_is_trained_on_public_solutions_and_then_learnt_from(scene: PlantedScene, lora: bool) -> None:
    attack = Undone("clean", clean=0.25, steps=1, lora=lora)
    attack.student(scene)
    undone = Path(scene.distilled[0]["teacher"])
    assert len((undone.parent / "samples.jsonl").read_text().splitlines()) == 2  # fewer than a step takes
    before, after = weights(scene.teacher_name), weights(undone)
    assert before.keys() == after.keys() and not torch.equal(before[LAYER], after[LAYER])
    assert attack.access == Access("weights", clean=0.25)


def test_the_target_is_trained_on_its_own_right_answers(scene: PlantedScene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distillknob.tasks.generated.qa.QA.grade", Parity.grade)
    scene.per_task = 24
    attack = Undone("verified", steps=1, candidates=8)
    attack.student(scene)
    assert not torch.equal(weights(scene.teacher_name)[LAYER], weights(scene.distilled[0]["teacher"])[LAYER])
    assert attack.access == Access("weights", labels=True)


@pytest.mark.parametrize("attack", [Undone(), Merged(), Pruned(), Quantised()])
def test_weights_behind_a_server_are_not_open(scene: PlantedScene, attack: Attack) -> None:
    scene.teacher_name, scene.base_name = "http://localhost:8000/v1#hosted", scene.student_name
    with pytest.raises(NotApplicableError, match="is behind a server"):
        attack.student(scene)


def test_settings_outside_their_range_are_refused() -> None:
    for make in (lambda: Merged(share=1.0), lambda: Pruned(share=0.0), lambda: Quantised(bits=1)):
        with pytest.raises(BadInputError, match="between"):
            make()
    with pytest.raises(BadInputError, match="data='gold': choices are clean, verified"):
        Undone("gold")  # type: ignore[arg-type]
    with pytest.raises(BadInputError, match="steps=0"):
        Undone(steps=0)
