"""Commands to copy: they name the recipe, leave out what it says anyway, and write where nothing is yet."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from distillknob.cli.main import main, whole_parser
from distillknob.runs.commands import StartedWith, command, current_recipe, recipe_of, started_with, unused
from distillknob.runs.provenance import environment
from distillknob.runs.run import Run


def test_a_command_names_the_recipe_and_what_it_does_not_say() -> None:
    recipe = StartedWith("my.yaml", {"teacher": "./t", "tasks": ["math"]})
    flags: dict[str, Any] = {"teacher": "./t", "student": "./s", "tasks": ("math",), "eta": -0.25, "target": None}
    assert command("distill", recipe=recipe, output=Path("runs/a b"), **flags) == (
        "distillknob distill my.yaml --student=./s --eta=-0.25 --output 'runs/a b'"
    )
    assert command("distill", **flags) == ("distillknob distill --teacher=./t --student=./s --tasks math --eta=-0.25")
    other = command("distill", recipe=recipe, teacher="./other", tasks=["math", "qa"])
    assert other == "distillknob distill my.yaml --teacher=./other --tasks math qa"
    assert command("gate", "runs/a", policy="first-look", tasks=[]) == "distillknob gate runs/a --policy=first-look"


def test_a_mapping_is_json_that_the_command_line_reads_again() -> None:
    line = command("distill", chat_template_kwargs={"enable_thinking": False}, method="gkd")
    arguments = whole_parser().parse_args(shlex.split(line)[1:])
    assert arguments.chat_template_kwargs == '{"enable_thinking": false}'


def test_a_run_keeps_the_recipe_that_it_was_started_with(tmp_path: Path) -> None:
    assert current_recipe() is None and recipe_of(environment()) is None
    recipe = {
        "teacher": "./t",
        "student": "./s",
        "tasks": ["math"],
        "max_completion_length": 96,
        "distill": {"student": "./another"},
    }
    with started_with("my.yaml", recipe):
        run = Run.open(tmp_path / "run", "diagnose", {"teacher": "./t"})
        kept = recipe_of(environment())
    assert kept is not None and kept.name == "my.yaml"
    # A section says the student anew, so that the recipe doesn't say one student to all stages.
    assert "student" not in kept.says and kept.says["tasks"] == ["math"] and "max_completion_length" not in kept.says
    assert run.path.exists() and current_recipe() is None
    with started_with(None, {}):
        assert recipe_of(environment()) is None


def test_records_of_other_forms_are_no_recipe() -> None:
    assert recipe_of({}) is None and recipe_of({"recipe": "my.yaml"}) is None and recipe_of({"recipe": {}}) is None
    assert recipe_of({"recipe": {"name": "my.yaml", "says": 3}}) == StartedWith("my.yaml", {})


def test_a_directory_that_is_there_is_not_written_into(tmp_path: Path) -> None:
    assert unused(tmp_path / "run") == tmp_path / "run"
    for name in ("run", "run-2"):
        (tmp_path / name).mkdir()
    assert unused(tmp_path / "run") == tmp_path / "run-3"


def test_the_command_line_tells_the_run_its_recipe(tmp_path: Path, capsys: object) -> None:
    recipe = tmp_path / "my.yaml"
    recipe.write_text("teacher: zoo:teacher\nstudent: zoo:student\ntasks: [math]\n", encoding="utf-8")
    words = ["diagnose", str(recipe), "--problems", "2", "--samples", "1", "--candidates", "1", "--knob-samples", "0"]
    assert main([*words, "--gradient-problems", "0", "--output", str(tmp_path / "run")]) == 0
    from distillknob.runs.files import read_json

    kept = recipe_of(read_json(tmp_path / "run" / "environment.json"))
    assert kept is not None and kept.name == str(recipe) and kept.says["student"] == "zoo:student"
