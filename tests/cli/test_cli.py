"""The command line, in-process: what each bad input is told, and what goes to stdout, to stderr and to the disk."""

from __future__ import annotations

import io
import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from distillknob.cli.main import main
from distillknob.cli.text import result_text
from distillknob.config.recipe import read_recipe, stage_values
from distillknob.config.shipped import find_recipe
from distillknob.runs.run import Run
from distillknob.stages import EXPERIMENTS, STAGES
from pairs import Pair

FOLDER = Path(__file__).parents[2] / "recipes"
SMALL = ["--problems", "4", "--samples", "2"]


def command(*words: object) -> int:
    """The exit status, also where argparse leaves by itself."""
    try:
        return main([str(word) for word in words])
    except SystemExit as left:
        return int(left.code or 0)


def models(stage: str, pair: Pair) -> list[str]:
    """Flags that name tiny models to a stage."""
    if stage in EXPERIMENTS:
        return []
    if stage == "evaluate":
        return ["--models", pair.teacher, pair.student]
    target = ["--target", pair.student] if stage in ("calibrate", "distill") else []
    return [
        "--teacher",
        pair.teacher,
        *([] if stage in ("calibrate", "cache") else ["--student", pair.student]),
        *target,
    ]


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """Run a command that must be refused as bad input; its one message."""
    assert command(*words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert "error: " in err
    return err


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
    tiny_pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str], stage: str, flags: list[str], what: str
) -> None:
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


def test_an_unknown_command_is_told_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    told = refused(capsys, "calibrte")
    assert "no command 'calibrte', did you mean 'calibrate'" in told
    assert all(stage in told for stage in STAGES)


def test_an_unknown_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--problms" in refused(capsys, "evaluate", "--problms", "5", "--output", tmp_path / "run")
    assert "--problem" in refused(capsys, "evaluate", "--problem", "5")  # an abbreviation may be a typo
    assert "--output_dir" in refused(capsys, "calibrate", "--output_dir", tmp_path)  # --output is the one way


def test_no_command_prints_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert command() == 2
    assert "calibrate" in capsys.readouterr().out


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
    assert main(["report", "runs/a", "runs/b"]) == 2
    told = capsys.readouterr().err
    assert "diagnose --compare runs/a runs/b" in told and "evaluate --models" in told and "sweep" in told


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
    assert lines[-1] == f"run: {tmp_path / 'run'}"
    assert sum(line.startswith(tiny_pair.teacher) for line in lines) == 1


@pytest.mark.parametrize("stage", ["calibrate", "distill", "diagnose"])
def test_a_stage_runs_from_a_recipe_and_prints_json_alone(
    tiny_pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str], stage: str
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"teacher: {tiny_pair.teacher}\nstudent: {tiny_pair.student}\ntarget: {tiny_pair.student}\ntasks: [qa]\n"
        "problems: 4\nmax_steps: 1\nper_device_train_batch_size: 4\nlearning_rate: 1e-3\n"
        "calibrate: {num_generations: 2, guard_problems: 2, guard_samples: 1}\ndistill: {method: sft_gold}\n"
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


# Plans


@pytest.mark.parametrize("stage", STAGES)
def test_a_dry_run_starts_nothing(
    tiny_pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """By the quick recipe; test_recipes.py does it with all of them."""
    recipe = FOLDER / "quick.yaml"
    monkeypatch.chdir(tmp_path)
    flags: list[str | Path] = [stage, "--config", recipe, *models(stage, tiny_pair), "--output", "the-run", "--dry-run"]
    assert command(*flags) == 0
    out, err = capsys.readouterr()
    assert list(tmp_path.iterdir()) == []
    assert out.startswith(f"{stage}:\n") and "nothing was started; the run would go to the-run" in out
    if stage in EXPERIMENTS:
        assert "eta+0-seed0" in out or "eta-0" in out
    else:
        assert "M parameters" in out and " s at this" in out
    assert "Traceback" not in err


@pytest.mark.parametrize("stage", EXPERIMENTS)
def test_an_experiment_s_own_config_is_a_recipe_that_repeats_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], stage: str
) -> None:
    """As the first line of the file and the report's command say."""
    recipe = read_recipe(find_recipe("quick"))
    cls = STAGES[stage].config_class
    config = cls(**stage_values(cls, stage, recipe, {}), recipe=recipe)
    run = Run.open(tmp_path / "run", stage, config.recorded)
    words: list[str | Path] = [
        stage,
        "--config",
        run.path / "config.yaml",
        "--output",
        run.path,
        "--dry-run",
        "--gpu",
        "h100",
    ]
    assert "holds an unfinished run of" in refused(capsys, *words)
    assert command(*words, "--resume") == 0
    repeated = capsys.readouterr().out
    assert command(stage, "quick", "--output", tmp_path / "other", "--dry-run", "--gpu", "h100") == 0
    assert repeated.replace(str(run.path), str(tmp_path / "other")) == capsys.readouterr().out


