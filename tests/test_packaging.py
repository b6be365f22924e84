"""What is published works by itself: the archive of the source builds, and the wheel built of it runs in a folder that
holds nothing else of this checkout. Neither needs a network."""

from __future__ import annotations

import email
import email.message
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SHIPPED = ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in", "CHANGELOG.md", "CITATION.cff", "SECURITY.md")


def built(folder: Path, what: str) -> Path:
    """The sdist or wheel of the project in `folder`, by the backend alone: a build of its own would fetch it."""
    code = f"import setuptools.build_meta as backend; print(backend.build_{what}('dist'))"
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True, capture_output=True, text=True)
    (archive,) = (folder / "dist").iterdir()
    return archive


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive of the source, of a copy: a build leaves folders behind."""
    folder = tmp_path_factory.mktemp("source")
    for name in SHIPPED:
        shutil.copy(ROOT / name, folder / name)
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    return built(folder, "sdist")


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built of what the archive holds and nothing else."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (unpacked,) = folder.iterdir()
    return built(unpacked, "wheel")


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the installed package alone."""
    folder = tmp_path_factory.mktemp("installed")
    words = ["-m", "pip", "install", "-q", "--no-deps", "--no-index", "--no-compile", "--target", str(folder)]
    subprocess.run([sys.executable, *words, str(wheel)], check=True, capture_output=True)
    return folder


def run(installed: Path, *words: str) -> str:
    """What Python prints with the installed package before all others, in a folder that has nothing."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        [sys.executable, *words], cwd=installed.parent, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_archive_has_what_a_reader_needs_and_no_tests(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {*SHIPPED, "src/distillknob/py.typed"} <= names
    assert not any(name.startswith(("tests", "docs", "runs")) for name in names)


@pytest.mark.slow
def test_the_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        about: email.message.Message = email.message_from_bytes(archive.read(metadata))
    package = ROOT / "src"
    files = {str(path.relative_to(package)) for path in (package / "distillknob").rglob("*") if path.is_file()}
    assert {name for name in files if "__pycache__" not in name} - names == set()
    assert about["License-Expression"] == "Apache-2.0" and about["Requires-Python"] == "<3.14,>=3.11"
    assert {"vllm", "ray", "dp", "dev"} <= set(about.get_all("Provides-Extra") or [])


@pytest.mark.slow
def test_what_is_installed_greets_lists_and_loads_what_ships(installed: Path) -> None:
    assert "Type next" in run(installed, "-m", "distillknob")
    assert "gkd" in run(installed, "-m", "distillknob", "methods")
    assert "qwen3-math" in run(installed, "-m", "distillknob", "recipe", "list")
    code = """
import distillknob
from distillknob.attacks.suite import read_suite, suite_names
from distillknob.config.shipped import find_accelerate, find_policy, find_recipe
from distillknob.models.load import load_model
print(distillknob.__file__)
print(load_model("zoo:student").model.num_parameters(), *(len(read_suite(name).arms) for name in suite_names()))
for path in (find_recipe("quick"), find_policy("first-look"), find_accelerate("ddp-8gpu")):
    print(path, len(path.read_text()))
"""
    place, counts, *files = run(installed, "-c", code).splitlines()
    parameters, *attacks = map(int, counts.split())
    assert Path(place).is_relative_to(installed) and parameters > 100_000 and attacks and min(attacks) > 3
    assert all(line.startswith(str(installed)) for line in files) and len(files) == 3


def test_the_citation_has_what_its_format_asks_for_and_says_what_the_project_says() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"authors", "cff-version", "message", "title"} <= citation.keys()  # required by version 1.2.0 of the format
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert citation["title"] == PROJECT["name"] and citation["license"] == PROJECT["license"]
    assert str(citation["version"]) == PROJECT["version"]
    assert [author["name"] for author in citation["authors"]] == [author["name"] for author in PROJECT["authors"]]


def test_the_changelog_begins_with_the_version_that_the_project_has() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    versions = re.findall(r"^## \[?(\d+\.\d+\.\d+)\]?", text, re.MULTILINE)
    assert versions[0] == PROJECT["version"]
    assert all(f"\n### {kind}\n" in text for kind in ("Added", "Known limits"))


def test_the_classifiers_name_the_versions_of_python_that_are_allowed() -> None:
    listed = [row.rpartition(" ")[2] for row in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", row)]
    low, high = re.findall(r"3\.(\d+)", PROJECT["requires-python"])
    assert listed == [f"3.{minor}" for minor in range(int(low), int(high))]


def test_a_commit_is_checked_by_the_tools_that_the_checks_use() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for tool in ("ruff check", "ruff format", "mypy"):
        assert f"$(BIN)/{tool}" in makefile and any(hook["entry"].startswith(f".venv/bin/{tool}") for hook in hooks)
