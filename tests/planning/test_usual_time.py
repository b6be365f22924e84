"""How long a stage mostly takes, by the dry run: answers as long as the tasks' own solutions, a guard's first problems,
prompts that are read once, and a CPU's products in bfloat16. Against hands, and against the most that it may take."""

from __future__ import annotations

import json
from dataclasses import replace
from math import comb
from pathlib import Path
from typing import Any

import pytest
import torch

from distillknob.calibration.config import CalibrationConfig
from distillknob.config.recipe import read_recipe, stage_values
from distillknob.config.shipped import find_recipe
from distillknob.distillation.config import DistillConfig
from distillknob.errors import BadInputError
from distillknob.evaluation.config import EvaluateConfig
from distillknob.experiments.demo import DemoConfig
from distillknob.experiments.sweep import SweepConfig
from distillknob.models.architecture import architecture
from distillknob.models.chat import prompt_ids
from distillknob.models.load import load_tokenizer
from distillknob.models.loaded.sampling import rows_at_once
from distillknob.planning.counting import MEASURED, usual_lengths
from distillknob.planning.duration import read_tokens, seconds_of
from distillknob.planning.estimate import at_once, estimate, estimate_lines, estimates
from distillknob.planning.expected import memory_warning
from distillknob.planning.hardware import GPUS, LAYER_SECONDS, Device, Engine
from distillknob.planning.memory import MARGIN, footprint
from distillknob.planning.phases import Lengths, Phase, Workload
from distillknob.planning.workload import workload
from distillknob.runtime.cluster import ClusterOptions
from distillknob.tasks import get_task
from distillknob.training.config import trained_options
from tiny_families import tiny_config

H100 = Engine(GPUS["h100"])
CPU = Device("a CPU", 1e11, 64 * 2**30, 1e10, 1e10, utilised=False, itemsize=4, half_flops=5e11)
LARGE = architecture("Qwen/Qwen3-0.6B")  # from the table of shapes


def phase(kind: Any = "score", rows: float = 64, prompt: int = 100, answer: int = 20, **options: Any) -> Phase:
    return Phase("reading", kind, LARGE, rows, prompt, answer, int(options.pop("at_once", 16)), **options)


def work_of(*phases: Phase, **trained: Any) -> Workload:
    config = CalibrationConfig(
        teacher="Qwen/Qwen3-0.6B", target="Qwen/Qwen3-0.6B", tasks=["math"], use_peft=True, **trained
    )
    return replace(workload("calibrate", config, H100), phases=list(phases))


# Lengths


