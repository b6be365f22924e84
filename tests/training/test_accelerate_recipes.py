"""The configurations of `accelerate launch` that ship, read by Accelerate's own parser, on two and four CPU processes:
they train the weights that one process trains."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import DeepSpeedPlugin

import recipe_worker
from distillknob.models.load import load_model
from distillknob.runs.run import verify_manifest
from distillknob.training.checkpoints import check_saves_whole
from launch import launch
from pairs import Pair

RECIPES = Path(__file__).parents[2] / "recipes" / "accelerate"


def trained(
    stage: str, pair: Pair, output: Path, *, processes: int, recipe: str = "", batch: int = 8
) -> dict[str, torch.Tensor]:
    """The weights after ten steps on recorded completions, in batches of so many rows altogether."""
    settings = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    if recipe:
        settings |= recipe_worker.settings_of(RECIPES / f"{recipe}.yaml", processes)
    arguments = (stage, pair.teacher, pair.student, str(output), batch // processes, 1)
    done = launch(recipe_worker.train, arguments, output / "log", processes=processes, environment=settings)
    assert not any(done.statuses), done.stderr[-3000:]
    assert (output / "spread").exists() == recipe.startswith("fsdp")
    weights: dict[str, torch.Tensor] = torch.load(output / "weights.pt")
    return weights


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["calibrate", "gkd"])
def test_every_recipe_trains_the_weights_of_one_process(tiny_pair: Pair, tmp_path: Path, stage: str) -> None:
    one = trained(stage, tiny_pair, tmp_path / "one", processes=1)
    for recipe, processes in (("ddp-8gpu", 4), ("fsdp2-8gpu", 2), ("fsdp2-2x8gpu", 4)):
        other = trained(stage, tiny_pair, tmp_path / f"{recipe}-{processes}", processes=processes, recipe=recipe)
        assert one.keys() == other.keys()
        length = sum(float(tensor.double().square().sum()) for tensor in one.values()) ** 0.5
        apart = sum(float((one[key].double() - other[key].double()).square().sum()) for key in one) ** 0.5
        assert apart / length < 1e-5, recipe


COMMANDS = {
    "calibrate": "--teacher {0} --target {1} --eta -0.5 --no-gate --max-steps 2 --guard-steps 1 "
    "--utility-tolerance 0.9 --num-generations 2 --per-device-train-batch-size 4 --problems 8 "
    "--guard-problems 3 --guard-samples 2 --learning-rate 1e-3 --no-gradient-checkpointing --max-completion-length 8",
    "distill": "--teacher {0} --student {1} --method gkd --max-steps 2 --problems 12 --per-device-train-batch-size 4 "
    "--learning-rate 1e-3 --no-gradient-checkpointing --max-completion-length 8",
}


@pytest.mark.slow
@pytest.mark.parametrize("stage", COMMANDS)
def test_a_stage_runs_on_shared_weights(tiny_pair: Pair, tmp_path: Path, stage: str) -> None:
    """Teacher, target and what is sampled before and after the training are whole on each process."""
    words = [stage, *COMMANDS[stage].format(*tiny_pair).split(), "--output", str(tmp_path / "run")]
    settings = {"OMP_NUM_THREADS": "1", **recipe_worker.settings_of(RECIPES / "fsdp2-8gpu.yaml", 2)}
    done = launch(recipe_worker.command, (words,), tmp_path / "log", processes=2, environment=settings)
    assert not any(done.statuses), done.stderr[-5000:]
    assert verify_manifest(tmp_path / "run") == []
    start, end = (load_model(name).model for name in (tiny_pair[stage == "distill"], str(tmp_path / "run" / "model")))
    moved = [float((a - b).detach().abs().max()) for a, b in zip(start.parameters(), end.parameters(), strict=True)]
    assert 0 < max(moved) < 0.1


def test_accelerate_reads_the_deepspeed_recipe_as_one_that_leaves_a_whole_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """DeepSpeed itself isn't run here."""
    for name, value in recipe_worker.settings_of(RECIPES / "deepspeed-zero3-8gpu.yaml", 8).items():
        monkeypatch.setenv(name, value)
    plugin = DeepSpeedPlugin()
    zero = plugin.deepspeed_config["zero_optimization"]
    assert zero["stage"] == 3 and zero["stage3_gather_16bit_weights_on_model_save"] is True
    assert zero["offload_optimizer"]["device"] == zero["offload_param"]["device"] == "none"
    check_saves_whole(SimpleNamespace(state=SimpleNamespace(deepspeed_plugin=plugin)))
