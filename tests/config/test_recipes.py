"""Every recipe in recipes/ runs end to end: two steps of everything, on tiny models of its own architectures and on the
fixtures of its own data sets, found without being named here. And each dry run says what its recipe says of itself."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from distillknob.calibration.stage import calibrate
from distillknob.cli.main import main
from distillknob.config.recipe import read_recipe, stage_config
from distillknob.diagnosis.stage import diagnose
from distillknob.distillation.stage import distill
from distillknob.errors import BadInputError
from distillknob.experiments.cell import run_cell
from distillknob.experiments.demo import DemoConfig, demo
from distillknob.experiments.plan import Cell
from distillknob.models.architecture import SHAPES
from distillknob.models.names import FETCHED, zoo_path
from distillknob.runs.run import load_run, verify_manifest
from distillknob.stages import EXPERIMENTS, STAGES
from distillknob.verdicts.teachers import teacher_label
from pairs import Pair
from result_types import faults_below

ROOT = Path(__file__).parents[2]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
DATA = Path(__file__).parents[1] / "fixtures" / "data"
CUT: dict[str, dict[str, Any]] = {
    "diagnose": {"problems": 2, "samples": 1, "candidates": 2, "max_new_tokens": 6},
    "calibrate": {
        "problems": 4,
        "max_steps": 2,
        "num_generations": 2,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "steps_per_generation": None,
        "max_completion_length": 6,
        "guard_problems": 3,
        "guard_samples": 2,
        "utility_tolerance": 0.9,
    },
    "distill": {
        "problems": 4,
        "max_completion_length": 6,
        "max_steps": 2,
        "per_device_train_batch_size": 4,
        "gradient_accumulation_steps": 1,
        "candidates": 2,
        "curve_steps": 2,
        "tokens_per_step": 8,
    },
    "evaluate": {"problems": 3, "samples": 2, "max_new_tokens": 6},
}
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "head_dim": 16}
SMALL_TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


class Models(NamedTuple):
    teacher: str
    student: str
    target: str


def made(name: str, folder: Path, seed: int) -> str:
    """A checkpoint with fresh weights of the architecture that `name` has, under the embedded tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(zoo_path("teacher"))
    known = SHAPES[name]
    small = {
        **SMALL,
        "num_key_value_heads": 1,
        "vocab_size": 2080,
        "max_position_embeddings": 1024,
        "initializer_range": 0.2,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    if known["model_type"] == "gemma3":
        tower = {**SMALL_TOWER, "image_size": 28, "patch_size": 14}
        text = {**known["text_config"], **small, "sliding_window": 16}
        shape = {**known, "text_config": text, "vision_config": tower, "mm_tokens_per_image": 4}
    else:
        shape = {**known, **small}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        AutoModelForCausalLM.from_config(AutoConfig.for_model(**shape), dtype=torch.float32).save_pretrained(folder)
    if "qwen3" in known["model_type"]:  # whose own template thinks unless it is told not to
        thinks = "{% if enable_thinking is not defined or enable_thinking %}{{ '<|system|>' }}{% endif %}"
        tokenizer.chat_template = thinks + str(tokenizer.chat_template)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def tiny_models(tiny_pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """recipe -> tiny models that stand for its own."""
    folder, found = tmp_path_factory.mktemp("architectures"), {}

    def models(recipe: Mapping[str, Any]) -> Models:
        names = [recipe[role] for role in Models._fields]
        if names[0].startswith("zoo:"):
            return Models(tiny_pair.teacher, tiny_pair.student, tiny_pair.student)
        for seed, name in enumerate(names):
            if name not in found:
                found[name] = made(name, folder / name.replace("/", "--"), seed)
        return Models(*(found[name] for name in names))

    return models


def here(task: str, reward: str) -> str:
    """A task on its fixture, graded by a tiny reward model where one grades; generated tasks as they are."""
    name, _, query = task.partition("?")
    local = f"{name}@{DATA / name}" if (DATA / name).exists() else name
    return f"{local}?reward={reward}" if query.startswith("reward=") else task if query else local


def cut(recipe: dict[str, Any], models: Models, reward: str) -> dict[str, Any]:
    """The recipe with tiny models, data and sizes; everything else (methods, losses, η, adapters) stays as it is."""
    small: dict[str, Any] = {**recipe, **models._asdict()}
    small["tasks"] = [here(task, reward) for task in recipe["tasks"]]
    for stage, sizes in CUT.items():
        section: dict[str, Any] = dict(recipe.get(stage) or {})
        if "tasks" in section:
            section["tasks"] = [here(task, reward) for task in section["tasks"]]
        small[stage] = {name: value for name, value in {**section, **sizes}.items() if value is not None}
    return small


def test_a_teacher_needs_a_problem_to_be_compared_on() -> None:
    with pytest.raises(BadInputError, match="teacher_samples=0: must be at least 1"):
        DemoConfig(teacher_samples=0)


def test_there_is_a_recipe() -> None:
    assert RECIPES


SHIPPED = [path for path in RECIPES if read_recipe(path)["teacher"].startswith("zoo:")]
PAPER = [path for path in RECIPES if path not in SHIPPED and read_recipe(path).keys() & set(EXPERIMENTS)]
CHAINED = [path for path in RECIPES if path not in [*SHIPPED, *PAPER]]


@pytest.mark.slow
@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_recipe_s_demo_runs_end_to_end(
    path: Path, tiny_models: Any, tiny_reward: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distillknob.distillation.learning_curve.CURVE_PROBLEMS", 2)
    given = read_recipe(path)
    recipe = cut(given, tiny_models(given), tiny_reward)
    settings = {**(recipe.get("demo") or {}), "teacher_problems": 4, "teacher_samples": 1}
    config = DemoConfig(**settings, recipe=recipe)
    run = demo(config, tmp_path / "run")
    result = run.result
    assert run.complete and verify_manifest(run.path) == [] == faults_below(run.path)
    assert (run.path / "report.html").stat().st_size > 1000
    tasks = recipe["tasks"]
    assert result["tasks"] == tasks
    teachers = [cell.teacher for cell in config.cells()]
    assert {(r["teacher"], r["task"]) for r in result["teachers"]} == {
        (teacher, task) for teacher in teachers for task in tasks
    }
    assert {(row["n_problems"], row["n_samples"]) for row in result["teachers"]} == {(4, 1)}
    assert {(row["n_problems"], row["n_samples"]) for row in result["students"]} == {(3, 2)}
    for row in result["teachers"]:
        assert row["interval"][0] <= row["score"] <= row["interval"][1]
        assert (row["difference"] is None) == (row["teacher"] == "original")
    wanted = {("none", "none", task) for task in tasks} | {
        (teacher, method, task) for teacher in teachers for method in config.methods for task in tasks
    }
    assert {(r["teacher"], r["method"], r["task"]) for r in result["students"]} == wanted
    for row in result["students"]:
        assert {"eta", "seed", "pass@1", f"pass@{recipe['evaluate'].get('k', 16)}", "interval"} <= row.keys()
        assert 0 <= row["pass@1"] <= 1
    # Same tokens, steps and learning rate for every student of a method.
    for method in config.methods:
        rows = [row for row in result["students"] if row["method"] == method]
        assert len({(row["tokens"], row["steps"], row["learning_rate"]) for row in rows}) == 1
    etas = {row["teacher"]: row["eta"] for row in result["teachers"]}
    assert result["eta"] == {name: etas[name] for name in teachers[1:]}
    assert set(result["eta"].values()) == {config.eta_distillable, config.eta_undistillable}
    for row in result["teachers"]:
        calibration = row["calibration"]
        assert row["label"] == ("original" if calibration is None else teacher_label(row["eta"], calibration))
    assert len(result["claims"]) == 2 * len(tasks)
    assert {(row["b"], row["method"], row["task"]) for row in result["gains"]} == {
        row for row in wanted if row[0] != "none"
    }
    for name in teachers[1:]:
        assert load_run(run.path / result["runs"]["calibrate"][name]).result["eta"] == etas[name]
    for named in result["runs"].values():
        for folder in [named] if isinstance(named, str) else named.values():
            assert load_run(run.path / folder).complete
    shown = {(entry["task"], entry["prompt"]): entry for entry in result["examples"]}
    assert len(shown) == len(tasks) * min(config.examples, 3)
    assert all(len(entry["answers"]) == 4 + 3 * len(config.methods) for entry in shown.values())
    # A second demo shows what is there.
    assert json.dumps(demo(config, tmp_path / "run", resume=True).result) == json.dumps(result)


@pytest.mark.slow
@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_a_recipe_of_the_paper_s_runs_stage_by_stage(
    path: Path, tiny_models: Any, tiny_reward: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lens, and one cell whole: the calibrated teacher, a student by each of its methods, all evaluated."""
    monkeypatch.setattr("distillknob.distillation.learning_curve.CURVE_PROBLEMS", 1)
    given = read_recipe(path)
    recipe = cut(given, tiny_models(given), tiny_reward)
    lens = stage_config("diagnose", recipe, problems=1, candidates=1, tasks=recipe["tasks"][:1])
    assert diagnose(lens, tmp_path / "lens").result["findings"]
    experiment = given.get("demo") or given["sweep"]
    eta = experiment.get("eta_undistillable") or max(experiment["etas"])
    cell = Cell(eta, 0, tuple(experiment["methods"]), {"teacher": {"problems": 2, "samples": 1}})
    run = run_cell(cell, recipe, tmp_path / "cell")
    runs = {name: load_run(run.path / place) for name, place in run.result["runs"].items()}
    assert runs["calibrate"].result["eta"] == eta and runs["calibrate"].result["steps"] == 2
    evaluated = recipe["evaluate"].get("tasks", recipe["tasks"])
    for name, done in runs.items():
        if name.startswith("distill"):
            assert done.result["steps"] == 2 and done.result["tokens"] > 0
        if name.startswith("evaluate"):
            assert [task["task"] for task in done.result["models"][0]["tasks"]] == evaluated


@pytest.mark.parametrize("path", CHAINED, ids=lambda path: path.stem)
def test_a_recipe_without_an_experiment_trains_a_teacher_and_then_its_student(
    path: Path, tiny_models: Any, tiny_reward: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("distillknob.distillation.learning_curve.CURVE_PROBLEMS", 1)
    given = read_recipe(path)
    recipe = cut(given, tiny_models(given), tiny_reward)
    teacher = calibrate(stage_config("calibrate", recipe), tmp_path / "teacher")
    assert teacher.result["eta"] == given["calibrate"]["eta"] and teacher.result["steps"] == 2
    values = {"teacher": str(teacher.path / "model"), "tokens_per_step": None}
    student = distill(stage_config("distill", recipe, **values), tmp_path / "student")
    assert student.result["steps"] == 2 and student.result["method"] == given["distill"]["method"]
    assert student.result["teacher"] == str(teacher.path / "model")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_passes_a_dry_run_of_each_stage(
    path: Path,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By name, with nothing at hand: no data, no model but those that `fetch` makes, no network. It fits the GPU that
    it names."""
    monkeypatch.chdir(tmp_path)
    given = read_recipe(path)
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("DISTILLKNOB_CACHE", str(cache))
    for role in ("teacher", "student"):
        if (name := given[role].removeprefix("zoo:")) in FETCHED:
            stand_in = Path(shutil.copytree(zoo_path(role), cache / "zoo" / name))
            longer = {**json.loads((stand_in / "config.json").read_text()), "max_position_embeddings": 1024}
            (stand_in / "config.json").write_text(json.dumps(longer))
    for stage in STAGES:
        if (stage in EXPERIMENTS and stage not in given) or stage in ("fingerprint", "memorization"):
            # whose key, or whose baseline, no recipe holds
            continue
        models = ["--models", given["teacher"], given["student"]] if stage == "evaluate" else []
        models += ["--ratio", "0.5"] if stage == "prune" else []  # how small a student shall be, no recipe says
        assert main([stage, "--config", path.stem, *models, "--dry-run", "--gpu", "h100"]) == 0, stage
        out, err = capsys.readouterr()
        assert "nothing was started; the run would go to" in out and "Traceback" not in err, stage
        assert "GPU hours" in out and ": fits" in out, stage
        assert all(given[role] in out for role in ("teacher",)), stage
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", [path for path in RECIPES if "H100" in path.read_text()], ids=lambda path: path.stem)
def test_a_recipe_s_hours_are_those_of_its_dry_run(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = path.read_text()
    said = re.search(r"about (\d+) H100 hours in all, an estimate: `distillknob ([^`]+)`", text)
    assert said is not None
    assert main([*said[2].split(), "--output", str(tmp_path / "run")]) == 0  # not over a run in this folder
    found = re.search(r"([\d.]+) GPU hours", capsys.readouterr().out)
    assert found is not None and float(found[1]) == pytest.approx(float(said[1]), abs=0.6)


@pytest.mark.parametrize("path", [path for path in RECIPES if "H100" in path.read_text()], ids=lambda path: path.stem)
def test_a_recipe_says_where_it_comes_from(path: Path) -> None:
    """What it stands beside, what is reconstructed, and how it runs on one device, eight, and several machines."""
    comment = "".join(line for line in path.read_text().splitlines(keepends=True) if line.startswith("#"))
    for wanted in ("Stands beside", "Reconstructed", "On 1 GPU", "On 8 GPUs", "On several nodes"):
        assert wanted in comment
    for named in re.findall(r"--config (\S+)", comment):
        assert named.strip("`;.") == path.stem
    for named in re.findall(r"recipes/\S+\.yaml", comment):
        assert (ROOT / named).exists()


def test_the_table_of_recipes_is_the_folder() -> None:
    """docs/reference/recipes.md has a row for each recipe and each Accelerate configuration, and for nothing else."""
    text = (ROOT / "docs" / "reference" / "recipes.md").read_text()
    rows = set(re.findall(r"^\| `([\w-]+)` \|", text, flags=re.MULTILINE))
    assert rows == {path.stem for path in [*RECIPES, *(ROOT / "recipes" / "accelerate").glob("*.yaml")]}


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "recipes" / "accelerate").glob("*.yaml")), ids=lambda path: path.stem
)
def test_accelerate_s_own_loader_reads_its_configurations(path: Path) -> None:
    """That they parse and know no field that Accelerate doesn't; none has been run on GPUs here."""
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))
    assert config.num_processes == 8 * config.num_machines and config.mixed_precision == "bf16"
    assert path.name in path.read_text(), "its comment names the command"
