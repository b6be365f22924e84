"""The stage `prune`: its result, its folder, what it refuses before any work, and what comes after it."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from distillknob.cli.main import main
from distillknob.cli.next_text import next_text
from distillknob.cli.text import result_text
from distillknob.config.rates import usual_rate
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.stage import distill
from distillknob.errors import BadInputError
from distillknob.inputs.preflight import Preflight
from distillknob.models.load import load_model
from distillknob.planning.hardware import GPUS, Engine
from distillknob.planning.workload import workload
from distillknob.pruning.card import next_command, pruned_card
from distillknob.pruning.config import PruneConfig
from distillknob.pruning.folder import write_pruned
from distillknob.pruning.stage import check, prune
from distillknob.report.page import build_report
from distillknob.runs.commands import started_with
from distillknob.runs.run import Run, verify_manifest
from distillknob.verdicts.pruned import nearly_anew
from interrupted import Stopped, stopping, weights
from result_types import faults_below
from tiny_architectures import made


def config(model: str, **values: Any) -> PruneConfig:
    return PruneConfig(model=model, **{"problems": 12, **values})


@pytest.fixture(scope="module")
def pruned(deep: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two of four layers by their influence."""
    return prune(config(deep, layers=2), tmp_path_factory.mktemp("pruned") / "run")


def test_the_result_says_what_stays_and_what_that_costs(pruned: Run, deep: str) -> None:
    result = pruned.result
    assert faults_below(pruned.path) == []
    assert verify_manifest(pruned.path) == []
    assert result["layers"] == [4, 2] and len(result["stays"]) == 2
    assert [row["layer"] for row in result["importance"] if row["stays"]] == result["stays"]
    left = [row["importance"] for row in result["importance"] if not row["stays"]]
    assert max(left) <= min(row["importance"] for row in result["importance"] if row["stays"])
    models = [AutoModelForCausalLM.from_pretrained(folder) for folder in (deep, pruned.path / "model")]
    assert result["parameters"] == [model.num_parameters() for model in models]
    assert (result["texts"], result["held_back"]) == (9, 3)
    assert result["difference"] == pytest.approx(result["after"]["loss"] - result["before"]["loss"])
    assert result["after"]["perplexity"] == pytest.approx(torch.tensor(result["after"]["loss"]).exp().item(), rel=1e-4)
    low, high = result["after"]["interval"]
    assert low < result["after"]["loss"] < high


def test_terminal_page_and_card_tell_it(pruned: Run, deep: str) -> None:
    text = result_text(pruned)
    assert "layers that stay: " in text and "nats a token" in text
    assert next_text(pruned).splitlines()[-1] == f"    {pruned.result['next']}"
    page = build_report(pruned.path, pruned.path.parent / "page.html").read_text(encoding="utf-8")
    assert "Importance of each layer" in page and "left out" in page and "Parameters" in page
    assert page.count("<figure") == 1
    card = (pruned.path / "model" / "README.md").read_text(encoding="utf-8")
    assert f"# {deep}, pruned to" in card and "Of 4 layers" in card and pruned.result["next"] in card
    assert "Nothing was trained" in card


def test_the_same_config_writes_the_same(pruned: Run, deep: str, tmp_path: Path) -> None:
    again = prune(config(deep, layers=2), tmp_path / "run")
    without_path = [{k: v for k, v in run.result.items() if k != "next"} for run in (pruned, again)]
    assert without_path[0] == without_path[1]
    first, second = weights(pruned.path), weights(again.path)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_complete_run_is_returned_and_other_settings_are_refused(pruned: Run, deep: str) -> None:
    assert prune(config(deep, layers=2), pruned.path).result == pruned.result
    with pytest.raises(BadInputError, match="layers"):
        prune(config(deep, layers=3), pruned.path)


@pytest.mark.parametrize("written", [False, True])
def test_a_stopped_run_goes_on_to_the_same_end(written: bool, pruned: Run, deep: str, tmp_path: Path) -> None:
    """Stopped before the folder is written, or when it is and the loss after is to be measured."""

    def write(*arguments: Any) -> None:
        if written:
            write_pruned(*arguments)
        raise Stopped

    with pytest.raises(Stopped):
        prune(config(deep, layers=2), tmp_path / "run", write=write)
    assert (tmp_path / "run" / "model").exists() is written and [*(tmp_path / "run").rglob("*.pt")]
    once = stopping(write_pruned, 0 if written else 1)
    run = prune(config(deep, layers=2), tmp_path / "run", resume=True, write=once)
    assert {**run.result, "next": ""} == {**pruned.result, "next": ""}


