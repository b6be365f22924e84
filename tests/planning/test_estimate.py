"""The dry run's arithmetic: parameters against published totals, bytes and products against hands, memory against the
embedded pair's own."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distillknob.calibration.config import CalibrationConfig
from distillknob.config.recipe import read_recipe, stage_config, stage_values
from distillknob.diagnosis.pair_scores import score_pair
from distillknob.distillation.check import check
from distillknob.distillation.config import DistillConfig
from distillknob.errors import BadInputError
from distillknob.evaluation.config import EvaluateConfig
from distillknob.experiments.demo import DemoConfig
from distillknob.inputs.preflight import Preflight
from distillknob.methods import METHODS
from distillknob.models.architecture import SHAPES, adapter_parameters, architecture
from distillknob.models.loaded.sampling import rows_at_once
from distillknob.models.names import zoo_path
from distillknob.models.sampling import Sampling
from distillknob.models.scoring import token_logprobs
from distillknob.planning.counting import PAIRED_AT_ONCE, SAMPLED_AT_ONCE, SCORED_AT_ONCE
from distillknob.planning.estimate import estimate, estimates
from distillknob.planning.hardware import GIB, GPUS, LAYER_SECONDS, LOADING, Engine, engine, memory_here
from distillknob.planning.memory import footprint
from distillknob.planning.workload import WORKLOADS, workload
from distillknob.stages import STAGES

ROOT = Path(__file__).parents[2]
H100 = GPUS["h100"]
ONE = Engine(H100)
SIZES: dict[str, Any] = {"tasks": ["bigmath-4"], "max_completion_length": 1024}
QWEN: dict[str, Any] = {"teacher": "Qwen/Qwen3-8B", "target": "Qwen/Qwen3-0.6B", **SIZES}
PAIR: dict[str, Any] = {"teacher": "Qwen/Qwen3-8B", "student": "Qwen/Qwen3-1.7B", **SIZES}


# Architectures


@pytest.mark.parametrize(
    "name, parameters",
    [
        ("Qwen/Qwen3-8B", 8_190_735_360),
        ("Qwen/Qwen3-4B", 4_022_468_096),
        ("Qwen/Qwen3-1.7B", 1_720_574_976),
        ("Qwen/Qwen3-0.6B", 596_049_920),
        ("google/gemma-3-1b-it", 999_885_952),
    ],
)
def test_parameters_are_those_that_the_models_publish(name: str, parameters: int) -> None:
    found = architecture(name)
    assert found.parameters == parameters and "table of shapes" in found.source


def test_gemma_s_text_and_its_vision_tower_are_told_apart() -> None:
    large, small = architecture("google/gemma-3-12b-it"), architecture("google/gemma-3-4b-it")
    assert (large.read, small.read) == (11_766_034_176, 3_880_263_168)  # text alone, as published
    assert round(large.parameters / 1e9, 1) == 12.2 and round(small.parameters / 1e9, 1) == 4.3
    # Five layers of six keep a window of 1,024 tokens: 48 layers × 8 heads × 256, keys and values.
    assert large.cached(4096) == 2 * 8 * 256 * (40 * 1024 + 8 * 4096)


def test_a_folder_s_own_config_wins() -> None:
    found = architecture(str(zoo_path("teacher")))
    assert found.source == "its folder" and found.parameters == architecture("zoo:teacher").parameters == 393_920


def test_the_local_cache_goes_before_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from distillknob.models.architecture import model_config

    snapshot = tmp_path / "models--Qwen--Qwen3-4B" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--Qwen--Qwen3-4B" / "refs").mkdir()
    (tmp_path / "models--Qwen--Qwen3-4B" / "refs" / "main").write_text("abc")
    (snapshot / "config.json").write_text((zoo_path("teacher") / "config.json").read_text())
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    config, source = model_config("Qwen/Qwen3-4B")
    assert source == "the local cache" and config.hidden_size == 64


def test_a_model_that_can_t_be_reached_gets_one_message() -> None:
    with pytest.raises(BadInputError, match=r"'Qwen/Qwen3-9B' can't be reached.*did you mean 'Qwen/Qwen3-8B'"):
        architecture("Qwen/Qwen3-9B")


def test_an_adapter_is_rank_times_inputs_and_outputs() -> None:
    layer = (4096 + 4096) * 2 + (4096 + 1024) * 2 + (4096 + 12_288) * 3  # q and o, k and v, gate, up and down
    assert adapter_parameters("Qwen/Qwen3-8B", 8, ["all-linear"]) == 8 * 36 * layer
    assert adapter_parameters("Qwen/Qwen3-8B", 8, ["q_proj"]) == 8 * 36 * (4096 + 4096)
    # The vision tower has no o_proj.
    assert adapter_parameters("google/gemma-3-4b-it", 4, ["o_proj"]) == 4 * 34 * (8 * 256 + 2560)


# Memory


def resident(**options: Any) -> dict[str, float]:
    config = CalibrationConfig(**{**QWEN, **options.pop("config", {})})
    where = Engine(H100, **options)
    return footprint(workload("calibrate", config, where), where).resident


def test_weights_gradients_and_moments_by_hand() -> None:
    n = 8_190_735_360
    plain = resident()
    assert plain["weights"] == plain["gradients"] == plain["reference"] == 4 * n
    assert plain["optimizer"] == 8 * n  # two moments, in float32 like all that is trained
    assert "DDP's buckets" in resident(devices=8, sharding="ddp")
    fsdp2 = resident(devices=8, sharding="fsdp2")
    assert fsdp2["weights"] == fsdp2["gradients"] == 4 * n / 8 and fsdp2["optimizer"] == 8 * n / 8
    assert fsdp2["reference"] == 4 * n  # TRL's is one group, gathered whole
    zero3 = resident(devices=8, sharding="zero3")
    assert zero3["weights"] + zero3["gradients"] + zero3["optimizer"] == 16 * n / 8
    assert zero3["reference"] == 2 * n / 8
    assert plain["target"] == fsdp2["target"] == 2 * 596_049_920


def test_an_adapter_needs_no_second_model() -> None:
    found = resident(config={"use_peft": True, "lora_r": 8})
    a = adapter_parameters("Qwen/Qwen3-8B", 8, ["all-linear"])
    assert "reference" not in found
    assert (found["adapter"], found["gradients"], found["optimizer"]) == (4 * a, 4 * a, 8 * a)
    assert "reference" not in resident(config={"beta": 0.0, "guard": False, "reward": "sequence"})


def test_a_teacher_is_held_by_the_methods_that_ask_it() -> None:
    for method, wanted in (("gkd", True), ("sft", True), ("sft_gold", False)):
        work = workload("distill", DistillConfig(**PAIR, method=method), Engine(H100))
        assert (("teacher" in dict(work.resident)) is wanted) and work.trained is not None


def test_data_that_do_not_fill_a_step_of_the_named_devices_are_told(tmp_path: Path) -> None:
    rows = ({"prompt": f"Where is the lamp {i}?", "reference": "here", "solution": "Answer: here"} for i in range(60))
    (tmp_path / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = {**PAIR, "tasks": [f"jsonl:{tmp_path / 'task.jsonl'}"], "per_device_train_batch_size": 8}
    config = DistillConfig(**own, method="sft_gold")
    check(config, Preflight(fetch=False))
    with pytest.raises(BadInputError, match="problems to train on, but a step takes 64"):
        check(config, Preflight(8, fetch=False))


def test_the_prompts_of_one_s_own_file_are_measured(tmp_path: Path) -> None:
    rows = ({"prompt": f"Where is the lamp {i}?", "reference": "here"} for i in range(60))
    (tmp_path / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = f"jsonl:{tmp_path / 'task.jsonl'}"
    found = workload("evaluate", EvaluateConfig(models=["zoo:student"], tasks=[task], max_new_tokens=24), ONE)
    assert 8 < found.phases[0].prompt < 60


def test_a_validation_loss_is_read_as_often_as_it_is_measured() -> None:
    values = {**PAIR, "method": "distillm", "max_steps": 60, "options": {"validation_every": 25}}
    (phase,) = [
        one for one in workload("distill", DistillConfig(**values), ONE).phases if one.what == "validation loss"
    ]
    assert (phase.kind, phase.rows) == ("score", 3 * 32)


def test_what_saves_memory_saves_memory() -> None:
    def total(where: Engine = ONE, **options: Any) -> float:
        return footprint(workload("calibrate", CalibrationConfig(**QWEN, **options), where), where).total

    plain = total(use_peft=True, gradient_checkpointing=False)
    assert total(use_peft=True) < plain < total(gradient_checkpointing=False)
    assert total(Engine(H100, 8, "fsdp2")) < total(Engine(H100, 8, "ddp"))
    served = total(use_peft=True, target_url="http://localhost:8000/v1")
    assert total(use_peft=True) - served == pytest.approx(2 * 596_049_920)


def test_vllm_takes_its_share_instead_of_the_caches() -> None:
    config = CalibrationConfig(**QWEN, use_peft=True, guard_problems=1, guard_samples=1)
    config.use_vllm, config.vllm_gpu_memory_utilization = True, 0.25
    found = footprint(workload("calibrate", config, Engine(H100)), Engine(H100))
    assert found.resident["vLLM"] == 0.25 * H100.memory and found.largest != "samples"


def test_the_rows_sampled_at_once_follow_from_their_caches() -> None:
    small, large = architecture("zoo:teacher"), architecture("Qwen/Qwen3-8B")
    assert rows_at_once(512, small.cached(120), 4, on_cpu=True) == 512
    rows = rows_at_once(512, large.cached(2304), 2, on_cpu=False)
    assert rows * 2 * large.cached(2304) <= 16 * GIB < (rows + 1) * 2 * large.cached(2304)
    assert rows_at_once(512, large.cached(10**6), 2, on_cpu=True) == 1


def test_what_is_counted_on_is_what_the_stages_do() -> None:
    sizes = [inspect.signature(score).parameters["batch_tokens"].default for score in (token_logprobs, score_pair)]
    assert sizes == [SCORED_AT_ONCE, PAIRED_AT_ONCE]
    assert Sampling().batch_size == SAMPLED_AT_ONCE


def test_rollouts_are_cut_so_that_their_caches_fit() -> None:
    """A step's 128 rows of 8B would take 40 GiB at once."""
    sizes: dict[str, Any] = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 16}
    config = CalibrationConfig(**{**QWEN, "max_completion_length": 2048}, **sizes, use_peft=True, guard_problems=1)
    work = workload("calibrate", config, ONE)
    work.phases[:] = [phase for phase in work.phases if phase.what == "samples"]
    assert 14 * GIB < footprint(work, ONE).phase["key–value caches"] <= 16 * GIB
    # A CPU's may hold 1 GiB, and leave as much behind in pieces.
    here = Engine(memory_here())
    assert GIB < footprint(work, here).phase["key–value caches"] <= 2 * GIB


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("qwen3-*.yaml")), ids=lambda path: path.stem)
def test_every_stage_of_8b_to_1_7b_fits_one_card_of_80_gb(recipe: Path) -> None:
    values = read_recipe(recipe)
    stages = [stage for stage in STAGES.values() if stage.kind == "stage" and stage.name in WORKLOADS]
    assert len(stages) == 9
    for stage in stages:
        methods = METHODS if stage.name == "distill" else [None]
        for method in methods:
            options: dict[str, Any] = {} if method is None else {"method": method}
            if stage.name == "diagnose":
                options["gradient_problems"] = 50
            if stage.name == "evaluate":
                options["models"] = [values["teacher"], values["student"]]
            if stage.name == "prune":
                options |= {"model": values["teacher"], "layers": 18}
            try:
                config = stage_config(stage.name, values, **options)
            except BadInputError:  # a method that asks for what these tasks haven't
                assert method is not None
                continue
            found = estimate(stage.name, config, ONE)
            assert found.fits, (stage.name, method, found.footprint)
        assert config.models_read


