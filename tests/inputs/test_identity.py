"""A run is known by what it read: changed weights, data and caches are refused by name, copies and touches are not."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distillknob.errors import BadInputError
from distillknob.evaluation.config import EvaluateConfig
from distillknob.evaluation.stage import evaluate
from distillknob.inputs.identity import changed_meanwhile, read_again, read_by
from distillknob.inputs.preflight import Preflight
from distillknob.runs.records import read_changes
from distillknob.runs.run import Run
from distillknob.tasks import GeneratedTask
from pairs import Pair


class Reads:
    """As much of a stage's config as `read_by` asks for."""

    def __init__(self, *models: str, tasks: tuple[str, ...] = (), cache: str | None = None):
        self.models_read, self.tasks, self.cache = list(models), list(tasks), cache


@pytest.fixture
def model(tiny_pair: Pair, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_pair.student, tmp_path / "mine"))


def rows(path: Path, answer: str = "4") -> Path:
    lines = [json.dumps({"prompt": f"What is {n} and {n}?", "reference": answer}) for n in range(60)]
    path.write_text("\n".join(lines) + "\n")
    return path


def opened(path: Path, config: Any, *, finish: bool = True) -> Run:
    run = Run.open(path, "evaluate", {}, read=read_by(config), resume=True)
    if finish and not run.complete:
        run.finish({})
    return run


def one_number_of_a_tensor(file: Path) -> None:
    """In place, of the same size, and with the old time: what no listing of the folder shows."""
    stat, data = file.stat(), bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("model.safetensors", one_number_of_a_tensor),
        ("tokenizer.json", lambda file: file.write_bytes(file.read_bytes() + b" ")),
        ("chat_template.jinja", lambda file: file.write_text("{{ messages[0].content }}")),
        ("generation_config.json", lambda file: file.write_text('{"temperature": 0.3}')),
        ("generation_config.json", lambda file: file.unlink()),
        ("special_tokens_map.json", lambda file: file.write_text("{}")),
    ],
)
@pytest.mark.parametrize("finish", [True, False])
def test_a_changed_file_of_a_model_is_refused_by_name(
    model: Path, tmp_path: Path, file: str, change: Callable[[Path], Any], finish: bool
) -> None:
    opened(tmp_path / "run", Reads(str(model)), finish=finish)
    change(model / file)
    with pytest.raises(BadInputError, match=rf"made from has changed since \(model {model}: {file} (has|is) .*another"):
        opened(tmp_path / "run", Reads(str(model)))


def test_a_touched_copied_or_documented_model_is_the_same(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    opened(tmp_path / "run", Reads("./mine"))
    for file in model.iterdir():
        file.touch()
    (model / "README.md").write_text("mine")
    (model / "optimizer.pt").write_bytes(b"state")
    (tmp_path / "elsewhere").mkdir()
    shutil.move(model, tmp_path / "elsewhere" / "mine")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert opened(tmp_path / "run", Reads("./mine")).complete


def test_a_changed_base_of_an_adapter_is_a_change(model: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(model)}))
    opened(tmp_path / "run", Reads(str(adapter)))
    one_number_of_a_tensor(model / "model.safetensors")
    with pytest.raises(BadInputError, match=rf"\(model {model}: model.safetensors has changed\)"):
        opened(tmp_path / "run", Reads(str(adapter)))


@pytest.mark.parametrize("kind", ["jsonl", "parquet", "gsm8k"])
def test_changed_data_are_refused_by_name(tmp_path: Path, kind: str) -> None:
    change: Callable[[], object]
    if kind == "jsonl":
        path, name, change = rows(tmp_path / "p.jsonl"), f"jsonl:{tmp_path}/p.jsonl", lambda: rows(path, "5")
    else:
        path = tmp_path / "data"
        path.mkdir()
        fields = ("question", "answer") if kind == "gsm8k" else ("prompt", "reference")
        name = f"gsm8k@{path}" if kind == "gsm8k" else f"parquet:{path}"

        def write(answer: str) -> None:
            for split in ("train", "test"):
                made = [{fields[0]: f"{split} {n}?", fields[1]: f"#### {answer}"} for n in range(9)]
                (path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))

        write("4")
        change = lambda: write("5")  # noqa: E731
    opened(tmp_path / "run", Reads(tasks=(name,)))
    assert opened(tmp_path / "run", Reads(tasks=(name,))).complete
    change()
    with pytest.raises(BadInputError, match=r"has changed since \(task .*(jsonl|data/\w+\.jsonl) has changed"):
        opened(tmp_path / "run", Reads(tasks=(name,)))


