"""Commands that carry a remedy out: each runs as it stands, by the recipe of the run that it follows."""

from __future__ import annotations

import json
import re
import shlex
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from distillknob.cli.main import main
from distillknob.report.page import build_report
from distillknob.report.read import read_source
from distillknob.report.remedies import remedy_commands
from distillknob.runs.commands import started_with
from distillknob.runs.run import Run
from planted_runs import Page

# What each trap's remedy may name, and the stage and flag that it becomes.
REMEDIES = {
    "diagnose again (max_new_tokens=64)": [("diagnose", "--max-new-tokens=64")],
    "train on verified traces (method=sft_verified)": [("distill", "--method=sft_verified")],
    "calibrate (eta=-0.25), or select (method=sft_best_of_n_sure)": [
        ("distill", "--method=sft_best_of_n_sure"),
        ("calibrate", "--eta=-0.25"),
    ],
    "take another reward (eta=0.5, reward=sequence_mean)": [("calibrate", "--eta=0.5 --reward=sequence_mean")],
    "calibrate at eta=-0.75. Take another (eta=-0.5, reward=token) or another (eta=0.5, reward=sequence)": [
        ("calibrate", "--eta=-0.75"),
        ("calibrate", "--eta=-0.5 --reward=token"),
        ("calibrate", "--eta=0.5 --reward=sequence"),
    ],
    "begin gkd with lmbda=0": [("distill", "--lmbda=0")],
    "store its likeliest tokens (top_k=5)": [("cache", "--top-k=5")],
    "method=tip, or tokens=divergence": [("distill", "--method=tip")],
    "take another teacher (teacher)": [],
    "method=none_that_is_known": [],
}


SIZES = {"parameters": {"zoo:teacher": 400_000, "zoo:student": 200_000}}


def diagnosed(path: Path, recipe: str | None = None, says: dict[str, Any] | None = None, **result: Any) -> Path:
    """A finished diagnosis of two models of the zoo, whose sizes it noted, started with the recipe."""
    pair = {"teacher": "zoo:teacher", "student": "zoo:student", "tasks": ["math"]}
    with started_with(recipe, says or {}):
        run = Run.open(path, "diagnose", {**pair, "max_new_tokens": 48}, noted=SIZES)
    run.finish({"stage": "diagnose", "findings": [], "forecast": [], **result})
    return path