# Time


def test_reading_checkpoints_takes_time() -> None:
    """The pair that docs/research/benchmarks.md measured took 14 to 18 s a stage to load."""
    config = EvaluateConfig(models=["Qwen/Qwen3-8B", "Qwen/Qwen3-1.7B"], tasks=["bigmath-4"], max_new_tokens=64)
    assert estimate("evaluate", config, ONE).seconds["loading"] == pytest.approx(2 * 9_911_310_336 / LOADING)
    assert 14 < 2 * 9_911_310_336 / LOADING < 18


def test_a_token_takes_transformers_as_long_for_one_row_as_for_many() -> None:
    config = EvaluateConfig(models=["Qwen/Qwen3-1.7B"], tasks=["bigmath-4"], problems=1, samples=1, max_new_tokens=500)
    one = estimate("evaluate", config, ONE).seconds["answers"]
    assert one == pytest.approx(500 * 28 * LAYER_SECONDS, rel=0.01)
    config.samples = 32
    assert estimate("evaluate", config, ONE).seconds["answers"] == pytest.approx(one, rel=0.1)


def test_products_by_hand() -> None:
    """Scoring reads each weight once, two operations a token, and half of the row in every layer's attention."""
    config = EvaluateConfig(models=["Qwen/Qwen3-8B"], tasks=["bigmath-4"], problems=10, samples=2, max_new_tokens=744)
    found = estimate("evaluate", config, Engine(H100)).seconds["failure modes"]
    weights = 8_190_735_360 - 151_936 * 4096  # embeddings are looked up
    assert found == pytest.approx(20 * 1000 * 2 * (weights + 36 * 1000 * 4096) / (989e12 * 0.45))


