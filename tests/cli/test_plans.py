"""Dry runs from the command line: what they check, print and return."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from commands import SMALL, command, models, refused
from distillknob.cli.text import result_text
from distillknob.config.recipe import read_recipe, stage_values
from distillknob.config.shipped import find_recipe
from distillknob.models.load import load_model
from distillknob.runs.run import Run
from distillknob.stages import EXPERIMENTS, STAGES
from pairs import Pair

# Plans


@pytest.mark.parametrize("stage", STAGES)
def test_a_dry_run_starts_nothing(
    tiny_pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """By the quick recipe; test_recipes.py does it with all of them."""
    recipe = find_recipe("quick")
    monkeypatch.chdir(tmp_path)
    flags: list[str | Path] = [stage, "--config", recipe, *models(stage, tiny_pair), "--output", "the-run", "--dry-run"]
    assert command(*flags) == 0
    out, err = capsys.readouterr()
    assert list(tmp_path.iterdir()) == []
    assert out.startswith(f"{stage}\n") and "nothing was started; the run would go to the-run" in out
    if stage in EXPERIMENTS:
        assert "eta+0-seed0" in out or "eta-0" in out or "original/untrained" in out or "rates/gkd-x1" in out
    else:
        assert "M parameters" in out and " s at this" in out
    assert "Traceback" not in err


def test_a_dry_run_without_a_recipe_says_what_decides(capsys: pytest.CaptureFixture[str]) -> None:
    """On top, in words, and with the rate that would move so small a model; nothing that is null or at its default."""
    flags = ["--method", "gkd", "--max-steps", "20", "--skew", "0.3", "--dry-run"]
    assert command("distill", "--teacher", "zoo:teacher", "--student", "zoo:student", *flags) == 0
    decisive, _, rest = capsys.readouterr().out.partition("other settings that aren't at their defaults:\n")
    shown = dict(re.findall(r"^  ([a-z ]+?)  +(.*)$", decisive, re.MULTILINE))
    assert (shown["teacher"], shown["student"], shown["method"]) == ("zoo:teacher", "zoo:student", "gkd")
    assert shown["steps"] == "20" and shown["batch"].endswith(" answers a step") and "2000 problems" in shown["tasks"]
    rate = r"1e-06 \(.*warm-up\): TRL's default\. Usual .*: --learning-rate 0\.001"
    assert re.fullmatch(rate, shown["learning rate"])
    assert shown["trains"].startswith("all weights") and shown["precision"] == "float32" and shown["seed"] == "42"
    others, _, estimate = rest.partition("every setting with its default: distillknob distill --help-all\n")
    assert others == "  skew: 0.3\n" and "estimate for" in estimate
    assert "null" not in decisive + rest and "learning rate" in decisive


def test_the_precision_is_that_in_which_the_model_is_loaded(
    tiny_pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under LoRA, and where nothing is trained, a checkpoint keeps its type; what is trained in full is float32."""
    short = str(tmp_path / "short")
    loaded = load_model(tiny_pair.teacher)
    loaded.model.to(torch.bfloat16).save_pretrained(short)  # type: ignore[arg-type]
    loaded.tokenizer.save_pretrained(short)

    def precision(stage: str, *flags: str) -> str:
        given: list[str | Path] = ["--target", tiny_pair.student] if stage == "calibrate" else []
        assert command(stage, *given, *flags, "--dry-run") == 0
        return re.findall(r"^  precision +(.*)$", capsys.readouterr().out, re.MULTILINE)[0]

    trained = ["--teacher", short, "--tasks", "math", "--eta", "0.5"]
    assert precision("calibrate", *trained, "--gpu", "h100") == "float32, products in bfloat16"
    assert precision("calibrate", *trained, "--use-peft", "--gpu", "h100") == "bfloat16, products in bfloat16"
    assert precision("calibrate", *trained, "--use-peft") == "float32"  # a small model on a CPU
    assert precision("evaluate", "--models", short, "--tasks", "math", "--gpu", "h100") == "bfloat16"
    assert precision("evaluate", "--models", short, "--tasks", "math") == "float32"
    monkeypatch.setattr("distillknob.models.dtypes.LARGE", 0)
    monkeypatch.setattr("distillknob.models.dtypes.multiplies_bfloat16", lambda: True)
    assert precision("evaluate", "--models", short, "--tasks", "math") == "bfloat16"
    assert precision("calibrate", *trained, "--use-peft").startswith("bfloat16")
    asked = ("--model-init-kwargs", '{"dtype": "float32"}')
    assert precision("calibrate", *trained, "--use-peft", *asked).startswith("float32")


