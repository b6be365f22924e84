"""A dry run that doesn't fit says what would, and a new recipe is one that fits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from distillknob.calibration.config import CalibrationConfig
from distillknob.cli.main import main
from distillknob.diagnosis.config import DiagnoseConfig
from distillknob.distillation.config import DistillConfig
from distillknob.errors import BadInputError
from distillknob.models.architecture import architecture
from distillknob.planning.fitting import changed, fitting, memory, room, roomier
from distillknob.planning.hardware import GPUS, Engine
from distillknob.planning.memory import MARGIN
from distillknob.planning.new_recipe import new_recipe
from pairs import Pair

H100 = Engine(GPUS["h100"])
SIZES: dict[str, Any] = {"tasks": ["bigmath-4"], "max_completion_length": 1024}
LARGE: dict[str, Any] = {"teacher": "Qwen/Qwen3-8B", "target": "Qwen/Qwen3-0.6B", **SIZES}
PAIR: dict[str, Any] = {"teacher": "Qwen/Qwen3-8B", "student": "Qwen/Qwen3-1.7B", **SIZES}


def test_what_fits_is_left_as_it_is() -> None:
    found = fitting("distill", DistillConfig(**PAIR, use_peft=True, per_device_train_batch_size=2), H100)
    assert found is not None and found.settings == {}


def test_the_mildest_changes_that_fit_are_told() -> None:
    config = CalibrationConfig(
        **LARGE, per_device_train_batch_size=128, gradient_checkpointing=False, learning_rate=1e-6
    )
    found = fitting("calibrate", config, H100)
    assert found is not None and found.total <= room(H100)
    assert found.settings["use_peft"] and "max_completion_length" not in found.settings
    rows = found.settings["per_device_train_batch_size"] * found.settings["gradient_accumulation_steps"]
    assert rows == 128  # as many samples to a step as before
    for name in found.settings:  # and each of them is needed
        if name != "gradient_accumulation_steps":
            fewer = {key: value for key, value in found.settings.items() if key != name}
            assert memory("calibrate", changed(config, fewer), H100) > room(H100)


def test_gradients_are_left_out_where_they_alone_are_too_much() -> None:
    few: dict[str, Any] = {"problems": 2, "samples": 2, "candidates": 2, "max_new_tokens": 64}
    diagnosis = DiagnoseConfig(teacher="Qwen/Qwen3-8B", student="Qwen/Qwen3-1.7B", tasks=["bigmath-4"], **few)
    compared, left_out = (memory("diagnose", changed(diagnosis, {"gradient_problems": n}), H100) for n in (50, 0))
    between = (compared + left_out) / 2 / (1 - MARGIN)
    found = fitting("diagnose", diagnosis, Engine(replace(GPUS["h100"], memory=between)))
    assert left_out < compared and found is not None and found.settings == {"gradient_problems": 0}


def test_where_nothing_fits_the_next_gpu_is_told() -> None:
    config, small = CalibrationConfig(**LARGE), Engine(GPUS["t4"])
    assert fitting("calibrate", config, small) is None
    (name, settings), *_ = roomier("calibrate", config, small)
    fit = fitting("calibrate", config, Engine(GPUS[name]))
    assert settings and fit is not None and fit.settings == settings
    assert all(
        fitting("calibrate", config, Engine(device)) is None
        for device in GPUS.values()
        if device.memory < GPUS[name].memory
    )


def test_a_dry_run_that_does_not_fit_exits_with_2_and_says_what_would(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["calibrate", "--teacher", "Qwen/Qwen3-8B", "--target", "Qwen/Qwen3-0.6B", "--tasks", "bigmath-4"]
    words += ["--learning-rate", "1e-6", "--per-device-train-batch-size", "64", "--dry-run", "--gpu"]
    assert main([*words, "h100"]) == 2
    told = capsys.readouterr().out
    line = next(line for line in told.splitlines() if "would fit with" in line)
    flags = line.partition("would fit with ")[2].partition(":")[0].split()
    assert "DOES NOT FIT" in told and "--use-peft" in flags
    assert main([*words, "h100", *flags]) == 0  # what is told is true
    capsys.readouterr()
    assert main([*words, "t4"]) == 2
    told = capsys.readouterr().out
    assert "doesn't fit with LoRA" in told and "calibrate would fit on" in told


@pytest.mark.parametrize(
    ("gpu", "pair", "lora"),
    [
        ("h100", ("Qwen/Qwen3-8B", "Qwen/Qwen3-1.7B", "Qwen/Qwen3-0.6B"), True),
        ("l40s", ("google/gemma-3-4b-it", "google/gemma-3-1b-it", None), True),
        ("h100", ("Qwen/Qwen3-1.7B", "Qwen/Qwen3-0.6B", None), False),
    ],
)
def test_a_new_recipe_fits_in_every_stage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], gpu: str, pair: tuple[str, str, str], lora: bool
) -> None:
    path, (teacher, student, target) = tmp_path / "mine.yaml", pair
    words = ["init", "--output", str(path), "--teacher", teacher, "--student", student, "--tasks", "bigmath-4"]
    words += ["--gpu", gpu, *(["--target", target] if target else []), *([] if lora else ["--full"])]
    assert main(words) == 0 and f"distillknob diagnose {path}" in capsys.readouterr().out
    text = path.read_text(encoding="utf-8")
    recipe = yaml.safe_load(text)
    assert (recipe["teacher"], recipe["student"], recipe["target"]) == (teacher, student, target or student)
    assert recipe["calibrate"]["use_peft"] is lora and "adam_epsilon" not in text
    assert float(recipe["calibrate"]["learning_rate"]) == (2e-5 if lora else 1e-6)
    # By what each trains: of a teacher of 1.7 B and a student of 0.6 B the second takes larger steps.
    assert float(recipe["distill"]["learning_rate"]) == (1e-4 if lora else 2e-5)
    assert ("enable_thinking" in text) == ("Qwen3" in teacher)
    assert main(["demo", "--config", str(path), "--dry-run", "--gpu", gpu]) == 0
    assert "DOES NOT FIT" not in capsys.readouterr().out
    assert main(words) == 2 and "is there already" in capsys.readouterr().err


def test_a_new_recipe_of_one_s_own_small_task_fills_its_steps(
    tiny_pair: Pair, tiny_other: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = "".join(f'{{"prompt": "Where is the lamp {i}?", "reference": "here"}}\n' for i in range(60))
    (tmp_path / "few.jsonl").write_text(lines)
    for student, method in ((tiny_pair.student, "gkd"), (tiny_other, "spans")):
        path = tmp_path / f"{method}.yaml"
        words = ["--teacher", tiny_pair.teacher, "--student", student, "--tasks", f"jsonl:{tmp_path / 'few.jsonl'}"]
        assert main(["init", "--output", str(path), *words]) == 0
        assert yaml.safe_load(path.read_text(encoding="utf-8"))["distill"]["method"] == method
        assert main(["demo", "--config", str(path), "--dry-run"]) == 0
        capsys.readouterr()


def test_the_types_that_a_new_recipe_tells_are_those_that_the_cpu_takes(
    tiny_pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = replace(GPUS["h100"], name="this machine's CPU", itemsize=4)
    pair: dict[str, Any] = {"teacher": tiny_pair.teacher, "student": tiny_pair.student, "target": None}

    def told() -> str:
        choices = new_recipe(**pair, tasks=["math"], engine=Engine(device)).choices
        return next(line for line in choices if "dtype" in line)

    assert told().endswith("dtype: float32, as this CPU takes these models")
    larger = architecture(tiny_pair.teacher).parameters
    assert architecture(tiny_pair.student).parameters < larger
    monkeypatch.setattr(
        "distillknob.models.architecture.dtype_here",
        lambda _, parameters: "bfloat16" if parameters() >= larger else "float32",
    )
    assert "dtype on this CPU: teacher bfloat16, student float32; what is trained in full is float32" in told()


def test_a_pair_that_is_too_large_is_refused_with_what_would_hold_it() -> None:
    pair: dict[str, Any] = {"teacher": PAIR["teacher"], "student": PAIR["student"], "target": None}
    pair["tasks"] = PAIR["tasks"]
    with pytest.raises(BadInputError, match=r"nothing makes it fit on 1 × RTX 4090 .*smaller models, or --gpu"):
        new_recipe(**pair, engine=Engine(GPUS["rtx4090"]), lora=True)
    with pytest.raises(BadInputError, match=r"leave out --full"):
        new_recipe(**pair, engine=H100, lora=False)