@pytest.mark.parametrize(
    "values",
    [
        {"layers": 2, "by": "even"},
        {"ratio": 0.25, "by": "first"},
        {"keep_layers": [0, 2]},
        {"layers": 2, "by": "loss", "iterative": True},
        {"layers": 2, "by": "block"},
        {"mlp_width": 16},
        {"layers": 3, "mlp_width": 48},
    ],
)
def test_every_way_to_choose_makes_a_model_that_loads(values: dict[str, Any], deep: str, tmp_path: Path) -> None:
    run = prune(config(deep, **values), tmp_path / "run")
    result = run.result
    assert faults_below(run.path) == []
    loaded = load_model(str(run.path / "model")).model
    assert loaded.config.num_hidden_layers == result["layers"][1] == len(result["stays"])
    assert loaded.config.intermediate_size == values.get("mlp_width", 64)
    assert result["mlp_width"] == ([64, values["mlp_width"]] if "mlp_width" in values else None)
    expected = {"even": [0, 3], "first": [0, 1, 2]}.get(str(values.get("by")), values.get("keep_layers"))
    assert expected is None or result["stays"] == expected
    assert result_text(run) and build_report(run.path).exists()
    rounds = [row["round"] for row in result["importance"] if row["round"] is not None]
    assert sorted(rounds) == ([1, 2] if values.get("iterative") else [])


def test_a_layer_that_does_nothing_costs_nothing(idle: str, tmp_path: Path) -> None:
    result = prune(config(idle, layers=3), tmp_path / "run").result
    assert result["stays"] == [0, 1, 3]
    assert result["importance"][2]["importance"] == 0.0
    assert result["difference"] == 0.0 and result["after"] == result["before"]


def test_texts_may_be_a_file_of_one_s_own(deep: str, tmp_path: Path) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": f"{n} and {n + 1} are {2 * n + 1}"}) + "\n" for n in range(8)))
    run = prune(config(deep, layers=2, texts_file=str(file)), tmp_path / "run")
    assert (run.result["texts"], run.result["held_back"]) == (6, 2) and "--tasks TASK" in run.result["next"]
    file.write_text(json.dumps({"text": "another one"}) + "\n")
    with pytest.raises(BadInputError, match=r"texts\.jsonl"):
        prune(config(deep, layers=2, texts_file=str(file)), tmp_path / "run")


