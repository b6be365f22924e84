"""Help, and terminals of any encoding."""

from __future__ import annotations

import io
import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from commands import command, models, refused
from distillknob.config.shipped import find_recipe
from distillknob.stages import STAGES
from pairs import Pair

# Help


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_s_help_names_its_fields(stage: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(stage, "--help") == 0
    out = capsys.readouterr().out
    assert "--config" in out and "--dry-run" in out and "--resume" in out
    own = {"calibrate": "--eta", "distill": "--method", "evaluate": "--samples", "diagnose": "--ks", "cache": "--top_k"}
    own |= {
        "defend": "--kl_temperature",
        "fingerprint": "--key_file",
        "attack": "--suite",
        "memorization": "--baseline",
        "prune": "--keep_layers",
    }
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