def test_what_is_measured_beside_the_training_is_counted() -> None:
    """The verdict on the knob scores the guard's samples under both models, and a student has its own curve."""
    config = CalibrationConfig(**QWEN, guard_problems=10, guard_samples=4)
    found = dict(estimates("calibrate", config, Engine(H100)))["calibrate"].seconds
    config.guard_samples = 8
    more = dict(estimates("calibrate", config, Engine(H100)))["calibrate"].seconds
    for what in ("verdict, teacher", "verdict, target"):
        assert more[what] == pytest.approx(2 * found[what]) and found[what] > 0
    assert more["training"] == found["training"]
    plain, curve = DistillConfig(**PAIR, max_steps=8), DistillConfig(**PAIR, max_steps=8, curve_steps=4)
    assert "curve" not in dict(estimates("distill", plain, Engine(H100)))["distill"].seconds
    assert dict(estimates("distill", curve, Engine(H100)))["distill"].seconds["curve"] > 0


def test_devices_share_the_work_and_not_the_curve() -> None:
    def found(devices: int) -> dict[str, float]:
        config = DistillConfig(**PAIR, max_steps=64 // devices, per_device_train_batch_size=4, curve_steps=4)
        return estimate("distill", config, Engine(H100, devices, "ddp")).seconds

    one, eight = found(1), found(8)
    assert eight["training"] == pytest.approx(one["training"] / 8)
    assert one["traces"] / 8 <= eight["traces"] < one["traces"]
    # The student in training is sampled by each process alike: eight times as few points, each as long as before.
    assert eight["curve"] > one["curve"] / 8


def test_a_demo_is_the_sum_of_its_cells() -> None:
    recipe = read_recipe(ROOT / "recipes" / "qwen3-math.yaml")
    config = DemoConfig(**stage_values(DemoConfig, "demo", recipe, {}), recipe=recipe)
    found = dict(estimates("demo", config, Engine(H100)))
    # The lens; of each cell the teacher's evaluation and two students trained and evaluated; besides these, the student
    # before and two calibrations.
    assert len(found) == 1 + 3 * 5 + 3
    alone = stage_config("calibrate", recipe)
    assert found["eta-0.5-seed0 calibrate"].time == estimate("calibrate", alone, Engine(H100)).time


def test_a_faster_device_takes_less_time() -> None:
    config = CalibrationConfig(**QWEN, use_peft=True)
    half = replace(H100, flops=H100.flops / 2, bandwidth=H100.bandwidth / 2)
    assert estimate("calibrate", config, Engine(half)).time > estimate("calibrate", config, Engine(H100)).time


# Engines


@pytest.mark.parametrize(
    "name, devices, sharding",
    [
        ("ddp-8gpu", 8, "ddp"),
        ("fsdp2-8gpu", 8, "fsdp2"),
        ("fsdp2-2x8gpu", 16, "fsdp2"),
        ("deepspeed-zero3-8gpu", 8, "zero3"),
    ],
)
def test_an_engine_is_read_from_accelerate_s_configuration(name: str, devices: int, sharding: str) -> None:
    found = engine("h100", ROOT / "recipes" / "accelerate" / f"{name}.yaml")
    assert (found.devices, found.sharding) == (devices, sharding)


def test_an_engine_that_can_t_be_used_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="'h1000' is known, did you mean 'h100'"):
        engine("h1000")
    bad = tmp_path / "bad.yaml"
    bad.write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: DEEPSPEED\ndeepspeed_config: {zero_stage: 2}\n"
    )
    with pytest.raises(BadInputError, match="zero_stage 2"):
        engine("h100", bad)
    bad.write_text("a: [\n")
    with pytest.raises(BadInputError, match=r"bad\.yaml is no configuration"):
        engine("h100", bad)
    bad.write_text("colour: blue\n")
    with pytest.raises(BadInputError, match=r"bad\.yaml is no configuration"):
        engine("h100", bad)


# Against what a run takes


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the high-water mark is read from /proc")
@pytest.mark.parametrize("case", ["calibrate-small-batch", "distill-gkd"])
def test_the_memory_foretold_is_within_a_factor_of_two_of_the_embedded_pair_s(case: str) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "memory.py", "--only", case, "--steps", "1"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )
    (row,) = json.loads(done.stdout.splitlines()[-1])
    assert 0.5 <= row["ratio"] <= 2, row


def test_the_table_of_shapes_names_what_the_recipes_name() -> None:
    named = {
        read_recipe(path).get(role) for path in (ROOT / "recipes").glob("*.yaml") for role in ("teacher", "student")
    }
    assert {name for name in named if not str(name).startswith("zoo:")} <= SHAPES.keys()