@pytest.mark.parametrize("change", [{"reference": 7}, {"gold": "another"}], ids=["answer", "way"])
def test_a_task_of_a_user_s_code_is_known_by_its_examples(
    change: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By what is right and by which of the right ways is given: a student learns that one."""
    from distillknob.tasks import get_task

    task = get_task("math")
    assert isinstance(task, GeneratedTask)
    draw = type(task).draw
    opened(tmp_path / "run", Reads(tasks=("math",)))
    assert opened(tmp_path / "run", Reads(tasks=("math",))).complete
    monkeypatch.setattr(type(task), "draw", lambda self, rng: replace(draw(self, rng), **change))
    with pytest.raises(BadInputError, match=r"\(task math: its examples has changed\)"):
        opened(tmp_path / "run", Reads(tasks=("math",)))


def test_settings_of_a_generated_task_belong_to_what_it_asks() -> None:
    easy, hard = "tracking?moves=2", "tracking?moves=9"
    reads = Reads(tasks=(easy, hard))
    parts = read_by(reads)
    assert parts[f"task {easy}"] != parts[f"task {hard}"]
    assert parts == read_by(reads)


def test_a_changed_reward_model_is_a_change(tiny_reward: str, tmp_path: Path) -> None:
    judge = Path(shutil.copytree(tiny_reward, tmp_path / "judge"))
    (tmp_path / "d.jsonl").write_text(
        "".join(json.dumps({"instruction": f"Do {n}", "context": "", "response": "ok"}) + "\n" for n in range(60))
    )
    name = f"dolly@{tmp_path}/d.jsonl?reward={judge}"
    opened(tmp_path / "run", Reads(tasks=(name,)))
    one_number_of_a_tensor(judge / "model.safetensors")
    with pytest.raises(BadInputError, match=rf"\(reward model {judge}: model.safetensors has changed\)"):
        opened(tmp_path / "run", Reads(tasks=(name,)))


def test_a_changed_cache_is_a_change(tmp_path: Path) -> None:
    cache = Run.open(tmp_path / "cache", "cache", {})
    (cache.path / "topk-00000.safetensors").write_bytes(b"0" * 100)
    cache.finish({})
    reads = Reads(cache=str(cache.path))
    opened(tmp_path / "run", reads)
    one_number_of_a_tensor(cache.path / "topk-00000.safetensors")
    with pytest.raises(BadInputError, match=rf"\(cache {cache.path}: topk-00000.safetensors has changed\)"):
        opened(tmp_path / "run", reads)


def in_the_cache(folder: Path, name: str, commit: str) -> None:
    """A model in the hub's cache, as a download leaves it, with `main` at this commit."""
    repo = folder / f"models--{name.replace('/', '--')}"
    (repo / "snapshots" / commit).mkdir(parents=True, exist_ok=True)
    (repo / "snapshots" / commit / "config.json").write_text("{}")
    (repo / "refs").mkdir(exist_ok=True)
    (repo / "refs" / "main").write_text(commit)


def test_a_branch_of_the_hub_that_moved_is_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    in_the_cache(tmp_path / "hub", "org/model", "a" * 40)
    opened(tmp_path / "run", Reads("org/model"))
    assert opened(tmp_path / "run", Reads("org/model")).complete
    in_the_cache(tmp_path / "hub", "org/model", "b" * 40)
    with pytest.raises(BadInputError, match=r"model org/model: commit was a{40}, now b{40}"):
        opened(tmp_path / "run", Reads("org/model"))
    with pytest.raises(BadInputError, match=r"can't load 'org/other': it isn't in the cache.*hf download org/other"):
        opened(tmp_path / "other", Reads("org/other"))


def test_a_served_model_is_known_by_its_name_and_the_record_says_so(model: Path) -> None:
    read = read_by(Reads(f"http://localhost:9/v1#m#{model}"))
    assert read["model http://localhost:9/v1#m"] == {"weights": "unknown: a server shows no weights"}
    assert "tokenizer.json" in read[f"tokenizer {model}"] and "model.safetensors" not in read[f"tokenizer {model}"]


@pytest.mark.parametrize("ending", ["", "/", "#zoo:teacher"])
def test_nothing_is_looked_for_of_a_chat_interface(monkeypatch: pytest.MonkeyPatch, ending: str) -> None:
    """Its tokenizer is the server's: no hub is asked, and none is said to be out of reach."""
    monkeypatch.setattr("distillknob.models.names.offline", lambda: pytest.fail("the hub is asked"))
    slash, _, tokenizer = ending.partition("#")
    name = f"https://host.invalid/v1/chat/completions{slash}#my-model"
    read = read_by(Reads(f"{name}#{tokenizer}" if tokenizer else name))
    assert read == {f"model {name}": {"weights": "unknown: a server shows no weights"}}
    (side,) = Preflight().sides([name])
    assert side.tokenizer is None


def test_a_finished_run_of_a_served_model_says_that_it_may_be_another_now(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = Reads(f"http://localhost:1/v1#served#{model}")
    opened(tmp_path / "run", config)
    assert opened(tmp_path / "run", config).complete
    told = capsys.readouterr().err
    assert "nothing was run. What a server has under a name can't be seen, and may have changed (model http" in told


# Stages


def small(model: str, **given: Any) -> EvaluateConfig:
    return EvaluateConfig(models=[model], problems=2, samples=2, k=2, max_new_tokens=4, **given)


def test_a_finished_run_says_so_and_a_changed_model_is_refused(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluate(small(str(model)), tmp_path / "run")
    assert "nothing was run" not in capsys.readouterr().err
    evaluate(small(str(model)), tmp_path / "run")
    told = capsys.readouterr().err
    assert f"{tmp_path}/run is complete since 20" in told and "nothing was run. Another --output measures anew" in told
    one_number_of_a_tensor(model / "model.safetensors")
    with pytest.raises(BadInputError, match=r"model\.safetensors has changed"):
        evaluate(small(str(model)), tmp_path / "run")


def test_what_changes_while_a_run_is_at_work_is_told_and_noted(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The second model is loaded after the first has been measured, by when it may be another than was recorded."""
    run = Run.open(tmp_path / "run", "evaluate", {}, read=read_by(small(str(model))))
    assert changed_meanwhile(run, small(str(model))) == []
    one_number_of_a_tensor(model / "model.safetensors")
    (note,) = changed_meanwhile(run, small(str(model)))
    assert f"changed while it was at work (model {model}: model.safetensors has changed)" in note
    assert f"warning: {note}" in capsys.readouterr().err
    shutil.rmtree(model)
    assert "there is no checkpoint folder" in changed_meanwhile(run, small(str(model)))[0]


def test_a_run_from_before_the_record_is_taken_as_it_is_and_that_is_said(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = opened(tmp_path / "run", Reads(str(model)))
    environment = json.loads((run.path / "environment.json").read_text())
    for name in ("read", "template_date"):
        del environment[name]
    (run.path / "environment.json").write_text(json.dumps(environment))
    one_number_of_a_tensor(model / "model.safetensors")
    assert opened(tmp_path / "run", Reads(str(model))).template_date == environment["started"][:10]
    assert "What it read isn't recorded (by an older version), and may have changed" in capsys.readouterr().err


def stages(pair: Pair) -> dict[str, tuple[Callable[..., Run], Any]]:
    """Every stage that loads models, with its smallest config."""
    from distillknob.calibration.config import CalibrationConfig
    from distillknob.calibration.stage import calibrate
    from distillknob.diagnosis.config import DiagnoseConfig
    from distillknob.diagnosis.stage import diagnose
    from distillknob.distillation.cache.config import CacheConfig
    from distillknob.distillation.cache.stage import cache_teacher
    from distillknob.distillation.config import DistillConfig
    from distillknob.distillation.stage import distill

    both: dict[str, Any] = {"teacher": pair.teacher, "student": pair.student}
    trained: dict[str, Any] = {"max_steps": 1, "gradient_checkpointing": False, "report_to": "none"}
    return {
        "evaluate": (evaluate, small(pair.student)),
        "diagnose": (
            diagnose,
            DiagnoseConfig(**both, problems=2, samples=1, candidates=2, gradient_problems=1, max_new_tokens=4),
        ),
        "cache": (cache_teacher, CacheConfig(teacher=pair.teacher, problems=2, top_k=4, max_completion_length=4)),
        "distill": (
            distill,
            DistillConfig(**both, **trained, method="sft_gold", problems=4, per_device_train_batch_size=2),
        ),
        "calibrate": (
            calibrate,
            CalibrationConfig(
                teacher=pair.teacher,
                target=pair.student,
                eta=0.5,
                gate=False,
                problems=4,
                num_generations=2,
                per_device_train_batch_size=2,
                guard_problems=2,
                guard_samples=1,
                guard=False,
                max_completion_length=4,
                **trained,
            ),
        ),
    }


@pytest.mark.parametrize("name", ["evaluate", "diagnose", "cache", "distill", "calibrate"])
def test_a_config_serves_twice_and_a_complete_run_loads_no_model(
    tiny_pair: Pair,
    tmp_path: Path,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run, config = stages(tiny_pair)[name]
    before = repr(sorted(vars(config).items(), key=lambda item: item[0]))
    first = run(config, tmp_path / "run")
    assert repr(sorted(vars(config).items(), key=lambda item: item[0])) == before

    def loads(*arguments: Any, **options: Any) -> None:
        raise AssertionError("a model is loaded")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", loads)
    capsys.readouterr()
    again = run(config, tmp_path / "run")
    assert again.complete and again.result == first.result
    assert "nothing was run" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["key_file", "traces_file"])
def test_a_file_that_is_read_again_is_known_by_content(tmp_path: Path, kind: str) -> None:
    file, config = tmp_path / "file", Reads()
    file.write_text("one")
    setattr(config, kind, str(file))
    then = read_by(config)
    assert read_again(then) == then
    file.write_text("two")
    assert read_changes(then, read_again(then)) == [f"{kind.removesuffix('_file')} {file}: file has changed"]
    file.unlink()
    with pytest.raises(BadInputError, match="is not there: put it back"):
        read_again(then)
