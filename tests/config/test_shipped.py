"""Recipes by name: found, copied, and what an unknown one is told."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from distillknob.attacks.suite import suite_names
from distillknob.cli.main import main
from distillknob.config.shipped import (
    copy_recipe,
    find_accelerate,
    find_recipe,
    first_comment,
    recipe_path,
)
from distillknob.errors import BadInputError

ROOT = Path(__file__).parents[2]


NAMES = sorted(path.stem for path in (ROOT / "recipes").glob("*.yaml"))


def test_a_shipped_name_is_a_file_of_the_folder() -> None:
    assert recipe_path("embedded").samefile(ROOT / "recipes" / "embedded.yaml"), "one copy"
    assert find_accelerate("ddp-8gpu").samefile(ROOT / "recipes" / "accelerate" / "ddp-8gpu.yaml")


def test_a_file_goes_before_a_shipped_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_recipe("quick") == recipe_path("quick") == find_recipe("quick.yaml")
    Path("quick").write_text("seed: 1\n")
    assert find_recipe("quick") == Path("quick")
    assert find_recipe("nowhere/quick.yaml") == Path("nowhere/quick.yaml")  # a path, for the reader to refuse


@pytest.mark.parametrize("words", [["recipe", "show", "qwen-math"], ["calibrate", "--config", "qwen-math"]])
def test_an_unknown_recipe_is_told_the_nearest(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "'qwen3-math'" in err and "embedded" in err


def test_an_unknown_accelerate_configuration_is_told_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--dry-run", "--accelerate", "fsdp-8gpu"]) == 2
    assert "'fsdp2-8gpu'" in capsys.readouterr().err


def test_a_recipe_is_listed_shown_and_copied(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["recipe", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == NAMES
    assert all(first_comment(recipe_path(line.split()[0])) in line for line in lines)
    assert main(["recipe", "show", "quick"]) == 0
    assert capsys.readouterr().out == recipe_path("quick").read_text()
    assert main(["recipe", "copy", "quick"]) == 0
    assert capsys.readouterr().out == "quick.yaml\n"
    assert Path("quick.yaml").read_text() == recipe_path("quick").read_text()
    assert main(["recipe", "copy", "quick"]) == 2
    assert "quick.yaml is there already" in capsys.readouterr().err
    assert main(["recipe", "show"]) == 2
    assert "needs a name" in capsys.readouterr().err
    assert copy_recipe("quick", tmp_path / "mine.yaml").exists()
    with pytest.raises(BadInputError, match="can't write"):
        copy_recipe("quick", tmp_path / "no" / "such" / "mine.yaml")


def test_a_recipe_whose_models_can_t_be_reached_gets_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["distill", "--config", "qwen3-math", "--tasks", "math", "--output", str(tmp_path / "run")]
    assert main(words) == 2
    err = capsys.readouterr().err
    assert err.count("error: ") == 1 and "'Qwen/Qwen3-8B'" in err and "hf download" in err
    assert not (tmp_path / "run").exists()


def test_what_is_only_for_a_dry_run_is_refused_without_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "--gpu", "h100"]) == 2
    assert "add --dry-run" in capsys.readouterr().err


@pytest.mark.slow
def test_a_wheel_holds_every_recipe_once(tmp_path: Path) -> None:
    """Built as pip builds it, by the backend that pyproject.toml names."""
    pytest.importorskip("setuptools")
    code = "from setuptools import build_meta; import sys; print(build_meta.build_wheel(sys.argv[1]))"
    copy = tmp_path / "source"
    copy.mkdir()
    shutil.copytree(ROOT / "src", copy / "src", symlinks=True, ignore=shutil.ignore_patterns("*.egg-info"))
    shutil.copytree(ROOT / "recipes", copy / "recipes")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=copy, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    modules = [path.relative_to(ROOT / "src").as_posix() for path in (ROOT / "src").rglob("*.py")]
    assert sorted(name for name in names if name.endswith(".py")) == sorted(modules)
    held = [name for name in names if name.endswith(".yaml")]
    wanted = [str(path.relative_to(ROOT)) for path in sorted((ROOT / "recipes").rglob("*.yaml"))]
    suites = [f"distillknob/attacks/suites/{name}.yaml" for name in suite_names()]
    assert sorted(held) == sorted([*suites, *(f"distillknob/{name}" for name in wanted)])