def test_the_original_is_distilled_into_what_is_left(pruned: Run, deep: str, tmp_path: Path) -> None:
    healed = distill(
        DistillConfig(
            teacher=deep,
            student=str(pruned.path / "model"),
            method="gkd",
            tasks=["math"],
            problems=4,
            max_steps=1,
            per_device_train_batch_size=4,
            max_completion_length=8,
            gradient_checkpointing=False,
        ),
        tmp_path / "healed",
    )
    assert healed.result["steps"] == 1
    before, after = weights(pruned.path), weights(healed.path)
    assert before.keys() == after.keys() and any(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({}, "nothing says what to leave out"),
        ({"layers": 4}, "leaves all 4 layers"),
        ({"layers": 9}, "leaves 9 of the 4 layers"),
        ({"keep_layers": [0, 7]}, "keep_layers names layer 7"),
        ({"mlp_width": 64}, "have 64 neurons"),
        ({"layers": 2, "problems": 3}, "4 are needed"),
        ({"layers": 2, "text_tokens": 100_000}, "beyond the context"),
        ({"layers": 2, "texts_file": "nowhere.jsonl"}, "no such file"),
        ({"layers": 2, "tasks": ["maths"]}, "maths"),
    ],
)
def test_what_cannot_be_done_is_told_before_any_work(
    values: dict[str, Any], reason: str, deep: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInputError, match=reason):
        prune(config(deep, **values), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("family", "values", "reason"),
    [
        ("gpt_neox", {"mlp_width": 8}, "'gpt_neox' models can't be made narrower"),
        ("qwen3_moe", {"mlp_width": 8}, "'qwen3_moe' models can't be made narrower"),
        ("diffllama", {"keep_layers": [1]}, "lambda_init"),
    ],
)
def test_families_that_can_t_be_cut_are_refused_before_any_work(
    family: str, values: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    own = {"num_key_value_heads": 2} if family == "diffllama" else {}
    model = made(family, tmp_path / "model", 5, **own)
    with pytest.raises(BadInputError, match=reason):
        prune(config(model, **values), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_model_behind_a_server_and_a_folder_without_weights_are_refused(deep: str, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="behind a server"):
        check(config("http://localhost:1/v1#x", layers=1), Preflight())
    shutil.copytree(deep, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(BadInputError, match="holds no weights"):
        check(config(str(tmp_path / "model"), layers=1), Preflight())


def test_a_dry_run_counts_the_passes(deep: str) -> None:
    def rows(**values: Any) -> list[float]:
        return [
            phase.rows for phase in workload("prune", config(deep, layers=2, **values), Engine(GPUS["h100"])).phases
        ]

    assert rows(by="even") == [6, 9]
    assert rows(by="loss") == [6, 5 * 9]
    assert rows(by="loss", iterative=True, mlp_width=32) == [6, (5 + 4 + 1) * 9]


def healing(made: Run) -> list[str]:
    words = shlex.split(made.result["next"])
    assert words[:2] == ["distillknob", "distill"]
    return words[1:]


def test_the_command_that_heals_runs_as_it_stands(pruned: Run, deep: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = healing(pruned)
    values = dict(word.removeprefix("--").split("=", 1) for word in words if "=" in word)
    assert values["teacher"] == deep and values["student"] == str(pruned.path / "model") and values["lmbda"] == "0"
    assert float(values["learning-rate"]) == usual_rate("distill", pruned.result["parameters"][1], lora=False)
    assert "--use-peft" not in words and int(values["max-steps"]) >= 500
    assert main([*words, "--dry-run"]) == 0, capsys.readouterr().err


def test_it_names_the_recipe_and_leaves_to_it_what_a_recipe_sets(deep: str, tmp_path: Path) -> None:
    (tmp_path / "healing-healed").mkdir()
    with started_with("my.yaml", {"teacher": deep, "tasks": ["math"], "max_completion_length": 40}):
        words = healing(prune(config(deep, layers=2), tmp_path / "healing"))
    assert words[1] == "my.yaml" and not any(word.startswith(("--learning-rate", "--teacher=")) for word in words)
    assert "--tasks" not in words and f"--student={tmp_path / 'healing' / 'model'}" in words
    assert words[-1] == str(tmp_path / "healing-healed-2")  # where nothing is yet


def test_a_large_model_is_healed_by_an_adapter_at_its_rate(tmp_path: Path) -> None:
    large = next_command(PruneConfig(model="org/large", layers=20), tmp_path / "run", 6_000_000_000, anew=False)
    assert "--use-peft" in large and "--learning-rate=0.0001" in large


@pytest.mark.parametrize(("after", "told"), [(0.5, False), (4.5, False), (4.7, True), (8.34, True), (900.0, True)])
def test_a_cut_that_leaves_next_to_nothing_is_told(after: float, told: bool) -> None:
    result = {"before": {"loss": 0.02}, "after": {"loss": after}}
    assert (nearly_anew(result) is not None) is told
    assert nearly_anew({}) is None and nearly_anew({**result, "after": {"loss": None}}) is None
    steps = [next_command(PruneConfig(), Path("run"), 1000, anew=anew) for anew in (False, True)]
    assert "--max-steps=500" in steps[0] and "--learning-rate=0.001" in steps[0]
    assert "--max-steps=2000" in steps[1] and "--learning-rate=0.003" in steps[1]


def test_terminal_page_and_card_say_that_next_to_nothing_is_left(pruned: Run, tmp_path: Path) -> None:
    result: Any = {**pruned.result, "before": {**pruned.result["before"], "loss": 0.02}}
    result["after"] = {**pruned.result["after"], "loss": 8.34}
    run = Run.open(tmp_path / "run", "prune", {"model": "x"})
    run.finish(result)
    told = "times what it was: next to nothing is left"
    assert f"! the perplexity is 4,105 {told}" in " ".join(result_text(run).split())
    assert f"The perplexity is 4,105 {told}" in build_report(run.path).read_text(encoding="utf-8")
    assert told in pruned_card(config("x", layers=2), run.path, result)


def test_the_losses_before_and_after_are_of_one_precision(
    deep: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU a model of 50 million parameters is loaded in bfloat16, and what is left of it may be smaller."""
    types = []

    def bfloat16_first(name: str, **options: Any) -> Any:
        loaded = load_model(name, **{"dtype": "bfloat16", **options})
        types.append(loaded.model.dtype)
        return loaded

    monkeypatch.setattr("distillknob.pruning.stage.load_model", bfloat16_first)
    prune(config(deep, layers=2), tmp_path / "run")
    monkeypatch.setattr(
        "distillknob.pruning.stage.load_model", lambda name, **o: bfloat16_first(name, **{"dtype": "float32", **o})
    )
    prune(config(deep, layers=2), tmp_path / "other")
    assert types == [torch.bfloat16, torch.bfloat16, torch.float32, torch.float32]
