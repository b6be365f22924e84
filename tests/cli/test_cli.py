"""The command line, in-process: what each bad input is told, and what goes to stdout, to stderr and to the disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from commands import SMALL, command, models, refused
from distillknob.cli.main import main
from distillknob.stages import EXPERIMENTS, STAGES
from pairs import Pair

# Bad input


def test_a_checkpoint_that_is_not_there(tiny_pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "run"
    for stage, flag in (("calibrate", "--teacher"), ("distill", "--student"), ("diagnose", "--teacher")):
        told = refused(capsys, stage, *models(stage, tiny_pair), flag, "/no/such", "--output", output)
        assert "no checkpoint folder '/no/such': give an existing folder" in told
    assert "'/no/such'" in refused(capsys, "evaluate", "--models", "/no/such", "--output", output)
    assert not output.exists()


@pytest.mark.parametrize(
    ("stage", "flags", "what"),
    [
        ("calibrate", ["--eta", "nan"], "eta"),
        ("calibrate", ["--eta", "inf"], "eta"),
        ("calibrate", ["--eta=-inf"], "eta"),
        ("calibrate", ["--eta", "half"], "eta"),
        ("calibrate", ["--num_generations", "1"], "num_generations=1: a group of one has no z-score"),
        ("calibrate", ["--temperature", "0.5"], "temperature=0.5"),
        ("calibrate", ["--bf16"], "bf16: this machine has no GPU"),
        ("distill", ["--fp16"], "fp16: this machine has no GPU"),
        ("distill", ["--lmbda", "2"], "lmbda=2.0"),
        ("distill", ["--method", "gdk"], "gkd"),
        ("distill", ["--tasks", "maths"], "did you mean 'math'"),
        ("evaluate", ["--problems", "0"], "problems=0"),
        ("evaluate", ["--problems", "many"], "problems"),
        ("diagnose", ["--ks", "0"], "ks=[0]"),
        ("demo", ["--eta_distillable", "0.5"], "eta_distillable=0.5"),
        ("sweep", ["--etas", "0.5", "nan"], "etas"),
        ("sweep", ["--etas", "0.5", "0.5"], "etas=[0.5, 0.5]: want different, finite values"),
    ],
)
def test_a_value_that_cannot_work(
    tiny_pair: Pair,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stage: str,
    flags: list[str],
    what: str,
) -> None:
    monkeypatch.setattr("distillknob.training.config.multiplies_bfloat16", lambda: False)
    assert what in refused(capsys, stage, *models(stage, tiny_pair), *flags, "--output", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("calibrate:\n  learning_rat: 1.0e-3\n", "calibrate has no field 'learning_rat', did you mean 'learning_rate'"),
        ("teecher: x\n", "'teecher', did you mean 'teacher'"),
        ("calibrat:\n  eta: 0.5\n", "'calibrat', did you mean 'calibrate'"),
        ("report: {}\n", "no stage has the recipe's field 'report'"),
        ("calibrate: {recipe: {}}\n", "calibrate has no field 'recipe'"),
        ("calibrate: [1, 2]\n", "section calibrate is [1, 2]"),
        ("calibrate:\n  eta: [\n", "line"),
        ("calibrate:\n  eta: .nan\n", "eta"),
        ("- a\n- b\n", "must hold `name: value` lines"),
        ("", "is empty"),
    ],
)
def test_a_recipe_that_cannot_be_used(
    tiny_pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, what: str
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text)
    told = refused(
        capsys, "calibrate", *models("calibrate", tiny_pair), "--config", recipe, "--output", tmp_path / "run"
    )
    assert what in told
    assert not (tmp_path / "run").exists()


def test_an_experiment_checks_the_sections_of_its_stages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("distill:\n  learning_rat: 1.0e-3\n")
    for stage in EXPERIMENTS:
        told = refused(capsys, stage, "--config", recipe, "--output", tmp_path / "run")
        assert "distill has no field 'learning_rat', did you mean 'learning_rate'" in told
    recipe.write_text("calibrate:\n  num_generations: 1\n")
    assert "num_generations=1" in refused(capsys, "demo", "--config", recipe, "--output", tmp_path / "run")
    recipe.write_text("demo:\n  methods: [gdk]\n")
    assert "'gdk'" in refused(capsys, "demo", "--config", recipe, "--output", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_recipe_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert "there is no recipe /no/recipe.yaml" in refused(capsys, "demo", "--config", "/no/recipe.yaml")
    assert "there is no recipe /no/recipe.yaml" in refused(capsys, "sweep", "/no/recipe.yaml")
    assert "two recipes, a.yaml and --config b.yaml" in refused(capsys, "sweep", "a.yaml", "--config", "b.yaml")


def test_a_recipe_behind_a_flag_of_several_values_is_told_where_it_belongs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "my.yaml"
    recipe.write_text("teacher: zoo:teacher\n")
    told = refused(capsys, "evaluate", "--models", "zoo:student", recipe)
    assert f"--models takes all words behind it, and so {recipe} too" in told
    assert f"write the recipe first, `distillknob evaluate {recipe} …`" in told
    assert "--tasks takes all words" in refused(capsys, "diagnose", "--tasks", "math", "other.yml")
    # A task file has its kind before it, and a recipe in its place leaves nothing to tell.
    task = refused(capsys, "diagnose", "--tasks", f"own:{tmp_path / 'task.yaml'}")
    assert "takes all words" not in task and "can't read" in task


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_takes_a_recipe_by_both_forms_alike(
    stage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "my.yaml"
    recipe.write_text(f"{stage}: {{no_such_field: 1}}\n")
    told = [refused(capsys, stage, *form, "--dry-run") for form in ((recipe,), ("--config", recipe))]
    assert told[0] == told[1] and "no_such_field" in told[0]


def test_an_unknown_command_is_told_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    told = refused(capsys, "calibrte")
    assert "no command 'calibrte', did you mean 'calibrate'" in told
    assert all(stage in told for stage in STAGES)


def test_an_unknown_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--problms" in refused(capsys, "evaluate", "--problms", "5", "--output", tmp_path / "run")
    assert "--problem" in refused(capsys, "evaluate", "--problem", "5")  # an abbreviation may be a typo
    assert "--output_dir" in refused(capsys, "calibrate", "--output_dir", tmp_path)  # --output is the one way


def test_the_value_of_a_bool_is_no_recipe_and_a_recipe_is_no_value(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = ["--output", tmp_path / "run", "--method", "gdk"]  # which is refused once the command line is read
    for word in ("false", "True", "no", "1"):
        told = refused(capsys, "distill", "--gradient-checkpointing", word, *output)
        assert "did you mean 'gkd'" in told
    assert "there is no recipe my.yaml" in refused(capsys, "distill", "--use-peft", "my.yaml", *output)
    assert "there is no recipe false" in refused(capsys, "distill", "--no-use-peft", "false", *output)


def test_an_output_directory_that_holds_something_else(
    tiny_pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags: list[str | Path] = ["evaluate", *models("evaluate", tiny_pair), "--tasks", "qa", *SMALL]
    assert command(*flags, "--output", tmp_path / "run") == 0
    capsys.readouterr()
    kept = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    told = refused(capsys, *flags, "--seed", "5", "--output", tmp_path / "run")
    assert "another config" in told and "seed" in told and "choose another --output" in told
    told = refused(capsys, "diagnose", *models("diagnose", tiny_pair), *SMALL, "--output", tmp_path / "run")
    assert "holds a run of evaluate, not of diagnose" in told
    assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir()} == kept
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    assert "thesis.txt" in refused(capsys, *flags, "--output", tmp_path / "mine")
    (tmp_path / "file").write_text("x")
    assert "is a file: give a directory" in refused(capsys, *flags, "--output", tmp_path / "file")


def test_a_bad_line_of_a_task_file(tiny_pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = tmp_path / "task.jsonl"
    task.write_bytes(b'{"prompt": "a", "reference": "b"}\n{"prompt": "a"}\n')
    flags: list[str | Path] = [
        "evaluate",
        *models("evaluate", tiny_pair),
        "--tasks",
        f"jsonl:{task}",
        "--output",
        tmp_path / "run",
    ]
    assert "line 2: no reference" in refused(capsys, *flags)
    assert not (tmp_path / "run").exists()


def test_a_report_over_several_runs_names_what_to_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", "runs/a", "runs/b", "runs/c"]) == 2
    told = capsys.readouterr().err
    assert "diagnose --compare runs/a runs/b runs/c" in told and "evaluate --models" in told and "sweep" in told


def test_a_report_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no run directory" in refused(capsys, "report", tmp_path / "none")
    assert "is no run directory" in refused(capsys, "report", tmp_path)


def test_an_unknown_embedded_checkpoint_to_build(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = refused(capsys, "zoo", "build", "--only", "techer", "--output", tmp_path / "zoo")
    assert "'techer', did you mean 'teacher'" in told


def test_a_cell_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = refused(capsys, "sweep", "--etas", "0", "--seeds", "0", "--cell", "5", "--output", tmp_path / "run")
    assert "cell 5: this sweep has cells 0 to 0" in told
    assert not (tmp_path / "run").exists()


def test_a_run_that_fails_after_a_good_start_exits_with_1(
    tiny_pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from distillknob.errors import RunFailedError
    from distillknob.evaluation import stage as evaluate

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise RunFailedError("the disk is full")

    monkeypatch.setattr(evaluate, "evaluate", fail)
    assert command("evaluate", *models("evaluate", tiny_pair), "--output", tmp_path / "run") == 1
    out, err = capsys.readouterr()
    first, *rest = err.splitlines(keepends=True)  # what the command is about, for a log file
    assert first.startswith("evaluate: ") and (out, rest) == ("", ["failed: the disk is full\n"])


# Results


def test_stdout_holds_only_the_result(tiny_pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["evaluate", *models("evaluate", tiny_pair), "--tasks", "qa", *SMALL, "--output", tmp_path / "run"]
    assert command(*flags, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result == json.loads((tmp_path / "run" / "result.json").read_text())
    assert [entry["model"] for entry in result["models"]] == [tiny_pair.teacher, tiny_pair.student]
    assert command(*flags) == 0  # the finished run again, as a table
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["model", "task"] and set(lines[1]) <= {"-", " "}
    assert f"run: {tmp_path / 'run'}" in lines and lines[-1].startswith("    distillknob ")
    assert sum(line.startswith(tiny_pair.teacher) for line in lines) == 1


@pytest.mark.parametrize("stage", ["calibrate", "distill", "diagnose"])
def test_a_stage_runs_from_a_recipe_and_prints_json_alone(
    tiny_pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str], stage: str
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"teacher: {tiny_pair.teacher}\nstudent: {tiny_pair.student}\ntarget: {tiny_pair.student}\ntasks: [qa]\n"
        "problems: 4\nmax_steps: 1\nper_device_train_batch_size: 4\nlearning_rate: 1e-3\n"
        "calibrate: {num_generations: 2, guard: false, guard_problems: 2, guard_samples: 1}\n"
        "distill: {method: sft_gold}\n"
    )
    assert command(stage, "--config", recipe, "--output", tmp_path / "run", "--seed", "3", "--json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["stage"] == stage  # nothing but the result: no bar, no dict of metrics
    assert "Traceback" not in err
    assert "seed: 3" in (tmp_path / "run" / "config.yaml").read_text()
    # The flag went before the recipe, and the finished run answers for the same command.
    assert command(stage, "--config", recipe, "--output", tmp_path / "run", "--seed", "3") == 0
    assert str(tmp_path / "run") in capsys.readouterr().out


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    from distillknob import __version__

    assert command("--version") == 0
    assert capsys.readouterr().out == f"{__version__}\n"