def test_a_cell_that_a_sweep_has_not_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words: list[str | Path] = ["sweep", "quick", "--etas", "0", "0.5", "--seeds", "0", "--output", tmp_path / "run"]
    for more in ([], ["--dry-run"]):
        assert "cell 2: this sweep has cells 0 to 1" in refused(capsys, *words, "--cell", "2", *more)
    assert command(*words, "--cell", "1", "--dry-run") == 0
    assert "only" not in yaml.safe_load(capsys.readouterr().out)["sweep"]


def test_a_dry_run_checks_what_a_run_would(tiny_pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--output", tmp_path / "run", "--dry-run"]
    assert "/no/such" in refused(capsys, "calibrate", *models("calibrate", tiny_pair), "--teacher", "/no/such", *flags)
    assert "eta" in refused(capsys, "calibrate", *models("calibrate", tiny_pair), "--eta", "nan", *flags)
    assert "'maths'" in refused(capsys, "distill", *models("distill", tiny_pair), "--tasks", "maths", *flags)


def test_an_answer_that_does_not_fit_the_context_is_refused_by_the_dry_run(capsys: pytest.CaptureFixture[str]) -> None:
    told = refused(capsys, "distill", "--method", "sft", "--max-completion-length", "5000", "--dry-run")
    assert "answers of up to 5000 don't fit the model's context of 256 (zoo:" in told
    assert "Set max_completion_length to at most" in told
    assert command("distill", "--method", "sft", "--dry-run") == 0
    assert "DOES NOT FIT" not in capsys.readouterr().out


def test_a_dry_run_looks_at_the_output_directory(
    tiny_pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("x")
    flags: list[str | Path] = ["evaluate", *models("evaluate", tiny_pair), "--output", tmp_path, "--dry-run"]
    assert "thesis.txt" in refused(capsys, *flags)


@pytest.mark.parametrize("stage", EXPERIMENTS)
def test_a_dry_run_of_an_experiment_looks_for_its_models(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], stage: str
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("teacher: /no/such\nstudent: /no/such\ntarget: /no/such\n")
    assert "/no/such" in refused(capsys, stage, "--config", recipe, "--output", tmp_path / "run", "--dry-run")


def test_a_flag_that_is_not_there_is_told_the_nearest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output: list[str | Path] = ["--output", tmp_path / "run"]
    told = refused(capsys, "diagnose", "--problem", "20", *output)
    assert told.startswith("error: distillknob diagnose has no flag --problem, did you mean '--problems'?")
    assert told.endswith("see distillknob diagnose --help\n") and told.count("\n") == 1
    assert "did you mean '--max_new_tokens'" in refused(capsys, "evaluate", "--max-new-token=3", *output)
    assert "has no flag --xyzzy: see" in refused(capsys, "evaluate", "--xyzzy", *output)
    assert "did you mean '--output'" in refused(capsys, "report", "a", "--outptu", "b")
    assert refused(capsys, "report", "a", "b", "c").startswith("error: a page is about one run, but 3 are named")
    told = refused(capsys, "calibrate", "--eta")
    assert told == "error: argument --eta: expected one argument: see distillknob calibrate --help\n"
    assert "unrecognized" not in told and not (tmp_path / "run").exists()


def test_bad_input_that_is_met_late_leaves_no_run_behind(
    tiny_pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = tmp_path / "few.jsonl"
    few.write_text('{"prompt": "What is 2 + 2?", "reference": "4"}\n')
    flags: list[str | Path] = ["evaluate", "--models", tiny_pair.teacher, "--output", tmp_path / "run"]
    assert "in split 'test': it needs more lines (1 different now)" in refused(
        capsys, *flags, "--tasks", f"jsonl:{few}"
    )
    assert not (tmp_path / "run").exists()
    assert "fit the model's context" in refused(capsys, *flags, *SMALL, "--max_new_tokens", "100000")
    assert not (tmp_path / "run").exists()
    assert command(*flags, *SMALL, "--max_new_tokens", "4") == 0
    capsys.readouterr()
    (tmp_path / "other").mkdir()  # a directory that was there stays
    refused(capsys, *flags[:-1], tmp_path / "other", "--tasks", f"jsonl:{few}")
    assert (tmp_path / "other").is_dir()


def test_a_recipe_s_pair_is_what_evaluate_measures(
    tiny_pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "recipe.yaml"
    pair = f"teacher: {tiny_pair.teacher}\nstudent: {tiny_pair.student}\n"

    def measured(text: str, *flags: str) -> list[str]:
        recipe.write_text(text)
        assert command("evaluate", "--config", recipe, "--output", tmp_path / "run", "--dry-run", *flags) == 0
        config = yaml.safe_load(capsys.readouterr().out)
        found: list[str] = config["evaluate"]["models"]
        return found

    assert measured(pair) == [tiny_pair.teacher, tiny_pair.student]
    assert measured(f"{pair}evaluate: {{models: [zoo:proxy]}}\n") == ["zoo:proxy"]
    assert measured(pair, "--models", "zoo:proxy") == ["zoo:proxy"]
    assert measured("tasks: [math]\n") == ["zoo:teacher", "zoo:student"]


def text_of(stage: str, result: dict[str, Any]) -> str:
    """What is printed of a run that has this result."""
    run: Any = SimpleNamespace(stage=stage, path=Path("run"), result=result)
    return result_text(run)


def test_a_knob_that_did_not_turn_is_told() -> None:
    row = {"task": "math", "before": 0.9, "after": 0.9, "difference": 0.0, "interval": [-0.1, 0.1]}
    events = [{"step": 9, "what": "not kept: math changed by -0.200 on unseen problems"}]
    result = {"eta": 0.25, "outcome": "finished", "reason": None, "steps": 9, "final_beta": 0.1, "tolerance": 0.01}
    result |= {"guard": [row], "events": events}
    told = [text_of("calibrate", {**result, "kept_step": step}) for step in (0, 9)]
    assert "The knob did not turn" in told[0] and "not kept: math changed by -0.200" in told[0]
    assert "did not turn" not in told[1]


def test_a_diagnosis_says_what_to_do_about_what_it_found() -> None:
    known = {"task": "math", "value": 0.4, "interval": [0.3, 0.5], "unit": "nats", "n": 9, "applicable": True}
    found = {**known, "cause": f"the cause {'is long ' * 40}", "remedy": "set top_k"}
    nowhere = {**known, "name": "sequence_myopia", "severity": "none", "cause": "no gradients", "applicable": False}
    findings = [
        {**found, "name": "tail_noise", "severity": "medium"},
        {**found, "name": "capacity_gap", "severity": "high"},
        {**found, "name": "signal_sparsity", "severity": "low", "interval": [None, None]},  # of one prompt
        *({**nowhere, "task": task, "value": None, "interval": [None, None]} for task in ("math", "qa")),
    ]
    result = {"findings": findings, "forecast": []}
    told = text_of("diagnose", result)
    assert max(map(len, told.splitlines())) <= 110
    assert told.index("high: capacity_gap on math") < told.index("medium: tail_noise on math")
    assert told.count("set top_k") == 2  # a low one is a line of the table
    assert "0.400 [0.300, 0.500]" in told and re.search(r"signal_sparsity +math +low +0\.400\n", told)
    assert "not applicable: sequence_myopia on math, qa: no gradients" in told


# Help


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_s_help_names_its_fields(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(stage, "--help") == 0
    out = capsys.readouterr().out
    assert "--config" in out and "--dry-run" in out and "--resume" in out
    own = {"calibrate": "--eta", "distill": "--method", "evaluate": "--samples", "diagnose": "--ks", "cache": "--top_k"}
    assert own.get(stage, "--methods") in out


def test_the_help_answers_within_a_second() -> None:
    """Processor time, which another process on the machine doesn't lengthen; best of three."""

    def spent() -> float:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    times = []
    for _ in range(3):
        before = spent()
        found = subprocess.run(
            [sys.executable, "-m", "distillknob", "--help"], capture_output=True, text=True, env=dict(os.environ)
        )
        times.append(spent() - before)
        assert found.returncode == 0 and "calibrate" in found.stdout and found.stderr == ""
    assert min(times) < 1.0


def test_diagnoses_are_compared_from_the_terminal(
    tiny_pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [tmp_path / "before", tmp_path / "after"]
    small = ["--tasks", "math", "--problems", "3", "--samples", "1", "--candidates", "1", "--max-new-tokens", "8"]
    for run in runs:
        assert command("diagnose", *models("diagnose", tiny_pair), *small, "--output", run) == 0
    capsys.readouterr()
    assert command("diagnose", "--compare", *runs) == 0
    out = capsys.readouterr().out
    assert "math, token_reverse_kl_on_policy" in out and "+0.0000" in out
    assert command("diagnose", "--compare", *runs, "--json") == 0
    assert json.loads(capsys.readouterr().out)["stage"] == "compare"
    assert "got 1 run" in refused(capsys, "diagnose", "--compare", runs[0])


def test_a_stage_s_help_is_short_and_has_the_rest_on_demand(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("calibrate", "--help") == 0
    short = capsys.readouterr().out
    assert short.startswith("usage: distillknob calibrate [RECIPE] [--output DIR] [--dry-run] [--FIELD VALUE ...]\n\n")
    assert "--eta" in short and "--learning_rate" in short and "--lora_r" in short
    assert "--adam_epsilon" not in short and short.count("\n") < 250
    seldom = re.search(r"(\d+) more fields are TRL's and transformers': --help-all", short)
    assert seldom is not None
    assert command("calibrate", "--help-all") == 0
    full = capsys.readouterr().out
    flags = [set(re.findall(r"^  (--\w+)", text, re.MULTILINE)) for text in (short, full)]
    assert "--adam_epsilon" in full and len(flags[1] - flags[0]) == int(seldom[1])


# Terminals


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "ascii", "utf-8"])
@pytest.mark.parametrize("words", [["calibrate", "--help"], ["recipe", "show", "embedded"]])
def test_a_terminal_without_our_characters_gets_others(
    encoding: str, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", terminal)
    assert command(*words) == 0
    terminal.flush()
    assert "η".encode(encoding, "replace") in terminal.buffer.getvalue()


def test_the_interpreter_s_own_streams_get_others_too() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "cp1252", "PYTHONPATH": os.pathsep.join(sys.path)}
    words = ["recipe", "show", "embedded"]
    done = subprocess.run([sys.executable, "-m", "distillknob", *words], capture_output=True, env=environment)
    shown = find_recipe("embedded").read_text(encoding="utf-8")
    assert "η" in shown and done.returncode == 0 and done.stderr == b""
    assert shown.encode("cp1252", "replace") in done.stdout


def test_a_reader_that_leaves_is_no_error() -> None:
    code = "from distillknob.cli.main import main; import sys; sys.exit(main(['recipe', 'show', 'embedded']))"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.wait()


def test_a_typo_is_told_with_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.yaml"
    output: list[str | Path] = ["--output", tmp_path / "run"]
    recipe.write_text("# mine\ntasks: [math]\ncalibrate:\n  eta: 0.5\n  max_step: 3\n")
    told = "recipe.yaml, line 5: calibrate has no field 'max_step', did you mean 'max_steps'"
    assert told in refused(capsys, "calibrate", recipe, *output)
    assert told in refused(capsys, "demo", recipe, *output)
    recipe.write_text("tasks: [math]\nevaluate:\n  problems: many\n")
    assert "recipe.yaml, line 3: problems is 'many'" in refused(capsys, "evaluate", recipe, *output)
    recipe.write_text("tasks: [math]\n\ntask: [math]\n")
    assert "recipe.yaml, line 3: no stage has the recipe's field 'task'" in refused(capsys, "evaluate", recipe, *output)
    told = refused(capsys, "evaluate", "--problems", "many", *output)
    assert told == "error: problems is 'many', but must be a whole number\n"


def test_a_key_of_another_stage_is_known_without_the_trainers() -> None:
    code = (
        "import sys; from distillknob.cli.run_stage import KnownFields; fields = KnownFields();"
        "assert 'student' in fields; print('trl' in sys.modules); assert 'xyz' not in fields"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