def test_a_rate_that_was_named_is_the_users_own(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("calibrate", "quick", "--eta", "-0.25", "--use-peft", "--dry-run") == 0
    out = capsys.readouterr().out
    assert "TRL's default" not in out and re.search(r"^  eta +-0\.25, reward ", out, re.MULTILINE)
    assert re.search(r"^  trains +a LoRA adapter of rank 16 ", out, re.MULTILINE)
    assert "learning_rate" not in out and "adam_epsilon: 0.01" in out


def test_a_dry_run_of_a_demo_says_how_each_of_its_stages_trains(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("demo", "quick", "--dry-run") == 0
    out = capsys.readouterr().out
    for stage in ("calibrate", "distill"):
        assert re.search(rf"^  {stage} +\d+ steps, \d+ answers a step.*, learning rate [\de.-]+ \(", out, re.MULTILINE)
    assert re.search(r"^  teacher +zoo:teacher$", out, re.MULTILINE)


def test_a_diagnosis_foretells_the_knob_of_its_recipe_s_calibrations(
    tiny_pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []

    def plan(*given: Any) -> int:
        told.append(given[3])
        return 0

    monkeypatch.setattr("distillknob.cli.run_stage._plan", plan)
    recipe = tmp_path / "my.yaml"
    recipe.write_text("calibrate: {beta: 0.3, reward: sequence}\n")
    flags: list[str | Path] = ["diagnose", recipe, *models("diagnose", tiny_pair), "--dry-run"]
    assert command(*flags) == command(*flags, "--knob-beta", "0.5") == 0
    recipe.write_text("knob_beta: 0.7\ncalibrate: {beta: 0.3}\n")
    assert command(*flags) == 0
    assert [one.knob_beta for one in told] == [0.3, 0.5, 0.7]
    assert [one.knob_reward for one in told] == ["sequence", "sequence", "sure_tokens"]


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
    assert "  only" not in capsys.readouterr().out


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
    assert refused(capsys, "report", "a", "b", "c").startswith(
        "error: a page shows one run, or two side by side, but 3 are named"
    )
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
        (shown,) = re.findall(r"^  models +(.*)$", capsys.readouterr().out, re.MULTILINE)
        return str(shown).split(", ")

    assert measured(pair) == [tiny_pair.teacher, tiny_pair.student]
    assert measured(f"{pair}evaluate: {{models: [zoo:proxy]}}\n") == ["zoo:proxy"]
    assert measured(pair, "--models", "zoo:proxy") == ["zoo:proxy"]
    assert measured("tasks: [math]\n") == ["zoo:teacher", "zoo:student"]


def text_of(stage: str, result: dict[str, Any]) -> str:
    """What is printed of a run that has this result."""
    config = {"teacher": "zoo:teacher", "student": "zoo:student", "tasks": ["math"]}
    run: Any = SimpleNamespace(stage=stage, path=Path("run"), result=result, config=config, complete=True, notes={})
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


def test_a_diagnosis_says_how_far_the_knob_would_turn_and_why() -> None:
    row = {"task": "math", "scope": "ways", "eta": -0.5, "turns": "far", "difference": -1.35, "interval": [-1.5, -1.2]}
    row |= {"kl": 0.95, "score": 0.986, "score_after": 1.0, "student": 0.416, "student_after": 0.797}
    alone = {**row, "scope": "answers", "difference": -9.0}
    unnamed = {**row, "task": "own", "eta": 0.5, "turns": "hardly", "student": None, "student_after": None}
    finding = {"name": "knob_range", "task": "math", "severity": "none", "value": 2.4, "interval": [2.1, 2.6]}
    finding |= {"unit": "nats", "n": 150, "cause": "the ways differ", "remedy": "calibrate", "applicable": True}
    by_reward = {**row, "reward": "sure_tokens_soft", "way": "the answer alone", "before": 0.25, "after": 0.5}
    by_reward["certainty"] = 0.625
    by_reward |= {"student_before": 0.4, "student_after": 0.1}
    nothing: dict[str, Any] = {"way": None, "before": None, "after": None}
    rewards = [by_reward, {**by_reward, "student_before": None, "student_after": None}, {**by_reward, **nothing}]
    rewards.append({**by_reward, "way": "1: like 'The story says: \"The chest stood in the ranch'"})
    result = {"findings": [finding], "forecast": [], "knob": [row, alone, unnamed], "knob_rewards": rewards}
    told = text_of("diagnose", result)
    assert re.search(r"math +-0\.5 +far +-1\.35 \[-1\.50, -1\.20\] +0\.95 +98\.6 → 100\.0 +41\.6 → 79\.7", told)
    assert re.search(r"own +\+0\.5 +hardly .* –", told) and "-9.0" not in told
    assert "knob_range on math: 2.400 nats" in told and "why: the ways differ" in told  # far below 0: advice
    assert told.count("the ways differ") == 1
    of_math = [re.sub(" +", " ", line) for line in told.splitlines() if "sure_tokens_soft" in line]
    head = "math -0.5 sure_tokens_soft"
    assert of_math == [
        f"{head} the answer alone (62%) 25.0 → 50.0 98.6 → 100.0 40.0 → 10.0",
        f"{head} the answer alone (62%) 25.0 → 50.0 98.6 → 100.0 –",
        f"{head} – – 98.6 → 100.0 40.0 → 10.0",
        f"{head} 1: like 'The st… (62%) 25.0 → 50.0 98.6 → 100.0 40.0 → 10.0",
    ]
    hardly = text_of("diagnose", {**result, "knob": [{**row, "turns": "hardly"}]})
    assert "the knob on math: the ways differ" in hardly and max(map(len, told.splitlines())) <= 110
    another = {**finding, "remedy": "at η = +0.5 take another reward (eta=0.5, reward=sequence_mean)"}
    told = text_of("diagnose", {**result, "findings": [another], "knob": [{**row, "turns": "hardly"}]})
    assert "do:  at η = +0.5 take another reward" in told and "--eta=0.5 --reward=sequence_mean" in told
    assert "knob" not in text_of("diagnose", {"findings": [], "forecast": []})  # of a run from before there was one
