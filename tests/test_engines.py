"""Stages with their samples drawn by vLLM, of which there is a stand-in here: the same work, by the engine that the run
was begun with, of which one lives at a time and none is left."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import distilling
import small_calibrations
from distillknob.calibration.config import CalibrationConfig
from distillknob.calibration.stage import calibrate
from distillknob.diagnosis.config import DiagnoseConfig
from distillknob.diagnosis.stage import diagnose
from distillknob.distillation.cache.config import CacheConfig
from distillknob.distillation.cache.stage import cache_teacher
from distillknob.distillation.config import DistillConfig
from distillknob.distillation.stage import distill
from distillknob.errors import BadInputError
from distillknob.evaluation.config import EvaluateConfig
from distillknob.evaluation.stage import evaluate
from distillknob.inputs.preflight import Preflight
from distillknob.models.architecture import parameters_of
from distillknob.stages import STAGES
from pairs import Pair

ENVIRONMENT = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def evaluation(pair: Pair, **values: Any) -> EvaluateConfig:
    return EvaluateConfig(
        models=[pair.teacher, pair.student],
        tasks=["qa"],
        **{"problems": 6, "samples": 2, "k": 2, "max_new_tokens": 12, "engine": "vllm", **values},
    )


def sampled_by(path: Path) -> dict[str, Any]:
    environment: dict[str, Any] = json.loads((path / "environment.json").read_text())
    return {**environment["sampled_by"], "version": environment["versions"]["vllm"]}


@pytest.fixture
def trl_with_vllm(vllm: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """TRL as it is where vLLM was there when it was imported."""
    from trl.generation import vllm_generation

    for name in ENVIRONMENT:  # which it sets
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    for name in ("LLM", "SamplingParams"):
        monkeypatch.setattr(vllm_generation, name, getattr(vllm, name), raising=False)
    yield vllm


def test_evaluate_samples_each_model_in_an_engine(vllm: Any, tiny_pair: Pair, tmp_path: Path) -> None:
    run = evaluate(evaluation(tiny_pair), tmp_path / "run")
    assert [options["model"] for options in vllm.started] == [tiny_pair.teacher, tiny_pair.student]
    assert not vllm.living
    assert sampled_by(run.path) == {
        "engine": "vllm",
        "why": "the config says so",
        "version": vllm.VERSION,
    }
    assert run.config["engine"] == "vllm"
    own = evaluate(evaluation(tiny_pair, engine="transformers"), tmp_path / "own")
    assert len(run.samples()) == len(own.samples())
    assert [row["text"] for row in run.samples()] != [row["text"] for row in own.samples()]


def test_a_run_goes_on_with_the_engine_that_it_was_begun_with(
    vllm: Any, tiny_pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = evaluation(tiny_pair)
    whole = evaluate(config, tmp_path / "whole").samples()
    generate = vllm.LLM.generate

    def stopped(llm: Any, *args: Any, **kwargs: Any) -> Any:
        if "student" in vllm.started[-1]["model"]:
            raise KeyboardInterrupt
        return generate(llm, *args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(vllm.LLM, "generate", stopped)
        evaluate(config, tmp_path / "run")
    vllm.living.clear()
    with pytest.raises(BadInputError, match="engine was 'vllm', now 'transformers'"):
        evaluate(evaluation(tiny_pair, engine="transformers"), tmp_path / "run", resume=True)
    # auto would take transformers for models as small as these.
    run = evaluate(evaluation(tiny_pair, engine="auto"), tmp_path / "run", resume=True)
    assert run.samples() == whole
    assert run.config["engine"] == "vllm"


def test_auto_is_recorded_as_what_it_came_to(tiny_pair: Pair, tmp_path: Path) -> None:
    run = evaluate(evaluation(tiny_pair, engine="auto"), tmp_path / "run")
    assert run.config["engine"] == "transformers"
    assert sampled_by(run.path) == {"engine": "transformers", "why": "vLLM isn't installed", "version": None}
    again = evaluate(evaluation(tiny_pair, engine="auto"), tmp_path / "run")
    assert again.result == run.result


def test_a_run_notes_the_sizes_of_the_models_that_it_read(tiny_pair: Pair, tmp_path: Path) -> None:
    """From which commands to copy have their learning rates."""
    run = evaluate(evaluation(tiny_pair, engine="auto"), tmp_path / "run")
    noted = json.loads((run.path / "environment.json").read_text())["parameters"]
    assert set(noted) == set(run.config["models"]) and all(size > 1000 for size in noted.values())
    assert parameters_of("http://localhost:1/v1#served") is None and parameters_of("./nowhere") is None


def test_a_complete_run_needs_no_engine(tiny_pair: Pair, tmp_path: Path) -> None:
    import vllm_standin

    with pytest.MonkeyPatch.context() as patch:
        vllm_standin.install(patch, tmp_path / "site")
        run = evaluate(evaluation(tiny_pair), tmp_path / "run")
    for engine in ("vllm", "auto"):
        assert evaluate(evaluation(tiny_pair, engine=engine), tmp_path / "run").result == run.result


@pytest.mark.parametrize("stage", ["evaluate", "diagnose", "cache"])
def test_an_engine_that_is_not_here_is_refused_before_any_work(stage: str, tiny_pair: Pair, tmp_path: Path) -> None:
    values: dict[str, Any] = {"teacher": tiny_pair.teacher}
    if stage != "cache":
        values = {"models": list(tiny_pair)} if stage == "evaluate" else tiny_pair._asdict()
    config = STAGES[stage].config_class(engine="vllm", tasks=["qa"], **values)
    with pytest.raises(BadInputError, match=r"pip install 'distillknob\[vllm\]'"):
        STAGES[stage].run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    dry = Preflight(fetch=False)
    STAGES[stage].check(config, dry)
    assert any("whether vLLM is installed" in text for text in dry.unseen), "it may be another machine's"


def test_diagnose_samples_both_models_in_engines(vllm: Any, tiny_pair: Pair, tmp_path: Path) -> None:
    config = DiagnoseConfig(
        teacher=tiny_pair.teacher,
        student=tiny_pair.student,
        tasks=["qa"],
        problems=4,
        candidates=2,
        gradient_problems=0,
        max_new_tokens=12,
        engine="vllm",
    )
    run = diagnose(config, tmp_path / "run")
    assert [options["model"] for options in vllm.started] == [tiny_pair.student, tiny_pair.teacher]
    assert not vllm.living
    assert run.result["findings"]


def test_traces_and_caches_are_written_by_an_engine(vllm: Any, tiny_pair: Pair, tmp_path: Path) -> None:
    small: dict[str, Any] = {"problems": 8, "max_completion_length": 12, "seed": 0, "engine": "vllm"}
    cache = cache_teacher(CacheConfig(teacher=tiny_pair.teacher, tasks=["qa"], top_k=4, **small), tmp_path / "cache")
    assert cache.result["traces"] == 8
    run = distill(distilling.config(tiny_pair, "sft", **small), tmp_path / "sft")
    assert run.config["engine"] == "vllm" and "use_vllm" not in run.config, "no rollouts, and so no vLLM of TRL's"
    assert run.result["traces"] == 8
    # Its teacher is loaded for its distributions too.
    distill(distilling.config(tiny_pair, "gkd", lmbda=0.0, **small), tmp_path / "gkd")
    assert [options["model"] for options in vllm.started] == [tiny_pair.teacher] * 3
    assert not vllm.living
    assert [row["completion_ids"] for row in cache.samples()] == [row["completion_ids"] for row in run.samples()]


def test_calibrate_judges_by_engines_and_frees_the_trainers(
    trl_with_vllm: Any, tiny_pair: Pair, tmp_path: Path
) -> None:
    config = small_calibrations.config(tiny_pair, engine="vllm", max_completion_length=16)
    assert config.use_vllm
    run = calibrate(config, tmp_path / "run")
    before, trainers, *after = [Path(options["model"]).name for options in trl_with_vllm.started]
    assert before == trainers == "teacher" and after[:1] == ["final"]
    assert not trl_with_vllm.living
    assert run.config["engine"] == "vllm"
    (row,) = run.result["guard"]
    assert 0 <= row["before"] <= 1 and 0 <= row["after"] <= 1


def test_the_guards_answers_under_lora_stay_with_transformers(
    trl_with_vllm: Any, tiny_pair: Pair, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small_calibrations.config(tiny_pair, engine="vllm", use_peft=True, max_completion_length=16)
    calibrate(config, tmp_path / "run")
    assert len(trl_with_vllm.started) == 1, "TRL's, for the rollouts"
    assert "the guard's answers are transformers'" in capsys.readouterr().err


@pytest.mark.parametrize("sleeps", [False, True])
def test_a_learning_curve_is_of_the_weights_in_training(
    trl_with_vllm: Any, tiny_pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sleeps: bool
) -> None:
    from distillknob.models.engines.vllm_model import VllmModel

    seen: list[float] = []
    drawn = VllmModel.draw

    def draw(model: VllmModel, request: Any) -> Any:
        (llm,) = trl_with_vllm.living
        seen.append(float(llm.model.get_input_embeddings().weight.detach().abs().sum()))
        return drawn(model, request)

    monkeypatch.setattr(VllmModel, "draw", draw)
    config = distilling.config(
        tiny_pair,
        "opd_rkl",
        engine="vllm",
        vllm_enable_sleep_mode=sleeps,
        curve_steps=1,
        max_completion_length=12,
    )
    run = distill(config, tmp_path / "run")
    curve = [row for row in run.metrics() if "eval/qa" in row]
    assert [row["step"] for row in curve] == [0, 1, 2]
    assert len(set(seen)) == 3 and min(seen) > 0, "the weights of each step"
    assert len(trl_with_vllm.started) == 1 and not trl_with_vllm.living


@pytest.mark.parametrize("cls", [CalibrationConfig, DistillConfig])
def test_the_two_words_for_vllm_agree(vllm: Any, cls: type[Any]) -> None:
    assert cls(use_vllm=True).engine == "vllm"
    assert cls(engine="vllm").use_vllm
    assert not cls(engine="auto").use_vllm
    with pytest.raises(BadInputError, match="use_vllm is on and engine is transformers"):
        cls(engine="transformers", use_vllm=True)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"engine": "vlm"}, "did you mean 'vllm'"),
        ({"engine_options": {"quantization": "fp8"}}, "sets 'quantization', which isn't known to leave samples"),
        ({"engine_options": {"max_num_seqs": 0}}, "must be a whole number from 1 on"),
        ({"engine_options": {"gpu_memory_utilization": 1.5}}, "a share of the GPU's memory"),
        ({"engine": "transformers", "engine_options": {"max_num_seqs": 4}}, "are vLLM's"),
    ],
)
def test_what_an_engine_can_not_have_is_refused(values: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInputError, match=said):
        EvaluateConfig(**values)


def test_options_reach_the_engine(vllm: Any, tiny_pair: Pair, tmp_path: Path) -> None:
    config = evaluation(tiny_pair, engine_options={"max_num_seqs": 3, "gpu_memory_utilization": 0.5})
    evaluate(replace(config, models=[tiny_pair.teacher]), tmp_path / "run")
    assert vllm.started[0]["max_num_seqs"] == 3
