"""Every recipe in recipes/ runs end to end: two steps of everything, on tiny models, found without being named here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from distillknob.config import read_recipe
from distillknob.demo import DemoConfig, demo
from distillknob.errors import BadInputError
from distillknob.runs import load_run, verify_manifest

RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("*.yaml"))
CUT = {
    "diagnose": {"problems": 4, "samples": 1, "candidates": 2},
    "calibrate": {
        "problems": 8,
        "max_steps": 2,
        "num_generations": 2,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "guard_problems": 3,
        "guard_samples": 2,
        "utility_tolerance": 0.9,
    },
    "distill": {
        "problems": 8,
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "candidates": 2,
        "curve_steps": 2,
        "tokens_per_step": 8,
    },
    "evaluate": {"problems": 4, "samples": 2},
}


def cut(recipe: dict[str, Any], pair: Any) -> dict[str, Any]:
    """The recipe with tiny models and sizes; everything else (methods, losses, η, tasks) stays as it is."""
    small = dict(recipe)
    for name, folder in (("teacher", pair.teacher), ("student", pair.student), ("target", pair.student)):
        small[name] = folder
    for stage, sizes in CUT.items():
        section = {**(recipe.get(stage) or {}), **sizes}
        for name in ("teacher", "student", "target", "models"):
            section.pop(name, None)
        small[stage] = section
    return small


def test_a_teacher_needs_a_problem_to_be_compared_on() -> None:
    with pytest.raises(BadInputError, match="teacher_samples=0: must be at least 1"):
        DemoConfig(teacher_samples=0)


def test_there_is_a_recipe() -> None:
    assert RECIPES


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_s_demo_runs_end_to_end(
    path: Path, tiny_pair: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distillknob.experiment.CURVE_PROBLEMS", 4)
    recipe = cut(read_recipe(path), tiny_pair)
    config = DemoConfig(**{**(recipe.get("demo") or {}), "teacher_problems": 5, "teacher_samples": 1})
    run = demo(config, recipe, tmp_path / "run")
    result = run.result
    assert run.complete and verify_manifest(run.path) == []
    assert (run.path / "report.html").stat().st_size > 1000
    tasks = recipe["tasks"]
    assert result["tasks"] == tasks
    assert {(r["teacher"], r["task"]) for r in result["teachers"]} == {
        (teacher, task) for teacher in ("original", "distillable", "undistillable") for task in tasks
    }
    assert {(row["n_problems"], row["n_samples"]) for row in result["teachers"]} == {(5, 1)}
    assert {(row["n_problems"], row["n_samples"]) for row in result["students"]} == {(4, 2)}
    for row in result["teachers"]:
        assert row["interval"][0] <= row["score"] <= row["interval"][1]
        assert (row["difference"] is None) == (row["teacher"] == "original")
    wanted = {("none", "none", task) for task in tasks} | {
        (teacher, method, task)
        for teacher in ("original", "distillable", "undistillable")
        for method in config.methods
        for task in tasks
    }
    assert {(r["teacher"], r["method"], r["task"]) for r in result["students"]} == wanted
    for row in result["students"]:
        assert {"eta", "seed", "pass@1", "pass@16", "interval"} <= row.keys()
        assert 0 <= row["pass@1"] <= 1
    # Same tokens, steps and learning rate for every student of a method.
    for method in config.methods:
        rows = [row for row in result["students"] if row["method"] == method]
        assert len({(row["tokens"], row["steps"], row["learning_rate"]) for row in rows}) == 1
    etas = {row["teacher"]: row["eta"] for row in result["teachers"]}
    assert etas["distillable"] == config.eta_distillable < 0 < config.eta_undistillable == etas["undistillable"]
    for name in ("distillable", "undistillable"):
        assert load_run(run.path / result["runs"]["calibrate"][name]).result["eta"] == etas[name]
    for named in result["runs"].values():
        for folder in [named] if isinstance(named, str) else named.values():
            assert load_run(run.path / folder).complete
    shown = {(entry["task"], entry["prompt"]): entry for entry in result["examples"]}
    assert len(shown) == len(tasks) * min(config.examples, 4)
    assert all(len(entry["answers"]) == 4 + 3 * len(config.methods) for entry in shown.values())
    # A second demo shows what is there.
    assert json.dumps(demo(config, recipe, tmp_path / "run", resume=True).result) == json.dumps(result)


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parent.parent / "recipes" / "accelerate").glob("*.yaml")), ids=lambda path: path.stem
)
def test_accelerate_s_own_loader_reads_its_configurations(path: Path) -> None:
    """That they parse and know no field that Accelerate doesn't; none has been run on GPUs here."""
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))
    assert config.num_processes == 8 * config.num_machines and config.mixed_precision == "bf16"
    assert path.name in path.read_text(), "its comment names the command"