@pytest.fixture
def recipe(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A file of one's own, which fits the embedded pair only by what the recipe says of it."""
    rows = [{"prompt": f"1+{i}?", "reference": f"{1 + i}", "solution": f"Answer: {1 + i}"} for i in range(60)]
    (tmp_path / "sums.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    values = {
        "teacher": "zoo:teacher",
        "student": "zoo:student",
        "target": "zoo:student",
        "tasks": [f"jsonl:{tmp_path / 'sums.jsonl'}"],
        "max_completion_length": 48,
        "problems": 40,
        "diagnose": {"problems": 10, "max_new_tokens": 48},
        "calibrate": {
            "max_steps": 2,
            "per_device_train_batch_size": 8,
            "num_generations": 4,
            "guard_problems": 8,
            "guard_problems_max": 8,
            "utility_tolerance": 0.4,
            "problems": 20,
        },
        "distill": {"max_steps": 2, "per_device_train_batch_size": 4},
        "cache": {"problems": 20},
    }
    file = tmp_path / "my.yaml"
    file.write_text(json.dumps(values), encoding="utf-8")
    return file, values


def commands_of(run: Path) -> list[str]:
    return [one for remedy in REMEDIES for one in remedy_commands(read_source(run), remedy)]


def test_each_setting_of_a_remedy_becomes_the_command_that_takes_it(tmp_path: Path) -> None:
    source = read_source(diagnosed(tmp_path / "run"))
    for remedy, wanted in REMEDIES.items():
        words = [shlex.split(command) for command in remedy_commands(source, remedy)]
        assert [one[1] for one in words] == [stage for stage, _ in wanted]
        assert all(set(flags.split()) <= set(one) for one, (_, flags) in zip(words, wanted, strict=True))


def test_two_remedies_write_into_two_directories_that_are_not_there(tmp_path: Path) -> None:
    run = diagnosed(tmp_path / "run")
    outputs = [shlex.split(command)[-1] for command in commands_of(run)]
    assert len(set(outputs)) == len(outputs) and not any(Path(output).exists() for output in outputs)
    for output in outputs:
        Path(output).mkdir()
    assert not set(outputs) & {shlex.split(command)[-1] for command in commands_of(run)}


def test_with_a_recipe_every_command_passes_the_checks_as_it_stands(
    tmp_path: Path, recipe: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    """Fed to the command line with a dry run, which refuses what the run itself would refuse."""
    file, values = recipe
    run = diagnosed(tmp_path / "run", str(file), values)
    # Its tasks were named by a flag: the recipe's own are others.
    commands = commands_of(run)
    assert len(commands) == sum(map(len, REMEDIES.values())) == 11
    for command in commands:
        words = shlex.split(command)
        assert words[2] == str(file) and "--tasks" in words and not any("teacher" in word for word in words[3:])
        assert main([*words[1:], "--dry-run"]) == 0, f"{command}\n{capsys.readouterr().err}"
    capsys.readouterr()


def test_what_the_recipe_says_to_all_stages_is_not_said_again(
    tmp_path: Path, recipe: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    file, values = recipe
    with started_with(str(file), values):
        run = Run.open(tmp_path / "run", "diagnose", {key: values[key] for key in ("teacher", "student", "tasks")})
    run.finish({"stage": "diagnose", "findings": [], "forecast": []})
    select, turn = remedy_commands(read_source(run.path), "eta=-0.25, or method=sft_best_of_n_sure")
    at = shlex.quote(str(run.path))
    assert select == f"distillknob distill {file} --method=sft_best_of_n_sure --output {at}-sft_best_of_n_sure"
    assert turn == f"distillknob calibrate {file} --eta=-0.25 --output {at}-eta-0.25"
    for command in (select, turn):
        assert main([*shlex.split(command)[1:], "--dry-run"]) == 0
    capsys.readouterr()


def test_without_a_recipe_the_command_names_the_pair_and_the_length_of_answers(tmp_path: Path) -> None:
    (command,) = remedy_commands(read_source(diagnosed(tmp_path / "run")), "method=sft_verified")
    words = shlex.split(command)
    assert {"--teacher=zoo:teacher", "--student=zoo:student", "--max-completion-length=48"} <= set(words)
    assert words[words.index("--tasks") + 1] == "math"
    assert main([*words[1:], "--dry-run"]) == 0


def test_without_a_recipe_a_training_gets_the_rate_that_is_usual_for_its_model(tmp_path: Path) -> None:
    """TRL's own, 1e-6, moves no model of the size of these."""
    source = read_source(diagnosed(tmp_path / "run"))
    for remedy, option in (
        ("method=sft_verified", "--learning-rate=0.001"),
        ("lmbda=0", "--learning-rate=0.001"),
        ("eta=-0.25", "--learning-rate=0.0003"),
    ):
        (command,) = remedy_commands(source, remedy)
        assert option in shlex.split(command)
        assert main([*shlex.split(command)[1:], "--dry-run"]) == 0
    (longer,) = remedy_commands(source, "max_new_tokens=64")
    assert "--learning-rate" not in longer  # a diagnosis trains nothing


def trained(path: Path, stage: str, config: dict[str, Any], **result: Any) -> Path:
    run = Run.open(path, stage, {"tasks": ["math"], **config}, noted=SIZES)
    run.finish({"stage": stage, **result})
    return path


def test_whichever_stage_s_page_offers_a_training_names_the_rate_of_what_it_trains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    turned = trained(
        tmp_path / "easier",
        "calibrate",
        {"teacher": "zoo:teacher", "target": "zoo:student", "eta": -0.25},
        eta=-0.25,
        outcome="finished",
        kept_step=9,
        turned={"verdict": "turned"},
    )
    taught = trained(tmp_path / "taught", "distill", {"teacher": "zoo:teacher", "student": "zoo:student"}, method="gkd")
    teacher = f"{turned}/model"
    origin = {"run": str(turned), "stage": "calibrate", "role": "teacher", "eta": -0.25, "before": "zoo:teacher"}
    scored = trained(
        tmp_path / "scores",
        "evaluate",
        {"models": [teacher]},
        models=[{"model": teacher, "tasks": [], "origin": origin}],
        differences=[],
    )
    rates = {"distill": "--learning-rate=0.001", "calibrate": "--learning-rate=0.0003"}
    attack = """--settings={"distill": {"learning_rate": 0.001}}"""
    for run, stages in ((turned, {"distill", "attack"}), (taught, {"calibrate", "attack"}), (scored, {"distill"})):
        page = unescape(build_report(run).read_text(encoding="utf-8"))
        commands = [shlex.split(one) for one in re.findall(r'<code class="command">([^<]*)<', page)]
        offered = [words for words in commands if words[1] in {*rates, "attack"}]
        assert {words[1] for words in offered} == stages
        for words in offered:
            assert rates.get(words[1], attack) in words
            if not any(teacher in word for word in words):  # which isn't there
                assert main([*words[1:], "--dry-run"]) == 0, f"{words}\n{capsys.readouterr().err}"


def test_a_recipe_s_own_rate_stands(tmp_path: Path, recipe: tuple[Path, dict[str, Any]]) -> None:
    file, values = recipe
    run = diagnosed(tmp_path / "run", str(file), values)
    assert not any("--learning-rate" in command for command in commands_of(run))


def test_between_two_tokenizers_no_divergence_at_every_token_is_offered(tmp_path: Path) -> None:
    pilot = [{"level": "span", "direction": "reverse_kl", "policy": "on_policy", "task": "math", "value": 1.0}]
    source = read_source(diagnosed(tmp_path / "run", pilot=pilot))
    assert remedy_commands(source, "method=opd_rkl, or gkd with lmbda=1") == []
    assert len(remedy_commands(source, "method=sft_best_of_n_sure")) == 1


def finding(name: str, severity: str, remedy: str) -> dict[str, Any]:
    return {
        "name": name,
        "task": "math",
        "value": 0.1,
        "interval": [0.05, 0.2],
        "unit": "share",
        "n": 50,
        "severity": severity,
        "cause": "it is so",
        "remedy": remedy,
        "applicable": True,
        "plot": None,
    }


def test_the_page_and_the_terminal_offer_the_same_commands(
    tmp_path: Path, recipe: tuple[Path, dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    from distillknob.cli.text import result_text
    from distillknob.runs.run import load_run

    file, values = recipe
    findings = [
        finding("capacity_gap", "medium", "calibrate (eta=-0.5), or select (method=sft_best_of_n_sure)"),
        finding("signal_sparsity", "high", "train on few tokens (method=tip)"),
        finding("tail_noise", "none", "top_k=5"),
    ]
    run = diagnosed(tmp_path / "run", str(file), values, findings=findings)
    shown = [line.strip() for line in result_text(load_run(run)).splitlines() if "distillknob " in line]
    assert [shlex.split(line)[1] for line in shown] == ["distill", "calibrate"]
    page = Page(build_report(run))
    for line in shown:
        assert line in page.text
    offered = set(re.findall(r"--method=\w+|--eta=-?[\d.]+|--top-k=\d+", page.text))
    assert offered == {"--method=sft_best_of_n_sure", "--eta=-0.5", "--method=tip"}  # nothing of what didn't fire
