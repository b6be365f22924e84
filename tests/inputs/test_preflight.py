"""What a run would refuse is refused by its dry run, in the same words, and before anything is written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distillknob.calibration.check import check as check_calibration
from distillknob.calibration.config import CalibrationConfig
from distillknob.cli.main import main
from distillknob.distillation.check import check as check_distillation
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.stage import distill
from distillknob.errors import BadInputError
from distillknob.inputs.preflight import Preflight, check_learning_rate, same_weights
from pairs import Pair

QUICK: dict[str, Any] = {
    "max_steps": 1,
    "per_device_train_batch_size": 8,
    "gradient_checkpointing": False,
    "report_to": "none",
}


def rows(path: Path, prompt: Callable[[int], str], solution: str = "so 4") -> str:
    """A task of 60 problems in a file."""
    lines = ({"prompt": prompt(i), "reference": i, "solution": solution} for i in range(60))
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return f"jsonl:{path}"


def copied(model: str, folder: Path, **config: Any) -> str:
    """The checkpoint in another folder, with other values in its config."""
    shutil.copytree(model, folder)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **config}))
    return str(folder)


@pytest.fixture
def short(tiny_pair: Pair, tmp_path: Path) -> Pair:
    """The pair with contexts of 64 tokens."""
    made = [copied(model, tmp_path / Path(model).name, max_position_embeddings=64) for model in tiny_pair]
    return Pair(*made)


def told_alike(capsys: pytest.CaptureFixture[str], tmp_path: Path, *words: str) -> str:
    """Run a command that is refused, and its dry run: the one message of both, and nothing written."""
    found = []
    for extra in ((), ("--dry-run",)):
        assert main([*words, "--output", str(tmp_path / "run"), *extra]) == 2
        out, err = capsys.readouterr()
        told = err.splitlines()[-1]  # a run that may be logged to a file says first what it is
        assert out == "" and told.startswith("error: ") and "Traceback" not in err
        found.append(told)
        assert not (tmp_path / "run").exists()
    assert found[0] == found[1]
    return found[0]


def test_a_pair_of_two_tokenizers(
    tiny_pair: Pair, tiny_other: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pair = ["--teacher", tiny_pair.teacher, "--student", tiny_other]
    assert "compares next-token distributions" in told_alike(capsys, tmp_path, "distill", *pair, "--method", "gkd")
    pair = ["--teacher", tiny_pair.teacher, "--target", tiny_other]
    assert "compares token by token" in told_alike(capsys, tmp_path, "calibrate", *pair, "--reward", "token")


@pytest.mark.parametrize("stage", ["calibrate", "distill", "diagnose", "evaluate", "cache", "demo", "sweep"])
def test_a_tokenizer_without_a_chat_template(
    tiny_pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str], stage: str
) -> None:
    bare = Path(copied(tiny_pair.teacher, tmp_path / "bare"))
    (bare / "chat_template.jinja").unlink()
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"teacher: {bare}\nstudent: {tiny_pair.student}\ntarget: {tiny_pair.student}\n")
    assert "has no chat template" in told_alike(capsys, tmp_path, stage, "--config", str(recipe))


def test_a_folder_without_weights_or_tokenizer(
    tiny_pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = Path(copied(tiny_pair.teacher, tmp_path / "bare"))
    (bare / "model.safetensors").unlink()
    assert "holds no weights" in told_alike(capsys, tmp_path, "evaluate", "--models", str(bare))
    for file in bare.glob("token*"):
        file.unlink()
    (bare / "model.safetensors").write_bytes((Path(tiny_pair.teacher) / "model.safetensors").read_bytes())
    assert "holds no tokenizer" in told_alike(capsys, tmp_path, "evaluate", "--models", str(bare))


@pytest.mark.parametrize("stage", ["calibrate", "distill", "diagnose", "evaluate", "cache"])
def test_a_prompt_beyond_the_context_is_named(
    short: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str], stage: str
) -> None:
    task = rows(tmp_path / "long.jsonl", lambda i: f"What is {'1+' * (40 if i == 7 else 1)}{i}?")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"teacher: {short.teacher}\nstudent: {short.student}\ntarget: {short.student}\ntasks: ['{task}']\n"
        "max_completion_length: 8\nmax_new_tokens: 8\nsplit: train\nevaluate: {split: test}\n"
    )
    if stage == "evaluate":  # whose split the long one isn't in, perhaps
        recipe.write_text(recipe.read_text().replace("evaluate: {split: test}\n", ""))
    told = told_alike(capsys, tmp_path, stage, "--config", str(recipe))
    assert "don't fit the model's context of 64" in told and "1 of " in told and "What is 1+1+1+" in told


@pytest.mark.parametrize(
    ("method", "length", "what"),
    [
        ("opd_rkl", 400, "answers of up to 400 don't fit the model's context of 64"),
        ("tip", 400, "answers of up to 400"),
        ("opsd", 60, "answers of up to 60"),
        ("sft_best_of_n", 400, "answers of up to 400"),
        ("sft_gold", 8, "its stored answer of"),
        ("gkd", 400, "Set max_completion_length to at most"),
    ],
)
def test_lengths_beyond_the_context_are_refused_by_every_method(
    short: Pair, tmp_path: Path, method: Any, length: int, what: str
) -> None:
    task = rows(tmp_path / "task.jsonl", lambda i: f"What is {i} + {i}?", solution="we add and add again " * 20)
    config = DistillConfig(
        teacher=short.teacher,
        student=short.student,
        target=short.student,
        tasks=[task],
        method=method,
        max_completion_length=length,
        **QUICK,
    )
    for fetch in (True, False):
        with pytest.raises(BadInputError, match=what):
            check_distillation(config, Preflight(fetch=fetch))
    with pytest.raises(BadInputError, match=what):
        distill(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"model_type": "rwkv"}, "is a 'rwkv' model, which can't be used here"),
        ({"model_type": "vit"}, "can't load a causal language model from"),
        ({"model_type": "no_such_family"}, "can't load a causal language model from"),
    ],
)
def test_a_family_that_can_not_be_used(
    tiny_pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str], config: dict[str, Any], reason: str
) -> None:
    folder = Path(copied(tiny_pair.teacher, tmp_path / "other"))
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 4096}))
    assert reason in told_alike(capsys, tmp_path, "evaluate", "--models", str(folder))


def test_a_checkpoint_with_a_missing_file(tiny_pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(copied(tiny_pair.teacher, tmp_path / "other"))
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    names = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(names))
    words = ["calibrate", "--teacher", str(folder), "--target", tiny_pair.student]
    assert "model-00002-of-00002.safetensors" in told_alike(capsys, tmp_path, *words)


def test_a_split_that_a_task_has_not(tiny_pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = rows(tmp_path / "task.jsonl", lambda i: f"What is {i} + {i}?")
    words = ["evaluate", "--models", tiny_pair.teacher, "--tasks", task, "--split", "tset"]
    assert "no split 'tset'" in told_alike(capsys, tmp_path, *words)


def test_a_target_s_own_context_counts(tiny_pair: Pair, short: Pair) -> None:
    config = CalibrationConfig(teacher=tiny_pair.teacher, target=short.student, max_completion_length=100, **QUICK)
    with pytest.raises(BadInputError, match=r"context of 64 \(.*student\)"):
        check_calibration(config, Preflight())


def test_settings_that_may_not_be_meant_are_remarked(tiny_pair: Pair, tmp_path: Path) -> None:
    same = copied(tiny_pair.student, tmp_path / "same")
    look = Preflight(fetch=False)
    check_calibration(CalibrationConfig(teacher=same, target=tiny_pair.student, eta=25, **QUICK), look)
    check_distillation(DistillConfig(teacher=same, student=tiny_pair.student, **QUICK), look)
    told = "\n".join(look.remarks)
    assert "teacher and target are the same model" in told and "eta=25: all that was measured" in told
    assert "teacher and student are the same model" in told
    assert "the guard compares up to 2400 problems × 4 samples of 'math', which differ by up to 1.3 points" in told
    look = Preflight(fetch=False)
    check_calibration(CalibrationConfig(teacher=tiny_pair.teacher, target=same, utility_tolerance=0.2), look)
    assert look.remarks == []


def test_the_same_weights_are_known_by_place_or_content(tiny_pair: Pair, tmp_path: Path) -> None:
    same = copied(tiny_pair.student, tmp_path / "same")
    assert same_weights(tiny_pair.student, same) and same_weights("zoo:student", "zoo:student")
    assert not same_weights(tiny_pair.student, tiny_pair.teacher)
    assert not same_weights("Qwen/Qwen3-8B", "Qwen/Qwen3-4B")


def test_a_toy_s_learning_rate_is_not_for_models_of_real_size() -> None:
    toy = CalibrationConfig(learning_rate=3e-3, adam_epsilon=1e-2, **QUICK)
    check_learning_rate("zoo:teacher", toy)
    with pytest.raises(BadInputError, match=r"learning_rate=0\.003 would ruin Qwen/Qwen3-0\.6B, which has 596 M"):
        check_learning_rate("Qwen/Qwen3-0.6B", toy)
    toy = CalibrationConfig(learning_rate=1e-5, adam_epsilon=1e-2, **QUICK)
    with pytest.raises(BadInputError, match=r"adam_epsilon=0\.01 would ruin .*distillknob init"):
        check_learning_rate("Qwen/Qwen3-0.6B", toy)
    check_learning_rate("Qwen/Qwen3-0.6B", CalibrationConfig(learning_rate=1e-5, **QUICK))


def test_a_dry_run_for_a_gpu_is_not_bound_to_this_machine(
    tiny_pair: Pair, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("distillknob.training.config.multiplies_bfloat16", lambda: False)
    pair = ["--teacher", tiny_pair.teacher, "--target", tiny_pair.student]
    assert main(["calibrate", *pair, "--bf16", "--dry-run"]) == 2
    assert "bf16: this machine has no GPU" in capsys.readouterr().err
    assert main(["calibrate", *pair, "--bf16", "--report-to", "wandb", "--gpu", "h100", "--dry-run"]) == 0
    assert "float32, products in bfloat16" in capsys.readouterr().out


def test_a_dry_run_says_what_it_could_not_look_at(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", "--models", "Qwen/Qwen3-4B", "--tasks", "gsm8k", "--gpu", "h100", "--dry-run"]
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "not looked at here: the tokenizer of Qwen/Qwen3-4B, which isn't in the local cache; the data of" in told


@pytest.mark.parametrize(
    ("values", "remarked"),
    [
        ({"method": "gkd", "beta": 0.9}, False),
        ({"method": "opd_rkl", "beta": 0.9}, True),
        ({"method": "sft", "skew": 0.3}, True),
        ({"method": "gkd", "divergence": "skew_reverse_kl", "skew": 0.3}, False),
        ({"method": "tip", "tokens_share": 0.2}, False),
        ({"method": "gkd", "tokens_share": 0.2}, True),
        ({"method": "sft_verified", "selection": "sure_tokens"}, True),
        ({"method": "gkd", "traces": "teacher_best_of_n", "selection": "sure_tokens"}, False),
    ],
)
def test_a_field_that_the_method_does_not_read_is_remarked_on(
    tiny_pair: Pair, values: dict[str, Any], remarked: bool
) -> None:
    sides: dict[str, Any] = {"teacher": tiny_pair.teacher, "student": tiny_pair.student, "target": tiny_pair.student}
    config = DistillConfig(**sides, **values, **QUICK)
    for chained in (False, True):
        look = Preflight(fetch=False)
        look.chained = chained
        check_distillation(config, look)
        assert any("does nothing" in line for line in look.remarks) is (remarked and not chained)


def test_a_tolerance_that_no_answer_could_show_is_refused(tiny_pair: Pair) -> None:
    few: dict[str, Any] = {
        "guard_problems": 20,
        "guard_problems_max": 20,
        "guard_samples": 1,
        "utility_tolerance": 0.02,
    }
    pair: dict[str, Any] = {"teacher": tiny_pair.teacher, "target": tiny_pair.student}
    with pytest.raises(
        BadInputError, match=r"20 problems of 'math' can't show .*set guard_problems_max to \d+ or more"
    ):
        check_calibration(CalibrationConfig(**pair, **QUICK, **few), Preflight())
    check_calibration(CalibrationConfig(**pair, **QUICK, **{**few, "utility_tolerance": 0.2}), Preflight())
    check_calibration(CalibrationConfig(**pair, **QUICK, **few, guard=False), Preflight())


# Models behind a server

NOWHERE = "http://127.0.0.1:9/v1"  # where nobody answers, and nobody is to be asked
BY_TEXTS = {  # the commands that take a served model, by where they take it
    "distill": ["distill", "--method", "sft", "--max-steps", "1", "--teacher"],
    "attack": ["attack", "quick", "--attacks", "traces-1", "--teacher"],
    "evaluate": ["evaluate", "--models"],
    "calibrate": ["calibrate", "--eta", "0.25", "--target"],
    "fingerprint": ["fingerprint", "--student"],
}
BY_WEIGHTS = {
    "diagnose": ["diagnose", "--teacher"],
    "calibrate": ["calibrate", "--teacher"],
    "cache": ["cache", "--teacher"],
    "distill": ["distill", "--method", "gkd", "--teacher"],
    "student": ["distill", "--method", "sft", "--student"],
    "defend": ["defend", "--teacher"],
    "prune": ["prune", "--mlp-width", "16", "--model"],
    "memorization": ["memorization", "--baseline", "zoo:student", "--teacher"],
}


@pytest.fixture
def secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What `fingerprint` needs beside; and no test here may ask a server."""
    monkeypatch.setattr("urllib.request.urlopen", lambda *words, **how: pytest.fail("a server is asked"))
    (tmp_path / "key.txt").write_text("0123456789abcdef" * 2)
    return ["--key-file", str(tmp_path / "key.txt"), "--share", "0.5", "--window", "2"]