def test_usual_lengths_are_those_of_the_task_s_solutions() -> None:
    config = EvaluateConfig(models=["zoo:student"], tasks=["math"])
    lengths = usual_lengths(config)
    assert lengths is not None
    task, tokenizer = get_task("math"), load_tokenizer("zoo:student")
    examples = task.examples("train", MEASURED)
    texts = [text for example in examples for text in example.solutions.values()]
    tokens = [len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    assert lengths.answer == pytest.approx(1 + sum(tokens) / len(tokens))  # with its end
    assert lengths.longest == 1 + max(tokens)
    prompts = prompt_ids(tokenizer, [task.messages(example) for example in examples])
    assert lengths.prompt == pytest.approx(sum(map(len, prompts)) / len(prompts))


def test_a_limit_below_the_solutions_is_kept() -> None:
    config = EvaluateConfig(models=["zoo:student"], tasks=["math"], max_new_tokens=3)
    lengths = usual_lengths(config)
    assert lengths is not None and lengths.answer > 3
    (answers,) = [one for one in workload("evaluate", config, H100).phases if one.kind == "decode"]
    assert (answers.usually(lengths).answer, answers.usually(lengths).longest) == (3, 3)


def test_of_data_without_solutions_nothing_is_assumed(tmp_path: Path) -> None:
    rows = [{"prompt": f"Where is the lamp {i}?", "reference": "here"} for i in range(60)]
    (tmp_path / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = f"jsonl:{tmp_path / 'task.jsonl'}"
    config = EvaluateConfig(models=["zoo:student"], tasks=[task], max_new_tokens=24)
    found = estimate("evaluate", config, H100)
    assert found.work.usual is None and found.usual_seconds == found.seconds
    # Nor of a task beside one that has them: whose answers would be the longer?
    assert usual_lengths(EvaluateConfig(models=["zoo:student"], tasks=["math", task])) is None
    lines = estimate_lines([("evaluate", found)], H100)
    assert any(line.startswith("  in all: at most ") for line in lines)


def test_one_s_own_solutions_are_measured(tmp_path: Path) -> None:
    rows = [{"prompt": f"What is {i} + 1?", "reference": str(i + 1), "solution": f"Answer: {i + 1}"} for i in range(60)]
    (tmp_path / "task.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = EvaluateConfig(models=["zoo:student"], tasks=[f"jsonl:{tmp_path / 'task.jsonl'}"], max_new_tokens=200)
    found = estimate("evaluate", config, H100)
    assert found.work.usual is not None and 2 < found.work.usual.answer < 20
    assert found.usual_time < found.time
    text = "\n".join(estimate_lines([("evaluate", found)], H100))
    assert "with answers as long as the tasks' own solutions;\n    at most" in text and "guard" not in text


def test_data_and_models_that_would_be_fetched_are_not_measured() -> None:
    assert usual_lengths(EvaluateConfig(models=["Qwen/Qwen3-0.6B"], tasks=["math"])) is None
    assert usual_lengths(EvaluateConfig(models=["zoo:student"], tasks=["bigmath-4"], max_new_tokens=64)) is None


def test_memory_is_that_of_the_longest_answers() -> None:
    config = EvaluateConfig(models=["zoo:student"], tasks=["math"])
    found = estimate("evaluate", config, H100)
    assert found.footprint == footprint(replace(found.work, usual=None), H100)
    assert {one.answer for one in found.work.phases} == {get_task("math").max_new_tokens}


def test_a_distillation_from_a_file_is_not_timed_by_a_task(tmp_path: Path) -> None:
    file = tmp_path / "traces.jsonl"
    file.write_text(json.dumps({"prompt": "What is 1 + 1?", "completion": "2"}) + "\n")
    config = DistillConfig(
        teacher="zoo:teacher", student="zoo:student", tasks=["math"], method="sft", traces="file", traces_file=str(file)
    )
    assert usual_lengths(config) is None


def test_rows_are_held_by_the_longest_that_may_come() -> None:
    """The run can't know that answers will be short: it holds as many rows as have caches if all are long."""
    long = replace(phase("decode", rows=512, prompt=200, answer=8000, at_once=512), model=architecture("Qwen/Qwen3-8B"))
    lengths = Lengths(200, 200, 400)
    held = rows_at_once(512, long.model.cached(long.tokens), 2, on_cpu=False)
    batches = 512 / held
    seconds = seconds_of(long.usually(lengths), work_of(long), H100)
    assert seconds >= batches * 400 * LAYER_SECONDS * long.model.layers  # as many steps as the longest answer has
    assert seconds < seconds_of(long, work_of(long), H100) / 10


# The guard


def test_a_guard_mostly_asks_its_first_problems() -> None:
    sizes: dict[str, Any] = {"tasks": ["math"], "guard_samples": 2, "guard_problems": 50}
    work = workload("calibrate", CalibrationConfig(**sizes, guard_problems_max=400), H100)
    guards = [one for one in work.phases if one.what == "guard"]
    assert [one.rows for one in guards] == [800, 800, 1600]  # the original, what is kept, and both afresh
    assert [one.usual_rows for one in guards] == [100, 100, 200]
    without = workload("calibrate", CalibrationConfig(**sizes, guard=False), H100)
    assert [(one.rows, one.usual_rows) for one in without.phases if one.what == "guard"] == [(100, 100)] * 2


# Prompts that are read once


def test_tokens_of_a_prompt_that_is_read_once_by_hand() -> None:
    shared = phase(each=8)
    assert read_tokens(shared, work_of(shared), H100) == 100 / 8 + 20
    assert read_tokens(phase(each=1), work_of(shared), H100) == 120
    # Long answers to a short prompt save less than a third, and are read as whole rows.
    long = phase(prompt=20, answer=100, each=8)
    assert read_tokens(long, work_of(long), H100) == 120
    # A pass of four rows has the prompt once for these four.
    small = phase(each=8, at_once=4)
    assert read_tokens(small, work_of(small), H100) == 100 / 4 + 20


@pytest.mark.parametrize(
    ("rows", "options", "shares"),
    [
        (16, {"gradient_checkpointing": False}, True),
        (16, {"gradient_checkpointing": True}, False),  # which keep no cache
        (1, {"gradient_checkpointing": False}, False),
    ],
)
def test_a_training_reads_prompts_once_where_its_passes_do(rows: int, options: Any, shares: bool) -> None:
    trained = phase("train", each=8, at_once=rows, own=False)
    work = work_of(trained, **options)
    work = replace(work, trained=replace(work.trained, model=LARGE))  # type: ignore[type-var]
    on_cpu = Engine(CPU)
    assert read_tokens(trained, work, on_cpu) == (100 / 8 + 20 if shares else 120)
    assert read_tokens(trained, work, Engine(CPU, devices=2, sharding="ddp")) == 120


def test_how_many_prompts_a_training_pass_has() -> None:
    """16 of 96 rows in groups of 8 have 2 prompts, and 9.2 in the mean where they are shuffled first."""
    sizes: dict[str, Any] = {"tasks": ["math"], "per_device_train_batch_size": 16, "num_generations": 8}

    def each(**options: Any) -> dict[str, float]:
        work = workload("calibrate", CalibrationConfig(**{**sizes, **options}), H100)
        return {one.what: one.each for one in work.phases}

    assert each(gradient_accumulation_steps=6)["training"] == 8  # dealt out anew: a generation is one step
    # Of passes of 12 one has 8 + 4 rows, the next 4 + 8.
    assert each(gradient_accumulation_steps=2, per_device_train_batch_size=12)["training"] == 6
    distinct = 12 * (1 - comb(88, 16) / comb(96, 16))
    shuffled = each(gradient_accumulation_steps=3, steps_per_generation=6)
    assert shuffled["training"] == pytest.approx(16 / distinct) and 9 < distinct < 10
    assert each(gradient_accumulation_steps=6, loss_type="bnpo")["training"] == shuffled["training"]
    assert shuffled["samples"] == shuffled["log-ratio, policy"] == 8  # before the shuffle
    assert each(gradient_accumulation_steps=1)["training"] == 8


def test_the_embedded_pair_trains_on_whole_rows() -> None:
    """It is too small to gain by it, in the run as in the account."""
    config = CalibrationConfig(tasks=["math"], gradient_checkpointing=False, per_device_train_batch_size=128)
    work = workload("calibrate", config, Engine(CPU))
    (training,) = [one for one in work.phases if one.what == "training"]
    assert read_tokens(training, work, Engine(CPU)) == training.tokens


def test_states_are_not_dealt_out(tmp_path: Path) -> None:
    tiny_config("mamba").save_pretrained(tmp_path / "mamba")
    hybrid = replace(phase(each=8), model=architecture(str(tmp_path / "mamba")))
    assert read_tokens(hybrid, work_of(hybrid), H100) == 120


# A CPU's bfloat16


def test_a_large_model_s_products_are_faster_in_bfloat16_and_the_rest_is_not() -> None:
    full, half = phase(itemsize=4), phase(itemsize=2)
    seconds = [seconds_of(one, work_of(one), Engine(CPU)) for one in (full, half)]
    without = [seconds_of(one, work_of(one), Engine(replace(CPU, half_flops=1e15))) for one in (full, half)]
    assert seconds[1] < seconds[0] and without[0] == seconds[0]
    # What is left with endlessly fast products is what stands beside them in float32 too.
    products = seconds[0] / (1 / 1e11 + 230 / LARGE.hidden / 1e11)
    assert without[1] == pytest.approx(products * 230 / LARGE.hidden / 1e11, rel=0.01)


@pytest.mark.parametrize(("capable", "named", "itemsize"), [(True, None, 2), (False, None, 4), (True, False, 4)])
def test_the_type_of_a_phase_is_the_run_s(
    monkeypatch: pytest.MonkeyPatch, capable: bool, named: bool | None, itemsize: int
) -> None:
    for module in ("distillknob.models.dtypes", "distillknob.training.config"):
        monkeypatch.setattr(f"{module}.multiplies_bfloat16", lambda: capable)
    options: dict[str, Any] = {} if named is None else {"bf16": named}
    config = DistillConfig(
        teacher="Qwen/Qwen3-0.6B", student="Qwen/Qwen3-0.6B", tasks=["math"], method="sft_gold", **options
    )
    work = workload("distill", config, Engine(CPU))
    assert {one.itemsize for one in work.phases if one.kind == "train"} == {itemsize}
    assert {one.itemsize for one in workload("distill", config, H100).phases} == {2}


def test_a_dtype_that_the_config_names_counts_in_memory() -> None:
    def weights(**options: Any) -> float:
        config = CalibrationConfig(teacher="Qwen/Qwen3-0.6B", tasks=["math"], use_peft=True, **options)
        return footprint(workload("calibrate", config, H100), H100).resident["weights"]

    named = weights(model_init_kwargs={"dtype": "float32"})
    assert named == 2 * weights() == 4 * LARGE.parameters
    assert weights(model_init_kwargs={"dtype": "auto"}) == weights() == torch.bfloat16.itemsize * LARGE.parameters


# Cells at once


def demo_of_quick(**values: Any) -> DemoConfig:
    recipe = read_recipe(find_recipe("quick"))
    return DemoConfig(**stage_values(DemoConfig, "demo", recipe, values), recipe=recipe)


def test_more_processes_than_cells_are_no_more_cells() -> None:
    config = demo_of_quick(processes=8)
    named = estimates("demo", config, Engine(CPU))
    together = at_once(named, config, Engine(CPU))
    assert together is not None and together.cells == 3


def test_one_cell_of_a_sweep_and_a_cluster_s_share_nothing() -> None:
    recipe = read_recipe(find_recipe("quick"))
    values = stage_values(SweepConfig, "sweep", recipe, {"processes": 2, "etas": [0.0, 0.5], "seeds": [0]})
    whole = SweepConfig(**values, recipe=recipe)
    named = estimates("sweep", whole, Engine(CPU))
    assert at_once(named, whole, Engine(CPU)) is not None
    assert at_once(named, SweepConfig(**values, recipe=recipe, only=1), Engine(CPU)) is None
    assert at_once(named, SweepConfig(**values, recipe=recipe, cluster=ClusterOptions("local")), Engine(CPU)) is None


def test_a_dtype_that_torch_doesn_t_know_is_refused_by_name() -> None:
    config = CalibrationConfig(tasks=["math"], use_peft=True, model_init_kwargs={"dtype": "bf16"})
    with pytest.raises(BadInputError, match="names the dtype 'bf16'"):
        workload("calibrate", config, H100)
    with pytest.raises(BadInputError, match="names the dtype 'bf16'"):
        trained_options(config)


@pytest.mark.parametrize(("room", "told"), [(3, "fits"), (1.5, "DOES NOT FIT: --processes 1 would"), (0.5, "")])
def test_cells_at_once_share_a_cpu_s_memory(room: float, told: str) -> None:
    config = demo_of_quick(processes=2)
    largest = max(one.footprint.total for _, one in estimates("demo", config, Engine(CPU)))
    engine = Engine(replace(CPU, memory=room * largest / (1 - MARGIN)))
    named = estimates("demo", config, engine)
    together = at_once(named, config, engine)
    assert together is not None and together.total == 2 * largest and together.fits == (told == "fits")
    (line,) = [line for line in estimate_lines(named, engine, together) if line.startswith("  2 cells at once: ")]
    assert line.endswith(told or "DOES NOT FIT")
    assert at_once(named, demo_of_quick(), engine) is None  # one after the other
    assert at_once(estimates("demo", config, H100), config, H100) is None  # a GPU each


def test_a_run_of_cells_that_take_too_much_together_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    config = demo_of_quick(processes=2)
    largest = max(one.footprint.total for _, one in estimates("demo", config, Engine(CPU)))
    here = replace(CPU, memory=1.5 * largest / (1 - MARGIN))
    monkeypatch.setattr("distillknob.planning.expected.memory_here", lambda: here)
    warning = memory_warning("demo", config)
    assert warning is not None and "demo may take" in warning and "It would fit with --processes 1." in warning
    assert memory_warning("demo", demo_of_quick()) is None