@pytest.mark.parametrize("command", BY_TEXTS)
@pytest.mark.parametrize("tokenizer", ["./nowhere", "a/b/c", "zoo:nobody"])
def test_a_served_model_without_a_tokenizer_is_refused_with_both_ways_out(
    command: str, tokenizer: str, secret: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*BY_TEXTS[command], f"{NOWHERE}#mine#{tokenizer}", *(secret if command == "fingerprint" else [])]
    told = told_alike(capsys, tmp_path, *words)
    assert f"{tokenizer!r} is no tokenizer here" in told
    assert f"{NOWHERE}#mine#TOKENIZER" in told and f"{NOWHERE}/chat/completions#mine" in told


@pytest.mark.parametrize("command", ["distill", "evaluate"])
def test_a_server_s_own_name_for_a_model_is_no_tokenizer(
    command: str, secret: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A dry run, which asks no hub, can't know that, and says so."""
    words = [*BY_TEXTS[command], f"{NOWHERE}#my-model", "--output", str(tmp_path / "run")]
    assert main(words) == 2
    assert "'my-model' is no tokenizer here" in capsys.readouterr().err and not (tmp_path / "run").exists()
    assert main([*words, "--dry-run"]) in (0, 2)
    out = capsys.readouterr().out
    assert "whether the hub has a tokenizer 'my-model' (a server's own name needs URL#NAME#TOKENIZER)" in out


@pytest.mark.parametrize("command", BY_WEIGHTS)
@pytest.mark.parametrize("name", [f"{NOWHERE}#mine#zoo:teacher", f"{NOWHERE}/chat/completions#mine"])
def test_where_weights_are_needed_a_served_model_is_refused(
    command: str, name: str, secret: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = told_alike(capsys, tmp_path, *BY_WEIGHTS[command], name)
    assert "stands behind a server, but this needs the weights themselves: give a folder or id" in told


@pytest.mark.parametrize(
    "words",
    [["calibrate", "--eta", "0.25", "--target"], ["distill", "--method", "sft_best_of_n", "--target"]],
)
def test_a_chat_interface_scores_no_texts(
    words: list[str], secret: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = told_alike(capsys, tmp_path, *words, f"{NOWHERE}/chat/completions#mine")
    assert "is a chat interface, which samples and doesn't score texts" in told
